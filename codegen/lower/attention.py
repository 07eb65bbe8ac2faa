"""Attention as one kernel that reads q, k, v where they are, heads split or not, and writes its rows where they are wanted."""

from __future__ import annotations

from ...ir import Dim, Node, Shape, Value
from ..expr import Cast, Load
from ..kernel import AttentionKernel, Operand
from .attention_op import BlockedAttention
from .builder import Index, KernelBuilder, View
from .state import Lowering


def emit_attention(lw: Lowering, node: Node) -> None:
    """One kernel step. The driver calls it for every `BlockedAttention`."""
    op = node.op
    assert isinstance(op, BlockedAttention)
    q, k, v, *masks = node.inputs
    batch, heads, rows, value_size = node.out.shape
    kv_heads, keys, size = k.shape[1:]
    group = 1 if heads == kv_heads else int(heads) // int(kv_heads)
    inputs = [_strided(lw, x) for x in (q, k, v)]
    to, written = _destination(lw, node.out)
    mask = _strided(lw, masks[0], exact=True) if masks else None
    qs, out, causal = inputs[0][1], written, op.causal and rows != 1  # a single query sees every key
    if group > 1 and rows == 1 and (not masks or masks[0].shape[1] == 1):  # its heads share keys: rows of one product
        heads, rows, group, qs, out = kv_heads, group, 1, _gathered(qs, group), _gathered(out, group)
    buffers = (*(x[0] for x in inputs), *([] if mask is None else [mask[0]]), to.buffer)
    operands = tuple(Operand(*lw.storage.extent(b), written=i == len(buffers) - 1) for i, b in enumerate(buffers))
    kernel = AttentionKernel(
        batch, heads, group, rows, keys, int(size), int(value_size), op.scale, causal, operands, qs[:3],
        inputs[1][1][:3], inputs[2][1][:3], out[:3], None if mask is None else mask[1], op.rounded,
    )  # fmt: skip
    lw.step(kernel, buffers, node.loc)


def _gathered(strides: Shape, group: int) -> Shape:
    """Strides of (batch, head of keys, query head of the group, element)."""
    return strides[0], strides[1] * group, strides[1], strides[3]


def _strided(lw: Lowering, v: Value, exact: bool = False) -> tuple[int, Shape]:
    """Buffer and strides of a value of rank 4, whose elements of a row are next to each other (`exact`: or all the same).

    What only moves elements is seen through; what that does not lead to a constant stride for is stored.
    """
    if v not in lw.views:
        kb = KernelBuilder(v.shape)
        e = lw.read(kb, v, kb.index)
        if isinstance(e, Cast) and isinstance(e.arg, Load) and e.arg.dtype is v.dtype:
            e = e.arg  # to what elements of 16 bits are computed in
        if isinstance(e, Load) and isinstance(e.offset, Index):
            at, start = e.offset.value.coefficients(4), e.offset.value.const
            if at is not None and _rows_contiguous(at[3], v.shape[3], exact):
                return _shifted(lw, e.operand, v, at, start), at
    view = lw.view(v)
    if not _rows_contiguous(view.strides[3], v.shape[3], exact):
        view = lw.contiguous(v)
    return view.buffer, tuple(0 if d == 1 else s for d, s in zip(view.shape, view.strides, strict=True))


def _rows_contiguous(stride: Dim, size: Dim, exact: bool) -> bool:
    return stride == 1 or (size == 1 and (stride == 0 or not exact))


def _shifted(lw: Lowering, buffer: int, v: Value, strides: Shape, start: Dim) -> int:
    return buffer if start == 0 else lw.storage.shifted(View(buffer, v.dtype, v.shape, strides), start).buffer


def _destination(lw: Lowering, v: Value) -> tuple[View, Shape]:
    """Memory of the result and its strides: that of the merged heads, where a transpose follows."""
    kb = KernelBuilder(v.shape)
    to, index, placed = lw.destination(v, kb.index)
    offset = to.offset(index)
    strides = offset.coefficients(4)
    if strides is None or not _rows_contiguous(strides[3], v.shape[3], False):
        to, placed = lw.storage.add("arena", v.dtype, v.shape), v
        strides = to.strides
    lw.views[placed] = to
    return to, strides
