"""Models that come quantized to float8: their products take what is stored, on tensor cores of its type where there are any."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlc.codegen.cuda.compile import compile_all
from mlc.codegen.cuda.nvrtc import nvrtc
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend, emulated_module
from mlc.compiler.options import Options
from mlc.errors import TargetError
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(4)
F8 = ml_dtypes.float8_e4m3fn


def float8(name, array):
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, array.shape, array.astype(F8).tobytes(), raw=True)


def quantized(weights, axis, product, shape, per_channel=True, kind=np.float32):
    """x quantized with one scale, weights with one for each index of `axis`, or one; `product` multiplies xd by wd."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.asarray(np.abs(weights).max(others if per_channel else None) / 448).astype(kind)
    spread = scale.reshape([-1 if i == axis else 1 for i in range(weights.ndim)]) if per_channel else scale
    x_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    values = [float8("w", weights / spread.astype(np.float32)), numpy_helper.from_array(scale, "ws"), float8("wz", np.zeros(scale.shape)),
              numpy_helper.from_array(np.asarray(0.02, kind), "xs"), float8("xz", np.zeros(()))]  # fmt: skip
    nodes = [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]), helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
             helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis), *product]  # fmt: skip
    y = helper.make_tensor_value_info("y", x_type, None)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", x_type, shape)], [y], values)
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))


def matmul(k, n, per_channel=True, kind=np.float32):
    w = RNG.standard_normal((k, n)) / np.sqrt(k)
    return quantized(w, 1, [helper.make_node("MatMul", ["xd", "wd"], ["y"])], ["M", k], per_channel, kind)


def gemm(k, n):
    """Weights by rows, and something behind."""
    w = RNG.standard_normal((n, k)) / np.sqrt(k)
    product = [helper.make_node("Gemm", ["xd", "wd"], ["p"], transB=1), helper.make_node("Relu", ["p"], ["y"])]
    return quantized(w, 0, product, ["M", k])


def conv(channels, columns):
    w = RNG.standard_normal((columns, channels, 3, 3)) / np.sqrt(9 * channels)
    return quantized(w, 0, [helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1, 1, 1, 1])], [2, channels, 9, 10])


def compiled(model, target):
    return compile_stages(model.SerializeToString(), Options(target), backend=EmulatedBackend(parse(target)))


def agree(model, target, shape, limit, kind=np.float32) -> None:
    blob, x = model.SerializeToString(), RNG.standard_normal(shape).astype(kind)
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    got = emulated_module(compiled(model, target)).run({"x": x})["y"]
    assert got.dtype == want.dtype and np.linalg.norm((got - want).astype(np.float32)) <= limit * np.linalg.norm(want.astype(np.float32))


MULTIPLY = {"cuda:sm_90a": "e4m3.e4m3", "cuda:sm_89": "mma_e4m3", "cuda:sm_80": "mma_bf16"}


@pytest.mark.parametrize("target", MULTIPLY)
@pytest.mark.parametrize("k,n,per_channel", [(64, 96, True), (80, 40, False), (50, 33, True)])
def test_products(target: str, k: int, n: int, per_channel: bool) -> None:
    model = matmul(k, n, per_channel)
    texts = compiled(model, target).texts.values()
    assert any(MULTIPLY[target] in t for t in texts) or (k % 16 and any("mma_e4m3" in t for t in texts))
    assert not any("by multiply-add" in t for t in texts)
    for m in (1, 2, 20, 130):
        agree(model, target, (m, k), 2e-6)


@pytest.mark.parametrize("target", MULTIPLY)
def test_what_is_around_them(target: str) -> None:
    """Weights that are transposed first, convolutions, and scales of float16."""
    agree(gemm(64, 48), target, (70, 64), 2e-6)
    agree(conv(16, 24), target, (2, 16, 9, 10), 2e-6)
    agree(matmul(64, 48, kind=np.float16), target, (70, 64), 2e-3, np.float16)


def test_weights_stay_float8() -> None:
    result = compiled(matmul(256, 128), "cuda:sm_90a")
    weights = [b for b in result.plan.buffers if b.kind == "const" and b.shape == (256 * 128,)]
    assert [b.dtype.value for b in weights] == ["f8e4m3fn"]


def test_products_of_what_is_computed_stay() -> None:
    """Those of attention."""
    nodes = []
    values = [numpy_helper.from_array(np.float32(0.02), "s"), float8("z", np.zeros(()))]
    for v in "ab":
        nodes += [
            helper.make_node("QuantizeLinear", [v, "s", "z"], [v + "q"]),
            helper.make_node("DequantizeLinear", [v + "q", "s", "z"], [v + "d"]),
        ]
    nodes.append(helper.make_node("MatMul", ["ad", "bd"], ["y"]))
    infos = [helper.make_tensor_value_info(v, TensorProto.FLOAT, s) for v, s in (("a", [8, 16]), ("b", [16, 8]), ("y", [8, 8]))]
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos[:2], infos[2:], values), opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    )
    assert not any("e4m3" in t.split("\n")[0] for t in compiled(model, "cuda:sm_90a").texts.values())


def test_they_compile() -> None:
    try:
        nvrtc()
    except TargetError:
        pytest.skip("NVRTC is not installed")
    for target in MULTIPLY:
        result = compiled(matmul(64, 96), target)
        code = compile_all(result.texts, result.backend.archs)
        assert code.keys() == result.texts.keys()
        ptx = b"".join(c[a] for c in code.values() for a in c if a.startswith("compute"))
        assert (b"e4m3.e4m3" in ptx) == (target != "cuda:sm_80")
