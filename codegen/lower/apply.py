"""Making nodes while lowering."""

from __future__ import annotations

from ...ir import Const, Node, Op, Value, const
from ...ir.ops import Cast, Concat, Reshape, Slice, Transpose


def apply(op: Op, loc: tuple[str, ...], *ins: Value) -> Value:
    """The op's result; moves of constants are done at once."""
    if all(isinstance(v.node.op, Const) for v in ins) and isinstance(op, (Cast, Concat, Reshape, Transpose, Slice)):
        (data,) = op.reference(*(v.data for v in ins))
        return const(data, loc=loc)
    return Node.make(op, ins, loc).out
