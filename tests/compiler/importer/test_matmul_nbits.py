"""MatMulNBits against onnxruntime: bits, zero points of either kind, bias, odd sizes, half precision."""

import mlc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

RNG = np.random.default_rng(0)


def model(k, n, bits, block, zeros, dtype=np.float32, bias=False, rows="m"):
    blocks = -(-k // block)
    arrays = {
        "b": RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": RNG.uniform(0.01, 0.1, (n, blocks)).astype(dtype),
    }
    names = ["x", "b", "s"]
    if zeros == "packed":
        arrays["z"] = RNG.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
        names += ["z"]
    elif zeros == "plain":
        arrays["z"] = RNG.uniform(0, 1 << bits, (n, blocks)).astype(dtype)
        names += ["z"]
    if bias:
        arrays["c"] = RNG.standard_normal(n).astype(dtype)
        names += [""] * (5 - len(names)) + ["c"]
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = [2, rows, k] if rows is not None else [k]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def both(m, x):
    session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return mlc.compile(m).run({"x": x})["y"], session.run(None, {"x": x})[0]


@pytest.mark.parametrize("zeros", ["none", "packed", "plain"])
@pytest.mark.parametrize(("k", "n", "bits", "block"), [(64, 40, 4, 32), (80, 33, 4, 16), (128, 24, 8, 32)])
def test_agrees_with_onnxruntime(k, n, bits, block, zeros):
    if bits == 8 and zeros == "plain":
        pytest.skip("onnxruntime wants packed zero points of 8-bit weights")
    m = model(k, n, bits, block, zeros, bias=zeros == "none")
    for rows in (1, 9):
        got, want = both(m, RNG.standard_normal((2, rows, k)).astype(np.float32))
        assert relative(got, want) <= 1e-5


@pytest.mark.parametrize(
    ("k", "n", "bits", "block", "zeros"), [(96, 70, 4, 32, "none"), (256, 40, 4, 128, "packed"), (128, 24, 8, 32, "none")]
)
@pytest.mark.parametrize(("level", "lost"), [(2, 1e-4), (4, 1e-2)])
def test_rows_are_rounded_no_further_than_the_model_lets_them_be(level, lost, k, n, bits, block, zeros):
    """Level 4: to bytes as onnxruntime rounds them, where there are dot products of bytes. `exact` leaves them as they are."""
    m = model(k, n, bits, block, zeros)
    exact = onnx.ModelProto()
    exact.CopyFrom(m)
    m.graph.node[0].attribute.append(helper.make_attribute("accuracy_level", level))
    for rows in (1, 9, 70):
        x = RNG.standard_normal((2, rows, k)).astype(np.float32)
        x[0, 0] = 0
        got, rounded = both(m, x)
        (want,) = (session.run(None, {"x": x})[0] for session in [ort.InferenceSession(exact.SerializeToString())])
        assert relative(got, want) <= lost
        assert level < 4 or min(relative(got, want), relative(got, rounded)) <= 2e-5
        assert relative(mlc.compile(m, exact=True).run({"x": x})["y"], want) <= 1e-5


@pytest.mark.parametrize("zeros", ["none", "plain", "packed"])
def test_blocks_by_index(zeros):
    """Elements of a block that lie apart, as in the order of activations. onnxruntime leaves packed zero points out then; here the
    definition decides."""
    k, n, block = 64, 24, 16
    m, x = model(k, n, 4, block, zeros), RNG.standard_normal((2, 3, k)).astype(np.float32)
    of = RNG.permutation(np.arange(k) // block).astype(np.int32)
    m.graph.node[0].input.extend([""] * (4 - len(m.graph.node[0].input)) + ["g"])
    m.graph.initializer.append(onnx.numpy_helper.from_array(of, "g"))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
    raw, z = arrays["b"].reshape(n, -1), arrays.get("z", np.full((n, k // block), 8))
    levels = np.stack([raw & 15, raw >> 4], axis=-1).reshape(n, k).astype(np.float32)
    if zeros == "packed":
        z = np.stack([z & 15, z >> 4], axis=-1).reshape(n, -1)
    want = x @ ((levels - z[:, of]) * arrays["s"][:, of]).T
    got = mlc.compile(m).run({"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    if zeros == "none":
        np.testing.assert_allclose(got, both(m, x)[1], rtol=1e-4, atol=1e-4)


def test_half_precision():
    got, want = both(model(64, 40, 4, 32, "none", np.float16), RNG.standard_normal((2, 3, 64)).astype(np.float16))
    assert got.dtype == np.float16 and np.linalg.norm((got - want).astype(np.float32)) <= 2e-3 * np.linalg.norm(want.astype(np.float32))


def test_two_bits():
    m = model(64, 16, 2, 32, "none")
    x = RNG.standard_normal((2, 3, 64)).astype(np.float32)
    raw, scales = (onnx.numpy_helper.to_array(t) for t in m.graph.initializer)
    levels = ((raw.reshape(16, -1)[:, :, None] >> np.arange(0, 8, 2)) & 3).reshape(16, 64).astype(np.float32)
    w = (levels - 2) * np.repeat(scales, 32, axis=1)
    np.testing.assert_allclose(mlc.compile(m).run({"x": x})["y"], x @ w.T, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused():
    m = model(64, 40, 4, 32, "none")
    m.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((40, 2, 15), np.uint8), "b"))
    with pytest.raises(mlc.MlcError, match="expected uint8"):
        mlc.compile(m)
    computed = model(64, 40, 4, 32, "none")
    computed.graph.input.append(helper.make_tensor_value_info("b", TensorProto.UINT8, [40, 2, 16]))
    del computed.graph.initializer[0]
    with pytest.raises(mlc.MlcError, match="B is computed"):
        mlc.compile(computed)


@pytest.mark.parametrize("extra", [0, 28])
def test_blocks_of_several_sizes_by_index(extra):
    """Of the last block the elements that are beyond K may be in front; g_idx may go on behind them."""
    m = model(100, 20, 4, 32, "none")
    index = RNG.permutation(np.arange(128) // 32)[: 100 + extra].astype(np.int32)
    m.graph.initializer.append(onnx.numpy_helper.from_array(index, "g"))
    m.graph.node[0].input.extend(["", "g"])
    got, want = both(m, RNG.standard_normal((2, 3, 100)).astype(np.float32))
    assert relative(got, want) <= 1e-5
