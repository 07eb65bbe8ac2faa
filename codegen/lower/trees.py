"""Decision trees: one loop over rows and trees, each step of the walk unrolled as gathers from the tables of nodes."""

from __future__ import annotations

from ...ir import DType, Node, Value
from ...ir.ops import TreeLeaves, TreeSum
from ..expr import Cast, E, Load, Reduced
from ..kernel import COMBINE, Reduction
from ..plan import Branch
from ..simplify import Affine, as_affine
from .builder import KernelBuilder, View, fn, index_expr, number
from .state import Lowering

_MANY = 16  # rows from which on vectors run over rows: the nodes of a tree stay in cache, and its first ones are shared


def emit_tree_sum(lw: Lowering, node: Node) -> None:
    """Parallel over rows and targets, reduced over trees; where the number of rows is not known, two kernels to choose from."""
    rows = node.out.shape[0]
    to = lw.place(node.out)
    if isinstance(rows, int):
        _sum(lw, node, to, rows >= _MANY)
    else:
        many = lw.storage.add("arena", DType.BOOL, ())
        k = KernelBuilder(())
        lw.loop(k, [], [k.store(many, (), fn("ge", index_expr(as_affine(rows)), number(_MANY, DType.I64)))], node.loc)
        before, lw.steps = lw.steps, []
        _sum(lw, node, to, True)
        by_rows, lw.steps = lw.steps, []
        _sum(lw, node, to, False)
        lw.steps = [*before, Branch(many.buffer, tuple(by_rows), tuple(lw.steps), node.loc)]
    lw.views[node.out] = to


def _sum(lw: Lowering, node: Node, to: View, by_rows: bool) -> None:
    """Vectors run over rows or over trees: a last axis of two halves of the trees is none to run over."""
    assert isinstance(node.op, TreeSum)
    out, trees = node.out, node.inputs[1].shape[1]
    halves = 2 if by_rows and trees % 2 == 0 else 1
    k = KernelBuilder(out.shape, (trees // halves, halves))
    row, target, tree, half = k.index
    value = _reached(lw, k, node, node.op.depth, row, (target, tree + half * (trees // halves)))
    for start in node.inputs[6:]:
        first = fn("eq", index_expr(tree + half), number(0, DType.I64))
        before = k.load(lw.contiguous(start), (row, target))
        value = fn("select", first, fn(COMBINE[node.op.kind], before, value), value)
    lw.loop(k, [Reduction(node.op.kind, value)], [k.store(to, (row, target), Reduced(0, dtype=out.dtype))], node.loc)


def emit_tree_leaves(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, TreeLeaves)
    k = KernelBuilder(node.out.shape)
    row, tree = k.index
    to = lw.place(node.out)
    lw.loop(k, [], [k.store(to, (row, tree), _reached(lw, k, node, node.op.depth, row, (tree,)))], node.loc)
    lw.views[node.out] = to


def _reached(lw: Lowering, k: KernelBuilder, node: Node, depth: int, row: Affine, at: tuple[Affine, ...]) -> E:
    """The last table's entry of the node that a row reaches from the root at `at`."""
    x, root, feature, threshold, child, last = node.inputs[:6]

    def entry(table: Value, offset: E) -> E:
        return Load(lw.contiguous(table).buffer, offset, dtype=table.dtype)

    def wide(e: E) -> E:
        return Cast(e, dtype=DType.I64)

    start = index_expr(row * x.shape[1])
    here = wide(k.load(lw.contiguous(root), at))
    for _ in range(depth):
        element = entry(x, fn("add", start, wide(entry(feature, here))))
        right = fn("gt", element, entry(threshold, here))
        here = fn("add", wide(entry(child, here)), wide(right))
    return entry(last, here)
