"""Axes that are data: the shape of a result then consists of sizes that are computed in the run; its rank has to be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import Dim, DType, Op, Value, dim_min, is_static
from ....ir import ops as O
from ..compose import Build, vector
from ..context import ImportContext


def dims_value(b: Build, shape: Sequence[Dim]) -> Value:
    """A shape as an I64 vector."""
    if not shape:
        return b.const([], DType.I64)
    return b.const(shape, DType.I64) if is_static(shape) else b.emit(O.DimTensor(tuple(shape), (len(shape),), DType.I64))


def axis_count(ctx: ImportContext, axes: Value, what: str) -> int:
    """How many axes there are."""
    count = axes.type.numel
    if not isinstance(count, int) or axes.type.rank > 1:
        raise ctx.unsupported(f"{what} over a number of axes that depends on data")
    return count


def matches(b: Build, axes: Value, rank: int) -> Value:
    """BOOL [axes, rank]: whether entry k names axis a; negative ones count from the end."""
    axes = b.ctx.index_of(b.reshape(b.cast(axes, DType.I64), (axes.type.numel, 1)), rank)
    axes = b.where(b.emit(O.Less(), axes, b.const(0, DType.I64)), b.add(axes, rank), axes)
    return b.emit(O.Equal(), axes, b.reshape(b.iota(rank), (1, rank)))


def named_axes(b: Build, axes: Value, rank: int) -> Value:
    """BOOL [rank]: whether an axis is among `axes`."""
    return b.reduce("max", matches(b, axes, rank), [0], False)


def picked(b: Build, keep: Value, values: Value, count: int) -> Value:
    """The `count` entries of an I64 vector where `keep` holds, in order."""
    rank = keep.shape[0]
    kept = b.cast(keep, DType.I64)
    place = b.emit(O.CumSum(0, exclusive=True), kept)
    here = b.emit(O.Equal(), b.reshape(place, (1, rank)), b.reshape(b.iota(count), (count, 1)))
    chosen = b.emit(O.And(), here, b.reshape(keep, (1, rank)))
    return b.reduce("sum", b.where(chosen, b.reshape(values, (1, rank)), b.const(0, DType.I64)), [1], False)


def sizes_in(ctx: ImportContext, vector: Value) -> tuple[Dim, ...]:
    return tuple(ctx.size(vector, i) for i in range(int(vector.shape[0])))


def around_axis(ctx: ImportContext, x: Value, axis: Value, rank: int) -> Value:
    """x as [before, axis, behind, *rest]: the first `rank` axes, of which `axis` is one, gathered into three."""
    b, dims = Build(ctx), dims_value(Build(ctx), x.shape[:rank])
    axis = ctx.index_of(b.reshape(b.cast(axis, DType.I64), ()), x.type.rank)
    axis = b.where(b.emit(O.Less(), axis, b.const(0, DType.I64)), b.add(axis, x.type.rank), axis)
    places, one = b.iota(rank), b.const(1, DType.I64)

    def size(op: Op) -> Dim:
        return ctx.size(b.reduce("prod", b.where(b.emit(op, places, axis), dims, one), [0]))

    return b.reshape(x, (size(O.Less()), size(O.Equal()), size(O.Greater()), *x.shape[rank:]))


def unsqueeze(ctx: ImportContext, x: Value, axes: Value) -> Value:
    b, rank = Build(ctx), x.type.rank + axis_count(ctx, axes, "Unsqueeze")
    new = named_axes(b, axes, rank)
    old = b.emit(O.Not(), new)
    if not x.shape:
        return b.reshape(x, (1,) * rank)
    source = b.emit(O.Min(), b.emit(O.CumSum(0, exclusive=True), b.cast(old, DType.I64)), b.const(x.type.rank - 1, DType.I64))
    shape = b.where(new, b.const(1, DType.I64), b.emit(O.Gather(0), dims_value(b, x.shape), source))
    return b.reshape(x, sizes_in(ctx, shape))


def squeeze(ctx: ImportContext, x: Value, axes: Value) -> Value:
    b, left = Build(ctx), x.type.rank - axis_count(ctx, axes, "Squeeze")
    keep = b.emit(O.Not(), named_axes(b, axes, x.type.rank))
    return b.reshape(x, sizes_in(ctx, picked(b, keep, dims_value(b, x.shape), left)))


def interleaved(ctx: ImportContext, x: Value, axes: Value, keepdims: bool) -> tuple[Value, tuple[int, ...], tuple[Dim, ...]]:
    """x with every axis of size d split in two, [1, d] if it is among `axes`, else [d, 1].

    To reduce over `axes` is to reduce over all the second ones. Returns the split x, those, and the shape of the result.
    """
    b, rank = Build(ctx), x.type.rank
    count = axis_count(ctx, axes, "a reduction")
    gone, dims, one = named_axes(b, axes, rank), dims_value(b, x.shape), b.const(1, DType.I64)
    outer, inner = b.where(gone, one, dims), b.where(gone, dims, one)
    kept = sizes_in(ctx, outer)
    split = tuple(d for pair in zip(kept, sizes_in(ctx, inner), strict=True) for d in pair)
    result = kept if keepdims else sizes_in(ctx, picked(b, b.emit(O.Not(), gone), dims, rank - count))
    return b.reshape(x, split), tuple(range(1, 2 * rank, 2)), result


def pads_of_axes(b: Build, axes: Value, pads: Value, rank: int) -> Value:
    """[2·rank] from pads [2·axes]: all starts, then all ends."""
    count = axes.type.numel
    here = b.cast(matches(b, axes, rank), DType.I64)
    both = b.mul(b.reshape(b.cast(pads, DType.I64), (2, count, 1)), b.reshape(here, (1, count, rank)))
    return b.reshape(b.reduce("sum", both, [1], False), (2 * rank,))


def slice_axes(ctx: ImportContext, x: Value, starts: Value, ends: Value, axes: Value | None, steps: Value | None) -> Value:
    """x[starts:ends:steps] along `axes`, gathered axis by axis at places that are computed in the run."""
    b, rank = Build(ctx), x.type.rank
    all_given = [v for v in (starts, ends, axes, steps) if v is not None]
    if axes is None and all(not isinstance(v.type.numel, int) and v.type.rank == 1 for v in all_given):
        # the first axes, however many there are: the others are taken whole
        filled = (b.concat(0, b.cast(v, DType.I64), b.const([fill] * rank, DType.I64)) for v, fill in ((starts, 0), (ends, 2**63 - 1)))
        starts, ends = (b.slice(v, 0, 0, rank) for v in filled)
        if steps is not None:
            steps = b.slice(b.concat(0, b.cast(steps, DType.I64), b.const([1] * rank, DType.I64)), 0, 0, rank)
        all_given = [starts]
    count = axis_count(ctx, next((v for v in all_given if isinstance(v.type.numel, int)), starts), "Slice")
    starts, ends = (vector(ctx, v, count) for v in (starts, ends))
    axes, steps = (None if v is None else vector(ctx, v, count) for v in (axes, steps))
    known = tuple(range(count)) if axes is None else ctx.dims(axes)
    starts, ends = (b.cast(v, DType.I64) for v in (starts, ends))
    steps = b.const([1] * count, DType.I64) if steps is None else b.cast(steps, DType.I64)
    if known is not None:
        rows = [[b.reshape(b.slice(v, 0, k, 1), ()) for v in (starts, ends, steps)] for k in range(count)]
        given = [(int(a) % rank, *row) for a, row in zip(known, rows, strict=True)]
        return _sliced(ctx, b, x, given)
    assert axes is not None
    here = matches(b, axes, rank)
    parts = []
    for a in range(rank):
        column = b.reshape(b.slice(here, 1, a, 1), (count,))
        named = b.reduce("max", column, [0], False)

        def entry(v: Value, default: Dim, column: Value = column, named: Value = named) -> Value:
            own = b.reduce("sum", b.where(column, v, b.const(0, DType.I64)), [0], False)
            return b.where(named, own, b.dim(default, DType.I64))

        parts.append((a, entry(starts, 0), entry(ends, x.shape[a]), entry(steps, 1)))
    return _sliced(ctx, b, x, parts)


def _sliced(ctx: ImportContext, b: Build, x: Value, parts: Sequence[tuple[Any, ...]]) -> Value:
    """`parts`: axis, start, end, step of each axis to slice."""
    zero, one = b.const(0, DType.I64), b.const(1, DType.I64)
    for axis, start, end, step in parts:
        size = b.dim(x.shape[axis], DType.I64)
        forward = b.emit(O.Greater(), step, zero)
        low = b.where(forward, zero, b.const(-1, DType.I64))
        high = b.where(forward, size, b.sub(size, one))

        def clamped(at: Value, low: Value = low, high: Value = high, size: Value = size) -> Value:
            at = b.where(b.emit(O.Less(), at, zero), b.add(at, size), at)
            return b.emit(O.Min(), b.emit(O.Max(), at, low), high)

        first = clamped(start, zero)
        width = b.sub(clamped(end), first)
        # ⌈width / step⌉, not below 0
        ahead = b.where(forward, b.sub(b.add(width, step), one), b.add(b.add(width, step), one))
        length = b.emit(O.Max(), b.div(ahead, step), zero)
        n = dim_min(ctx.size(length), x.shape[axis])
        x = b.emit(O.Gather(axis), x, b.add(first, b.mul(b.iota(n), step)))
    return x
