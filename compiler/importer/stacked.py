"""Sequences of tensors of one type as one tensor, the elements along its first axis.

A loop that appends to a sequence, and reads it, is a loop with a tensor that grows then, in native code. The sequence itself stays a
value of the graph, taken apart from that tensor, which is computed only if something else asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir import Dim, DType, Value
from ...ir import ops as O
from ...ir.ops.host import OBJECT
from .compose import Build
from .context import ImportContext
from .held import Element, Held

_HANDLES = (DType.OBJECT, DType.STRING)


def stack_of(ctx: ImportContext, value: Value) -> Value | None:
    """The elements of a sequence along a new first axis; None where they may differ in type, or are not known to be alike."""
    held = ctx.held.get(value)
    if held is None or held.kind != "sequence":
        return None
    if held.stacked is None and held.values and held.values[0].dtype not in _HANDLES and len({v.type for v in held.values}) == 1:
        b = Build(ctx)
        held = replace(held, stacked=b.concat(0, *(b.reshape(v, (1, *v.shape)) for v in held.values)))
        ctx.held[value] = held
    return held.stacked


def sequence_of(ctx: ImportContext, stacked: Value) -> Value:
    """The sequence of which this is the stack."""
    held = Held("sequence", Element(stacked.dtype, stacked.shape[1:]), stacked=stacked)
    return ctx.object(O.SplitToSequence((OBJECT,), 0, False), (stacked, ctx.const(1, DType.I64)), held)


def empty_stack(ctx: ImportContext, element: Element) -> Value | None:
    """The stack of no elements of a type; None where that is not known."""
    if element.shape is None or element.dtype in _HANDLES:
        return None
    shape = tuple(d for d in element.shape if d is not None)
    return no_rows(ctx, element.dtype, shape) if len(shape) == len(element.shape) else None


def no_rows(ctx: ImportContext, dtype: DType, shape: Sequence[Dim]) -> Value:
    """The stack of no elements of this type and shape."""
    b = Build(ctx)
    return b.expand(b.reshape(b.const(0, dtype), (1,) * (len(shape) + 1)), (0, *shape))


def appended(ctx: ImportContext, stacked: Value | None, element: Value) -> Value | None:
    """The stack with one more element, if that is of the others' type."""
    if stacked is None or (element.dtype, element.shape) != (stacked.dtype, stacked.shape[1:]):
        return None
    return with_rows(ctx, stacked, Build(ctx).reshape(element, (1, *element.shape)))


def with_rows(ctx: ImportContext, stacked: Value, rows: Value) -> Value:
    """A stack behind another one."""
    base, behind = split_stack(stacked)
    return Build(ctx).concat(0, base, *behind, rows)


def split_stack(stacked: Value) -> tuple[Value, tuple[Value, ...]]:
    """A stack, and those that were put behind it."""
    ins = stacked.node.inputs
    return (ins[0], ins[1:]) if stacked.node.op == O.Concat(0) else (stacked, ())
