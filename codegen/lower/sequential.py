"""Running sums and products, and the counter of the processor: kernels that go on from what they stored."""

from __future__ import annotations

from ...ir import Node
from ...ir.ops import Clock, CumProd, CumSum
from ..expr import Ticks
from ..simplify import Affine, as_affine, clamp
from .builder import KernelBuilder, computed, convert, fn, index_expr, number
from .state import Lowering


def emit_running(lw: Lowering, node: Node) -> None:
    """y[j] = y[j − 1] + x[j] (or ·), in order along the axis and in vectors along the others; small floats run in float32."""
    op, (x,) = node.op, node.inputs
    assert isinstance(op, CumSum | CumProd)
    combine, neutral = ("add", 0) if isinstance(op, CumSum) else ("mul", 1)
    dtype, size = computed(x.dtype), x.shape[op.axis]
    placed = lw.place(node.out)
    to = placed if dtype is x.dtype else lw.storage.add("arena", dtype, x.shape)
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a != op.axis), (size,))
    (j,) = k.reduced

    def at(position: Affine) -> tuple[Affine, ...]:
        outer = iter(k.parallel)
        along = as_affine(size) - 1 - position if op.reverse else position
        return tuple(along if a == op.axis else next(outer) for a in range(len(x.shape)))

    before = clamp(j - 1, 0, size - 1)
    first = fn("eq", index_expr(j), number(0, index_expr(j).dtype))
    nothing = number(float(neutral) if dtype.is_float else neutral, dtype)
    total = fn(combine, k.load(to, at(before)), lw.read(k, x, at(before if op.exclusive else j)))
    start = nothing if op.exclusive else lw.read(k, x, at(j))
    lw.loop(k, [], [k.store(to, at(j), fn("select", first, start, total), per_element=True)], node.loc)
    if to is not placed:
        copy = KernelBuilder(x.shape)
        lw.loop(copy, [], [copy.store(placed, copy.index, copy.load(to, copy.index))], node.loc)
    lw.views[node.out] = placed


def emit_clock(lw: Lowering, node: Node) -> None:
    """Read once, so that all that follows from it agrees."""
    assert isinstance(node.op, Clock)
    k = KernelBuilder(())
    to = lw.place(node.out)
    lw.loop(k, [], [k.store(to, (), convert(Ticks(), node.out.dtype))], node.loc)
    lw.views[node.out] = to
