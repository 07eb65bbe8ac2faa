"""What an index expression does along each axis."""

from __future__ import annotations

from ..ir import Dim
from .expr import Axis, Call, DimParam, E, Num, Reduced, children, postorder

# constant part, and coefficient per axis
Affine = tuple[Dim, dict[int, Dim]]


def axes_of(roots: list[E], reduced: frozenset[int] = frozenset()) -> dict[int, frozenset[int]]:
    """id(node) -> axes it depends on; `reduced` stands for any Reduced."""
    found: dict[int, frozenset[int]] = {}
    for e in postorder(roots):
        if isinstance(e, Axis):
            found[id(e)] = frozenset({e.index})
        elif isinstance(e, Reduced):
            found[id(e)] = reduced
        else:
            found[id(e)] = frozenset().union(*(found[id(c)] for c in children(e)))
    return found


def affine(root: E) -> Affine | None:
    """root as constant + Σ coefficient·axis, or None."""
    known: dict[int, Affine | None] = {}
    for e in postorder([root]):
        args = [known[id(c)] for c in children(e)]
        out: Affine | None = None
        match e:
            case Axis(index=i):
                out = (0, {i: 1})
            case Num(value=v) if isinstance(v, int):
                out = (int(v), {})
            case DimParam(dim=d):
                out = (d, {})
            case Call(fn=fn) if None not in args:
                out = _combine(fn, [a for a in args if a is not None])
        known[id(e)] = out
    return known[id(root)]


def _combine(fn: str, args: list[Affine]) -> Affine | None:
    match fn, args:
        case (("add" | "sub"), [(c1, k1), (c2, k2)]):
            sign = 1 if fn == "add" else -1
            both = dict(k1)
            for axis, k in k2.items():
                both[axis] = both.get(axis, 0) + sign * k
            return c1 + sign * c2, both
        case "mul", [(c1, k1), (c2, k2)]:
            if k1 and k2:
                return None
            constant, coefficients, scale = (c1, k1, c2) if not k2 else (c2, k2, c1)
            return constant * scale, {axis: v * scale for axis, v in coefficients.items()}
    return None


def stride_along(root: E, axis: int, reduced: Dim | None = None) -> Dim | None:
    """How much root grows per step of `axis`, None when not a constant. Parts without the axis may be anything.

    `reduced` is how much a result of a reduction does: None along a parallel axis, each point of which has its own.
    """
    known: dict[int, Dim | None] = {}
    for e in postorder([root]):
        args = [known[id(c)] for c in children(e)]
        out: Dim | None = 0 if all(a == 0 for a in args) else None
        match e:
            case Axis(index=i):
                out = int(i == axis)
            case Reduced():
                out = reduced
            case Call(fn="add" | "sub" as fn):
                left, right = args
                if left is not None and right is not None:
                    out = left + (right if fn == "add" else -1 * right)
            case Call(fn="mul", args=(x, y)) if out is None and None not in args:
                other, moving = (x, args[1]) if args[0] == 0 else (y, args[0])
                scale = other.value if isinstance(other, Num) else other.dim if isinstance(other, DimParam) else None
                if scale is not None and 0 in args and moving is not None and not isinstance(scale, float):
                    out = moving * scale
            case Call(fn="select", args=_) if args[0] == 0 and args[1] == args[2]:
                out = args[1]
        known[id(e)] = out
    return known[id(root)]
