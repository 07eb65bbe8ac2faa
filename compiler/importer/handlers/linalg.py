"""Handlers of running sums and products, and of the determinant."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ....ir import DType, Graph, Value, prod
from ....ir import ops as O
from ..compose import Build, required
from ..context import Handler, HandlerTable, ImportContext
from ..region import formal, iteration
from .runtime_axes import around_axis


def cumulative(op: type[O.CumSum] | type[O.CumProd]) -> Handler:
    """Along an axis that is an input; it may be known in the run only."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        x, axis = required(ctx, node, ins, 2)
        b, rank = Build(ctx), x.type.rank
        exclusive, reverse = bool(ctx.attr(node, "exclusive", 0)), bool(ctx.attr(node, "reverse", 0))
        known = ctx.dims(axis)
        if known is not None and isinstance(known[0], int):
            return [b.emit(op(known[0] % rank, exclusive, reverse), x)]
        return [b.reshape(b.emit(op(1, exclusive, reverse), around_axis(ctx, x, axis, rank)), x.shape)]

    return handler


def det(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Gaussian elimination with the largest pivot of each column; the product of the pivots, negated by every exchange of rows."""
    (x,) = required(ctx, node, ins, 1)
    b, n = Build(ctx), x.shape[-1]
    ctx.require_equal(x.shape[-2], n)
    batch = prod(x.shape[:-2])
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    matrix = b.reshape(b.cast(x, wide), (batch, n, n))
    one = b.expand(b.const(1, wide), (batch,))
    k, going = iteration(ctx.loc)
    m, product = formal(matrix.type, ctx.loc), formal(one.type, ctx.loc)
    after, total = _eliminate(b, k, m, product)
    body = Graph((k, going, m, product), (b.const(True, DType.BOOL), after, total), tuple("icmd"), tuple("cmd"), "det")
    outs = ctx.emit(O.Loop(body, 2, 0), b.dim(n, DType.I64), b.const(True, DType.BOOL), matrix, one).outputs
    return [b.cast(b.reshape(outs[1], x.shape[:-2]), x.dtype)]


def _exchanged(b: Build, k: Value, m: Value) -> tuple[Value, Value]:
    """m[B, n, w] with row k and the row with the largest entry of column k, from row k on, exchanged; and that row's number [B, 1]."""
    batch, n, width = m.shape
    column = b.reshape(b.emit(O.Gather(2), m, b.reshape(k, (1,))), (batch, n))
    row = b.reshape(b.iota(n), (1, n))
    below = b.emit(O.GreaterEqual(), row, k)
    size = b.where(below, b.emit(O.Abs(), column), b.const(-1, m.dtype))
    best = b.emit(O.ArgReduce("argmax", 1, True), size)
    source = b.where(b.emit(O.Equal(), row, k), best, b.where(b.emit(O.Equal(), row, best), k, row))
    return b.emit(O.GatherElements(1), m, b.expand(b.reshape(source, (batch, n, 1)), (batch, n, width))), best


def _eliminate(b: Build, k: Value, m: Value, total: Value) -> tuple[Value, Value]:
    """Step k on m[B, n, n]: the matrix with column k cleared below the diagonal, and total·pivot."""
    batch, n, _ = m.shape
    zero = b.const(0, m.dtype)
    m, best = _exchanged(b, k, m)
    top = b.emit(O.Gather(1), m, b.reshape(k, (1,)))  # [B, 1, n]
    column = b.emit(O.Gather(2), m, b.reshape(k, (1,)))  # [B, n, 1]
    pivot = b.emit(O.Gather(2), top, b.reshape(k, (1,)))  # [B, 1, 1]
    singular = b.emit(O.Equal(), pivot, zero)
    factor = b.div(column, b.where(singular, b.const(1, m.dtype), pivot))
    clear = b.emit(O.Greater(), b.reshape(b.iota(n), (1, n, 1)), k)
    m = b.sub(m, b.where(clear, b.mul(factor, top), zero))
    value = b.reshape(pivot, (batch,))
    exchanged = b.emit(O.Equal(), b.reshape(best, (batch,)), k)
    return m, b.mul(total, b.where(exchanged, value, b.emit(O.Neg(), value)))


def inverse(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft Inverse of [..., n, n]: Gauss and Jordan's elimination of x beside the identity, with row exchanges."""
    (x,) = required(ctx, node, ins, 1)
    b, n = Build(ctx), x.shape[-1]
    ctx.require_equal(x.shape[-2], n)
    batch = prod(x.shape[:-2])
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    at = b.iota(n)
    unit = b.cast(b.emit(O.Equal(), b.reshape(at, (n, 1)), b.reshape(at, (1, n))), wide)
    beside = b.concat(2, b.reshape(b.cast(x, wide), (batch, n, n)), b.expand(unit, (batch, n, n)))
    (k, going), m = iteration(ctx.loc), formal(beside.type, ctx.loc)
    after = _jordan(b, k, m)
    body = Graph((k, going, m), (b.const(True, DType.BOOL), after), tuple("icm"), tuple("cm"), "inverse")
    (out,) = ctx.emit(O.Loop(body, 1, 0), b.dim(n, DType.I64), b.const(True, DType.BOOL), beside).outputs
    return [b.cast(b.reshape(b.slice(out, 2, n, n), x.shape), x.dtype)]


def _jordan(b: Build, k: Value, m: Value) -> Value:
    """Step k on m[B, n, 2n]: column k becomes that of the identity."""
    batch, n, wide = m.shape
    m, _ = _exchanged(b, k, m)
    top = b.emit(O.Gather(1), m, b.reshape(k, (1,)))  # [B, 1, 2n]
    column = b.emit(O.Gather(2), m, b.reshape(k, (1,)))  # [B, n, 1]
    top = b.div(top, b.emit(O.Gather(2), top, b.reshape(k, (1,))))
    own = b.emit(O.Equal(), b.reshape(b.iota(n), (1, n, 1)), k)
    return b.where(own, b.expand(top, (batch, n, wide)), b.sub(m, b.mul(column, top)))


LINALG_HANDLERS: HandlerTable = {
    ("CumProd", 26): cumulative(O.CumProd),
    ("CumSum", 11): cumulative(O.CumSum),
    ("Det", 11): det,
    ("com.microsoft::Inverse", 1): inverse,
}
