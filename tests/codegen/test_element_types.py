"""Element types that processors do not compute with: conversions to every bit, moves, and bits read as another type."""

from __future__ import annotations

import mlc
import numpy as np
import onnx
import pytest
from mlc.errors import CodegenError
from mlc.ir import DType
from onnx import helper

MINIFLOATS = (DType.F16, DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1, DType.F8E8M0)
NIBBLES = (DType.I4, DType.U4, DType.I2, DType.U2)
SHAPED = ("n", 4)


def _model(op: str, source: DType, result: DType, shape: tuple[object, ...], target: str = "cpu", **attributes: object) -> mlc.Module:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", source.onnx, shape)], [helper.make_tensor_value_info("y", result.onnx, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])
    return mlc.compile(model, threads=1, target=target)


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _codes(dtype: DType) -> np.ndarray:
    return np.arange(2**dtype.bits, dtype=np.dtype(f"u{dtype.itemsize}")).view(dtype.np)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64"])
@pytest.mark.parametrize("dtype", MINIFLOATS, ids=str)
def test_every_code_is_decoded(dtype: DType, target: str) -> None:
    x = _codes(dtype)
    got = _model("Cast", dtype, DType.F32, ("n",), target, to=DType.F32.onnx).run({"x": x})["y"]
    np.testing.assert_array_equal(got, x.astype(np.float32))


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64"])
@pytest.mark.parametrize("dtype", [d for d in MINIFLOATS if d is not DType.F8E8M0], ids=str)
def test_encoding_rounds_as_numpy_does(dtype: DType, target: str) -> None:
    """All finite values, what lies half way between them and just beside that, and arbitrary bit patterns."""
    values = np.sort(_codes(dtype).astype(np.float32))
    values = values[np.isfinite(values)]
    half = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(half, np.float32(s)) for s in (np.inf, -np.inf)]
    anything = np.random.default_rng(3).integers(0, 2**32, 20_000).astype(np.uint32).view(np.float32)
    x = np.concatenate([values, half, *beside, anything])
    got = _model("Cast", DType.F32, dtype, ("n",), target, to=dtype.onnx, saturate=0).run({"x": x})["y"]
    with np.errstate(all="ignore"):
        want = x.astype(dtype.np)
        both_nan = np.isnan(got.astype(np.float32)) & np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(_bits(got)[~both_nan], _bits(want)[~both_nan])


@pytest.mark.parametrize("round_mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_to_powers_of_two(round_mode: str, saturate: int) -> None:
    x = np.abs(np.random.default_rng(4).integers(0, 2**32, 4000).astype(np.uint32).view(np.float32))
    x = np.append(x, [0, 1, 1.5, 3, 2.0**-127, 2.0**-128, 3.0e38, 3.4e38]).astype(np.float32)
    x = x[np.isfinite(x)]
    model = _model("Cast", DType.F32, DType.F8E8M0, ("n",), to=DType.F8E8M0.onnx, round_mode=round_mode, saturate=saturate)
    want = onnx.numpy_helper.to_float8e8m0(x, bool(saturate), round_mode)
    np.testing.assert_array_equal(_bits(model.run({"x": x})["y"]), _bits(want))


@pytest.mark.parametrize("dtype", NIBBLES, ids=str)
def test_small_integers_wrap_and_ignore_the_bits_above(dtype: DType) -> None:
    x = np.arange(-300, 300).astype(np.float32)
    got = _model("Cast", DType.F32, dtype, ("n",), to=dtype.onnx).run({"x": x})["y"]
    np.testing.assert_array_equal(got.astype(np.int32), x.astype(np.int64).astype(dtype.np).astype(np.int32))
    dirty = np.arange(256, dtype=np.uint8).view(dtype.np)
    got = _model("Cast", dtype, DType.I32, ("n",), to=DType.I32.onnx).run({"x": dirty})["y"]
    np.testing.assert_array_equal(got, (np.arange(256) % 2**dtype.bits).astype(np.uint8).view(dtype.np).astype(np.int32))


@pytest.mark.parametrize("dtype", [*MINIFLOATS, *NIBBLES, DType.C64, DType.C128], ids=str)
def test_moves_keep_elements(dtype: DType) -> None:
    rng = np.random.default_rng(5)
    if dtype.is_complex:
        x = (rng.standard_normal((5, 4)) + 1j * rng.standard_normal((5, 4))).astype(dtype.np)
    else:
        codes = _codes(dtype)
        x = rng.choice(codes[codes == codes], (5, 4))  # not NaN, of which only one comes back
    assert _model("Transpose", dtype, dtype, SHAPED, perm=[1, 0]).run({"x": x})["y"].tobytes() == np.ascontiguousarray(x.T).tobytes()
    fill = helper.make_tensor("fill", dtype.onnx, [], [1.0])
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", "pads", "fill"], ["p"]), helper.make_node("Where", ["c", "p", "fill"], ["y"])], "g",
        [helper.make_tensor_value_info("x", dtype.onnx, SHAPED), helper.make_tensor_value_info("c", DType.BOOL.onnx, [6])],
        [helper.make_tensor_value_info("y", dtype.onnx, None)],
        [fill, helper.make_tensor("pads", DType.I64.onnx, [4], [1, 0, 0, 2])],
    )  # fmt: skip
    keep = np.array([True, False, True, True, True, False])
    got = mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])).run({"x": x, "c": keep})["y"]
    one = onnx.numpy_helper.to_array(fill)
    want = np.full((6, 6), one, dtype.np)
    want[1:, :4] = x
    want[:, ~keep] = one
    assert got.tobytes() == want.tobytes()


def test_complex_numbers_are_not_computed_with() -> None:
    with pytest.raises(CodegenError, match="not complex"):
        _model("Neg", DType.C64, DType.C64, ("n",))


@pytest.mark.parametrize(
    ("source", "to"),
    [(DType.F32, DType.I32), (DType.I64, DType.F64), (DType.F16, DType.I16), (DType.BF16, DType.U16), (DType.U8, DType.F8E5M2),
     (DType.I4, DType.U4), (DType.C64, DType.U64), (DType.F4E2M1, DType.U4)],
)  # fmt: skip
def test_bits_read_as_another_type(source: DType, to: DType) -> None:
    raw = np.random.default_rng(6).integers(0, 2 ** min(source.bits, 62), 37).astype(np.dtype(f"u{source.itemsize}"))
    x = raw.view(source.np)
    got = _model("BitCast", source, to, ("n",), to=to.onnx).run({"x": x})["y"]
    nan = np.isnan(x.astype(np.float64)) if source.is_float else np.zeros(37, bool)
    np.testing.assert_array_equal(_bits(got)[~nan], _bits(x.view(to.np))[~nan])
