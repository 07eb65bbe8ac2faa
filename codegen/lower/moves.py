"""Ops that rearrange elements, as index functions; where the operand is in memory and the index is affine, as views."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import CodegenError
from ...ir import Const, Dim, DType, Elementwise, Node, S, Shape, Value, dim_min, upper
from ...ir.ops import (
    BitCast,
    Cast,
    DimTensor,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    OneHot,
    Pad,
    Reshape,
    Resize,
    Slice,
    Stretch,
    Transpose,
    Where,
)  # fmt: skip
from ..expr import DimParam, E, ExprScalars
from ..simplify import Affine, Atom, as_affine, below, clamp, mod, opaque, ravel, strides_of, unravel
from .builder import KernelBuilder, View, all_of, computed, convert, empty, fn, index_expr, number
from .known_indices import known_index
from .resize import resized
from .state import Lowering, Virtual, axes_merged

Index = tuple[Affine, ...]


def define_elementwise(lw: Lowering, node: Node) -> None:
    op, v = node.op, node.out
    assert isinstance(op, Elementwise)

    if not isinstance(op, Where | BitCast) and any(x.dtype.is_complex for x in (*node.inputs, v)):
        raise CodegenError(f"{op.name} of {v.type}", expected="numbers that are not complex", loc=" + ".join(node.loc))

    def element(k: KernelBuilder, index: Index) -> E:
        args = [lw.read(k, x, broadcast_index(index, x.shape)) for x in node.inputs]
        out = op.body(S(ExprScalars()), *args)
        small = v.dtype is not computed(v.dtype) and isinstance(op, Cast | BitCast)
        return convert(convert(out, v.dtype), computed(v.dtype)) if small else out

    lw.define(v, element, node.inputs)


def broadcast_index(index: Index, shape: Shape) -> Index:
    return index[len(index) - len(shape) :]


def define_move(lw: Lowering, node: Node) -> None:
    """Make the result a view of a stored operand if strides can say it, else an index function."""
    v = node.out
    view = _view(lw, node)
    copied = v in lw.outputs and view != lw.placed(v)
    if view is not None and not copied and (isinstance(node.op, Reshape) or not lw.fusion.stored(v)):
        lw.views[v] = view
        return
    lw.define(v, _virtual(lw, node, view), node.inputs[:1] if node.inputs else ())


def _stored(lw: Lowering, v: Value) -> View | None:
    if isinstance(v.node.op, Const):
        return lw.view(v)
    return lw.views.get(v)


def _view(lw: Lowering, node: Node) -> View | None:
    op, out = node.op, node.out
    if not isinstance(op, (Transpose, Reshape, Slice, Expand, Stretch)) or (x := _stored(lw, node.inputs[0])) is None:
        return None
    match op:
        case Transpose():
            return View(x.buffer, x.dtype, out.shape, tuple(x.strides[p] for p in op.perm))
        case Reshape():
            if x.contiguous:
                return View(x.buffer, x.dtype, out.shape, strides_of(out.shape))
            strides = _reshaped_strides(x, out.shape)
            return None if strides is None else View(x.buffer, x.dtype, out.shape, strides)
        case Slice():
            if any(s < 0 for s in op.steps) or 0 in out.shape:
                return None
            part = View(x.buffer, x.dtype, out.shape, tuple(a * b for a, b in zip(x.strides, op.steps, strict=True)))
            return lw.storage.shifted(part, sum((a * b for a, b in zip(x.strides, op.starts, strict=True)), 0))
        case Expand():
            lead = (0,) * (len(out.shape) - len(x.shape))
            inner = zip(x.shape, x.strides, out.shape[len(lead) :], strict=True)
            return View(x.buffer, x.dtype, out.shape, (*lead, *(0 if d == 1 and e != 1 else s for d, s, e in inner)))
        case Stretch():
            sides = zip(x.strides, x.shape, out.shape, strict=True)
            return View(x.buffer, x.dtype, out.shape, tuple(s * _moves(d, e) for s, d, e in sides))
    return None


def _moves(d: Dim, e: Dim) -> Dim:
    """1 where an axis of size d is read along one of size e, 0 where its only element is repeated."""
    return 1 if d == e else dim_min(1, d - 1)


def _reshaped_strides(x: View, shape: Shape) -> Shape | None:
    """Strides under another shape, where neighbouring axes that follow each other in memory merge, or axes of size 1 come or go."""
    have = [(d, s) for d, s in zip(x.shape, x.strides, strict=True) if d != 1]
    axes = axes_merged(tuple(d for d, _ in have), shape)
    if axes is None:
        return None
    strides: list[Dim] = [0] * len(shape)
    for (_, outer), (d, inner), a, b in zip(have, have[1:], axes, axes[1:], strict=False):
        if a == b and outer != d * inner:
            return None
    for (_, s), a in zip(have, axes, strict=True):
        strides[a] = s
    return tuple(strides)


def integer(e: E) -> E:
    return convert(e, DType.I64)


def wrapped(e: E, size: Dim) -> Affine:
    """An index from a tensor: negative ones count from the end; kept in range for memory safety."""
    e = integer(e)
    length = as_affine(size)
    e = fn("select", fn("lt", e, number(0, DType.I64)), fn("add", e, index_expr(length)), e, dtype=DType.I64)
    return clamp(opaque(e), 0, size - 1)


def memo_wrapped(lw: Lowering, k: KernelBuilder, v: Value, index: Index, size: Dim) -> Affine:
    """`wrapped` element of v; equal arguments give equal atoms."""
    key = (v, (*index, as_affine(size)))
    if key not in k.indices:
        known = known_index(v, index, size)
        k.indices[key] = wrapped(lw.read(k, v, index), size) if known is None else known
    return k.indices[key]


def _virtual(lw: Lowering, node: Node, view: View | None) -> Virtual:
    op, out = node.op, node.out
    x = node.inputs[0] if node.inputs else None

    def source(index: Callable[[Index], Index]) -> Virtual:
        assert x is not None
        return lambda k, i: lw.read(k, x, index(i))

    match op:
        case Transpose():
            inverse = tuple(op.perm.index(a) for a in range(len(op.perm)))
            return source(lambda i: tuple(i[a] for a in inverse))
        case Reshape():
            return source(lambda i: unravel(ravel(i, out.shape), node.inputs[0].shape))
        case Slice() if view is not None:  # parts of one value are read from where they begin by one kernel's text
            return lambda k, i: k.load(view, i)
        case Slice():
            return source(lambda i: tuple(a * s + b for a, s, b in zip(i, op.steps, op.starts, strict=True)))
        case Expand():
            return source(lambda i: broadcast_index(i, node.inputs[0].shape))
        case Stretch():
            shape = node.inputs[0].shape
            return source(lambda i: tuple(a * _moves(d, e) for a, d, e in zip(i, shape, out.shape, strict=True)))
        case Iota():
            return lambda k, i: convert(index_expr(i[0]), op.dtype)
        case DimTensor():
            return lambda k, i: _dims(op, i)
        case Pad():
            return lambda k, i: _pad(lw, op, node, k, i)
        case Gather():
            return lambda k, i: _gather(lw, op, node, k, i)
        case GatherElements():
            return lambda k, i: _gather_elements(lw, op, node, k, i)
        case GatherND():
            return lambda k, i: _gather_nd(lw, op, node, k, i)
        case OneHot():
            return lambda k, i: _one_hot(lw, op, node, k, i)
        case Resize():
            return lambda k, i: resized(lw, op, node, k, i)
    raise CodegenError(f"{op.name} has no index function", loc=" + ".join(node.loc))


def _dims(op: DimTensor, index: Index) -> E:
    at = ravel(index, op.shape)
    values = [number(d, DType.I64) if isinstance(d, int) else DimParam(d, dtype=DType.I64) for d in op.dims]
    if at.is_const and isinstance(at.const, int):
        return convert(values[at.const], op.dtype)
    out = values[-1]
    for i, e in reversed(list(enumerate(values[:-1]))):
        out = fn("select", fn("eq", index_expr(at), number(i, DType.I64)), e, out)
    return convert(out, op.dtype)


def inside(x: Affine, size: Dim) -> E | None:
    """Condition 0 ≤ x < size, None when certain."""
    if below(x, size):
        return None
    lo, hi = x.bounds()
    conditions = []
    e = index_expr(x)
    if lo is None or not below(Affine({}, lo), 2**61):
        conditions.append(fn("ge", e, number(0, DType.I64)))
    if hi is None or upper(hi - size) >= 0:
        conditions.append(fn("lt", e, index_expr(as_affine(size))))
    return all_of(conditions)


def guarded(lw: Lowering, k: KernelBuilder, x: Value, index: Index, axes: range, other: E) -> E:
    """x[index], or `other` where an index of `axes` is out of range. The load itself stays in range."""
    if empty(x.shape):
        return other
    conditions = [c for a in axes if (c := inside(index[a], x.shape[a])) is not None]
    at = tuple(clamp(i, 0, d - 1) if a in axes else i for a, (i, d) in enumerate(zip(index, x.shape, strict=True)))
    e = lw.read(k, x, at)
    condition = all_of(conditions)
    return e if condition is None else fn("select", condition, e, other)


def _pad(lw: Lowering, op: Pad, node: Node, k: KernelBuilder, index: Index) -> E:
    x, value = node.inputs
    at = tuple(i - lo for i, lo in zip(index, op.lo, strict=True))
    if op.mode == "constant":
        other = lw.read(k, value, (Affine({}),) * len(value.shape))
        return guarded(lw, k, x, at, range(len(at)), other)
    if empty(node.out.shape):
        return guarded(lw, k, x, at, range(len(at)), number(0, x.dtype))  # never evaluated
    if empty(x.shape):
        raise CodegenError(f"pad of an empty tensor in mode {op.mode}", loc=" + ".join(node.loc))
    moved = []
    for i, d in zip(at, x.shape, strict=True):
        if below(i, d):
            moved.append(i)
        elif op.mode == "edge":
            moved.append(clamp(i, 0, d - 1))
        elif op.mode == "wrap":
            moved.append(mod(i, d))
        else:  # reflect: |·| of the distance to the last element, in a period of 2(d − 1)
            period = 1 if d == 1 else 2 * (d - 1)
            r = mod(i, period) - (d - 1)
            moved.append(clamp(Affine({Atom("min", (r, 0), None, 0): 2}) - r + (d - 1), 0, d - 1))
    return lw.read(k, x, tuple(moved))


def _gather(lw: Lowering, op: Gather, node: Node, k: KernelBuilder, index: Index) -> E:
    x, indices = node.inputs
    rank = len(indices.shape)
    at = memo_wrapped(lw, k, indices, index[op.axis : op.axis + rank], x.shape[op.axis])
    return lw.read(k, x, (*index[: op.axis], at, *index[op.axis + rank :]))


def _gather_elements(lw: Lowering, op: GatherElements, node: Node, k: KernelBuilder, index: Index) -> E:
    x, indices = node.inputs
    at = memo_wrapped(lw, k, indices, index, x.shape[op.axis])
    return lw.read(k, x, (*index[: op.axis], at, *index[op.axis + 1 :]))


def _gather_nd(lw: Lowering, op: GatherND, node: Node, k: KernelBuilder, index: Index) -> E:
    x, indices = node.inputs
    lead = index[: len(indices.shape) - 1]
    depth = int(indices.shape[-1])
    found = tuple(memo_wrapped(lw, k, indices, (*lead, Affine({}, i)), x.shape[op.batch_dims + i]) for i in range(depth))
    return lw.read(k, x, (*index[: op.batch_dims], *found, *index[len(lead) :]))


def _one_hot(lw: Lowering, op: OneHot, node: Node, k: KernelBuilder, index: Index) -> E:
    indices, values = node.inputs
    e = integer(lw.read(k, indices, (*index[: op.axis], *index[op.axis + 1 :])))
    e = fn("select", fn("lt", e, number(0, DType.I64)), fn("add", e, index_expr(as_affine(op.depth))), e, dtype=DType.I64)
    off, on = (lw.read(k, values, unravel(Affine({}, i), values.shape)) for i in range(2))
    return fn("select", fn("eq", e, index_expr(index[op.axis])), on, off)
