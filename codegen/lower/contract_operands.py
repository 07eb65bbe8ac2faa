"""Operands of contractions: rows of A where they are, B packed or where it is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import Const, Dim, DType, Node, Shape, ceildiv, floordiv, is_static, lower, mod, prod, upper
from ...ir.ops import Conv, DotConv, DotMatMul, GroupedMatMul, MatMul
from ..expr import Cast, E, Load
from ..kernel import ConvGeometry
from ..packing import Deferred, last_panel, pack_b, packed_size, padded_k
from ..simplify import Affine, axis, clamp, nested, unravel
from .builder import Index, KernelBuilder, View, fn, index_expr, number, reachable
from .contraction import merged_groups, sums_along_k
from .state import Lowering
from .winograd import Tile, choose_tile, packed_weights, three_axes

_LANES = 16  # panels are whole vectors
_WIDE = 64  # columns: long pieces of the rows of B where it is read once
_LAST_BYTES = 24 << 10  # of a panel that stays in the first-level cache
_LAST_ROWS = 32  # from which on
_FEW_BYTES = 1 << 18  # of a B from which on it matters to a few rows how often they read it
_DOT_PANEL = 32  # of dot instructions: two tile registers
_MOST_INPUTS = 32  # channels of merged groups: two vectors


@dataclass(frozen=True)
class Rows:
    """Operand A: where it is, how rows and batches are apart, and the geometry of a convolution."""

    buffer: int
    lda: Dim
    batch: Dim
    k: Dim
    conv: ConvGeometry | None = None
    tile: Tile | None = None  # of minimal filtering
    diagonal: int = 1  # blocks of a block-diagonal B


@dataclass(frozen=True)
class Columns:
    """Operand B: packed, or with `row` or `column` where it is, its rows or columns that far apart; `batch` from one matrix to the
    next."""

    buffer: int
    batch: Dim
    row: Dim = 0
    column: Dim = 0


def lane_group(node: Node) -> int:
    """Elements of K in one lane of packed B."""
    return 4 // node.inputs[1].dtype.itemsize if isinstance(node.op, (DotMatMul, DotConv)) else 1


def panel_of(lw: Lowering, node: Node, extents: Shape) -> int:
    """A panel is what a register tile reads of each row of B, so that it is one stream; a single row takes wide ones, rows that a
    narrower tile has all at once those of that."""
    if lw.options.panel == 1:
        return 1
    if lane_group(node) > 1:
        return _DOT_PANEL
    _batch, m, n = extents
    wide = m == 1 or isinstance(node.op, GroupedMatMul)
    size = node.inputs[1].type.numel * node.inputs[1].dtype.itemsize if m in lw.options.few_rows and isinstance(node.op, MatMul) else 0
    columns = lw.options.few_panel if isinstance(size, int) and size >= _FEW_BYTES else lw.options.panel
    panel = _WIDE if wide else max(_LANES, columns * 4 // max(4, node.out.dtype.itemsize))
    return min(panel, max(1, -(-n // _LANES)) * _LANES) if isinstance(n, int) else panel


def last_of(lw: Lowering, node: Node, extents: Shape, rows: Rows, panel: int) -> int:
    """Columns of the last panel of constant weights, where register tiles are as wide as panels, which is where those are more than
    the first-level cache keeps, and multiply-adds set the pace; 0: as many as of the others."""
    _batch, m, n = extents
    b, k = node.inputs[1], rows.k
    if not lw.options.own_last or not isinstance(b.node.op, Const) or b.dtype is not DType.F32 or panel != lw.options.panel:
        return 0
    if not isinstance(n, int) or not isinstance(k, int) or k * panel * 4 <= _LAST_BYTES or rows.diagonal > 1:
        return 0
    return last_panel(n, panel) if not isinstance(m, int) or m >= _LAST_ROWS else 0


def matmul_rows(lw: Lowering, node: Node, extents: Shape) -> Rows:
    a = node.inputs[0]
    batch, m, _ = extents
    k = next((d for d in (a.shape[-1], node.inputs[1].shape[-2]) if isinstance(d, int)), a.shape[-1])
    b_axis, m_axis, k_axis = (axis(i, d) for i, d in enumerate((batch, m, k)))

    def place(view: View) -> Rows | None:
        if prod(node.inputs[1].shape[:-2]) == 1:
            index = (*unravel(m_axis, a.shape[:-1]), k_axis)
        else:
            lead = unravel(b_axis, node.out.shape[:-2])
            index = (*lead[len(lead) - (len(view.shape) - 2) :], m_axis, k_axis)
        at = view.offset(index).coefficients(3)
        if at is None or (at[2] != 1 and k != 1):
            return None
        return Rows(view.buffer, at[1], at[0], k)

    found = place(lw.view(a))
    if found is None:
        found = place(lw.contiguous(a))
    if found is None:  # a batch axis is repeated in the middle: write it out
        full = (*node.out.shape[:-2], *a.shape[-2:])
        to = lw.storage.add("arena", a.dtype, full)
        kb = KernelBuilder(full)
        e = lw.read(kb, a, kb.index[len(full) - len(a.shape) :])
        lw.loop(kb, (), [kb.store(to, kb.index, e)], node.loc)
        found = place(to)
    assert found is not None
    return found


def conv_rows(lw: Lowering, node: Node) -> Rows:
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Conv)
    *kernel, per_group, _ = node.inputs[1].shape
    per_group = per_group * merged_groups(node)
    taps = prod(kernel)
    pixel, c = axis(1, prod(x.shape[:-1])), axis(2, x.shape[-1])
    view = lw.view(x)
    at = view.offset((*unravel(pixel, x.shape[:-1]), c)).coefficients(3)
    if at is None or (at[2] != 1 and x.shape[-1] != 1):
        view = lw.contiguous(x)
        at = (0, x.shape[-1], 1)
    lda = at[1] if prod(x.shape[:-1]) != 1 else x.shape[-1]
    diagonal = _diagonal(lw, node)
    plain = diagonal == 1 and all(k == 1 for k in kernel) and all(s == 1 for s in op.strides) and not any((*op.pads_lo, *op.pads_hi))
    conv = None if plain else ConvGeometry(
        x.shape[1:-1], node.out.shape[1:-1], tuple(int(k) for k in kernel), op.strides, op.pads_lo, op.dilations
    )  # fmt: skip
    tile = choose_tile(node, lw.options.winograd) if conv is not None and lw.options.winograd is not None else None
    if conv is not None and tile is not None:
        conv = three_axes(conv)
    return Rows(view.buffer, lda, per_group, taps * per_group, conv, tile, diagonal)


def _diagonal(lw: Lowering, node: Node) -> int:
    """Blocks of B, when keeping only those pays: a permutation for every product is less than the zeros there would be."""
    merged, each = merged_groups(node), node.inputs[1].shape[-2]
    small = isinstance(each, int) and merged * each <= _MOST_INPUTS
    return merged if lw.options.diagonal and small and node.out.dtype is node.inputs[0].dtype is DType.F32 else 1


def pack_transformed(lw: Lowering, node: Node, tile: Tile, panel: int) -> int:
    weights = node.inputs[1].node.op
    assert isinstance(weights, Const) and isinstance(node.op, Conv)
    key = ("transformed", id(weights.data), tile, panel, node.op.groups)
    return lw.storage.const_lazy(key, packed_weights(weights.data, tile, panel, node.op.groups), weights.data).buffer


def _grouped(w: np.ndarray, batch: int, merged: int) -> np.ndarray:
    """[*taps, C/groups, O] -> [batch, taps·C/batch, O/batch], block-diagonal within the `merged` groups of a product."""
    each, o = w.shape[-2:]
    parts = w.reshape(-1, each, batch, merged, o // (batch * merged))
    if merged == 1:
        return np.moveaxis(parts.reshape(-1, batch, parts.shape[-1]), 1, 0)
    out = np.zeros((batch, parts.shape[0], merged, each, merged, parts.shape[-1]), w.dtype)
    for g in range(merged):
        out[:, :, g, :, g] = parts[:, :, :, g].transpose(2, 0, 1, 3)
    return out.reshape(batch, -1, merged * parts.shape[-1])


def _element_of_b(node: Node, at: tuple[Affine, ...]) -> tuple[Affine, ...]:
    """The index of element (batch, row, column) of B of a matrix product, B repeated along the batch axes that it lacks."""
    batch, row, column = at
    b = node.inputs[1]
    if prod(b.shape[:-2]) == 1:
        return *unravel(Affine({}), b.shape[:-2]), row, column
    lead = unravel(batch, node.out.shape[:-2])
    return *lead[len(lead) - (len(b.shape) - 2) :], row, column


def store_scattered(lw: Lowering, node: Node, extents: Shape, k: Dim, panel: int) -> None:
    """Puts a B into memory whose neighbouring columns lie apart unevenly, as pixels that strides pick do: walked by its own axes it is
    read in lines, where packing would gather elements one by one. Not where each is read several times, which memory would hold then."""
    batch, _m, n = extents
    b = node.inputs[1]
    if not isinstance(node.op, MatMul) or isinstance(b.node.op, Const) or lw.options.panel == 1:
        return
    kb = KernelBuilder((batch, k, n))
    for e in reachable([lw.read(kb, b, _element_of_b(node, kb.index))]):
        if isinstance(e, Load) and _uneven(e.offset, panel) and lower(b.type.numel - lw.storage.extent(e.operand)[1]) <= 0:
            lw.contiguous(b)
            return


def _uneven(offset: E, panel: int) -> bool:
    """Whether columns (axis 2) of a panel are not equally far apart."""
    if not isinstance(offset, Index):
        return False
    quotients = [a for part in nested(offset.value) for a in part.terms if a.kind == "div"]
    by_columns = (a.args[1] for a in quotients if any(t.kind == "axis" and t.args[0] == 2 for t in a.args[0].terms))
    return any(not isinstance(d, int) or d % panel for d in by_columns)


def in_place(lw: Lowering, node: Node, extents: Shape, k: Dim) -> Columns | None:
    """B as it is, if it is computed at run time, lies in rows, and few rows of A make use of it; or lies as if packed by columns."""
    batch, m, n = extents
    b = node.inputs[1]
    if not isinstance(node.op, MatMul) or isinstance(b.node.op, Const) or upper(m) > lw.options.in_place:
        return None
    by_columns = lw.options.panel == 1
    if lane_group(node) > 1 and not (by_columns and b.dtype.itemsize == 2):
        return None
    kb = KernelBuilder((batch, k, n))
    e = lw.read(kb, b, _element_of_b(node, kb.index))
    if isinstance(e, Cast) and by_columns:
        e = e.arg  # to what elements of 16 bits are computed in
    if not isinstance(e, Load) or not isinstance(e.offset, Index) or e.dtype is not b.dtype:
        return None
    at, start = e.offset.value.coefficients(3), e.offset.value.const
    if at is None:
        return None
    as_packed = by_columns and (at[1] == 1 or k == 1) and (at[2] == k or n == 1) and padded_k(k, lane_group(node)) == k
    along = not as_packed and at[1] == 1 and at[2] not in (0, 1) and sums_along_k(m, k, b.dtype, lw.options.inner)
    if not as_packed and not along and ((at[2] != 1 and n != 1) or at[1] == 0):
        return None
    view = View(e.operand, b.dtype, (batch, k, n), at)
    buffer = e.operand if start == 0 else lw.storage.shifted(view, start).buffer
    if along:
        return Columns(buffer, at[0], column=at[2])
    return Columns(buffer, at[0], 0 if as_packed else at[1])


def _panels(n: Dim, panel: int) -> list[tuple[Dim, Dim, Dim]]:
    """First panel, panels and columns of each: of whole ones, and of the last one. What is behind the last column counts for nothing."""
    whole = floordiv(n, panel)
    return [piece for piece in ((0, whole, panel), (whole, 1, mod(n, panel))) if piece[1] != 0 and piece[2] != 0]


def _lines(k: Dim, group: int) -> list[tuple[Dim, Dim]]:
    """First line of `group` elements along K, and how many: of whole ones, and of those with zeros."""
    whole, deep = floordiv(k, group), padded_k(k, group) // group
    return [piece for piece in ((0, whole), (whole, deep - whole)) if piece[1] != 0]


def pack(lw: Lowering, node: Node, extents: Shape, k: Dim, panel: int, last: int = 0, diagonal: int = 1) -> int:
    batch, _, n = extents
    b, group = node.inputs[1], lane_group(node)
    grouped = isinstance(node.op, Conv)
    static = grouped or batch == 1 or is_static(node.out.shape[:-2])
    if isinstance(b.node.op, Const) and static:
        data: Any = b.node.op.data
        if grouped:
            data = _grouped(data, int(batch), 1 if diagonal > 1 else merged_groups(node))
        elif batch == 1:
            data = data.reshape(k, n)
        else:
            lead = node.out.shape[:-2]
            data = np.broadcast_to(data, (*lead, int(k), int(n))).reshape((math.prod(map(int, lead)), int(k), int(n)))
        key = ("packed", id(b.node.op.data), batch, panel, last, grouped, group, diagonal)
        size = math.prod(data.shape[:-2]) * packed_size(data.shape[-2], data.shape[-1], panel, group, last)
        packed = Deferred(data.dtype, size, lambda out: pack_b(data, panel, group, out, last))
        return lw.storage.const_lazy(key, packed, b.node.op.data).buffer
    deep = padded_k(k, group)
    to = lw.storage.add("arena", b.dtype, (batch, ceildiv(n, panel), deep // group, panel, group))
    for (first, panels, width), (above, lines) in itertools.product(_panels(n, panel), _lines(k, group)):
        kb = KernelBuilder((batch, panels, lines, width, group))
        g, p, line, j, part = kb.index
        p, line = p + first, line + above
        column, depth = p * panel + j, line * group + part
        zeros = above != 0 or lines * group != k  # behind the last row
        row = clamp(depth, 0, k - 1) if zeros else depth
        index = (*unravel(row, b.shape[:-1]), g * n + column) if grouped else _element_of_b(node, (g, row, column))
        e = lw.read(kb, b, index)
        if zeros:
            zero = number(0.0 if e.dtype.is_float else 0, e.dtype)
            e = fn("select", fn("lt", index_expr(depth), index_expr(Affine({}, k))), e, zero)
        lw.loop(kb, (), [kb.store(to, (g, p, line, j, part), e)], node.loc)
    return to.buffer
