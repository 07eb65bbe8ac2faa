"""Building one kernel: loads by buffer and affine offset, then operands numbered and loop axes collapsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, Shape, Value, floordiv, is_static, prod, upper
from ..expr import Bits, Call, Cast, E, Load, Num
from ..kernel import LoopKernel, Operand, Reduction, Store
from ..simplify import Affine, Atom, axis, axis_expr, nested, strides_of, substitute_axes, to_expr
from .split_axes import split_axes

_MOST_COPIES = 15  # neighbours that vectors are interleaved for,
_LINE = 64  # bytes of operands that are worth it
_HELD = {DType.I4: DType.I8, DType.I2: DType.I8, DType.U4: DType.U8, DType.U2: DType.U8}


@dataclass(frozen=True, slots=True, eq=False)
class Index(E):
    """An affine index used as an expression; only while building, finished kernels have none."""

    value: Affine


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a buffer, from its start: element i at Σ i·strides."""

    buffer: int
    dtype: DType
    shape: Shape
    strides: Shape

    @property
    def contiguous(self) -> bool:
        return all(d == 1 or s == t for d, s, t in zip(self.shape, self.strides, strides_of(self.shape), strict=True))

    def same_elements(self, other: View) -> bool:
        """Whether both have the same elements at the same index."""
        if (self.buffer, self.shape) != (other.buffer, other.shape):
            return False
        return all(d == 1 or s == t for d, s, t in zip(self.shape, self.strides, other.strides, strict=True))

    def offset(self, index: Sequence[Affine]) -> Affine:
        out = Affine({})
        for i, d, s in zip(index, self.shape, self.strides, strict=True):
            if d != 1:
                out = out + i * s
        return out

    @property
    def span(self) -> Dim:
        """Elements from the first to the last one reached."""
        if 0 in self.shape:
            return 0
        return sum(((d - 1) * s for d, s in zip(self.shape, self.strides, strict=True)), 0) + 1


def computed(dtype: DType) -> DType:
    """The dtype in which elements of `dtype` are computed: small floats in float32, integers below 8 bits in 8."""
    return DType.F32 if dtype.is_float and dtype.itemsize < 4 else _HELD.get(dtype, dtype)


def convert(e: E, dtype: DType) -> E:
    """e as `dtype`. What was widened to be computed with is taken from before that."""
    if e.dtype is dtype:
        return e
    if isinstance(e, Cast) and e.arg.dtype is dtype and e.dtype is computed(dtype):
        return e.arg
    return Cast(e, dtype=dtype)


def number(value: float | int | bool, dtype: DType) -> E:
    return Num(value, dtype=dtype)


def index_expr(x: Affine) -> E:
    return Num(x.const, dtype=DType.I64) if x.is_const and isinstance(x.const, int) else Index(x, dtype=DType.I64)


def fn(name: str, *args: E, dtype: DType | None = None) -> E:
    comparison = name in ("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf")
    return Call(name, args, dtype=DType.BOOL if comparison else dtype or args[-1].dtype)


def all_of(conditions: Iterable[E]) -> E | None:
    out: E | None = None
    for c in conditions:
        out = c if out is None else fn("and_", out, c)
    return out


class KernelBuilder:
    """Axes are numbered through, parallel then reduce; `index[i]` is the affine variable of axis i."""

    def __init__(self, axes: Shape, reduce_axes: Shape = ()) -> None:
        self.axes, self.reduce_axes = axes, reduce_axes
        self.index = tuple(Affine({}) if d == 1 else axis(i, d) for i, d in enumerate((*axes, *reduce_axes)))
        self.memo: dict[tuple[Value, tuple[Affine, ...]], E] = {}  # elements read
        self.indices: dict[tuple[Value, tuple[Affine, ...]], Affine] = {}  # those that are indices, in range
        self.override: dict[Value, Callable[[tuple[Affine, ...]], E]] = {}
        self._loads: dict[tuple[int, Affine], E] = {}

    @property
    def parallel(self) -> tuple[Affine, ...]:
        return self.index[: len(self.axes)]

    @property
    def reduced(self) -> tuple[Affine, ...]:
        return self.index[len(self.axes) :]

    def load(self, view: View, index: Sequence[Affine]) -> E:
        """The element, in its compute dtype."""
        offset = view.offset(index)
        key = (view.buffer, offset)
        if key not in self._loads:
            e = Load(view.buffer, Index(offset, dtype=DType.I64), dtype=view.dtype)
            self._loads[key] = convert(e, computed(view.dtype))
        return self._loads[key]

    def store(self, view: View, index: Sequence[Affine], value: E, *, per_element: bool = False, guard: E | None = None) -> Store:
        return Store(view.buffer, Index(view.offset(index), dtype=DType.I64), convert(value, view.dtype), per_element, guard)


