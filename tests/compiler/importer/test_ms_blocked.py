"""Files that onnxruntime saved after optimizing: convolutions on blocks of channels (com.microsoft.nchwc)."""

import mlc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

R = np.random.default_rng(5)


def weights(*shape):
    return (R.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def optimized(text, given, tmp_path):
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in given.items())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found = onnx.load(options.optimized_model_filepath)
    kinds = {n.op_type for n in found.graph.node if n.domain == "com.microsoft.nchwc"}
    if not kinds:
        pytest.skip("onnxruntime keeps no blocks of channels on this machine")
    return model, options.optimized_model_filepath, kinds


def agree(text, given, shape, tmp_path, *expected):
    model, path, kinds = optimized(text, given, tmp_path)
    assert kinds >= set(expected), kinds
    x = R.standard_normal(shape).astype(np.float32)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(model.SerializeToString(), plain, ["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(mlc.compile(path, threads=1).run({"x": x})["y"], want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("out", [16, 24, 40])
@pytest.mark.parametrize("size", ["n", "2"])
def test_residual_network(out, size, tmp_path):
    """A first layer of three channels, a depthwise one, a sum, a concatenation, pools, channels that fill no block."""
    text = f"""g (float[{size}, 3, 17, 15] x) => (float[{size}, c, h, w] y) {{
        a0 = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w0, b0) a = Relu(a0)
        d0 = Conv<pads = [1,1,1,1], group = 16>(a, wd) d = Clip(d0, lo, hi)
        e = Conv<kernel_shape = [1,1]>(d, w1) s = Add(a, e) r = Relu(s)
        f = Conv<pads = [1,1,1,1], dilations = [1,1]>(r, w2, b2) m = MaxPool<kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>(f)
        v = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>(m) y = Conv(v, w3) }}"""
    given = {"w0": weights(16, 3, 3, 3), "b0": weights(16), "wd": weights(16, 1, 3, 3), "w1": weights(16, 16, 1, 1),
             "w2": weights(out, 16, 3, 3), "b2": weights(out), "w3": weights(8, out, 1, 1),
             "lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}  # fmt: skip
    pools = ("MaxPool", "AveragePool") if out % 16 == 0 else ()  # of padded channels, onnxruntime makes none
    agree(text, given, (2, 3, 17, 15), tmp_path, "Conv", "ReorderOutput", *pools)


def test_groups_concatenation_and_upsampling(tmp_path):
    text = """g (float[1, 32, 6, 5] x) => (float[n, c, h, w] y) {
        a = Conv<group = 2>(x, w0) b = Conv(x, w1) j = Concat<axis = 1>(a, b)
        k = Conv(j, w2) u = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(k, , scales)
        y = Conv(u, w2b) }"""
    given = {"w0": weights(32, 16, 1, 1), "w1": weights(16, 32, 1, 1), "w2": weights(16, 48, 1, 1), "w2b": weights(20, 16, 1, 1),
             "scales": np.array([1, 1, 2, 3], np.float32)}  # fmt: skip
    agree(text, given, (1, 32, 6, 5), tmp_path, "Conv", "ReorderInput", "Upsample")


def test_global_pools(tmp_path):
    text = """g (float[1, 16, 6, 5] x) => (float[n, c, h, w] y) {
        a = Conv(x, w0) p = GlobalAveragePool(a) q = GlobalMaxPool(a) s = Add(p, q) y = Conv(s, w1) }"""
    agree(text, {"w0": weights(32, 16, 1, 1), "w1": weights(16, 32, 1, 1)}, (1, 16, 6, 5), tmp_path, "GlobalAveragePool", "GlobalMaxPool")
