"""Attention as one kernel that reads q, k, v where they are, heads split or not, and writes its rows where they are wanted."""

from __future__ import annotations

from ...ir import Dim, DType, Node, Shape, Value, ceildiv, dim_max, dim_min, floordiv, lower
from ...ir.ops import Cast as Rounding
from ..expr import Cast, Load
from ..kernel import AttentionKernel, Operand, Reduction
from ..simplify import Affine
from .attention_op import WIDEST_SIXTEEN_BITS, BlockedAttention
from .builder import Index, KernelBuilder, View, fn, number
from .rows import finish_rows, reduced
from .state import Lowering

_QUERIES = 64  # that share what is read of keys
_LEAST_KEYS = 256  # of a part
_LEAST_ELEMENTS = 1 << 16  # of keys and values of a part: 10 µs of one core


def emit_attention(lw: Lowering, node: Node) -> None:
    """One kernel step. The driver calls it for every `BlockedAttention`."""
    op = node.op
    assert isinstance(op, BlockedAttention)
    q, k, v, *masks = node.inputs
    batch, heads, rows, value_size = node.out.shape
    kv_heads, keys, size = k.shape[1:]
    group = 1 if heads == kv_heads else int(heads) // int(kv_heads)
    inputs = [_strided(lw, x) for x in (q, k, v)]
    joined = group > 1 and rows == 1 and (not masks or masks[0].shape[1] == 1)  # heads that share keys: rows of one product
    units = batch * (kv_heads if joined else heads) * ceildiv(rows, _QUERIES)
    parts = None if op.rounded else _parts(lw, units, keys, _LEAST_ELEMENTS // (size + value_size))
    to, written, stats = (*_destination(lw, _rounded(lw, node)), None) if parts is None else _partial(lw, parts, node.out.shape)
    mask = _mask(lw, masks[0], op.by_rows) if masks else None
    qs, out, causal = inputs[0][1], written, op.causal and rows != 1  # a single query sees every key
    if joined:
        heads, rows, group, qs, out = kv_heads, group, 1, _gathered(qs, group), _gathered(out, group)
    results = (to.buffer,) if stats is None else (stats.buffer, to.buffer)
    buffers = (*(x[0] for x in inputs), *([] if mask is None else [mask[0]]), *results)
    operands = tuple(Operand(*lw.storage.extent(b), written=b in results) for b in buffers)
    kernel = AttentionKernel(
        batch=batch,
        heads=heads,
        group=group,
        rows=rows,
        keys=keys,
        size=int(size),
        value_size=int(value_size),
        scale=op.scale,
        causal=causal,
        operands=operands,
        q_strides=qs[:3],
        k_strides=inputs[1][1][:3],
        v_strides=inputs[2][1][:3],
        out_strides=out[:3],
        mask_strides=None if mask is None else mask[1],
        rounded=op.rounded,
        parts=parts,
    )
    lw.step(kernel, buffers, node.loc)
    if stats is not None:
        _weigh(lw, node, to, stats)


def _parts(lw: Lowering, units: Dim, keys: Dim, least: int) -> Dim | None:
    """How many parts the keys are cut into, where there are fewer units of work than threads may want."""
    wanted = lw.options.attention_units
    if lower(units) >= wanted:
        return None
    parts = dim_max(1, dim_min(floordiv(keys, max(_LEAST_KEYS, least)), ceildiv(wanted, dim_max(1, units))))
    return None if parts == 1 else parts


def _partial(lw: Lowering, parts: Dim, shape: Shape) -> tuple[View, Shape, View]:
    """Results of parts, strides of one of them, and maxima and sums."""
    to = lw.storage.add("arena", DType.F32, (parts, *shape))
    return to, to.strides[1:], lw.storage.add("arena", DType.F32, (2, parts, *shape[:3]))


def _weigh(lw: Lowering, node: Node, results: View, stats: View) -> None:
    """The result from those of parts: Σ_p w_p·y_p / Σ_p w_p with w_p = exp(top_p − max top)·total_p."""
    k = KernelBuilder(node.out.shape, results.shape[:1])
    *row, _element = k.parallel
    top, total = (k.load(stats, (Affine({}, x), *k.reduced, *row)) for x in (0, 1))
    highest, zero = reduced(0, DType.F32), number(0.0, DType.F32)
    highest = fn("select", fn("eq", highest, number(float("-inf"), DType.F32)), zero, highest)
    weight = fn("mul", fn("exp", fn("sub", top, highest)), total)
    stages = [
        Reduction("max", top),
        Reduction("sum", weight),
        Reduction("sum", fn("mul", weight, k.load(results, (*k.reduced, *k.parallel)))),
    ]
    both = reduced(1, DType.F32)
    none = fn("eq", both, zero)  # every key is hidden
    y = fn("div", reduced(2, DType.F32), fn("select", none, number(1.0, DType.F32), both))
    finish_rows(lw, k, node, node.out, stages, k.parallel, lambda: y)


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


def _mask(lw: Lowering, v: Value, by_rows: bool) -> tuple[int, Shape]:
    """Buffer and strides of (batch, head, key, query)."""
    buffer, (*outer, row, column) = _strided(lw, v, exact=True)
    return buffer, (*outer, column, row) if by_rows else (*outer, row, column)


def _rows_contiguous(stride: Dim, size: Dim, exact: bool) -> bool:
    return stride == 1 or (size == 1 and (stride == 0 or not exact))


def _shifted(lw: Lowering, buffer: int, v: Value, strides: Shape, start: Dim) -> int:
    return buffer if start == 0 else lw.storage.shifted(View(buffer, v.dtype, v.shape, strides), start).buffer


def _rounded(lw: Lowering, node: Node) -> Value:
    """The result in 16 bits where that alone is read of few queries, and the device stores it so; else the result."""
    uses = lw.graph.uses.get(node.out, ())
    rows, size = node.out.shape[2], node.inputs[0].shape[3]
    few = isinstance(rows, int) and rows <= lw.options.rounds_queries and max(int(size), int(node.out.shape[3])) <= WIDEST_SIXTEEN_BITS
    alone = len(uses) == 1 and isinstance(uses[0].op, Rounding) and node.out not in lw.outputs
    return uses[0].out if few and alone and uses[0].out.dtype in (DType.F16, DType.BF16) else node.out


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
