"""Long reductions to few elements get parts; those that threads can share anyway, or that are short, stay."""

import mlc
import numpy as np
import onnx
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const, sym
from mlc.ir.ops import LayerNorm, Reduce, RMSNorm
from mlc.passes.base import PassContext, apply
from mlc.passes.long_reductions import LongReductions

RNG = np.random.default_rng(0)


def graph_of(shape, op, dtype=DType.F32):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    return Graph((x,), (apply(op, x),), ("x",), ("y",))


def reductions(graph):
    return [n for n in graph.nodes if isinstance(n.op, Reduce)]


@pytest.mark.parametrize(("shape", "axes", "parts"), [
    ((1, 112, 112, 32), (1, 2), 16),
    ((1, 28, 28, 144), (1, 2), 7),
    ((4096, 64), (0,), 16),
    ((1_000_000,), (0,), 16),
    ((1, 3, 224, 224), (1, 2, 3), 16),
    ((2, 5, 90, 91), (1, 2, 3), 5),
    ((1, 7, 60_000), (2,), 16),
    ((1, 56, 56, 512), (1, 2), 8),  # groups of channels are enough, but each thread has rows of the image
    ((1, 14, 14, 480), (1, 2), 2),
    ((7, 7, 1152), (0, 1), 7),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_parts(shape, axes, parts, kind, keepdims):
    graph = graph_of(shape, Reduce(kind, axes, keepdims))
    new = LongReductions().run(graph, PassContext(verify=True))
    first, second = reductions(new)
    assert first.inputs[0].shape[second.op.axes[0]] == parts
    assert new.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=2e-5, atol=2e-5 * np.abs(x).sum() ** 0.5)


@pytest.mark.parametrize(("shape", "op", "dtype"), [
    ((1, 7, 7, 320), Reduce("mean", (1, 2), True), DType.F32),  # short
    ((2, 56, 56, 512), Reduce("mean", (1, 2), True), DType.F32),  # groups of channels are enough, and each thread has images
    ((1, 11, 11, 512), Reduce("mean", (1, 2), True), DType.F32),
    ((1, 64, 112, 112), Reduce("mean", (2, 3), True), DType.F32),  # channels are
    ((1, 997, 991, 8), Reduce("sum", (1, 2), True), DType.F32),  # prime
    ((4096, 64), Reduce("prod", (0,), True), DType.F32),
    ((4096, 64), Reduce("sum", (0,), True), DType.F16),  # parts would be rounded
    ((4096, 64), Reduce("sum", (0,), True), DType.I64),
    ((sym("N"), 64), Reduce("sum", (0,), True), DType.F32),
    ((0, 4096), Reduce("sum", (1,), True), DType.F32),
])  # fmt: skip
def test_what_stays(shape, op, dtype):
    graph = graph_of(shape, op, dtype)
    assert LongReductions().run(graph, PassContext()) is graph


def norm_of(shape, op, plain=False):
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    scale, *bias = (const(np.float32([1, 0][i]) if plain else RNG.standard_normal(shape[-1]).astype(np.float32)) for i in range(2))
    return Graph((x,), (apply(op, x, scale, *(bias if isinstance(op, LayerNorm) else ())),), ("x",), ("y",))


@pytest.mark.parametrize(("shape", "op", "parts"), [
    ((1, 1, 143856), LayerNorm(2, 1e-5), 16),
    ((2, 16, 64, 60), LayerNorm(1, 1e-3), 15),
    ((3, 40000), RMSNorm(1, 1e-5), 10),
])  # fmt: skip
@pytest.mark.parametrize("plain", [False, True])
def test_norms_of_few_long_rows(shape, op, parts, plain):
    graph = norm_of(shape, op, plain)
    new = LongReductions().run(graph, PassContext(verify=True))
    first, *_ = reductions(new)
    assert first.out.shape[op.axis] == parts
    x = RNG.standard_normal(shape).astype(np.float32) + 3
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "op"), [
    ((4, 20000), LayerNorm(1, 1e-5)),
    ((1, 50000), LayerNorm(1, 1e-5)),
    ((1, 99991), RMSNorm(1, 1e-5)),  # prime
    ((1, sym("N"), 99991), RMSNorm(1, 1e-5)),
])  # fmt: skip
def test_norms_that_stay(shape, op):
    graph = norm_of(shape, op)
    assert LongReductions().run(graph, PassContext()) is graph


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(symbolic, threads):
    """A squeeze-excite block: what is reduced is computed on the way, and results do not depend on the threads."""
    h = onnx.helper
    batch = "N" if symbolic else 2
    nodes = [
        h.make_node("Sigmoid", ["x"], ["s"]), h.make_node("Mul", ["x", "s"], ["a"]),
        h.make_node("ReduceMean", ["a"], ["m"], axes=[1, 2], keepdims=1), h.make_node("Tanh", ["m"], ["t"]),
        h.make_node("Mul", ["a", "t"], ["y"]), h.make_node("ReduceMax", ["y"], ["z"], axes=[0, 1, 2], keepdims=0),
    ]  # fmt: skip
    values = [h.make_tensor_value_info(n, 1, s) for n, s in (("x", [batch, 48, 50, 24]), ("y", None), ("z", None))]
    model = h.make_model(h.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    module = mlc.compile(model, threads=threads)
    for n in (1, 2, 3) if symbolic else (2,):
        x = RNG.standard_normal((n, 48, 50, 24)).astype(np.float32)
        a = x / (1 + np.exp(-x.astype(np.float64)))
        y = a * np.tanh(a.mean((1, 2), keepdims=True))
        got = module.run({"x": x})
        np.testing.assert_allclose(got["y"], y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["z"], y.max((0, 1, 2)), rtol=1e-4, atol=1e-5)
