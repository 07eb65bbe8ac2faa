"""Which values are stored, and which are computed inside the kernel of another: one analysis for all ops.

Backwards over the graph, every value asks its readers in which kernel they will run. If all name the same one, read each
element once and the kernel stays small, the value joins it. An anchor (contraction, reduction, norm …) joins the
elementwise values behind it, one anchor a kernel: they become its epilogue.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ...ir import Const, DType, Elementwise, Graph, Node, Op, S, Shape, Value, prod
from ...ir.ops import (
    LRN,
    ArgReduce,
    Cast,
    Concat,
    Conv,
    Dequantize,
    DimTensor,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    LayerNorm,
    MatMul,
    OneHot,
    Pad,
    PlaneConv,
    Pool,
    Reduce,
    Reshape,
    Resize,
    RMSNorm,
    Rotary,
    ScatterElements,
    ScatterND,
    Slice,
    Softmax,
    Stretch,
    Transpose,
)  # fmt: skip
from ..expr import Call, E, ExprScalars, Num
from ..simplify import axis, ravel, unravel
from .attention_op import BlockedAttention
from .builder import computed, reachable
from .composite import ColumnsToImage
from .contraction import epilogue_fits, is_contraction, is_dot

CAP = 60  # scalar operations in one kernel
_ROW = 16  # elements of a row that fill a vector
_REPEATED = 4  # cheap operations that rows may recompute in each of their stages
_HEAVY = frozenset({"exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
                    "atanh", "erf", "normcdf", "pow", "div", "sqrt", "rsqrt", "mod", "fmod"})  # fmt: skip

MOVES = (Transpose, Slice, Expand, Stretch, Gather, Pad, Reshape, Iota, DimTensor, GatherElements, GatherND, OneHot, Resize)
ANCHORS = (MatMul, Conv, Reduce, ArgReduce, Softmax, LayerNorm, RMSNorm, Pool, PlaneConv, LRN, ColumnsToImage)
ROWS = (Softmax, LayerNorm, RMSNorm)
ANYWHERE = "anywhere"  # trivial: computed in every reader
Key = Hashable


@dataclass
class Cost:
    operations: int
    heavy: bool


class Fusion:
    """Result: `group[v]` is v itself (stored), another value or node key (computed there), or ANYWHERE."""

    def __init__(self, graph: Graph, fuse: bool, divide: bool = False) -> None:
        self.graph, self.fuse, self.divide = graph, fuse, divide
        self.outputs = graph.kept
        self.position = {n: i for i, n in enumerate(graph.nodes)}
        self.group: dict[Value, Key] = {}
        self._direct: dict[Value, bool] = {}
        self._repeated: set[Value] = set()
        self._size: dict[Key, int] = {}
        self._repeat_size: dict[Key, int] = {}
        self._anchor: dict[Value, Node] = {}
        self._members: dict[Key, list[Node]] = {}
        self._costs: dict[tuple[type[Op], tuple[DType, ...]], Cost] = {}
        self._behind: dict[Value, Node] = {}  # value -> anchor it is pointwise behind
        for node in graph.nodes:
            self._forward(node)
        for node in reversed(graph.nodes):
            if len(node.types) == 1 and not isinstance(node.op, Const):
                self._decide(node)

    # --- questions of the driver -------------------------------------------------------------------------------------

    def stored(self, v: Value) -> bool:
        return self.group.get(v) == v

    def pending(self, v: Value) -> bool:
        """Computed in the kernel of another value, whose anchor may be needed to compute it."""
        key = self.group.get(v)
        return isinstance(key, Value) and key != v and key in self._anchor

    def anchor_of(self, root: Value) -> Node | None:
        return self._anchor.get(root)

    def locations(self, root: Value) -> tuple[str, ...]:
        nodes = {*self._members.get(root, ()), root.node}
        return tuple(dict.fromkeys(name for n in sorted(nodes, key=lambda n: self.position.get(n, 0)) for name in n.loc))

    def between(self, anchor: Node, root: Value) -> list[Value]:
        """Values of the kernel of `root` that its anchor reaches, in order."""
        reached = {anchor.out}
        out = []
        for n in sorted({*self._members.get(root, ()), root.node}, key=lambda n: self.position[n]):
            if n is not anchor and any(v in reached for v in n.inputs):
                reached.add(n.out)
                out.append(n.out)
        return out

    # --- forward: what is pointwise behind an anchor ------------------------------------------------------------------

    def _forward(self, node: Node) -> None:
        op = node.op
        if isinstance(op, ANCHORS):
            self._behind[node.out] = node
        elif isinstance(op, Reshape) and self._only_pointwise(node.inputs[0]) and prod(node.inputs[0].shape) == prod(node.out.shape):
            if node.inputs[0] in self._behind:
                self._behind[node.out] = self._behind[node.inputs[0]]
        elif isinstance(op, Elementwise):
            found = [v for v in node.inputs if v in self._behind and v.shape == node.out.shape and self._only_pointwise(v)]
            if found:
                anchor = max((self._behind[v] for v in found), key=lambda n: self.position[n])
                if not is_contraction(anchor) or epilogue_fits(anchor, node):
                    self._behind[node.out] = anchor

    def _only_pointwise(self, v: Value) -> bool:
        return v not in self.outputs and all(isinstance(c.op, (Elementwise, Reshape)) for c in self.graph.uses.get(v, ()))

    # --- backward: who computes what ----------------------------------------------------------------------------------

    def _decide(self, node: Node) -> None:
        v = node.out
        self.group[v] = v
        self._direct[v] = True
        uses = self.graph.uses.get(v, ())
        if isinstance(node.op, ANCHORS):
            if self.fuse and uses and v not in self.outputs:
                self._join_anchor(node)
            return
        if not isinstance(node.op, (Elementwise, *MOVES)) or v in self.outputs:
            return
        if not uses or (not self.fuse and isinstance(node.op, Elementwise)):
            return
        key = self._common_reader(node)
        if key is not None:
            self.group[v] = key
            self._members.setdefault(key, []).append(node)
            self._size[key] = self._size.get(key, 0) + self.cost(node).operations
            pointwise = isinstance(node.op, (Elementwise, Reshape))
            self._direct[v] = pointwise and all(
                self._direct.get(c.out, False) and isinstance(c.op, (Elementwise, Reshape)) for c in uses if len(c.types) == 1
            )
        elif self._trivial(node) or self._widens_for_all(node):
            self.group[v] = ANYWHERE
            self._behind.pop(v, None)
            self._direct[v] = False

    def _common_reader(self, node: Node) -> Key | None:
        v = node.out
        keys: set[Key] = set()
        repeated = False
        cost = self.cost(node)
        for c, position in self.graph.places[v]:
            key, again = self._accepts(c, position, v)
            if key is None or key == ANYWHERE:
                return None
            keys.add(key)
            repeated = repeated or again
        if len(keys) != 1:
            return None
        (key,) = keys
        behind = self._behind.get(v)
        apart = behind is not None and any(self._behind.get(c.out) is not behind for c in self.graph.uses[v])
        if apart and not _widens(node):
            return None  # better stored as the epilogue of its anchor
        if self._size.get(key, 0) + cost.operations > CAP:
            return None
        if isinstance(node.op, Reshape) and behind is None and not self._indexed(node.inputs[0].shape, v.shape):
            return None
        if repeated:
            if cost.heavy or self._repeat_size.get(key, 0) + cost.operations > _REPEATED:
                return None
            self._repeat_size[key] = self._repeat_size.get(key, 0) + cost.operations
            self._repeated.add(v)
        if apart:
            del self._behind[v]  # what it widens is stored there
        return key

    def _indexed(self, source: Shape, target: Shape) -> bool:
        """Whether a reader may read a reshaped value where it was: without division, or with one for a row that stays as it is."""
        row = target[-1] if target else 1
        return affine_reshape(source, target) or (self.divide and source[-1:] == target[-1:] and isinstance(row, int) and row >= _ROW)

    def _accepts(self, c: Node, position: int, v: Value) -> tuple[Key | None, bool]:
        """(kernel in which reader c computes operand `position`, whether it reads elements several times)."""
        op = c.op
        again = len(c.types) == 1 and c.out in self._repeated
        move = isinstance(v.node.op, MOVES)
        if isinstance(op, Elementwise):
            return (self.group[c.out], again) if v.shape == c.out.shape or _same_elements(v.shape, c.out.shape) else (None, False)
        match op:
            case Transpose(perm=perm) if perm[-1] != len(perm) - 1 and _picks_rows(v):
                return None, False
            case Transpose() | Slice() | Reshape():
                return self.group[c.out], again
            case Pad() if position == 0:
                return self.group[c.out], again
            case Expand():
                return (self.group[c.out], again) if prod(v.shape) == prod(c.out.shape) else (None, False)
            case Reduce() | ArgReduce():
                return ("in", c), False
            case Softmax() | LayerNorm() | RMSNorm() if position == 0:
                return ("in", c), True
            case Conv() if position == 0 and _widens(v.node) and not is_contraction(c):
                return ("in", c), True
            case MatMul() if is_dot(c):
                return (("in", c), True) if move else (None, False)
            case MatMul() if position == 1 and not isinstance(v.node.op, Const):
                _a, b = c.inputs
                full = prod(c.out.shape[:-2])
                return (("pack", c), False) if prod(b.shape[:-2]) in (1, full) else (None, False)
            case MatMul() if position == 0 and move:
                return ("rows", c), False
            case BlockedAttention() if position < 3 and move:
                return ("rows", c), False
            case Rotary() if position == 0 and move:
                return ("rows", c), False
            case Concat() if move:
                return ("part", c, position), False
            case ScatterElements() | ScatterND() if position == 0 and v not in self._behind:  # which copies it first
                return ("copied", c), False
        return None, False

    def _trivial(self, node: Node) -> bool:
        op = node.op
        if isinstance(op, (Slice, Expand, Stretch, Reshape, Iota, DimTensor)):
            return True
        cost = self.cost(node)
        return isinstance(op, Elementwise) and not cost.heavy and cost.operations <= 2 and node.out.type.numel == 1

    def _widens_for_all(self, node: Node) -> bool:
        """Whether several kernels read fewer bytes if each widens its operand for itself: bytes to floats."""
        return self.fuse and isinstance(node.op, Dequantize) and _widens(node) and self._computed_by_readers(node.out)

    def _computed_by_readers(self, v: Value) -> bool:
        """Whether every reader can compute the value for itself; a reshape that they see through can if its own readers can."""
        for c, position in self.graph.places[v]:
            key, _ = self._accepts(c, position, v)
            if key is None or (key == ANYWHERE and not (isinstance(c.op, Reshape) and self._computed_by_readers(c.out))):
                return False
        return True

    def _join_anchor(self, node: Node) -> None:
        v = node.out
        keys = set()
        for c in self.graph.uses[v]:
            fits = isinstance(c.op, Reshape) or (isinstance(c.op, Elementwise) and c.out.shape == v.shape)
            if not fits or self._behind.get(c.out) is not node or not self._direct[c.out]:
                return
            keys.add(self.group[c.out])
        if len(keys) != 1:
            return
        (root,) = keys
        if isinstance(root, Value) and root not in self._anchor:
            self._anchor[root] = node
            self.group[v] = root
            self._members.setdefault(root, []).append(node)

    def cost(self, node: Node) -> Cost:
        op = node.op
        if isinstance(op, Resize):
            return Cost(2, False) if op.mode == "nearest" else Cost(20, True)
        if not isinstance(op, Elementwise):
            return Cost(1, False)
        key = (type(op), tuple(v.dtype for v in node.inputs))
        if key not in self._costs:
            args: list[E] = [_Leaf(dtype=computed(v.dtype)) for v in node.inputs]
            body = op.body(S(ExprScalars()), *args)
            calls = [e for e in reachable([body]) if isinstance(e, Call)]
            heavy = any(e.fn in _HEAVY and not _by_constant(e) for e in calls)
            self._costs[key] = Cost(max(1, len(calls)), heavy)
        return self._costs[key]


class _Leaf(E):
    """An operand while measuring a body."""


def _picks_rows(v: Value) -> bool:
    """Whether a value is computed from rows that indices pick, long enough for vectors: turned, they would be gathered one by one."""
    rows = v.shape[-1] if v.shape else 1
    if isinstance(rows, int) and rows < _ROW:
        return False
    stack, seen = [v], set[Value]()
    while stack and len(seen) < CAP:
        x = stack.pop()
        if x in seen or x.shape[-1:] != v.shape[-1:]:
            continue
        seen.add(x)
        if isinstance(x.node.op, Gather):
            return x.node.op.axis < len(x.node.inputs[0].shape) - 1
        if isinstance(x.node.op, Elementwise):
            stack.extend(x.node.inputs)
    return False


def _widens(node: Node) -> bool:
    """Whether fewer bytes are read if its operand is stored."""
    if isinstance(node.op, Dequantize):
        return node.inputs[0].dtype.itemsize == 1 and all(isinstance(v.node.op, Const) and v.type.numel == 1 for v in node.inputs[1:])
    return isinstance(node.op, Cast) and node.inputs[0].dtype.is_float and node.inputs[0].dtype.itemsize < node.op.dtype.itemsize


def _by_constant(e: Call) -> bool:
    return e.fn == "div" and isinstance(e.args[1], Num)


def _same_elements(a: Shape, b: Shape) -> bool:
    return tuple(d for d in a if d != 1) == tuple(d for d in b if d != 1)


def affine_reshape(source: Shape, target: Shape) -> bool:
    """Whether an index of the target maps to one of the source without division."""
    if 0 in source or 0 in target:
        return False
    index = tuple(axis(i, d) for i, d in enumerate(target))
    return all(i.coefficients(len(target)) is not None for i in unravel(ravel(index, target), source))
