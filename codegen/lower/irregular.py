"""Concatenation, top-k and scatters: kernels that write where their operands say."""

from __future__ import annotations

from ...ir import Const, Dim, DType, Node, Value, prod
from ...ir.ops import Concat, ScatterElements, ScatterND, TopK
from ..expr import E, Load, Reduced
from ..kernel import Reduction, Store
from ..simplify import Affine, as_affine, clamp, opaque
from .builder import Index, KernelBuilder, View, computed, convert, fn, index_expr, number
from .known_indices import distinct
from .moves import guarded, memo_wrapped
from .side_by_side import LARGE
from .state import Lowering


def emit_concat(lw: Lowering, node: Node) -> None:
    """Every operand goes to its slice; those written there already cost nothing."""
    to = lw.place(node.out)
    missing: list[tuple[Value, View]] = []
    for position, v in enumerate(node.inputs):
        part = lw.slice_of(to, node, position)
        there = lw.views.get(v)
        if (there is None or not there.same_elements(part)) and 0 not in v.shape:
            missing.append((v, part))
    if len(missing) == len(node.inputs) == 2 and lw.options.beside and _picks(lw, node):
        _one_copy(lw, node, to)
    else:
        for v, part in missing:
            lw.copy(v, part, node.loc)
    lw.views[node.out] = to


def _picks(lw: Lowering, node: Node) -> bool:
    """Whether one kernel may pick each element from where it lies: operands of small, known sizes, in whole pieces of 16 bytes."""
    op, v = node.op, node.out
    assert isinstance(op, Concat)
    inner, size = prod(v.shape[op.axis + 1 :]), prod(v.shape)
    if (
        v.dtype.is_complex
        or not isinstance(inner, int)
        or not isinstance(size, int)
        or inner * v.dtype.itemsize % 16
        or size * v.dtype.itemsize > LARGE // 2
    ):
        return False
    return all(_lies(lw, x) for x in node.inputs)


def _lies(lw: Lowering, v: Value) -> bool:
    """Whether elements are only loaded: what is computed would be for each element of the other operand, too."""
    if v not in lw.virtuals:
        return v in lw.views
    kb = KernelBuilder(v.shape)
    e = lw.read(kb, v, kb.index)
    return isinstance(e, Load) and isinstance(e.offset, Index)


def _one_copy(lw: Lowering, node: Node, to: View) -> None:
    """Both operands by one kernel, as new keys behind their cache: the launch of a second would take longer than its copy."""
    op, (x, y) = node.op, node.inputs
    assert isinstance(op, Concat)
    k = KernelBuilder(node.out.shape)
    behind = tuple(clamp(i - x.shape[a], 0, y.shape[a] - 1) if a == op.axis else i for a, i in enumerate(k.index))
    value = guarded(lw, k, x, k.index, range(op.axis, op.axis + 1), lw.read(k, y, behind))
    lw.loop(k, (), [k.store(to, k.index, value)], node.loc)


def emit_topk(lw: Lowering, node: Node) -> None:
    """Of short rows, by rank, where the device has `ranked` for them (`decompose` rewrites others).

    The rank of an element is the number of elements before it in order; it is stored there if that is below k.
    """
    op, x = node.op, node.inputs[0]
    assert isinstance(op, TopK)
    size = x.shape[op.axis]
    lw.contiguous(x)
    k = KernelBuilder(x.shape, (size,))
    i, (j,) = k.parallel[op.axis], k.reduced
    own = lw.read(k, x, k.parallel)
    other = lw.read(k, x, tuple(j if a == op.axis else p for a, p in enumerate(k.parallel)))
    first = fn("gt" if op.largest else "lt", other, own)
    if x.dtype.is_float:  # NaN sorts as the largest value
        nan_first = fn("and_", fn("isnan", other), fn("not_", fn("isnan", own), dtype=DType.BOOL))
        nan_last = fn("and_", fn("isnan", own), fn("not_", fn("isnan", other), dtype=DType.BOOL))
        first = fn("or_", first, nan_first if op.largest else nan_last)
        after = fn("or_", fn("gt" if not op.largest else "lt", other, own), nan_last if op.largest else nan_first)
    else:
        after = fn("gt" if not op.largest else "lt", other, own)
    tie = fn("not_", fn("or_", first, after), dtype=DType.BOOL)
    before = fn("or_", first, fn("and_", tie, fn("lt", index_expr(j), index_expr(i))))
    one, zero = number(1, DType.I64), number(0, DType.I64)
    rank: E = Reduced(0, dtype=DType.I64)
    guard = fn("lt", rank, index_expr(as_affine(op.k)))
    stores = []
    for v, value in zip(node.outputs, (own, convert(index_expr(i), DType.I64)), strict=True):
        to = lw.place(v)
        stores.append(_computed_store(k, to, tuple(p for p in k.parallel), op.axis, rank, op.k, value, guard))
        lw.views[v] = to
    if op.k != 0:
        lw.loop(k, [Reduction("sum", fn("select", before, one, zero))], stores, node.loc)


