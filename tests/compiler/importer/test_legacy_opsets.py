"""Operators of opsets 1 to 6, which onnxruntime does not run: against what their schemas say, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import mlc
import numpy as np
import onnx
import pytest
from against_onnxruntime import agree
from mlc.errors import OnnxImportError
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
CHANNEL = RNG.standard_normal(3).astype(np.float32)
FLAGS = RNG.random((2, 3, 4)) > 0.5


def run(
    op: str, opset: int, inputs: Sequence[np.ndarray], *, constants: int = 0, outputs: int = 1, gives: int = TensorProto.FLOAT,
    **attributes: object,
) -> list[np.ndarray]:  # fmt: skip
    """One node with outputs of type `gives`; the last `constants` inputs are initializers that are listed as inputs too, as they had to be then."""
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in zip(names, inputs, strict=True)
    ]
    results = [f"y{i}" for i in range(outputs)]
    fixed = [numpy_helper.from_array(x, n) for n, x in list(zip(names, inputs, strict=True))[len(inputs) - constants :]]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **attributes)], "g", infos, [onnx.ValueInfoProto(name=n) for n in results], fixed
    )
    for value in graph.output:
        value.type.tensor_type.elem_type = gives
    module = mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3), threads=1)
    got = module.run(dict(list(zip(names, inputs, strict=True))[: len(inputs) - constants]))
    return [got[n] for n in results]


@pytest.mark.parametrize(
    ("op", "fn"), [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)], ids=["Add", "Sub", "Mul", "Div"]
)
def test_operands_are_aligned_at_an_axis(op: str, fn: np.ufunc) -> None:
    np.testing.assert_allclose(run(op, 6, [X, CHANNEL], broadcast=1, axis=1)[0], fn(X, CHANNEL[:, None, None]), rtol=1e-6)
    tail = RNG.standard_normal((4, 5)).astype(np.float32)
    np.testing.assert_allclose(run(op, 1, [X, tail], broadcast=1)[0], fn(X, tail), rtol=1e-6)
    np.testing.assert_allclose(run(op, 6, [X, X[:1, :, :1, :1].reshape(1, 3)], broadcast=1, axis=0)[0],
                               fn(X, X[0, :, 0, 0][None, :, None, None]), rtol=1e-6)  # fmt: skip


def test_comparisons_and_logic() -> None:
    np.testing.assert_array_equal(
        run("Greater", 1, [X, CHANNEL], broadcast=1, axis=1, gives=TensorProto.BOOL)[0], CHANNEL[:, None, None] < X
    )
    np.testing.assert_array_equal(
        run("Xor", 1, [FLAGS, FLAGS[0, :, 0]], broadcast=1, axis=1, gives=TensorProto.BOOL)[0], FLAGS ^ FLAGS[0, :, 0][:, None]
    )


def test_slopes_of_channels() -> None:
    want = np.where(X < 0, X * CHANNEL[:, None, None], X)
    np.testing.assert_allclose(run("PRelu", 6, [X, CHANNEL])[0], want, rtol=1e-6)
    np.testing.assert_allclose(run("PRelu", 6, [X, CHANNEL[:1]])[0], np.where(X < 0, X * CHANNEL[0], X), rtol=1e-6)


@pytest.mark.parametrize("spatial", [0, 1])
def test_batch_normalization(spatial: int) -> None:
    shape = (3,) if spatial else X.shape[1:]
    scale, bias, mean, var = (RNG.random(shape).astype(np.float32) + 0.5 for _ in range(4))
    s, b, m, v = (p[:, None, None] if spatial else p for p in (scale, bias, mean, var))
    want = (X - m) / np.sqrt(v + 1e-3) * s + b
    for constants in (0, 4):
        got = run("BatchNormalization", 6, [X, scale, bias, mean, var], constants=constants, spatial=spatial, epsilon=1e-3, is_test=1)
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


def test_moves() -> None:
    np.testing.assert_array_equal(run("Pad", 1, [X], paddings=[0, 0, 1, 2, 0, 0, 0, 1], value=2.0)[0],
                                  np.pad(X, [(0, 0), (0, 0), (1, 0), (2, 1)], constant_values=2))  # fmt: skip
    np.testing.assert_array_equal(run("Reshape", 1, [X], shape=[0, -1])[0], X.reshape(2, -1))
    np.testing.assert_array_equal(run("Concat", 1, [X, X])[0], np.concatenate([X, X], 1))
    np.testing.assert_array_equal(run("Upsample", 1, [X], height_scale=2.0, width_scale=3.0)[0], X.repeat(2, 2).repeat(3, 3))
    tiles, axis = np.array([3], np.int64), np.array([1], np.int64)
    np.testing.assert_array_equal(run("Tile", 1, [X, tiles, axis], constants=2)[0], np.tile(X, (1, 3, 1, 1)))
    for part, want in zip(
        run("Split", 1, [X, np.array([1, 2], np.int64)], constants=1, outputs=2, axis=1), (X[:, :1], X[:, 1:]), strict=True
    ):
        np.testing.assert_array_equal(part, want)


def test_functions_whose_attributes_changed() -> None:
    np.testing.assert_array_equal(run("Cast", 1, [X * 10], to="INT32", gives=TensorProto.INT32)[0], (X * 10).astype(np.int32))
    np.testing.assert_allclose(run("Clip", 1, [X], min=-0.5, max=0.5, consumed_inputs=[0])[0], X.clip(-0.5, 0.5))
    want = np.where(X > 0, 1.0507 * X, 1.0507 * 1.6732 * np.expm1(X))
    np.testing.assert_allclose(run("Selu", 1, [X])[0], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run("Dropout", 6, [X], is_test=1, ratio=0.7)[0], X)
    a, b, c = X[0, 0], X[0, 0].T.copy(), np.float32([1, 2, 3, 4])
    np.testing.assert_allclose(run("Gemm", 6, [a, b, c], broadcast=1, alpha=0.5, beta=2.0)[0], 0.5 * a @ b + 2 * c, rtol=1e-5, atol=1e-6)


def test_training_is_refused() -> None:
    with pytest.raises(OnnxImportError, match="training mode"):
        run("Dropout", 6, [X], ratio=0.7)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("listed", [True, False])
def test_old_files_with_what_their_version_lacked(version, listed):
    """Operator sets before version 3 of the format, initializers that are no inputs before version 4: onnxruntime takes them."""
    w = onnx.numpy_helper.from_array(np.float32([2, 3]), "w")
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "w")[: 1 + listed]]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Mul", ["x", "w"], ["y"])], "g", inputs, [output], [w])
    agree(onnx.helper.make_model(graph, ir_version=version, opset_imports=[onnx.helper.make_opsetid("", 9)]), {"x": np.float32([4, 5])})
