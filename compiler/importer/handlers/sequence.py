"""Handlers of sequences and optionals. Sequences whose elements the model spells out leave nothing to do at run time."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ....ir import Dim, DType, TensorType, Value
from ....ir import ops as O
from ....ir.ops.host import OBJECT
from ..compose import Build, axis_of, optional, required
from ..context import HandlerTable, ImportContext
from ..held import Element, Held, join
from ..stacked import appended, sequence_of, stack_of


def _sequence(ctx: ImportContext, node: NodeProto, value: Value) -> Held:
    held = ctx.held.get(value)
    if held is not None and held.kind == "optional" and isinstance(held.element, Held):
        held = held.element
    if held is None or held.kind != "sequence":
        raise ctx.unsupported(f"{node.op_type} of {value.type}, which is no sequence")
    return held


def _position(ctx: ImportContext, value: Value | None) -> int | None:
    known = ctx.dims(value)
    return known[0] if known and isinstance(known[0], int) else None


def construct(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    values = tuple(required(ctx, node, ins, len(ins)))
    element = None
    for v in values:
        element = join(element, ctx.holding(v))
    return [ctx.object(O.SequenceConstruct((OBJECT,)), values, Held("sequence", element, values))]


def empty(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [ctx.object(O.SequenceConstruct((OBJECT,)), (), Held("sequence", None, ()))]


def at(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    sequence, position = required(ctx, node, ins, 2)
    held, index = _sequence(ctx, node, sequence), _position(ctx, position)
    if held.values is not None and index is not None:
        if not -len(held.values) <= index < len(held.values):
            raise ctx.unsupported(f"SequenceAt position {index} of {len(held.values)} elements")
        return [held.values[index]]
    stacked = stack_of(ctx, sequence)
    if stacked is not None:
        b = Build(ctx)
        return [b.emit(O.Gather(0), stacked, ctx.index_of(b.reshape(position, ()), stacked.shape[0]))]
    return [ctx.taken(node, O.SequenceAt, (sequence, position), held.element)]


def insert(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    sequence, element = required(ctx, node, ins, 2)
    held, position = _sequence(ctx, node, sequence), optional(ins, 2)
    values = held.values
    if values is not None:
        index = len(values) if position is None else _position(ctx, position)
        values = None if index is None or not -len(values) <= index <= len(values) else (*values[:index], element, *values[index:])
    # Only at the end: elsewhere all that is behind would move, which sequences of handles do faster.
    stacked = appended(ctx, held.stacked, element) if position is None and values is None else None
    new = Held("sequence", join(held.element, ctx.holding(element)), values, stacked)
    return [ctx.object(O.SequenceInsert((OBJECT,)), (sequence, element, *(() if position is None else (position,))), new)]


def erase(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (sequence,) = required(ctx, node, ins, 1)
    held, position = _sequence(ctx, node, sequence), optional(ins, 1)
    values = held.values
    if values is not None:
        index = len(values) - 1 if position is None else _position(ctx, position)
        known = index is not None and -len(values) <= index < len(values)
        values = tuple(v for i, v in enumerate(values) if i != index % len(values)) if known and index is not None else None
    new = Held("sequence", held.element, values)
    return [ctx.object(O.SequenceErase((OBJECT,)), (sequence, *(() if position is None else (position,))), new)]


def length(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (sequence,) = required(ctx, node, ins, 1)
    held = _sequence(ctx, node, sequence)
    if held.values is not None:
        return [ctx.const(len(held.values), DType.I64)]
    if held.stacked is not None:
        return [Build(ctx).dim(held.stacked.shape[0], DType.I64)]
    return [ctx.emit(O.SequenceLength((TensorType(DType.I64, ()),)), sequence).out]


def concat_from(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (sequence,) = required(ctx, node, ins, 1)
    held, b = _sequence(ctx, node, sequence), Build(ctx)
    stack, axis = bool(ctx.attr(node, "new_axis", 0)), int(ctx.attr(node, "axis"))
    if held.values:
        rank = held.values[0].type.rank
        axis %= rank + stack
        parts = [b.reshape(v, (*v.shape[:axis], 1, *v.shape[axis:])) if stack else v for v in held.values]
        return [b.concat(axis, *parts)]
    if held.stacked is not None and held.stacked.type.rank + stack > 1:
        return [_joined(b, held.stacked, axis, stack)]
    element = held.element
    if isinstance(element, Element) and element.shape is not None:
        axis %= len(element.shape) + stack
        kept = element.shape[:axis], element.shape[axis if stack else axis + 1 :]
        element = Element(element.dtype, (*kept[0], None, *kept[1]))
    return [ctx.taken(node, lambda results: O.ConcatFromSequence(results, axis, stack), (sequence,), element)]


def _joined(b: Build, stacked: Value, axis: int, stack: bool) -> Value:
    """Elements [n, …] joined along an axis of theirs, or a new one."""
    rank = stacked.type.rank - 1
    axis %= rank + stack
    perm = list(range(1, rank + 1))
    perm.insert(axis, 0)
    y = b.transpose(stacked, perm)
    return y if stack else b.reshape(y, (*y.shape[:axis], y.shape[axis] * y.shape[axis + 1], *y.shape[axis + 2 :]))


def split_to(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    sizes, b = optional(ins, 1), Build(ctx)
    axis, keep = axis_of(ctx, node, x.type.rank), bool(ctx.attr(node, "keepdims", 1)) or optional(ins, 1) is not None
    d, given = x.shape[axis], None if sizes is None else ctx.dims(sizes)
    parts = _parts(d, None if given is None else given, sizes)
    if parts is None or len(parts) > _SPELLED_OUT:
        one = ctx.const(1, DType.I64) if sizes is None else b.cast(sizes, DType.I64)
        dims = tuple(None if i == axis else s for i, s in enumerate(x.shape) if keep or i != axis)
        if sizes is None or _all_ones(ctx, sizes):
            stacked = b.transpose(x, (axis, *(i for i in range(x.type.rank) if i != axis)))
            return [sequence_of(ctx, b.reshape(stacked, (d, *x.shape[:axis], *((1,) if keep else ()), *x.shape[axis + 1 :])))]
        return [ctx.object(O.SplitToSequence((OBJECT,), axis, keep), (x, one), Held("sequence", Element(x.dtype, dims)))]
    values, start = [], 0
    for size in parts:
        part = b.slice(x, axis, start, size)
        values.append(part if keep else b.reshape(part, tuple(s for i, s in enumerate(x.shape) if i != axis)))
        start += size
    element = None
    for v in values:
        element = join(element, ctx.holding(v))
    return [ctx.object(O.SequenceConstruct((OBJECT,)), values, Held("sequence", element, tuple(values)))]


_SPELLED_OUT = 256  # parts of a split


def _all_ones(ctx: ImportContext, sizes: Value) -> bool:
    """Whether every part is one row: a 1, or a vector of ones of any length (torch.repeat_interleave is exported so)."""
    filled = sizes.node.inputs[0] if isinstance(sizes.node.op, O.Expand) else sizes
    return filled.type.rank == 0 and ctx.dims(filled) == (1,)


def _parts(d: Dim, given: tuple[Dim, ...] | None, sizes: Value | None) -> list[int] | None:
    """Sizes of the parts of an axis of size d, where all are numbers."""
    if not isinstance(d, int) or (sizes is not None and given is None):
        return None
    if sizes is None or sizes.type.rank == 0:
        size = 1 if given is None else given[0]
        return [min(size, d - i) for i in range(0, d, size)] if isinstance(size, int) and size > 0 and d // size < 4096 else None
    numbers = [s for s in given or () if isinstance(s, int) and s >= 0]
    return numbers if len(numbers) == len(given or ()) and sum(numbers) == d else None


def optional_(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    value = optional(ins, 0)
    if value is None:
        return [ctx.object(O.OptionalHold((OBJECT,)), (), Held("optional", None, ()))]
    return [ctx.object(O.OptionalHold((OBJECT,)), (value,), Held("optional", ctx.holding(value), (value,)))]


def get_element(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (value,) = required(ctx, node, ins, 1)
    held = ctx.held.get(value)
    if held is None or held.kind != "optional":
        return [value]  # what is no optional is there
    if held.values:
        return [held.values[0]]
    return [ctx.taken(node, O.OptionalGet, (value,), held.element)]


def has_element(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    value = optional(ins, 0)
    held = None if value is None else ctx.held.get(value)
    if value is None or held is None or held.kind != "optional" or held.values is not None:
        there = value is not None and (held is None or held.kind != "optional" or bool(held.values))
        return [ctx.const(there, DType.BOOL)]
    return [ctx.emit(O.OptionalHas((TensorType(DType.BOOL, ()),)), value).out]


SEQUENCE_HANDLERS: HandlerTable = {
    ("ConcatFromSequence", 11): concat_from,
    ("Optional", 15): optional_,
    ("OptionalGetElement", 15): get_element,
    ("OptionalHasElement", 15): has_element,
    ("SequenceAt", 11): at,
    ("SequenceConstruct", 11): construct,
    ("SequenceEmpty", 11): empty,
    ("SequenceErase", 11): erase,
    ("SequenceInsert", 11): insert,
    ("SequenceLength", 11): length,
    ("SplitToSequence", 11): split_to,
}