def _computed_store(k: KernelBuilder, to: View, index: tuple[Affine, ...], axis: int, at: E, size: Dim, value: E, guard: E) -> Store:
    # the offset stays in range where the guard is false too
    moved = tuple(clamp(opaque(at, 0), 0, size - 1) if a == axis else i for a, i in enumerate(index))
    return k.store(to, moved, value, guard=guard)


_COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}
_COMBINE_TRUTH = {"add": "or_", "mul": "and_", "max": "or_", "min": "and_"}


def emit_scatter_elements(lw: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ScatterElements)
    x, indices, updates = node.inputs
    to = _copied(lw, node)
    if 0 in updates.shape:
        return
    # sequential along the scatter axis (duplicates are legal), parallel over the others
    axis = op.axis
    k = KernelBuilder(tuple(d for a, d in enumerate(indices.shape) if a != axis), (indices.shape[axis],))
    outer = iter(k.parallel)
    index = tuple(k.reduced[0] if a == axis else next(outer) for a in range(len(indices.shape)))
    at = memo_wrapped(lw, k, indices, index, x.shape[axis])
    target = tuple(at if a == axis else i for a, i in enumerate(index))
    _scatter(lw, k, node, to, target, lw.read(k, updates, index), op.reduction)


def emit_scatter_nd(lw: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ScatterND)
    x, indices, updates = node.inputs
    depth = int(indices.shape[-1])
    rows, inner = indices.shape[:-1], x.shape[depth:]
    apart = op.reduction == "none" and isinstance(indices.node.op, Const) and distinct(indices.node.op.data, x.shape)
    to = _copied(lw, node, known=apart)
    if 0 in updates.shape:
        return
    k = KernelBuilder((*rows, *inner)) if apart else KernelBuilder(inner, rows)
    row, place = (k.index[: len(rows)], k.index[len(rows) :]) if apart else (k.reduced, k.parallel)
    found = tuple(memo_wrapped(lw, k, indices, (*row, Affine({}, i)), x.shape[i]) for i in range(depth))
    value = lw.read(k, updates, (*row, *place))
    if apart:
        lw.loop(k, [], [k.store(to, (*found, *place), value)], node.loc)
    else:
        _scatter(lw, k, node, to, (*found, *place), value, op.reduction)


def _copied(lw: Lowering, node: Node, known: bool = False) -> View:
    """The operand's elements where the result goes. `known`: nothing reads the indices."""
    x, indices, updates = node.inputs
    if not known:
        lw.contiguous(indices)
    lw.contiguous(updates)
    to = lw.place(node.out)
    lw.copy(x, to, node.loc)
    lw.views[node.out] = to
    return to


def _scatter(lw: Lowering, k: KernelBuilder, node: Node, to: View, target: tuple[Affine, ...], value: E, reduction: str) -> None:
    """Per-element stores run in the order of the reduce axes, so the last duplicate wins and sums see each other."""
    if reduction != "none":
        combine = _COMBINE_TRUTH if to.dtype is DType.BOOL else _COMBINE
        value = fn(combine[reduction], k.load(to, target), value)
    lw.loop(k, [], [k.store(to, target, convert(value, computed(to.dtype)), per_element=True)], node.loc)
