"""Handlers of GridSample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from onnx import NodeProto

from ....ir import Dim, DType, Value, prod
from ....ir import ops as O
from ..compose import Build, required
from ..context import HandlerTable, ImportContext


@dataclass(frozen=True)
class _Neighbour:
    """Along one axis: an index I64, what it counts, and whether it is inside of the image; None: everything is 1, or inside."""

    index: Value
    weight: Value | None
    inside: Value | None


def _reflect(b: Build, x: Value, low: Value, high: Value) -> Value:
    """Coordinates mirrored back and forth between two borders."""
    span = b.max(b.sub(high, low), 1.0)  # both are 0 where there is one element, to which the caller clamps
    away = b.emit(O.Abs(), b.sub(x, low))
    folds = b.emit(O.Floor(), b.div(away, span))
    extra = b.sub(away, b.mul(folds, span))
    even = b.emit(O.Equal(), b.mul(b.emit(O.Floor(), b.div(folds, 2.0)), 2.0), folds)
    return b.where(even, b.add(low, extra), b.sub(high, extra))


_CUBIC = -0.75  # onnxruntime's and PyTorch's coefficient of GridSample


def _cubic_weights(b: Build, t: Value) -> list[Value]:
    """Weights of the four neighbours at distances 1 + t, t, 1 − t, 2 − t."""

    def near(d: Value) -> Value:  # ((a + 2)d − (a + 3))d² + 1
        return b.add(b.mul(b.sub(b.mul(d, _CUBIC + 2), _CUBIC + 3), b.mul(d, d)), 1.0)

    def far(d: Value) -> Value:  # ((ad − 5a)d + 8a)d − 4a
        return b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, _CUBIC), 5 * _CUBIC), d), 8 * _CUBIC), d), 4 * _CUBIC)

    u = b.sub(b.const(1, t.dtype), t)
    return [far(b.add(t, 1.0)), near(t), near(u), far(b.add(u, 1.0))]


@dataclass(frozen=True)
class _Mode:
    """`between` points: "linear", "nearest" or "cubic". `outside`: "zeros", "border" or "reflection". `align`: −1 and 1 are the
    middles of the pixels at the border, not their outer ends."""

    between: str
    outside: str
    align: bool

    def neighbours(self, b: Build, g: Value, size: Dim) -> list[_Neighbour]:
        """Of points g in [−1, 1] along an axis."""
        length = b.dim(size, g.dtype)
        if self.align:
            at = b.mul(b.add(g, 1.0), b.div(b.sub(length, 1.0), 2.0))
        else:
            at = b.div(b.sub(b.mul(b.add(g, 1.0), length), 1.0), 2.0)
        top = b.sub(length, 1.0)
        zero = b.const(0, g.dtype)
        borders = (zero, top) if self.align else (b.const(-0.5, g.dtype), b.sub(length, 0.5))

        def inwards(i: Value) -> Value:
            i = _reflect(b, i, *borders) if self.outside == "reflection" else i
            return b.min(b.max(i, 0.0), top)

        if self.between == "nearest":
            at = b.emit(O.Round(), at)
            places: list[tuple[Value, Value | None]] = [(at, None)]
        elif self.between == "linear":
            # Coordinates, not neighbours, are what border and reflection move.
            at = at if self.outside == "zeros" else inwards(at)
            low = b.emit(O.Floor(), at)
            t = b.sub(at, low)
            places = [(low, b.sub(b.const(1, t.dtype), t)), (b.add(low, 1.0), t)]
        else:
            low = b.emit(O.Floor(), at)
            places = [(b.add(low, float(k - 1)), w) for k, w in enumerate(_cubic_weights(b, b.sub(at, low)))]
        found = []
        for place, weight in places:
            inside = None
            if self.outside == "zeros":
                inside = b.emit(O.And(), b.emit(O.GreaterEqual(), place, zero), b.emit(O.LessEqual(), place, top))
            held = inwards(place) if self.outside != "zeros" else b.min(b.max(place, 0.0), top)
            found.append(_Neighbour(b.cast(held, DType.I64), weight, inside))
        return found


def grid_sample(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """x[N, C, *S] read at grid[N, *out, rank] in [−1, 1]: one gather of pixels per neighbour, weighted and summed."""
    x, grid = required(ctx, node, ins, 2)
    b, rank = Build(ctx), x.type.rank - 2
    between = {"bilinear": "linear", "bicubic": "cubic"}.get(m := ctx.attr(node, "mode", "linear"), m)
    mode = _Mode(between, ctx.attr(node, "padding_mode", "zeros"), bool(ctx.attr(node, "align_corners", 0)))
    modes = ("linear", "nearest", "cubic") if rank == 2 else ("linear", "nearest")
    if mode.between not in modes or mode.outside not in ("zeros", "border", "reflection"):
        raise ctx.unsupported(f"GridSample with mode {mode.between!r} and padding {mode.outside!r} on {rank} axes")
    n, c, *spatial = x.shape
    out = grid.shape[1:-1]
    ctx.require_equal(grid.shape[0], n)
    ctx.require_equal(grid.shape[-1], rank)
    for size in spatial:  # an empty image has no nearest pixel
        ctx.require_at_most(1, size)
    pixels = b.reshape(b.channels_last(x), (n * prod(spatial), c))
    # the last grid component is x, the last spatial axis
    along = [b.reshape(b.slice(grid, rank + 1, rank - 1 - axis, 1), (n, *out)) for axis in range(rank)]
    per_axis = [mode.neighbours(b, g, size) for g, size in zip(along, spatial, strict=True)]
    base = b.mul(b.reshape(b.iota(n), (n, *(1 for _ in out))), b.dim(prod(spatial), DType.I64))
    total: Value | None = None
    for corner in product(*per_axis):
        index, scale = None, None
        for at, size in zip(corner, spatial, strict=True):
            index = at.index if index is None else b.add(b.mul(index, b.dim(size, DType.I64)), at.index)
            for factor in (at.weight, None if at.inside is None else b.cast(at.inside, grid.dtype)):
                if factor is not None:
                    scale = factor if scale is None else b.mul(scale, factor)
        assert index is not None
        part = b.emit(O.Gather(0), pixels, b.add(base, index))
        if scale is not None:
            part = b.mul(part, b.cast(b.reshape(scale, (n, *out, 1)), x.dtype))
        total = part if total is None else b.add(total, part)
    assert total is not None
    return [b.channels_first(total)]


GRID_SAMPLE_HANDLERS: HandlerTable = {("GridSample", 16): grid_sample, ("com.microsoft::GridSample", 1): grid_sample}
