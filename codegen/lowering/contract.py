"""MatMul, convolutions and recurrent ops: contractions with packed right operands and fused epilogues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import CodegenError
from ...ir import Dim, DType, Node, Shape, TensorType, Value, ceildiv, prod
from ...ir.ops import Conv, ConvTranspose, MatMul
from ..expr import Acc, Axis, Call, Cast, E, Load, Num, Reduced
from ..kernel import ContractKernel, ConvGeometry, Operand, Reduction, Step, Store
from .core import Binder, Index, Lowering, Pending, Stored, Virtual
from .index import add, both, clamp, div, inside, linear, mul, num, rem, sub
from .moves import project, widen
from .packing import pack_b, packed_size

PANEL = 64
M, N, B = Axis(1), Axis(2), Axis(0)


def pack(lo: Lowering, value: Value, k: Dim, n: Dim, at: Callable[[E, E, E], E] | None = None, batch: Dim = 1) -> int:
    """A buffer with value[batch, k, n] packed: at compile time when it is constant, else by a map kernel."""
    stored = lo.forms[value]
    array = lo.constants.get(stored.buffer) if isinstance(stored, Stored) else None
    if isinstance(array, np.ndarray) and at is None:
        key = (id(array), int(k), int(n))  # type: ignore[arg-type]
        if key not in lo.packed:
            lo.packed[key] = lo.constant(pack_b(array.reshape(-1, k, n), PANEL))  # type: ignore[arg-type]
        return lo.packed[key]
    source = lo.virtual(value)
    if at is None:
        flat = lo.load(lo.stored(value), TensorType(value.dtype, (batch, k, n)))

        def at(b: E, i: E, j: E) -> E:
            return flat.at((b, i, j))

    panels = ceildiv(n, PANEL)
    t = TensorType(value.dtype, (batch, panels, k, PANEL))
    out = lo.buffer("arena", t)

    def element(index: Index) -> E:
        column = add(mul(index[1], Num(PANEL)), index[3])
        if isinstance(n, int) and n % PANEL == 0:
            return at(index[0], index[2], column)
        e = at(index[0], index[2], Call("min", (column, num(n - 1))))
        return Call("select", (Call("lt", (column, num(n)), dtype=DType.BOOL), e, Num(0, dtype=e.dtype)), dtype=e.dtype)

    lo.store_virtual(Virtual(t, element, 6, False, source.loc), out)
    return out


def contraction(
    lo: Lowering, value: Value, a: int, b: int, loc: tuple[str, ...], *, batch: Dim, m: Dim, n: Dim, k: Dim, lda: Dim,
    a_batch: Dim, b_batch: Dim, ldc: Dim, c_batch: Dim, conv: ConvGeometry | None = None,
) -> Pending:  # fmt: skip
    """A contraction whose epilogue may still grow; C is `value`, row-major."""
    dtype = lo.buffers[a].dtype
    offset = add(add(mul(Axis(0), num(c_batch)), mul(Axis(1), num(ldc))), Axis(2))
    column = add(mul(Axis(0), num(c_batch)), Axis(2)) if conv else Axis(2)

    def read(other: Value) -> E | None:
        t = other.type
        if prod(t.shape) == 1:
            return lo.virtual(other).at(tuple(Num(0) for _ in t.shape))
        if t.shape == value.shape:
            return Load(lo.stored(other), offset, dtype=t.dtype)
        if len(t.shape) <= len(value.shape) and t.shape[-1] == value.shape[-1] and all(d == 1 for d in t.shape[:-1]):
            return Load(lo.stored(other), column, dtype=t.dtype)
        return None

    def finish(out: int, final: E, where: tuple[str, ...]) -> None:
        if 0 in (batch, m, n):
            return
        bind = Binder(lo, (out,), (a, b))
        result = bind(final)
        if result.dtype is not lo.buffers[out].dtype:
            result = Cast(result, dtype=lo.buffers[out].dtype)
        order = (*bind.order, out)
        sizes = (lo.buffers[x] for x in order)
        operands = tuple(Operand(x.dtype, prod(x.shape), i == len(order) - 1) for i, x in enumerate(sizes))
        kernel = ContractKernel(batch, m, n, k, operands, lda, a_batch, b_batch, ldc, c_batch, result, conv, PANEL)
        lo.steps.append(Step(kernel, order, where))

    return Pending(value.type, Acc(dtype=dtype), read, finish, 2, loc)


def matmul(lo: Lowering, node: Node) -> None:
    va, vb = node.inputs
    value = node.out
    m, k, n = va.shape[-2], va.shape[-1], vb.shape[-1]
    lead = value.shape[:-2]
    lead_a, lead_b = va.shape[:-2], vb.shape[:-2]
    if prod(lead_b) == 1:
        # One right matrix: all leading axes of A are rows.
        a = lo.stored(va)
        b = pack(lo, vb, k, n)
        m = prod(lead) * m
        lo.forms[value] = contraction(lo, value, a, b, node.loc, batch=1, m=m, n=n, k=k, lda=k, a_batch=0, b_batch=0, ldc=n, c_batch=0)
        return
    if lead_a != lead:
        # Broadcast batches of A are written out (rare: A is usually the full one).
        source = lo.virtual(va)
        t = TensorType(va.dtype, (*lead, m, k))
        a = lo.buffer("arena", t)
        lo.store_virtual(Virtual(t, lambda i: source.at(project(i, va.shape)), 2, False, node.loc), a)
    else:
        a = lo.stored(va)
    batch = prod(lead)
    form = lo.virtual(vb)

    def element(b: E, i: E, j: E) -> E:
        index: list[E] = []
        for axis in range(len(lead)):
            inner = prod(lead[axis + 1 :])
            q = div(b, num(inner))
            index.append(q if axis == 0 else rem(q, num(lead[axis])))
        return form.at(project((*index, i, j), vb.shape))

    constant = isinstance(lo.forms[vb], Stored) and lo.forms[vb].buffer in lo.constants  # type: ignore[union-attr]
    b = pack(lo, vb, k, n) if constant and lead_b == lead else pack(lo, vb, k, n, element, batch)
    lo.forms[value] = contraction(
        lo, value, a, b, node.loc, batch=batch, m=m, n=n, k=k, lda=k, a_batch=m * k, b_batch=packed_size(k, n, PANEL), ldc=n, c_batch=m * n
    )


def conv(lo: Lowering, node: Node) -> None:
    op, (vx, vw), value = node.op, node.inputs, node.out
    assert isinstance(op, Conv)
    kernel, (cg, o) = vw.shape[:-2], vw.shape[-2:]
    og = o // op.groups
    spatial, out_spatial = vx.shape[1:-1], value.shape[1:-1]
    if not all(isinstance(d, int) for d in (*vw.shape,)):
        raise CodegenError("convolution with a weight of unknown size", expected="static weight dims", loc=" + ".join(node.loc))
    if op.groups > 1 and (og < 16 or cg < 4):
        direct_conv(lo, node)
        return
    a = lo.stored(vx)
    taps = math.prod(kernel)
    k = taps * cg
    channels = vx.shape[-1]
    m = vx.shape[0] * prod(out_spatial)
    if op.groups == 1:
        b = pack(lo, vw, k, og)
    else:
        source = lo.virtual(vw)

        def element(g: E, i: E, j: E) -> E:
            return Load(lo.stored(vw), add(mul(i, num(o)), add(mul(g, num(og)), j)), dtype=vw.dtype)

        stored = lo.forms[vw]
        array = lo.constants.get(stored.buffer) if isinstance(stored, Stored) else None
        if isinstance(array, np.ndarray):
            grouped = np.moveaxis(array.reshape(k, op.groups, og), 1, 0)
            b = lo.constant(pack_b(grouped, PANEL))
        else:
            b = pack(lo, vw, k, og, element, op.groups)
        del source
    plain = taps == 1 and all(s == 1 for s in op.strides) and all(p == 0 for p in (*op.pads_lo, *op.pads_hi))
    geometry = None if plain and op.groups == 1 else ConvGeometry(spatial, out_spatial, kernel, op.strides, op.pads_lo, op.dilations)
    lo.forms[value] = contraction(
        lo, value, a, b, node.loc, batch=op.groups, m=m, n=og, k=k, lda=channels, a_batch=cg if geometry else 0,
        b_batch=packed_size(k, og, PANEL) if op.groups > 1 else 0, ldc=o, c_batch=og if geometry else 0, conv=geometry,
    )  # fmt: skip


def direct_conv(lo: Lowering, node: Node) -> None:
    """Depthwise and narrow groups: a loop kernel over taps, vectors over output channels."""
    from .rows import pending_rows

    op, (vx, vw), value = node.op, node.inputs, node.out
    assert isinstance(op, Conv)
    kernel, (cg, o) = vw.shape[:-2], vw.shape[-2:]
    og = o // op.groups
    x = lo.load(lo.stored(vx), vx.type)
    w = lo.load(lo.stored(vw), vw.type)
    nd = len(kernel)
    rank = nd + 2
    inner: list[E] = [Axis(0)]
    guard: E | None = None
    for i in range(nd):
        p = sub(add(mul(Axis(1 + i), num(op.strides[i])), mul(Axis(rank + i), num(op.dilations[i]))), num(op.pads_lo[i]))
        if op.pads_lo[i] == 0 and op.pads_hi[i] == 0:
            inner.append(p)
        else:
            guard = both(guard, inside(p, vx.shape[1 + i]))
            inner.append(clamp(p, vx.shape[1 + i]))
    out_channel = Axis(rank - 1)
    group = out_channel if og == 1 else div(out_channel, num(og))
    c: E = Num(0) if cg == 1 else Axis(rank + nd)
    channel = add(mul(group, num(cg)), c)
    e = widen(x.at((*inner, channel)))
    f = widen(w.at((*(Axis(rank + i) for i in range(nd)), c, out_channel)))
    product = Call("mul", (e, f), dtype=e.dtype)
    if guard is not None:
        product = Call("select", (guard, product, Num(0, dtype=e.dtype)), dtype=e.dtype)
    axes = (*kernel, *((cg,) if cg != 1 else ()))
    lo.forms[value] = pending_rows(lo, value.type, axes, (Reduction("sum", product),), lambda _: Reduced(0, dtype=e.dtype), (), node.loc)


def conv_transpose(lo: Lowering, node: Node) -> None:
    """Products of every input pixel with all taps, then each output pixel gathers the taps that reach it."""
    from .rows import pending_rows

    op, (vx, vw), value = node.op, node.inputs, node.out
    assert isinstance(op, ConvTranspose)
    kernel, (og, c) = vw.shape[:-2], vw.shape[-2:]
    nd, rank, groups = len(kernel), len(kernel) + 2, op.groups
    o, cg, taps = og * groups, c // groups, math.prod(kernel)
    a = lo.stored(vx)
    w = lo.load(lo.stored(vw), TensorType(vw.dtype, (taps * og, c)))
    columns = taps * og
    pixels = vx.shape[0] * prod(vx.shape[1:-1])

    def element(g: E, i: E, j: E) -> E:
        return w.at((j, add(mul(g, num(cg)), i)))

    b = pack(lo, vw, cg, columns, element, groups)
    t = TensorType(vx.dtype, (pixels, groups, columns))
    product = Value(Node(op, (), (t,), node.loc))
    pending = contraction(
        lo, product, a, b, node.loc, batch=groups, m=pixels, n=columns, k=cg, lda=c, a_batch=cg,
        b_batch=packed_size(cg, columns, PANEL), ldc=groups * columns, c_batch=columns,
    )  # fmt: skip
    temp = lo.buffer("arena", t)
    pending.finish(temp, pending.value, node.loc)
    # out[p] sums taps k with p + pad − k·d = s·i for an input pixel i
    guard: E | None = None
    inner: list[E] = []
    for i in range(nd):
        reach = sub(add(Axis(1 + i), num(op.pads_lo[i])), mul(Axis(rank + i), num(op.dilations[i])))
        s = op.strides[i]
        pixel = div(reach, num(s))
        guard = both(guard, inside(reach, vx.shape[1 + i] * s))
        if s != 1:
            guard = both(guard, Call("eq", (rem(reach, num(s)), Num(0)), dtype=DType.BOOL))
        inner.append(clamp(pixel, vx.shape[1 + i]))
    channel = Axis(rank - 1)
    pixel_index = linear((Axis(0), *inner), vx.shape[:-1])
    tap = linear(tuple(Axis(rank + i) for i in range(nd)), kernel)
    group = Num(0) if groups == 1 else div(channel, num(og))
    within = channel if groups == 1 else rem(channel, num(og))
    where = add(mul(add(mul(pixel_index, num(groups)), group), num(columns)), add(mul(tap, num(og)), within))
    e = Load(temp, where, dtype=vx.dtype)
    assert guard is not None
    taken = Call("select", (guard, e, Num(0, dtype=e.dtype)), dtype=e.dtype)
    lo.forms[value] = pending_rows(lo, value.type, kernel, (Reduction("sum", taken),), lambda _: Reduced(0, dtype=e.dtype), (), node.loc)
