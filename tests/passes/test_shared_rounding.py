"""Values that products round are rounded once, and only where every reader may read them so."""

import numpy as np
from mlc.codegen.lower.fusion import Fusion
from mlc.compiler.stages import compile_graph
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Add, Cast, Concat, Conv, DotMatMul, LayerNorm, Pool, Relu
from mlc.passes.base import PassContext, apply
from mlc.passes.pipelines import CLEAN, run_passes
from mlc.passes.precision import BFloat16, LowerPrecision
from mlc.passes.shared_rounding import SharedRounding

RNG = np.random.default_rng(0)
CTX = PassContext(verify=True)


def shared(graph):
    return run_passes(graph, (SharedRounding(), CLEAN), CTX)


def placeholder(*shape):
    return Node.make(Input(TensorType(DType.F32, shape)), ()).out


def weights(*shape):
    return const((RNG.standard_normal(shape) / 4).astype(np.float32))


def convolution(x, w, name, pads=(0, 0)):
    return apply(Conv((1, 1), pads, pads, (1, 1)), x, w, loc=(name,))


def lowered(x, y, *names):
    graph = Graph((x,), (y,), ("x",), ("y",))
    return run_passes(graph, (LowerPrecision({name: BFloat16() for name in names}), CLEAN), CTX)


def near(a, b, x, limit):
    (want,), (got,) = a.evaluate(x), b.evaluate(x)
    assert got.dtype == want.dtype and np.linalg.norm(got - want) <= limit * np.linalg.norm(want)


def test_a_residual_sum_reads_what_the_product_reads():
    x = placeholder(1, 5, 5, 4)
    y = apply(Relu(), convolution(x, weights(1, 1, 4, 6), "a"))
    z = apply(Add(), convolution(y, weights(1, 1, 6, 6), "b"), y)
    graph = lowered(x, z, "a", "b")
    new = shared(graph)
    (add,) = (n for n in new.nodes if isinstance(n.op, Add))
    (relu,) = (n for n in new.nodes if isinstance(n.op, Relu))
    assert [n.op for n in new.uses[relu.out]] == [Cast(DType.BF16)]  # nobody reads more than 16 bits of it
    assert any(v.node.op == Cast(DType.F32) for v in add.inputs)
    near(graph, new, RNG.standard_normal((1, 5, 5, 4)).astype(np.float32), 1e-2)


def test_maxima_and_moves_are_of_rounded_numbers():
    x = placeholder(1, 6, 6, 4)
    a, b = (convolution(x, weights(1, 1, 4, 6), name) for name in "ab")
    pooled = apply(Pool("max", (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)), apply(Concat(3), a, b))
    graph = lowered(x, convolution(pooled, weights(1, 1, 12, 3), "c"), "a", "b", "c")
    new = shared(graph)
    (pool,) = (n for n in new.nodes if isinstance(n.op, Pool))
    assert pool.out.dtype is DType.BF16 and all(v.dtype is DType.BF16 for v in pool.inputs[0].node.inputs)
    data = RNG.standard_normal((1, 6, 6, 4)).astype(np.float32)
    assert np.array_equal(graph.evaluate(data)[0], new.evaluate(data)[0])  # rounding keeps order


def depthwise_between(kept):
    x = placeholder(1, 9, 9, 8)
    y = apply(Relu(), convolution(x, weights(1, 1, 8, 20), "a"))
    deep = apply(Conv((2, 2), (1, 1), (1, 1), (1, 1), 20), y, weights(3, 3, 1, 20), loc=("deep",))
    z = convolution(apply(Relu(), deep), weights(1, 1, 20, 6), "b")
    graph = lowered(x, z, "a", "b")
    if not kept:
        return graph
    (deep,) = (n for n in graph.nodes if type(n.op) is Conv)
    return Graph(graph.inputs, (*graph.outputs, deep.out), ("x",), ("y", "deep"))


def test_depthwise_convolutions_between_layers_read_rounded_numbers():
    graph = depthwise_between(kept=False)
    new = shared(graph)
    (deep,) = (n for n in new.nodes if type(n.op) is Conv)
    wide = deep.inputs[0]
    (narrow,) = wide.node.inputs
    assert wide.node.op == Cast(DType.F32) and narrow.dtype is DType.BF16
    fusion = Fusion(new, True)
    assert fusion.stored(narrow) and not fusion.stored(wide)  # two bytes each are written, and read
    data = RNG.standard_normal((1, 9, 9, 8)).astype(np.float32)
    near(graph, new, data, 1e-2)
    got = compile_graph(new).run({"x": data})["y"]
    (want,) = new.evaluate(data)
    assert np.linalg.norm(got - want) <= 5e-3 * np.linalg.norm(want)  # a sum beside the middle of two numbers may round either way
    graph = depthwise_between(kept=True)
    assert shared(graph) is graph


def test_norms_and_outputs_keep_their_operands():
    x = placeholder(3, 8)
    y = apply(Add(), x, const(np.float32(1)))
    one = const(np.ones(8, np.float32))
    w = const((RNG.standard_normal((8, 8)) / 4).astype(DType.BF16.np))
    product = apply(DotMatMul(), apply(Cast(DType.BF16), y), w)
    normed = apply(LayerNorm(1, 1e-5), y, one, one)
    for outputs in ((apply(Add(), product, normed),), (product, y)):
        graph = Graph((x,), outputs, ("x",), tuple("yz"[: len(outputs)]))
        assert shared(graph) is graph


def test_graphs_without_roundings_stay():
    x = placeholder(1, 5, 5, 4)
    graph = Graph((x,), (apply(Relu(), x),), ("x",), ("y",))
    assert SharedRounding().run(graph, CTX) is graph


def two_summed_products(last):
    x = placeholder(1, 5, 5, 4)
    a, b = (convolution(x, weights(1, 1, 4, 6), name) for name in "ab")
    return x, last(apply(Relu(), apply(Add(), a, b)))


def test_the_first_of_two_summed_products_is_rounded_too():
    x, y = two_summed_products(lambda v: convolution(v, weights(1, 1, 6, 3), "c"))
    graph = lowered(x, y, "a", "b", "c")
    new = shared(graph)
    (add,) = (n for n in new.nodes if isinstance(n.op, Add))
    assert sorted(type(v.node.op).__name__ for v in add.inputs) == ["Cast", "DotConv"]  # the second is summed in its kernel
    near(graph, new, RNG.standard_normal((1, 5, 5, 4)).astype(np.float32), 1e-2)


def test_sums_that_nobody_rounds_are_of_products_as_they_are():
    x, y = two_summed_products(lambda v: apply(LayerNorm(3, 1e-5), v, weights(6), weights(6)))
    graph = lowered(x, y, "a", "b")
    assert shared(graph) is graph


def test_the_first_product_is_stored_in_16_bits():
    """What widens it again is computed where it is read."""
    x, y = two_summed_products(lambda v: convolution(v, weights(1, 1, 6, 3), "c"))
    fusion = Fusion(shared(lowered(x, y, "a", "b", "c")), True)
    stored = [v for n in fusion.graph.nodes for v in n.outputs if fusion.stored(v) and n.inputs]
    assert [v.dtype for v in stored] == [DType.BF16, DType.BF16, DType.BF16, DType.F32]  # x, a, the sum, the result
