"""Concatenations of the end and the beginning of a value are wrapped pads of it; others stay."""

import numpy as np
from mlc.ir import DType, Graph, Input, Node, TensorType, sym
from mlc.ir.ops import Concat, Pad, Slice
from mlc.passes.base import PassContext, apply
from mlc.passes.rolls import Rolls


def part(x, axis, start, size, step=1):
    starts, steps = (tuple(v if a == axis else other for a in range(3)) for v, other in ((start, 0), (step, 1)))
    return apply(Slice(starts, tuple(size if a == axis else d for a, d in enumerate(x.shape)), steps), x)


def rolled(axis, *parts, shape=(4, 5, 6)):
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    graph = Graph((x,), (apply(Concat(axis), *(part(x, axis, *p) for p in parts)),), ("x",), ("y",))
    new = Rolls().run(graph, PassContext(verify=True))
    if all(isinstance(d, int) for d in shape):
        given = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(new.evaluate(given)[0], graph.evaluate(given)[0])
    assert Rolls().run(new, PassContext()) is new
    return new is not graph


def test_rolls() -> None:
    n = sym("N", 3)
    assert rolled(1, (2, 3), (0, 2)) and rolled(0, (1, 3), (0, 1)) and rolled(0, (3, 1), (0, 3))
    assert rolled(0, (2, n - 2), (0, 2), shape=(n, 5, 6))


def test_a_roll_is_one_op() -> None:
    x = Node.make(Input(TensorType(DType.BF16, (4, 5, 6))), ()).out
    new = Rolls().run(Graph((x,), (apply(Concat(1), part(x, 1, 2, 3), part(x, 1, 0, 2)),), ("x",), ("y",)), PassContext(verify=True))
    (op,) = (n.op for n in new.nodes if isinstance(n.op, Concat | Slice | Pad))
    assert op == Pad((0, -2, 0), (0, 2, 0), "wrap")


def test_what_is_no_roll_stays() -> None:
    """Parts that overlap or leave something out, are in their order, or have steps; three parts; the last axis; nothing to roll."""
    assert not any(
        rolled(1, *p) for p in (((2, 3), (0, 3)), ((3, 2), (0, 2)), ((0, 2), (2, 3)), ((2, 2), (0, 2, 2)), ((2, 3), (1, 1), (0, 1)))
    )
    assert not rolled(2, (2, 4), (0, 2)) and not rolled(0, (2, sym("N", 0) - 2), (0, 2), shape=(sym("N", 0), 5, 6))