def children(e: E) -> tuple[E, ...]:
    match e:
        case Load():
            return (e.offset,)
        case Call():
            return e.args
        case Cast() | Bits():
            return (e.arg,)
        case Index():
            return tuple(a.args[0] for x in nested(e.value) for a in x.terms if a.kind == "e")
    return ()


def reachable(roots: Iterable[E]) -> list[E]:
    seen: dict[int, E] = {}
    stack = list(roots)
    while stack:
        e = stack.pop()
        if id(e) not in seen:
            seen[id(e)] = e
            stack.extend(children(e))
    return list(seen.values())


class Finisher:
    """Rewrites expressions: operands by number, collapsed axes, `Index` to arithmetic."""

    def __init__(self, operands: Sequence[int] = (), new_axes: dict[int, Affine] | None = None, apart: bool = False) -> None:
        self.operands: dict[int, int] = {b: i for i, b in enumerate(operands)}
        self.new_axes = new_axes
        self._done: dict[int, tuple[E, E]] = {}
        self._affine: dict[Affine, E] = {}
        self._moved: dict[Affine, Affine] = {}
        self._apart = apart

    def operand(self, buffer: int) -> int:
        return self.operands.setdefault(buffer, len(self.operands))

    def __call__(self, root: E) -> E:
        """Without recursion: chains get long. Buffers are numbered from the root on."""
        stack: list[tuple[E, bool]] = [(root, False)]
        while stack:
            e, ready = stack.pop()
            if id(e) in self._done:
                continue
            if ready:
                self._done[id(e)] = (e, self._rewritten(e))  # keeps e alive: ids must not be reused
                continue
            if isinstance(e, Load):
                self.operand(e.operand)
            stack.append((e, True))
            stack.extend((c, False) for c in reversed(children(e)))
        return self._done[id(root)][1]

    def _rewritten(self, e: E) -> E:
        match e:
            case Load():
                return Load(self.operand(e.operand), self(e.offset), dtype=e.dtype)
            case Call():
                return Call(e.fn, tuple(self(a) for a in e.args), dtype=e.dtype)
            case Cast():
                return Cast(self(e.arg), dtype=e.dtype)
            case Bits():
                return Bits(self(e.arg), e.source, dtype=e.dtype)
            case Index():
                x = e.value
                if self.new_axes is not None:
                    x = substitute_axes(x, self.new_axes, lambda a: a, self._moved, apart=self._apart)
                return to_expr(x, self._leaf, self._affine)
        return e

    def _leaf(self, a: Atom) -> E:
        return axis_expr(a.args[0]) if a.kind == "axis" else self(a.args[0])


def collapse(extents: Shape, first: int, indices: Sequence[Affine], base: int) -> tuple[Shape, dict[int, Affine]]:
    """Merge neighbouring axes that every index walks as one, drop those of extent 1.

    `first` is the number of the first of these axes; the new ones are numbered from `base`.
    """
    kept = [(first + i, d) for i, d in enumerate(extents) if d != 1]
    groups: list[list[tuple[int, Dim]]] = []
    for number_, d in reversed(kept):
        if groups:
            inner, size = groups[-1][-1][0], groups[-1][-1][1]
            here, there = Atom("axis", (number_,), 0, 0), Atom("axis", (inner,), 0, 0)
            if all(x.terms.get(here, 0) == x.terms.get(there, 0) * size for x in indices):
                groups[-1].append((number_, d))
                continue
        groups.append([(number_, d)])
    groups.reverse()
    sizes = tuple(prod(d for _, d in g) for g in groups)
    new: dict[int, Affine] = {first + i: Affine({}) for i, d in enumerate(extents) if d == 1}
    for g, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        # every index uses the axes of a group in the ratio of their sizes, so only the innermost is carried over
        for number_, _ in group:
            new[number_] = Affine({})
        new[group[0][0]] = axis(base + g, size)
    return sizes, new


