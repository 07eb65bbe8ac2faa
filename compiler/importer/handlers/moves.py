"""Handlers of operators that select, join and rearrange elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from ....ir import Dim, DType, Value, ceildiv, dim_max, dim_min, floordiv, lower, upper
from ....ir import ops as O
from ..compose import Build, axis_in, axis_of, optional, required, sized, vector
from ..context import HandlerTable, ImportContext
from ..held import Element
from .runtime_axes import axis_count, pads_of_axes, slice_axes
from .shape import axes_of

_HUGE = 2**31 - 1  # starts and ends from here on mean "to the end"
_LAST = (2**31 - 1, 2**63 - 1)  # as ends, going backward, too, in onnxruntime


def transpose(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    return [Build(ctx).transpose(x, ctx.attr(node, "perm", tuple(reversed(range(x.type.rank)))))]


def slice_range(d: Dim, start: Dim, end: Dim, step: int, natural: Callable[[Dim], bool] = lambda at: lower(at) >= 0) -> tuple[Dim, Dim]:
    """First index and count of x[start:end:step] of an axis of size d, clamped as ONNX does. `natural`: what cannot be negative."""
    if step > 0:
        if isinstance(start, int) and start < 0 and (end == d or (isinstance(end, int) and end >= _HUGE)):
            return dim_max(d + start, 0), ceildiv(dim_min(d, -start), step)  # the last −start elements
        first = _clamp(_from_front(d, start, natural), d, natural)
        last = d if isinstance(end, int) and end >= _HUGE else _clamp(_from_front(d, end, natural), d, natural)
        count = ceildiv(last - first, step)
    else:
        first = d - 1 if isinstance(start, int) and start >= _HUGE else dim_min(dim_max(_from_front(d, start, natural), 0), d - 1)
        last = -1 if isinstance(end, int) and (end <= -_HUGE or end in _LAST) else dim_max(_from_front(d, end, natural), -1)
        count = ceildiv(first - last, -step)
    return first, count if natural(count) else dim_max(count, 0)


def _from_front(d: Dim, at: Dim, natural: Callable[[Dim], bool]) -> Dim:
    """An index that counts from the end where it is negative, which only a run may know; not yet clamped."""
    if natural(at) or at == d - 1:  # d − 1 is negative only where there is nothing to select
        return at
    return at + d * dim_min(dim_max(-at, 0), 1)


def _clamp(at: Dim, d: Dim, natural: Callable[[Dim], bool]) -> Dim:
    return dim_min(at if natural(at) else dim_max(at, 0), d)


def slice_(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    if ctx.opset() >= 10:
        return slice_from_operands(ctx, node, ins)
    (x,) = required(ctx, node, ins, 1)
    starts, ends = ctx.attr(node, "starts"), ctx.attr(node, "ends")
    return _slice(ctx, x, starts, ends, ctx.attr(node, "axes") or range(len(starts)), (1,) * len(starts))


def slice_from_operands(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Slice(x, starts, ends, axes, steps), the last two optional."""
    (x,) = required(ctx, node, ins, 1)
    if any(v is not None and ctx.dims(v) is None for v in ins[1:5]):
        first_at, last_at = required(ctx, node, ins[1:], 2)
        return [slice_axes(ctx, x, first_at, last_at, optional(ins, 3), optional(ins, 4))]
    starts = ctx.require_dims(ins[1], "the start of Slice")
    ends = ctx.require_dims(ins[2], "the end of Slice")
    axes = range(len(starts)) if optional(ins, 3) is None else ctx.require_dims(ins[3], "the axes of Slice")
    steps = (1,) * len(starts) if optional(ins, 4) is None else ctx.require_dims(ins[4], "the steps of Slice")
    return _slice(ctx, x, starts, ends, axes, steps)


