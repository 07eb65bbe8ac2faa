"""Matrix products and convolutions as contraction kernels: B packed, what follows fused as the epilogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import Dim, DType, Node, Shape, Value, lower, prod
from ...ir.ops import Conv, DotConv, GroupedMatMul, MatMul, Reshape, Transpose
from ..expr import Acc, DimParam, E, Load
from ..kernel import ContractKernel, GroupedKernel, Kernel, Operand, Planes, WinogradKernel
from ..packing import packed_size
from ..simplify import Affine, ravel, strides_of, unravel
from .builder import Finisher, Index, KernelBuilder, View, computed, convert, reachable
from .contract_operands import (
    Columns,
    Rows,
    conv_rows,
    in_place,
    lane_group,
    last_of,
    matmul_rows,
    pack,
    pack_transformed,
    panel_of,
    store_scattered,
)
from .contraction import contraction_linear, contraction_shape, epilogue_reads
from .grouped import Levels, pack_grouped
from .state import Lowering
from .winograd import images

_FEWEST_PLANES = 4  # that are worth turning squares of a vector's lanes


@dataclass(frozen=True)
class _Contraction:
    """A node, and its operands as kernels read them."""

    node: Node
    extents: Shape  # batch, m, n
    rows: Rows
    columns: Columns
    panel: int
    last: int  # columns of the last panel, where that has its own width
    levels: Levels | None


@dataclass(frozen=True)
class _Place:
    """Where results go, `row` and `batch` elements apart, or as planes; `final`: where they are copied to afterwards."""

    to: View
    batch: Dim
    row: Dim
    planes: Planes | None = None
    final: View | None = None


def emit_contraction(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, an elementwise function of the contraction `node`, cutting the epilogue short where it does not fit."""
    behind = lw.fusion.between(node, root) if root != node.out else []
    c = _contraction(lw, node)
    for end in [*reversed(behind), node.out]:
        if end != node.out and not _only_exit(lw, behind[: behind.index(end) + 1], node, end):
            continue
        k = KernelBuilder(c.extents)
        epilogue = _epilogue(lw, k, node, end)
        if epilogue is None:
            _store_sides(lw, [v for v in behind if v == end or behind.index(v) <= behind.index(end)], {node.out, *behind})
            k = KernelBuilder(c.extents)
            epilogue = _epilogue(lw, k, node, end)
        if epilogue is not None:
            _emit(lw, c, end, contraction_linear(node, k.index), epilogue)
            if end != root:
                lw.materialise_plain(root)
            return
    raise CodegenError(f"{node.op.name} has no epilogue that fits", loc=" + ".join(node.loc))