def finish(k: KernelBuilder, stages: Sequence[Reduction], stores: Sequence[Store],
           numel: Callable[[int], tuple[DType, Dim]], inward: bool = False) -> tuple[LoopKernel, tuple[int, ...]]:  # fmt: skip
    """The kernel and its buffers in operand order. `numel` gives dtype and number of elements of a buffer."""
    roots = [r.value for r in stages] + [e for s in stores for e in (s.offset, s.value, s.guard) if e is not None]
    indices = list(dict.fromkeys(x for e in reachable(roots) if isinstance(e, Index) for x in nested(e.value)))
    parallel, reduce_axes = k.axes, k.reduce_axes
    if k.reduce_axes:
        reduce_axes, apart = split_axes(k.parallel, k.reduce_axes, indices, numbers=bool(stages) and any(s.per_element for s in stores))
        # windows of channels that belong to heads: no vector crosses one (a row that is all there is stays whole, for threads to cut)
        if len(reduce_axes) == len(k.reduce_axes) and sum(d != 1 for d in k.axes) > 1:
            extents, apart = split_axes((), (*k.axes, *k.reduce_axes), indices, row=len(k.axes) - 1)
            parallel, reduce_axes = extents[: -len(k.reduce_axes)], extents[-len(k.reduce_axes) :]
    else:
        parallel, apart = split_axes((), k.axes, indices, numbers=not stages)
    split = len(parallel) + len(reduce_axes) > len(k.axes) + len(k.reduce_axes)
    if split:
        moved: dict[Affine, Affine] = {}
        indices = list(dict.fromkeys(y for x in indices for y in nested(substitute_axes(x, apart, lambda a: a, moved, apart=True))))
    axes, new = collapse(parallel, 0, indices, 0)
    base = max(len(axes), 1)
    reduce_axes, new_reduce = collapse(reduce_axes, len(parallel), indices, base)
    if k.reduce_axes and not reduce_axes:
        reduce_axes = (1,)
    new |= new_reduce
    if split:
        moved = {}
        new = {i: substitute_axes(x, new, lambda a: a, moved) for i, x in apart.items()}
    f = Finisher(new_axes=new, apart=split)
    written = {s.operand for s in stores}
    stages = tuple(Reduction(r.fn, f(r.value)) for r in stages)
    stores = tuple(Store(f.operand(s.operand), f(s.offset), f(s.value), s.per_element, None if s.guard is None else f(s.guard))
                   for s in stores)  # fmt: skip
    operands = tuple(Operand(*numel(b), written=b in written) for b in f.operands)
    return LoopKernel(axes or (1,), reduce_axes, operands, stages, stores, inward), tuple(f.operands)


def repeats(value: E, shape: Shape) -> int:
    """How many neighbours along the last axis share an element of some operand, as in images that are made larger; 1 on short lines."""
    last = axis(len(shape) - 1, shape[-1]) if shape else None
    for e in reachable([value]):
        for x in nested(e.value) if isinstance(e, Index) else ():
            for a in x.terms:
                if a.kind == "div" and a.args[0] == last and isinstance(times := a.args[1], int) and times <= _MOST_COPIES:
                    elements = floordiv(shape[-1], times)
                    if elements * times == shape[-1] and upper(elements) * value.dtype.itemsize >= _LINE:
                        return times
    return 1


def empty(shape: Shape) -> bool:
    return is_static(shape) and prod(shape) == 0
