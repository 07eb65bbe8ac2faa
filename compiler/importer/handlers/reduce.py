"""Handlers of reductions, arg-reductions, softmax, cumulative sums and top-k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from ....ir import Dim, DType, Value, dim_min, prod
from ....ir import ops as O
from ..compose import Build, axis_of, optional, required
from ..context import Handler, HandlerTable, ImportContext
from .runtime_axes import interleaved
from .shape import axes_of


@dataclass(frozen=True)
class _Setup:
    """Operand, sorted axes and keepdims; `shape`: what to give the result, where the axes are known in the run only."""

    x: Value
    axes: tuple[int, ...]
    keep: bool
    shape: tuple[Dim, ...] | None = None

    def finish(self, b: Build, y: Value) -> Value:
        return y if self.shape is None else b.reshape(y, self.shape)


def _setup(ctx: ImportContext, node: NodeProto, ins: list[Value | None], since: int) -> _Setup:
    """No axes means all, or none with noop_with_empty_axes."""
    (x,) = required(ctx, node, ins, 1)
    rank, keep = x.type.rank, ctx.flag(node, "keepdims", True)
    given = optional(ins, 1) if ctx.opset() >= since else None
    if given is not None and ctx.dims(given) is None and given.type.numel != 0:
        split, inner, shape = interleaved(ctx, x, given, keep)
        return _Setup(split, inner, True, shape)
    axes = () if given is not None and given.type.numel == 0 else axes_of(ctx, node, ins, since)
    if not axes:
        axes = () if ctx.attr(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    if any(not -rank <= a < rank for a in axes):
        raise ctx.unsupported(f"{node.op_type} over axes {list(axes)} of rank {rank}")
    return _Setup(x, tuple(sorted({a % rank for a in axes})), keep)


def reduction(kind: str, since: int) -> Handler:
    """A plain reduction; axes are an input since opset `since`."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        s, b = _setup(ctx, node, ins, since), Build(ctx)
        return [s.finish(b, b.reduce(kind, s.x, s.axes, s.keep))]

    return handler


def around(before: Callable[[Build, Value], Value], after: Callable[[Build, Value], Value]) -> Handler:
    """after(Σ before(x)); axes are an input since opset 18."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        s, b = _setup(ctx, node, ins, 18), Build(ctx)
        return [s.finish(b, after(b, b.reduce("sum", before(b, s.x), s.axes, s.keep)))]

    return handler


def _same(b: Build, x: Value) -> Value:
    return x


def _float(b: Build, x: Value, fn: O.Sqrt | O.Log) -> Value:
    """fn(x), integers through float64."""
    return b.emit(fn, x) if x.dtype.is_float else b.cast(b.emit(fn, b.cast(x, DType.F64)), x.dtype)


def log_sum_exp(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """m + log Σ exp(x − m) with the maximum m, so that it does not overflow (m = 0 where the maximum is not finite)."""
    s, b = _setup(ctx, node, ins, 18), Build(ctx)
    x, axes, dtype = s.x, s.axes, s.x.dtype
    if not dtype.is_float:
        x = b.cast(x, DType.F64)
    m = b.reduce("max", x, axes)
    finite = b.emit(O.Less(), b.emit(O.Abs(), m), b.const(float("inf"), x.dtype))
    m = b.where(finite, m, b.const(0, x.dtype))
    total = b.reduce("sum", b.emit(O.Exp(), b.sub(x, m)), axes)
    y = b.add(b.emit(O.Log(), total), m)
    if not s.keep:
        y = b.reshape(y, [d for i, d in enumerate(y.shape) if i not in axes])
    return [s.finish(b, b.cast(y, dtype))]


def arg_reduce(kind: str) -> Handler:
    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        (x,) = required(ctx, node, ins, 1)
        axis = axis_of(ctx, node, x.type.rank)
        last = bool(ctx.attr(node, "select_last_index", 0))
        return ctx.emit(O.ArgReduce(kind, axis, ctx.flag(node, "keepdims", True), last), x).outputs

    return handler


def softmax(log: bool) -> Handler:
    """Along one axis; before opset 13, over all axes from `axis` (default 1) on, taken together."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        (x,) = required(ctx, node, ins, 1)
        b, rank = Build(ctx), x.type.rank
        if ctx.opset() >= 13:
            return [b.emit(O.Softmax(axis_of(ctx, node, rank, -1), log), x)]
        axis = ctx.attr(node, "axis", 1)
        axis = axis + rank if axis < 0 else axis
        if all(d == 1 for i, d in enumerate(x.shape) if i >= axis and i != rank - 1):
            return [b.emit(O.Softmax(rank - 1, log), x)]
        flat = b.reshape(x, (*x.shape[:axis], prod(x.shape[axis:])))
        return [b.reshape(b.emit(O.Softmax(axis, log), flat), x.shape)]

    return handler


def top_k(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    axis = axis_of(ctx, node, x.type.rank, -1)
    if ctx.opset() < 10:
        k = ctx.attr(node, "k")
    else:
        (k,) = ctx.require_sizes(optional(ins, 1), "k of TopK")
    if not isinstance(k, int):
        most = dim_min(k, x.shape[axis])  # what kernels can rely on; a run with more is refused
        ctx.require_equal(k, most)
        k = most
    else:
        ctx.require_at_least(x.shape[axis], k)
    op = O.TopK(axis, k, ctx.flag(node, "largest", True), ctx.flag(node, "sorted", True))
    return ctx.emit(op, x).outputs


REDUCE_HANDLERS: HandlerTable = {
    ("ArgMax", 1): arg_reduce("argmax"),
    ("ArgMin", 1): arg_reduce("argmin"),
    ("LogSoftmax", 1): softmax(True),
    ("ReduceL1", 1): around(lambda b, x: b.emit(O.Abs(), x), _same),
    ("ReduceL2", 1): around(lambda b, x: b.mul(x, x), lambda b, x: _float(b, x, O.Sqrt())),
    ("ReduceLogSum", 1): around(_same, lambda b, x: _float(b, x, O.Log())),
    ("ReduceLogSumExp", 1): log_sum_exp,
    ("ReduceMax", 1): reduction("max", 18),
    ("ReduceMean", 1): reduction("mean", 18),
    ("ReduceMin", 1): reduction("min", 18),
    ("ReduceProd", 1): reduction("prod", 18),
    ("ReduceSum", 1): reduction("sum", 13),
    ("ReduceSumSquare", 1): around(lambda b, x: b.mul(x, x), _same),
    ("Softmax", 1): softmax(False),
    ("TopK", 1): top_k,
}