def _contraction(lw: Lowering, node: Node) -> _Contraction:
    extents = contraction_shape(node)
    rows = matmul_rows(lw, node, extents) if isinstance(node.op, MatMul) else conv_rows(lw, node)
    panel, last = panel_of(lw, node, extents), 0
    levels = pack_grouped(lw, node, panel) if isinstance(node.op, GroupedMatMul) else None
    if levels is not None:
        columns = Columns(levels.levels, 0)
    elif rows.tile is not None:
        columns = Columns(pack_transformed(lw, node, rows.tile, panel), 0)
    else:
        last = last_of(lw, node, extents, rows, panel)
        store_scattered(lw, node, extents, rows.k, panel)
        columns = in_place(lw, node, extents, rows.k) or Columns(
            pack(lw, node, extents, rows.k, panel, last, rows.diagonal),
            packed_size(rows.k // rows.diagonal, extents[2], panel, lane_group(node), last),
        )  # fmt: skip
    return _Contraction(node, extents, rows, columns, panel, last, levels)


def _only_exit(lw: Lowering, inside: Sequence[Value], node: Node, end: Value) -> bool:
    """Whether nothing but `end` is read outside the values `inside`."""
    readers = {v.node for v in inside}
    return all(set(lw.graph.uses.get(v, ())) <= readers for v in (node.out, *inside) if v != end)


def _store_sides(lw: Lowering, behind: Sequence[Value], fused: set[Value]) -> None:
    """Put operands of the epilogue that are themselves computed into memory."""
    for v in behind:
        for u in v.node.inputs:
            if u not in fused and (u in lw.virtuals or u in lw.views):
                lw.contiguous(u)


def _epilogue(lw: Lowering, k: KernelBuilder, node: Node, end: Value) -> E | None:
    linear = contraction_linear(node, k.index)

    def result(index: tuple[Affine, ...]) -> E:
        if ravel(index, node.out.shape) != linear:
            raise CodegenError(f"{node.op.name} fused with a consumer that reads other elements", loc=" + ".join(node.loc))
        return Acc(dtype=computed(node.out.dtype))

    k.override[node.out] = result
    e = lw.read(k, end, unravel(linear, end.shape))
    parts = reachable([e])
    offsets = {id(p.offset) for p in parts if isinstance(p, Load)}
    for p in parts:
        if isinstance(p, DimParam) or (isinstance(p, Index) and id(p) not in offsets):
            return None
        if isinstance(p, Load):
            assert isinstance(p.offset, Index)
            if not epilogue_reads(p.offset.value):
                return None
    return e


def _emit(lw: Lowering, c: _Contraction, end: Value, linear: Affine, epilogue: E) -> None:
    """`linear`: the number of a result, from its batch, row and column."""
    place = _place(lw, c, end, linear)
    f = _Operands(c.rows.buffer, c.columns.buffer)
    border = -1
    if isinstance(c.node.op, DotConv) and len(c.node.inputs) == 3 and c.rows.conv is not None:
        border = f.operand(lw.contiguous(c.node.inputs[2]).buffer)
    for more in c.levels.others if c.levels is not None else ():
        f.operand(more)
    value = f(convert(epilogue, end.dtype))
    buffers = (*f.order, place.to.buffer)
    operands = tuple(Operand(*lw.storage.extent(b), written=i == len(buffers) - 1) for i, b in enumerate(buffers))
    lw.step(_kernel(c, operands, value, place, border, lw.options.rounded_rows), buffers, lw.fusion.locations(end) or c.node.loc)
    if place.final is not None:
        lw.copy(end, place.final)
        lw.views[end] = place.final


def _place(lw: Lowering, c: _Contraction, end: Value, linear: Affine) -> _Place:
    target = _transposed_place(lw, end, linear)
    if target is not None:
        to, (batch, row, _) = target
        return _Place(to, batch, row)
    turned = _planes(lw, c.node, end) if c.rows.tile is None else None
    if turned is not None:
        to, planes = turned
        return _Place(to, 0, 0, planes)
    to = lw.place(end)
    final: View | None = None
    strides = to.offset(unravel(linear, end.shape)).coefficients(3)
    if strides is None or (strides[2] != 1 and c.extents[2] != 1):
        final, to = to, lw.storage.add("arena", end.dtype, end.shape)
        strides = linear.coefficients(3)
    lw.views[end] = to
    assert strides is not None
    return _Place(to, strides[0], strides[1], final=final)


def _kernel(c: _Contraction, operands: tuple[Operand, ...], value: E, place: _Place, border: int, rounded: bool) -> Kernel:
    batch, m, n = c.extents
    node, rows, columns, levels = c.node, c.rows, c.columns, c.levels
    ldc = place.row if m != 1 or place.planes is not None else n
    if levels is not None and isinstance(node.op, GroupedMatMul):
        assert isinstance(n, int) and isinstance(rows.k, int)
        return GroupedKernel(
            m=m,
            n=n,
            k=rows.k,
            bits=node.op.bits,
            group=node.op.group,
            zero=levels.zero,
            operands=operands,
            lda=rows.lda if m != 1 else rows.k,
            ldc=ldc,
            epilogue=value,
            panel=c.panel,
            values=node.op.values,
            blocks=levels.blocks,
            row_bits=node.op.row_bits if rounded else 24,
        )
    if rows.tile is not None and rows.conv is not None:
        assert isinstance(n, int) and isinstance(rows.k, int) and isinstance(batch, int)
        return WinogradKernel(images=images(node, rows.conv), n=n, channels=rows.k // math.prod(rows.conv.kernel), conv=rows.conv,
                              tile=rows.tile, operands=operands, lda=rows.lda, ldc=ldc, epilogue=value, panel=c.panel,
                              groups=batch)  # fmt: skip
    one = batch == 1
    return ContractKernel(
        batch=batch, m=m, n=n, k=rows.k, operands=operands, lda=rows.lda if m != 1 or rows.conv else rows.k,
        a_batch=0 if one else rows.batch, b_batch=0 if one else columns.batch, ldc=ldc, c_batch=0 if one else place.batch,
        epilogue=value, conv=rows.conv, panel=c.panel, last=c.last, group=lane_group(node), border=border, b_row=columns.row,
        b_column=columns.column, diagonal=rows.diagonal, planes=place.planes,
    )  # fmt: skip


class _Operands(Finisher):
    """Numbers operands: A and B first, even when the epilogue reads them too."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.order = [a, b]
        self._extra: dict[int, int] = {}

    def operand(self, buffer: int) -> int:
        if buffer not in self._extra:
            self._extra[buffer] = len(self.order)
            self.order.append(buffer)
        return self._extra[buffer]


def _transposed_place(lw: Lowering, end: Value, linear: Affine) -> tuple[View, Shape] | None:
    """If the only reader is a transpose that gets stored, its memory, where the contraction can write to it directly."""
    v, index = end, unravel(linear, end.shape)
    while v not in lw.outputs and len(uses := lw.graph.uses.get(v, ())) == 1:
        reader = uses[0]
        if not lw.exists(reader.out):
            return None
        if isinstance(reader.op, Reshape):
            v = reader.out
            index = unravel(linear, v.shape)
        elif isinstance(reader.op, Transpose) and lw.fusion.stored(reader.out):
            to = lw.place(reader.out)
            strides = to.offset(tuple(index[p] for p in reader.op.perm)).coefficients(3)
            if strides is None or strides[2] != 1:
                return None
            lw.views[reader.out] = to
            return to, strides
        else:
            return None
    return None


def _planes(lw: Lowering, node: Node, end: Value) -> tuple[View, Planes] | None:
    """If the only reader of a convolution turns it channels first, in memory, where that is, and how."""
    if not lw.options.planes or type(node.op) is not Conv or end.shape != node.out.shape or end in lw.outputs:
        return None
    if end.dtype is not DType.F32 or node.out.dtype is not DType.F32 or lower(end.shape[-1]) < _FEWEST_PLANES:
        return None
    uses, rank = lw.graph.uses.get(end, ()), len(end.shape)
    if len(uses) != 1 or uses[0].op != Transpose((0, rank - 1, *range(1, rank - 1))) or not lw.fusion.stored(uses[0].out):
        return None
    to = lw.place(uses[0].out)
    pixels = end.shape[1:-1]
    if to.strides[2:] != strides_of(pixels):
        return None
    lw.views[uses[0].out] = to
    return to, Planes(prod(pixels), to.strides[1], to.strides[0])
