"""Windows: reductions whose elements are guarded against the border (pooling, depthwise convolution).

A guard is a conjunction of affine conditions on the position and the reduce axes, the same for all vector lanes. Where
it holds for the whole window (the interior) it disappears, and with it the clamps that keep addresses in range. Elsewhere the
reduce axes are cut to where it holds, provided that a guarded-off element does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Dim, DType
from ...affine import Affine, affine, axes_of
from ...expr import Call, E, Guarded, Num, children, postorder, rebuilt
from ...kernel import LoopKernel
from .rewrite import transform

Fact = Affine  # constant + Σ coefficient·axis, known to be ≥ 0
Cuts = tuple[tuple[Fact, ...], ...]


@dataclass(frozen=True)
class Windows:
    """A kernel without the guards of its windows.

    inside: where every guard holds for the whole window; bounded: where those do that are the same for all lanes (at the
    points of the window that are visited), the others being decided lane by lane. facts: what must be ≥ 0 for that, `lanes`:
    those that differ between lanes. cuts: per stage, its facts, or None when the reduce axes cannot be cut to where they hold.
    """

    inside: LoopKernel
    bounded: LoopKernel
    facts: tuple[Fact, ...]
    lanes: tuple[Fact, ...]
    cuts: Cuts | None

    def along(self, axis: int) -> tuple[Fact, ...]:
        return tuple(f for f in self.facts if axis in f[1])

    def across(self, axis: int) -> Cuts | None:
        """The cuts that are the same all along `axis`; None without any."""
        if self.cuts is None:
            return None
        out = tuple(tuple(f for f in facts if axis not in f[1]) for facts in self.cuts)
        return out if any(out) else None


def windows(k: LoopKernel, vector_axis: int) -> Windows | None:
    """None when the kernel has no guards of this kind."""
    n = len(k.axes)
    if not k.reduce_axes or any(s.per_element for s in k.stores):
        return None
    values = [s.value for s in k.stages]
    guards: dict[int, list[Fact]] = {}
    depends = axes_of(k.roots)
    for e in postorder(k.roots):
        if isinstance(e, Call) and e.fn == "select":
            facts = facts_of(e.args[0])
            if facts is None or not all(_decidable(f, vector_axis, n) for f in facts):
                continue
            if all(vector_axis not in f[1] for f in facts) or vector_axis in depends[id(e.args[1])]:
                guards[id(e)] = facts
    facts = [f for v in values for e in postorder([v]) for f in guards.get(id(e), [])]
    if not facts:
        return None
    lanes = [f for f in facts if vector_axis in f[1]]
    shared = [f for f in facts if vector_axis not in f[1]]
    exposed = {id(e) for e in postorder(k.roots, lambda e: children(e)[2:] if id(e) in guards else children(e))}

    def without(known: list[Fact], decide: bool) -> LoopKernel:
        """The kernel where `known` holds; `decide`: what differs between lanes is decided there."""

        def change(e: E, kids: tuple[E, ...]) -> E:
            if id(e) in guards:
                mine = tuple(f for f in guards[id(e)] if vector_axis in f[1]) if decide else ()
                return Guarded(kids[1], kids[2], mine, dtype=e.dtype) if mine else kids[1]
            if isinstance(e, Call) and e.fn in ("min", "max") and e.dtype is DType.I64:
                x, y = affine(kids[0]), affine(kids[1])
                if x is not None and y is not None:
                    less = difference(y, x) if e.fn == "min" else difference(x, y)
                    if _implied(less, known if id(e) in exposed else [*known, *lanes]):
                        return kids[0]
            return rebuilt(e, kids)

        return transform(k, change, k.axes, k.reduce_axes)

    box = {n + j: size - 1 for j, size in enumerate(k.reduce_axes) if isinstance(size, int)}
    inside = without([*facts, *(_least(f, box) for f in facts)], False)
    bounded = without(shared, True)
    cuts: list[tuple[Fact, ...]] = []
    for s in k.stages:
        mine = [f for e in postorder([s.value]) for f in guards.get(id(e), []) if vector_axis not in f[1]]
        removing = _removing(s.value, guards, s.fn)
        if removing is None or any(f not in removing for f in mine) or any(len(_reduced(f, n)) != 1 for f in mine):
            return Windows(inside, bounded, _unique(shared), _unique(lanes), None)
        cuts.append(_unique(mine))
    return Windows(inside, bounded, _unique(shared), _unique(lanes), tuple(cuts))


def _decidable(f: Fact, vector_axis: int, n: int) -> bool:
    """Whether a fact is one about a line of pixels: whole steps along the reduce axes, and along the vector axis if at all."""
    if not _integer(f, n):
        return False
    return vector_axis not in f[1] or (isinstance(f[1][vector_axis], int) and all(a == vector_axis or a >= n for a in f[1]))


def _least(f: Fact, box: dict[int, int]) -> Fact:
    """What a fact says of the whole window: its least value over the reduce axes."""
    constant = f[0]
    for a, last in box.items():
        c = f[1].get(a, 0)
        if isinstance(c, int) and c < 0:
            constant = constant + c * last
    return constant, {a: c for a, c in f[1].items() if a not in box}


def _unique(facts: list[Fact]) -> tuple[Fact, ...]:
    out: list[Fact] = []
    for f in facts:
        if f not in out:
            out.append(f)
    return tuple(out)


def facts_of(cond: E) -> list[Fact] | None:
    """The conditions of a conjunction, each as something ≥ 0."""
    out: list[Fact] = []
    stack = [cond]
    while stack:
        e = stack.pop()
        if not isinstance(e, Call) or len(e.args) != 2:
            return None
        if e.fn == "and_":
            stack.extend(reversed(e.args))
            continue
        x, y = (affine(a) if a.dtype is DType.I64 else None for a in e.args)
        if x is None or y is None:
            return None
        match e.fn:
            case "ge":
                out.append(difference(x, y))
            case "le":
                out.append(difference(y, x))
            case "gt":
                out.append(difference(x, y, 1))
            case "lt":
                out.append(difference(y, x, 1))
            case _:
                return None
    return out


def difference(x: Affine, y: Affine, less: int = 0) -> Fact:
    """x − y − less."""
    coefficients = dict(x[1])
    for axis, c in y[1].items():
        coefficients[axis] = coefficients.get(axis, 0) - c
    return x[0] - y[0] - less, {a: c for a, c in coefficients.items() if c != 0}


def _implied(want: Fact, facts: list[Fact]) -> bool:
    """Whether want ≥ 0 follows from one fact (equal up to a non-negative constant)."""
    for c, k in facts:
        if k == want[1]:
            slack: Dim = want[0] - c
            if isinstance(slack, int) and slack >= 0:
                return True
    return False


def _reduced(f: Fact, n: int) -> list[int]:
    return [a for a in f[1] if a >= n]


def _integer(f: Fact, n: int) -> bool:
    return all(isinstance(f[1][a], int) for a in _reduced(f, n))


def _removing(root: E, guards: dict[int, list[Fact]], fn: str) -> list[Fact] | None:
    """Facts any of which, when false, makes `root` the neutral element of fn."""
    neutral = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}.get(fn)
    stack, out = [root], []
    while stack:
        e = stack.pop()
        if id(e) in guards:
            other = children(e)[2]
            if not (isinstance(other, Num) and float(other.value) == neutral):
                return None
            out += guards[id(e)]
        elif isinstance(e, Call) and e.fn == "mul" and fn == "sum":
            stack.extend(e.args)
    return out
