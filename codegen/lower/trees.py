"""Decision trees: one loop over rows and trees, each step of the walk, or each node that is asked, unrolled.

Deep trees are walked some steps at a time, until no row moves any more: most leaves lie far above the deepest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...ir import Const, DType, Node, Shape
from ...ir.ops import AskedTreeSum, TreeLeaves, TreeSum
from ..expr import Bits, Cast, E, Load, Reduced
from ..kernel import COMBINE, Reduction
from ..plan import Branch, Repeat
from ..simplify import Affine, as_affine
from .builder import KernelBuilder, View, fn, index_expr, number
from .options import DEEPEST_WALK
from .state import Lowering

_MANY = 8  # rows from which on vectors run over rows: the nodes of a tree stay in cache, and its first ones are shared;
_STEPS = 4  # of a walk in turns
_MANY_ASK = 4  # where all nodes are asked, rows read their features side by side, which leaves lanes empty for less


def emit_tree_sum(lw: Lowering, node: Node) -> None:
    """Parallel over rows and targets, reduced over trees."""
    assert isinstance(node.op, TreeSum)
    to = lw.place(node.out)
    _by_rows(lw, node, _MANY, lambda many: _walked_sum(lw, node, to, many))
    lw.views[node.out] = to


def _by_rows(lw: Lowering, node: Node, least: int, emit: Callable[[bool], None]) -> None:
    """Emit for `least` rows or more, over which vectors run, or for few; where their number is not known, kernels to choose from."""
    rows = node.out.shape[0]
    if isinstance(rows, int):
        emit(rows >= least)
        return
    many = lw.storage.add("arena", DType.BOOL, ())
    k = KernelBuilder(())
    lw.loop(k, [], [k.store(many, (), fn("ge", index_expr(as_affine(rows)), number(least, DType.I64)))], node.loc)
    before, lw.steps = lw.steps, []
    emit(True)
    by_rows, lw.steps = lw.steps, []
    emit(False)
    lw.steps = [*before, Branch(many.buffer, tuple(by_rows), tuple(lw.steps), node.loc)]


def _walked_sum(lw: Lowering, node: Node, to: View, by_rows: bool) -> None:
    """Vectors run over rows or over trees: a last axis of two halves of the trees is none to run over."""
    assert isinstance(node.op, TreeSum)
    out, trees = node.out, node.inputs[1].shape[1]
    halves = 2 if by_rows and trees % 2 == 0 else 1
    k = KernelBuilder(out.shape, (trees // halves, halves))
    row, target, tree, half = k.index
    at = (target, tree + half * (trees // halves))
    if (nodes := _walked(lw, node, node.op.depth, (*out.shape, trees), by_rows)) is None:
        value = _entry(lw, node, _reached(lw, node, node.op.depth, row, _root(lw, k, node, at)))
    else:
        value = _entry(lw, node, _wide(k.load(nodes, (row, *at))))
    first = fn("eq", index_expr(tree + half), number(0, DType.I64))
    _reduced(lw, k, node, node.op.kind, to, value, first, inward=False)


def _reduced(lw: Lowering, k: KernelBuilder, node: Node, kind: str, to: View, value: E, first: E, *, inward: bool) -> None:
    """The reduction of a value over trees, which at the `first` one begins with the last operand, if there is one."""
    row, target = k.parallel
    for start in node.inputs[6:]:
        before = k.load(lw.contiguous(start), (row, target))
        value = fn("select", first, fn(COMBINE[kind], before, value), value)
    lw.loop(k, [Reduction(kind, value)], [k.store(to, (row, target), Reduced(0, dtype=node.out.dtype))], node.loc, inward=inward)


def emit_asked_sum(lw: Lowering, node: Node) -> None:
    """As `emit_tree_sum`."""
    op = node.op
    assert isinstance(op, AskedTreeSum)
    to = lw.place(node.out)

    def emit(many: bool) -> None:
        k = KernelBuilder(node.out.shape, (node.inputs[2].shape[2],))
        row, target, tree = k.index
        first = fn("eq", index_expr(tree), number(0, DType.I64))
        value = _asked(lw, k, node, many, row, (target, tree))
        _reduced(lw, k, node, op.kind, to, value, first, inward=not many)

    _by_rows(lw, node, _MANY_ASK, emit)
    lw.views[node.out] = to


def emit_tree_leaves(lw: Lowering, node: Node) -> None:
    assert isinstance(node.op, TreeLeaves)
    depth = node.op.depth

    def leaf(k: KernelBuilder, many: bool) -> E:
        if (nodes := _walked(lw, node, depth, node.out.shape, many)) is None:
            return _entry(lw, node, _reached(lw, node, depth, k.index[0], _root(lw, k, node, k.index[1:])))
        return _entry(lw, node, _wide(k.load(nodes, k.index)))

    _leaves(lw, node, _MANY, leaf)


def emit_asked_leaves(lw: Lowering, node: Node) -> None:
    _leaves(lw, node, _MANY_ASK, lambda k, many: _asked(lw, k, node, many, k.index[0], k.index[1:]))


def _leaves(lw: Lowering, node: Node, least: int, leaf: Callable[[KernelBuilder, bool], E]) -> None:
    """Parallel over rows and trees."""
    to = lw.place(node.out)

    def emit(many: bool) -> None:
        k = KernelBuilder(node.out.shape)
        lw.loop(k, [], [k.store(to, k.index, leaf(k, many))], node.loc, inward=not many)

    _by_rows(lw, node, least, emit)
    lw.views[node.out] = to


def _root(lw: Lowering, k: KernelBuilder, node: Node, at: tuple[Affine, ...]) -> E:
    return _wide(k.load(lw.contiguous(node.inputs[1]), at))


def _entry(lw: Lowering, node: Node, here: E) -> E:
    """Of the last table."""
    last = node.inputs[5]
    return Load(lw.contiguous(last).buffer, here, dtype=last.dtype)


def _walked(lw: Lowering, node: Node, depth: int, shape: Shape, many: bool) -> View | None:
    """I32 nodes [rows, …, trees] that are reached, in turns of a few steps while some row still moves; None where one kernel does."""
    if depth <= (DEEPEST_WALK if many else lw.options.walk):  # of many rows, some go all the way
        return None
    nodes, moving = lw.storage.add("arena", DType.I32, shape), lw.storage.add("arena", DType.BOOL, ())
    child = node.inputs[4]

    def walk(steps: int, start: Callable[[KernelBuilder], E]) -> None:
        k = KernelBuilder(shape)
        here = _reached(lw, node, steps, k.index[0], start(k))
        lw.loop(k, [], [k.store(nodes, k.index, Cast(here, dtype=DType.I32))], node.loc, inward=not many)
        k = KernelBuilder((), shape)
        here = k.load(nodes, k.index)
        moves = fn("ne", Load(lw.contiguous(child).buffer, _wide(here), dtype=child.dtype), here)
        lw.loop(k, [Reduction("or", moves)], [k.store(moving, (), Reduced(0, dtype=DType.BOOL))], node.loc)

    first = _STEPS + (depth - _STEPS) % _STEPS  # one turn of the rest, all others alike
    walk(first, lambda k: _root(lw, k, node, k.index[1:]))
    trips = lw.storage.const(np.array((depth - first) // _STEPS, np.int64), ("turns", depth))
    before, lw.steps = lw.steps, []
    walk(_STEPS, lambda k: _wide(k.load(nodes, k.index)))
    turn, lw.steps = tuple(lw.steps), before
    lw.steps.append(Repeat(trips.buffer, moving.buffer, lw.storage.add("arena", DType.I64, ()).buffer, turn, node.loc))
    return nodes


def _reached(lw: Lowering, node: Node, steps: int, row: Affine, here: E) -> E:
    """The node, I64, that a row comes to from the one it is at."""
    x = node.inputs[0]
    read = _packed(lw, node) or _apart(lw, node)
    start = index_expr(row * x.shape[1])
    for _ in range(steps):
        feature, threshold, child = read(here)
        element = Load(lw.contiguous(x).buffer, fn("add", start, feature), dtype=x.dtype)
        here = fn("add", child, _wide(fn("gt", element, threshold)))
    return here


def _wide(e: E) -> E:
    return Cast(e, dtype=DType.I64)


_Reader = Callable[[E], tuple[E, E, E]]  # feature, threshold and child of a node


def _apart(lw: Lowering, node: Node) -> _Reader:
    feature, threshold, child = ((lw.contiguous(v).buffer, v.dtype) for v in node.inputs[2:5])

    def read(here: E) -> tuple[E, E, E]:
        f, t, c = (Load(buffer, here, dtype=dtype) for buffer, dtype in (feature, threshold, child))
        return _wide(f), t, _wide(c)

    return read


def _packed(lw: Lowering, node: Node) -> _Reader | None:
    """All of a node in one word: the threshold below, the feature and the child above. None for tables that do not fit.

    Nodes of large trees lie in the second-level cache, where each table costs a line.
    """
    tables = [v.node.op for v in node.inputs[2:5]]
    if not all(isinstance(t, Const) for t in tables) or node.inputs[3].dtype is not DType.F32:
        return None
    feature, threshold, child = (t.data for t in tables if isinstance(t, Const))
    bits = int(feature.max(initial=0)).bit_length()
    if int(child.max(initial=0)) >> (31 - bits):
        return None
    upper = (child.astype(np.int64) << bits | feature) << 32
    words = lw.storage.const(upper | threshold.view(np.uint32).astype(np.int64), ("nodes", *map(id, tables))).buffer

    def read(here: E) -> tuple[E, E, E]:
        word = Load(words, here, dtype=DType.I64)
        above = fn("shr", word, number(32, DType.I64))
        split = Bits(Cast(word, dtype=DType.I32), DType.I32, dtype=DType.F32)
        return fn("and_", above, number((1 << bits) - 1, DType.I64)), split, fn("shr", above, number(bits, DType.I64))

    return read


def _asked(lw: Lowering, k: KernelBuilder, node: Node, many: bool, row: Affine, at: tuple[Affine, ...]) -> E:
    """The last table's entry of the leaf that a row lands on in the tree `at`: that of its lowest bit, which is a power of 2."""
    x, turned, feature, threshold, mask, last = node.inputs[:6]
    bits = mask.dtype

    def keeps(j: Affine) -> E:
        here = (j, *at)
        f = Cast(k.load(lw.contiguous(feature), here), dtype=DType.I64)
        rows = index_expr(as_affine(x.shape[0])) if many else None
        offset = fn("add", fn("mul", f, rows), index_expr(row)) if rows else fn("add", index_expr(row * x.shape[1]), f)
        element = Load(lw.contiguous(turned if many else x).buffer, offset, dtype=x.dtype)
        right = fn("gt", element, k.load(lw.contiguous(threshold), here))
        return fn("select", right, k.load(lw.contiguous(mask), here), number(-1, bits))

    kept = [keeps(as_affine(j)) for j in range(int(feature.shape[0]))]
    while len(kept) > 1:  # in pairs: no answer waits for all others
        kept = [fn("and_", *kept[i : i + 2]) if i + 1 < len(kept) else kept[i] for i in range(0, len(kept), 2)]
    lowest = fn("and_", kept[0], fn("sub", number(0, bits), kept[0]))
    wide, fraction = (DType.F32, 23) if bits is DType.I32 else (DType.F64, 52)
    exponent = fn("shr", Bits(Cast(lowest, dtype=wide), wide, dtype=bits), number(fraction, bits))
    ones = (1 << (bits.itemsize * 8 - 1 - fraction)) - 1
    leaf = fn("sub", fn("and_", exponent, number(ones, bits)), number(ones >> 1, bits))
    entries = lw.contiguous(last)
    offset = fn("add", fn("mul", Cast(leaf, dtype=DType.I64), number(math.prod(last.shape[1:]), DType.I64)),
                index_expr(entries.offset((as_affine(0), *at))))  # fmt: skip
    return Load(entries.buffer, offset, dtype=last.dtype)
