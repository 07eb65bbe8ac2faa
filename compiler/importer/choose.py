"""One of several computations, chosen at run time by a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import DType, Graph, Input, Node, Value
from ...ir import ops as O
from .compose import Build

Branch = Callable[[Build, list[Value]], Value]


def choose(b: Build, index: Value, branches: Sequence[Branch], operands: Sequence[Value]) -> Value:
    """branches[index](operands), all of one type, computed only for the index (I64, one element) that holds; the last if none."""
    index = b.reshape(b.cast(index, DType.I64), ())
    if len(branches) == 1:
        return branches[0](b, list(operands))
    here = b.emit(O.Equal(), index, b.const(0, DType.I64))
    captured = (index, *operands)

    def region(build: Callable[[list[Value]], Value]) -> Graph:
        formals = [Node.make(Input(v.type), (), b.ctx.loc).out for v in captured]
        return Graph(tuple(formals), (build(formals),), tuple(f"i{k}" for k in range(len(formals))), ("o0",), "choice")

    then = region(lambda vs: branches[0](b, vs[1:]))
    orelse = region(lambda vs: choose(b, b.sub(vs[0], 1), branches[1:], vs[1:]))
    return b.emit(O.If(then, orelse), here, *captured)


def along_axis(b: Build, axis: Value, rank: int, compute: Callable[[Build, int, list[Value]], Value], *operands: Value) -> Value:
    """compute(axis, operands) for an axis known at run time only; negative ones count from the end."""
    axis = b.reshape(b.cast(axis, DType.I64), ())
    positive = b.where(b.emit(O.Less(), axis, b.const(0, DType.I64)), b.add(axis, rank), axis)
    branches: list[Branch] = [lambda b, vs, a=a: compute(b, a, vs) for a in range(rank)]  # type: ignore[misc]
    return choose(b, positive, branches, operands)