def _slice(
    ctx: ImportContext, x: Value, starts: Sequence[Dim], ends: Sequence[Dim], axes: Sequence[Dim], steps: Sequence[Dim]
) -> list[Value]:  # fmt: skip
    rank = x.type.rank
    first: list[Dim] = [0] * rank
    sizes: list[Dim] = list(x.shape)
    strides = [1] * rank
    seen: set[int] = set()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(step, int) or step == 0 or not isinstance(axis, int) or not -rank <= axis < rank:
            raise ctx.unsupported(f"Slice of axis {axis} of rank {rank} by step {step}")
        axis = axis % rank
        if axis in seen:
            raise ctx.unsupported(f"Slice of axis {axis} twice")
        seen.add(axis)
        strides[axis] = step
        first[axis], sizes[axis] = slice_range(x.shape[axis], start, end, step, ctx.natural)
    if all(f == 0 for f in first) and tuple(sizes) == x.shape and all(s == 1 for s in strides):
        return [x]
    return list(ctx.emit(O.Slice(tuple(first), tuple(sizes), tuple(strides)), x).outputs)


def split(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, axis, count = Build(ctx), axis_of(ctx, node, x.type.rank), len(node.output)
    d = x.shape[axis]
    given = ctx.attr(node, "split") if ctx.opset() < 13 else None
    if ctx.opset() >= 13 and optional(ins, 1) is not None:
        given = ctx.require_sizes(ins[1], "the sizes of Split")
    if given is None:
        parts = ctx.attr(node, "num_outputs")
        if parts not in (None, count):
            raise ctx.unsupported(f"Split into num_outputs = {parts} with {count} outputs")
        if parts:  # the last may be smaller
            part = ceildiv(d, count)
            given = [part] * (count - 1) + [d - part * (count - 1)]
        else:
            given = [floordiv(d, count)] * count
    total: Dim = sum(given, 0)
    if len(given) < count or (isinstance(d, int) and isinstance(total, int) and total != d):
        raise ctx.unsupported(f"Split of {d} into {list(given)}")
    ctx.require_equal(total, d)
    outs, at = [], 0
    for part in given[:count]:
        outs.append(b.slice(x, axis, at, part))
        at = at + part
    return outs


def concat(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    xs = required(ctx, node, ins, len(ins))
    return [Build(ctx).concat(axis_of(ctx, node, xs[0].type.rank, 1), *xs)]


def gather(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, index = required(ctx, node, ins, 2)
    b, axis = Build(ctx), axis_of(ctx, node, x.type.rank)
    at = ctx.dims(index)
    if at is not None and index.type.rank == 0:  # one known index: a view-like slice instead of an indexed load
        d = x.shape[axis]
        (i,) = at
        from_end = upper(i) < 0 or i == d - 1  # else a sign that may be either is known when it runs
        if (from_end or lower(i) >= 0) and ctx.require_within(i, d * -1, d - 1):
            i = i + d if upper(i) < 0 else i
            return [b.reshape(b.slice(x, axis, i, 1), (*x.shape[:axis], *x.shape[axis + 1 :]))]
    return ctx.emit(O.Gather(axis), x, ctx.index_of(index, x.shape[axis])).outputs


def gather_elements(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, index = required(ctx, node, ins, 2)
    axis = axis_of(ctx, node, x.type.rank)
    return ctx.emit(O.GatherElements(axis), x, _beside(ctx, x, index, axis)).outputs


def _beside(ctx: ImportContext, x: Value, index: Value, axis: int) -> Value:
    """Indices along an axis of x, which lie within it along the others."""
    if index.type.rank == x.type.rank:  # else the op says what is wrong
        for i, (d, most) in enumerate(zip(index.shape, x.shape, strict=True)):
            if i != axis:
                ctx.require_at_most(d, most)
    return ctx.index_of(index, x.shape[axis])


def gather_nd(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, index = required(ctx, node, ins, 2)
    batch = int(ctx.attr(node, "batch_dims", 0))
    said, rank = ctx.declared(node.output[0]), None
    if x.type.rank == batch + 1:
        rank = index.type.rank - 1
    elif isinstance(said, Element) and said.shape is not None:
        rank = len(said.shape)
    return ctx.emit(O.GatherND(batch), x, _places(ctx, node, x, index, batch, None if rank is None else rank + batch)).outputs


def _places(ctx: ImportContext, node: NodeProto, x: Value, index: Value, batch: int, rank: int | None) -> Value:
    """Index tuples along the last axis, each entry within the axis of x that it is for.

    How many there are in a tuple may follow from the rank of what they gather or scatter, if that is known.
    """
    depth = index.shape[-1] if index.type.rank else 0
    if not isinstance(depth, int) and rank is not None:
        index = sized(ctx, index, (*index.shape[:-1], depth := index.type.rank - 1 + x.type.rank - rank))
    if not isinstance(depth, int) or not 1 <= depth <= x.type.rank - batch:
        raise ctx.unsupported(f"{node.op_type} of {x.type} by {index.type}")
    for d, wanted in zip(index.shape[:batch], x.shape[:batch], strict=True):
        ctx.require_equal(d, wanted)
    return ctx.index_of(index, *x.shape[batch : batch + depth])


def scatter_elements(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, index, updates = required(ctx, node, ins, 3)
    axis = axis_of(ctx, node, x.type.rank)
    op = O.ScatterElements(axis, ctx.attr(node, "reduction", "none"))
    return ctx.emit(op, x, _beside(ctx, x, index, axis), sized(ctx, updates, index.shape)).outputs


def scatter_nd(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, index, updates = required(ctx, node, ins, 3)
    index = _places(ctx, node, x, index, 0, updates.type.rank)
    depth = index.shape[-1]
    assert isinstance(depth, int)
    updates = sized(ctx, updates, (*index.shape[:-1], *x.shape[depth:]))
    return ctx.emit(O.ScatterND(ctx.attr(node, "reduction", "none")), x, index, updates).outputs


def pad(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """`pads` are all starts then all ends; attributes before opset 11."""
    (x,) = required(ctx, node, ins, 1)
    b, rank = Build(ctx), x.type.rank
    if ctx.opset() < 11:
        pads, value = ctx.attr(node, "pads"), b.const(ctx.attr(node, "value", 0.0), x.dtype)
    else:
        (sizes,) = required(ctx, node, ins[1:], 1)
        if not isinstance(sizes.type.numel, int) and optional(ins, 3) is None:
            sizes = vector(ctx, sizes, 2 * rank)
        pads = ctx.require_sizes(sizes, "the sizes of Pad", lo=-(2**31))
        given = optional(ins, 2)
        value = b.const(0, x.dtype) if given is None else b.reshape(given, ())
    named = optional(ins, 3) if ctx.opset() >= 18 else None
    if named is not None and ctx.dims(named) is None:
        axis_count(ctx, named, "Pad")
        pads = ctx.require_sizes(pads_of_axes(b, named, required(ctx, node, ins[1:], 1)[0], rank), "the sizes of Pad", lo=-(2**31))
        axes: tuple[int, ...] | None = None
    else:
        axes = axes_of(ctx, node, ins, 11, 3)
    axes = tuple(range(rank)) if axes is None else tuple(axis_in(ctx, node, a, rank) for a in axes)
    if len(pads) != 2 * len(axes):
        raise ctx.unsupported(f"Pad of {len(axes)} axes by {len(pads)} sizes")
    lo: list[Dim] = [0] * rank
    hi: list[Dim] = [0] * rank
    for i, axis in enumerate(axes):
        lo[axis], hi[axis] = pads[i], pads[len(axes) + i]
    if all(d == 0 for d in (*lo, *hi)):
        return [x]
    mode = ctx.attr(node, "mode", "constant")
    if mode == "reflect":  # once, as onnxruntime does it
        for more, d in zip((*lo, *hi), (*x.shape, *x.shape), strict=True):
            if more != 0:
                ctx.require_within(more, -_HUGE, d - 1)
    if mode == "wrap":  # around what cropping leaves, as onnxruntime does it
        x = ctx.emit(O.Pad(tuple(_cropped(d) for d in lo), tuple(_cropped(d) for d in hi)), x, value).out
        lo, hi = [d - _cropped(d) for d in lo], [d - _cropped(d) for d in hi]
    if mode in ("edge", "wrap"):  # there has to be an element to repeat
        for more, d in zip((*lo, *hi), (*x.shape, *x.shape), strict=True):
            ctx.require_at_least(d, dim_min(dim_max(more, 0), 1))
    return ctx.emit(O.Pad(tuple(lo), tuple(hi), mode), x, value).outputs


def _cropped(d: Dim) -> Dim:
    """The part of a pad below zero."""
    return dim_min(d, 0)


def one_hot(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    index, depth, values = required(ctx, node, ins, 3)
    b = Build(ctx)
    known = ctx.known(depth)
    size = int(known.ravel()[0]) if known is not None else ctx.size(depth)
    axis = axis_of(ctx, node, index.type.rank + 1, -1)
    if index.dtype not in (DType.I32, DType.I64):
        index = b.cast(index, DType.I64)
    return [b.emit(O.OneHot(axis, size), index, values)]


def _blocks(ctx: ImportContext, node: NodeProto, x: Value) -> int:
    block = int(ctx.attr(node, "blocksize"))
    mode = ctx.attr(node, "mode", "DCR")
    if x.type.rank != 4 or block < 1 or mode not in ("DCR", "CRD"):
        raise ctx.unsupported(f"{node.op_type} of {x.type} by blocks of {block}, mode {mode!r}")
    return block


def depth_to_space(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """DCR: channels are [block, block, C']; CRD: [C', block, block]."""
    (x,) = required(ctx, node, ins, 1)
    b, k = Build(ctx), _blocks(ctx, node, x)
    n, c, h, w = x.shape
    c = floordiv(c, k * k)
    if ctx.attr(node, "mode", "DCR") == "DCR":
        y = b.transpose(b.reshape(x, (n, k, k, c, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = b.transpose(b.reshape(x, (n, c, k, k, h, w)), (0, 1, 4, 2, 5, 3))
    return [b.reshape(y, (n, c, h * k, w * k))]


def space_to_depth(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, k = Build(ctx), _blocks(ctx, node, x)
    n, c, h, w = x.shape
    h, w = floordiv(h, k), floordiv(w, k)
    crd = ctx.attr(node, "mode", "DCR") == "CRD"  # opset 28
    y = b.transpose(b.reshape(x, (n, c, h, k, w, k)), (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
    return [b.reshape(y, (n, c * k * k, h, w))]


def reverse_sequence(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The first sequence_lens[b] steps reversed, the rest kept: a gather of batch·time rows."""
    x, lens = required(ctx, node, ins, 2)
    b = Build(ctx)
    time_axis = int(ctx.attr(node, "time_axis", 0))
    if time_axis == int(ctx.attr(node, "batch_axis", 1)) or time_axis not in (0, 1):
        raise ctx.unsupported(f"ReverseSequence with time_axis {time_axis}")
    y = x if time_axis == 1 else b.transpose(x, (1, 0, *range(2, x.type.rank)))
    batch, steps = y.shape[:2]
    t = b.reshape(b.iota(steps), (1, steps))
    n = b.reshape(ctx.checked(b.cast(lens, DType.I64), [0], [steps]), (batch, 1))
    source = b.where(b.emit(O.Less(), t, n), b.sub(b.sub(n, t), 1), t)
    row = b.add(source, b.mul(b.reshape(b.iota(batch), (batch, 1)), b.dim(steps, DType.I64)))
    y = b.emit(O.Gather(0), b.reshape(y, (batch * steps, *y.shape[2:])), row)
    return [y if time_axis == 1 else b.transpose(y, (1, 0, *range(2, x.type.rank)))]


MOVE_HANDLERS: HandlerTable = {
    ("Concat", 4): concat,
    ("DepthToSpace", 1): depth_to_space,
    ("Gather", 1): gather,
    ("GatherElements", 11): gather_elements,
    ("GatherND", 11): gather_nd,
    ("OneHot", 9): one_hot,
    ("Pad", 2): pad,
    ("Scatter", 9): scatter_elements,
    ("ScatterElements", 11): scatter_elements,
    ("ScatterND", 11): scatter_nd,
    ("Slice", 1): slice_,
    ("SpaceToDepth", 1): space_to_depth,
    ("Split", 2): split,
    ("ReverseSequence", 10): reverse_sequence,
    ("Transpose", 1): transpose,
}
