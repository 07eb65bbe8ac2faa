"""What lowering knows while it walks a graph: steps, and where each value is or how to compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from ...errors import CodegenError
from ...ir import Const, Dim, DType, Elementwise, Graph, Node, Op, Shape, Value, floordiv, prod, symbols_of
from ...ir.ops import Concat, Conv, MatMul, Pool, Reduce, Reshape, Transpose
from ..expr import E
from ..kernel import Kernel, Reduction, Store
from ..plan import PlanStep, Step
from ..simplify import Affine, nested, ravel, strides_of, unravel
from .builder import KernelBuilder, View, computed, convert, finish, number, repeats
from .fusion import ANCHORS, Fusion
from .options import LowerOptions
from .storage import Storage

Virtual = Callable[[KernelBuilder, tuple[Affine, ...]], E]
EmitAnchor = Callable[["Lowering", Node, Value], None]

_DEPTH = 24  # virtual values on top of each other, before one is stored


class Lowering:
    """Lowers one graph; nested graphs get their own, sharing `storage`.

    `emit_anchor(lowering, node, root)` stores `root`, which is the result of a contraction, window or row kernel, or pointwise behind it.
    """

    def __init__(self, graph: Graph, options: LowerOptions, storage: Storage, emit_anchor: EmitAnchor) -> None:
        self.graph, self.options, self.storage, self.emit_anchor = graph, options, storage, emit_anchor
        self.steps: list[PlanStep] = []
        self.views: dict[Value, View] = {}
        self.virtuals: dict[Value, Virtual] = {}
        self.depth: dict[Value, int] = {}
        self.fusion = Fusion(graph, options.opt_level > 0, options.divide)
        self.outputs = graph.kept
        self._placed: dict[Value, View] = {}
        self._starts: dict[Node, tuple[Dim, ...]] = {}  # of the operands of a concatenation
        self.unbound = {s.symbol for s in graph.bound}  # of this graph, not computed yet: what mentions them has no memory

    # --- where values are --------------------------------------------------------------------------------------------

    def place(self, v: Value) -> View:
        """Where a value that is going to be stored belongs: an output, its slice of a concatenation, or a new buffer."""
        chain = [v]
        while chain[-1] not in self._placed:
            got = self._into(chain[-1])
            if got is None:
                w = chain[-1]
                self._placed[w] = self.storage.add("arena", w.dtype, w.shape)
                break
            chain.append(got[0])
        for w in reversed(chain[:-1]):
            got = self._into(w)
            assert got is not None
            target, node = got
            view = self._placed[target]
            if isinstance(node.op, Reshape):
                self._placed[w] = View(view.buffer, w.dtype, w.shape, _split_strides(view, w.shape))
            else:
                self._placed[w] = self.slice_of(view, node, next(p for n, p in self.graph.places[w] if n is node))
        return self._placed[v]

    def _into(self, v: Value) -> tuple[Value, Node] | None:
        uses = self.graph.uses.get(v, ())
        for c in uses:
            if isinstance(c.op, Reshape) and self.exists(c.out):
                placed = self._placed.get(c.out)
                if (placed is not None and placed.contiguous) or (c.out in self.outputs and placed is None and v not in self.outputs):
                    if placed is None:
                        self._placed[c.out] = self.storage.add("arena", c.out.dtype, c.out.shape)
                    return c.out, c
                alone = len(uses) == 1 and v not in self.outputs
                if alone and self._joined(c.out) and axes_merged(v.shape, c.out.shape) is not None:
                    return c.out, c
        join = self._joined(v)
        return None if join is None else (join.out, join)

    def _joined(self, v: Value) -> Node | None:
        """The one concatenation that v may be written into."""
        uses = self.graph.uses.get(v, ())
        joined = [c for c in uses if isinstance(c.op, Concat)]
        if len(joined) != 1 or v in self.outputs or not self.exists(joined[0].out):
            return None
        return joined[0] if all(c is joined[0] or _reads_strided(c.op) for c in uses) else None

    def exists(self, v: Value) -> bool:
        """Whether the sizes of a value are known by now."""
        return not (self.unbound and self.unbound & symbols_of(v.shape))

    def slice_of(self, view: View, concat: Node, position: int) -> View:
        """The part of a concatenation that operand `position` fills."""
        assert isinstance(concat.op, Concat)
        axis = concat.op.axis
        if concat not in self._starts:
            self._starts[concat] = tuple(accumulate((x.shape[axis] for x in concat.inputs), initial=0))
        start = self._starts[concat][position]
        part = View(view.buffer, view.dtype, concat.inputs[position].shape, view.strides)
        return self.storage.shifted(part, start * view.strides[axis])

    def placed(self, v: Value) -> View | None:
        return self._placed.get(v)

    def set_output(self, v: Value, view: View) -> None:
        """Say beforehand where a graph output is to be stored."""
        self._placed.setdefault(v, view)

    def view(self, v: Value) -> View:
        """Where the value is in memory; computes and stores it first if it is virtual."""
        if v not in self.views:
            if isinstance(v.node.op, Const):
                self.views[v] = self.storage.const(v.node.op.data)
            else:
                self.materialise(v)
        return self.views[v]

    def contiguous(self, v: Value) -> View:
        """The value in row-major memory."""
        view = self.view(v)
        if not view.contiguous:
            view = self.copy(v, self.storage.add("arena", v.dtype, v.shape))
            self.views[v] = view
        return view

    def read(self, k: KernelBuilder, v: Value, index: tuple[Affine, ...]) -> E:
        """Element `index` of a value inside a kernel."""
        index = tuple(Affine({}) if d == 1 else i for i, d in zip(index, v.shape, strict=True))
        key = (v, index)
        if key not in k.memo:
            if v in k.override:
                e = k.override[v](index)
            elif v in self.views:
                e = k.load(self.views[v], index)
            elif v in self.virtuals:
                e = self.virtuals[v](k, index)
            elif isinstance(v.node.op, Const) and v.node.op.data.size == 1 and not v.dtype.is_complex:
                e = scalar(v)
            else:
                e = k.load(self.view(v), index)
            k.memo[key] = convert(e, computed(v.dtype))
        return k.memo[key]

    def define(self, v: Value, virtual: Virtual, sources: Sequence[Value]) -> None:
        """Give a value as an index function."""
        depth = 0
        for s in sources:
            if s in self.virtuals and s not in self.views:
                if self.depth[s] >= _DEPTH and self.fusion.anchor_of(s) is None and not self.fusion.pending(s):
                    self.materialise(s)
                else:
                    depth = max(depth, self.depth[s] + 1)
        self.virtuals[v], self.depth[v] = virtual, depth

    # --- steps -------------------------------------------------------------------------------------------------------

    def step(self, kernel: Kernel, buffers: tuple[int, ...], loc: tuple[str, ...]) -> None:
        self.steps.append(Step(kernel, buffers, loc))

    def loop(
        self, k: KernelBuilder, stages: Sequence[Reduction], stores: Sequence[Store], loc: tuple[str, ...], *, inward: bool = False
    ) -> None:
        kernel, buffers = finish(k, stages, stores, self.storage.extent, inward)
        self.step(kernel, buffers, loc)

    def copy(self, v: Value, to: View, loc: tuple[str, ...] | None = None) -> View:
        """Store every element of a value."""
        check(v)
        k = KernelBuilder(v.shape)
        self.loop(k, (), [k.store(to, k.index, self.read(k, v, k.index))], v.node.loc if loc is None else loc)
        return to

    def materialise(self, v: Value) -> None:
        """Compute and store a value, in the kernel of its anchor if it has one."""
        anchor = v.node if isinstance(v.node.op, ANCHORS) else self.fusion.anchor_of(v)
        if anchor is None or anchor.out in self.views:
            self.materialise_plain(v)
        else:
            self.emit_anchor(self, anchor, v)

    def materialise_plain(self, v: Value) -> None:
        check(v)
        k = KernelBuilder(v.shape)
        value = self.read(k, v, k.index)
        here = k.index
        if (times := repeats(value, v.shape)) > 1:  # an axis for the elements and one for their copies, which are woven
            k = KernelBuilder((*v.shape[:-1], floordiv(v.shape[-1], times), times))
            here = (*k.index[:-2], k.index[-2] * times + k.index[-1])
            value = self.read(k, v, here)
        to, index, placed = self.destination(v, here)
        self.loop(k, (), [k.store(to, index, value)], self.fusion.locations(v))
        self.views[placed] = to

    def destination(self, v: Value, index: tuple[Affine, ...]) -> tuple[View, tuple[Affine, ...], Value]:
        """Where and at which index to store v[index], and the value that is then in memory.

        If the only reader is a transpose that gets stored, v goes right there, unless that would scatter what is contiguous.
        """
        w = v
        moved = index
        innermost = {a for a, c in ravel(index, v.shape).terms.items() if a.kind == "axis" and c == 1}
        while w not in self.outputs and len(uses := self.graph.uses.get(w, ())) == 1 and len(innermost) == 1:
            reader = uses[0]
            if not self.exists(reader.out):
                break
            if isinstance(reader.op, Reshape) and not self.fusion.stored(reader.out):
                moved = unravel(ravel(moved, w.shape), reader.out.shape)
                w = reader.out
                continue
            if isinstance(reader.op, Transpose) and self.fusion.stored(reader.out):
                moved = tuple(moved[p] for p in reader.op.perm)
                offset = self.place(reader.out).offset(moved)
                (a,) = innermost
                deep = {b for x in nested(offset)[1:] for b in x.terms}
                if offset.terms.get(a) == 1 and a not in deep:
                    return self.place(reader.out), moved, reader.out
            break
        return self.place(v), index, v


def axes_merged(parts: Shape, shape: Shape) -> tuple[int, ...] | None:
    """If axes of `shape` are products of neighbouring ones of `parts`: for each of these, the axis it is in."""
    axes: list[int] = []
    for a, size in enumerate(shape):
        found: Dim = 1
        while found != size:
            if len(axes) == len(parts) or (isinstance(found, int) and isinstance(size, int) and found > size):
                return None
            found = found * parts[len(axes)]
            axes.append(a)
    ones = parts[len(axes) :]
    return (*axes, *(len(shape) - 1 for _ in ones)) if all(d == 1 for d in ones) and (shape or not ones) else None


def _split_strides(view: View, shape: Shape) -> Shape:
    """Strides under a shape whose neighbouring axes the view's axes are products of; of any shape, where the view is contiguous."""
    if view.contiguous:
        return strides_of(shape)
    axes = axes_merged(shape, view.shape)
    assert axes is not None
    strides: list[Dim] = []
    for x, a in enumerate(axes):
        inner = [shape[y] for y in range(x + 1, len(shape)) if axes[y] == a]
        strides.append(prod(inner) * view.strides[a])
    return tuple(strides)


def _reads_strided(op: Op) -> bool:
    """Readers that take a slice of a concatenation as well as a tensor of its own."""
    return isinstance(op, (Conv, Elementwise, MatMul, Pool, Reduce))


def check(v: Value) -> None:
    if v.dtype is DType.STRING:
        raise CodegenError(f"{v.node.op.name} gives {v.type}, which kernels do not compute", loc=" + ".join(v.node.loc))


def scalar(v: Value) -> E:
    """The element of a one-element constant."""
    data = v.data.reshape(())
    value = float(data) if v.dtype.is_float else bool(data) if v.dtype is DType.BOOL else int(data)
    return number(value, computed(v.dtype))
