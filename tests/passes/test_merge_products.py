"""Products of one value that are heads of attention become one product, with all that is pointwise behind them; others stay."""

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Add, Attention, Cast, Concat, MatMul, Mul, Relu, Reshape, Transpose
from mlc.passes.base import PassContext, apply
from mlc.passes.merge_products import MergeProducts

RNG = np.random.default_rng(5)


def given(*shape):
    return Node.make(Input(TensorType(DType.F32, shape)), ()).out


def weights(*shape):
    return const(RNG.standard_normal(shape).astype(np.float32))


def heads(y, count):
    return apply(Transpose((0, 2, 1, 3)), apply(Reshape((2, y.shape[1], count, y.shape[-1] // count)), y))


def projected(x, width, *more):
    y = apply(Add(), weights(width), apply(MatMul(), x, weights(16, width)))
    for op in more:
        y = apply(op, y)
    return y


def attention(q, k, v):
    return apply(Attention(0.5), heads(q, 4), heads(k, k.shape[-1] // (q.shape[-1] // 4)), heads(v, v.shape[-1] // (q.shape[-1] // 4)))


def merged(inputs, *outputs):
    graph = Graph(tuple(inputs), tuple(outputs), tuple(f"x{i}" for i in range(len(inputs))), tuple(f"y{i}" for i in range(len(outputs))))
    new = MergeProducts().run(graph, PassContext(verify=True))
    arrays = [RNG.standard_normal(v.shape).astype(np.float32) for v in inputs]
    for got, want in zip(new.evaluate(*arrays), graph.evaluate(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert MergeProducts().run(new, PassContext()) is new
    return new, sum(isinstance(n.op, MatMul) for n in new.nodes), sum(isinstance(n.op, Add) for n in new.nodes)


def test_heads_of_different_widths() -> None:
    """Fewer heads of keys and values than of queries."""
    x = given(2, 5, 16)
    new, products, sums = merged([x], attention(projected(x, 32), projected(x, 16), projected(x, 16)))
    assert (products, sums) == (1, 1)
    assert [n.out.shape for n in new.nodes if isinstance(n.op, MatMul)] == [(2, 5, 64)]


def test_heads_of_two_values() -> None:
    """Queries of one, keys and values of another; what is pointwise behind goes along, constants for all included."""
    x, memory, two = given(2, 5, 16), given(2, 7, 16), const(np.float32(2))
    k, v = (apply(Mul(), projected(memory, 16, Relu()), two) for _ in range(2))
    assert merged([x, memory], attention(projected(x, 16), k, v))[1:] == (2, 2)


def test_heads_that_join_a_cache() -> None:
    """Keys and values are copied there anyway; products that only are concatenated stay."""
    x, past = given(2, 5, 16), given(2, 4, 9, 4)
    k, v = (apply(Concat(2), past, heads(projected(x, 16), 4)) for _ in range(2))
    y = apply(Attention(0.5), heads(projected(x, 16), 4), k, v)
    assert merged([x, past], y, k, v)[1:] == (1, 1)
    assert merged([x], apply(Concat(2), *(heads(projected(x, 16), 4) for _ in range(2))))[1] == 2


def test_keys_and_values_of_a_cache_whose_queries_are_rounded() -> None:
    """Two become one: the queries are rounded by their own product. Not where what is joined is no attention's."""
    x, past = given(2, 5, 16), given(2, 4, 9, 4)
    k, v = (apply(Concat(2), past, heads(projected(x, 16), 4)) for _ in range(2))
    y = apply(Attention(0.5), *(apply(Cast(DType.BF16), h) for h in (heads(projected(x, 16, Relu()), 4), k, v)))
    _, products, _ = merged([x, past], apply(Cast(DType.F32), y), k, v)
    assert products == 2
    assert merged([x, past], k, v)[1] == 2


@pytest.mark.parametrize("case", ["other operation", "other constant", "kept", "not attention", "second reader", "of another type"])
def test_what_stays(case: str) -> None:
    x, two, three = given(2, 5, 16), const(np.float32(2)), const(np.float32(3))
    q, k, v = (projected(x, 16) for _ in range(3))
    more = []
    match case:
        case "other operation":
            q, k = apply(Relu(), q), apply(Mul(), k, two)
        case "other constant":
            q, k, v = apply(Mul(), q, two), apply(Mul(), k, three), apply(Mul(), v, const(np.float32(5)))
        case "kept":
            more = [q, k]
        case "second reader":
            more = [apply(Relu(), q), apply(Relu(), k)]
        case "not attention":
            more, q = [apply(Relu(), heads(q, 4)), apply(Relu(), heads(k, 4))], projected(given(2, 5, 16), 16)
            assert merged([x], *more)[1] == 2
            return
        case "of another type":
            q = apply(Cast(DType.F32), apply(Cast(DType.BF16), q))
            k = apply(Cast(DType.F32), apply(Cast(DType.F16), k))
    assert merged([x], attention(q, k, v), *more)[1] == 3
