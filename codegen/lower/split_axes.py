"""Axes that indices take apart: where ⌊i / d⌋ is read of an axis of e·d elements, an axis of e around one of d.

A norm over a group of channels, flattened, has a factor for each channel: ⌊i / (height · width)⌋. Numbers are divided by quickly;
sizes that only a run knows are not, once per element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir import Dim, Expr, Shape, floordiv
from ..simplify import Affine, axis, nested, substitute_axes


def split_axes(outer: Sequence[Affine], extents: Shape, indices: Iterable[Affine]) -> tuple[Shape, dict[int, Affine]]:
    """The extents of the axes behind those `outer` ones, and what each axis is of the new ones."""
    before = dict(enumerate(outer))
    new = before | {len(outer) + i: _axis(len(outer) + i, d) for i, d in enumerate(extents)}
    read = list(indices)
    while (step := _once(len(outer), extents, read)) is not None:
        extents, change = step[0], before | step[1]
        memo: dict[Affine, Affine] = {}
        new = {i: substitute_axes(x, change, lambda a: a, memo, apart=True) for i, x in new.items()}
        read = [y for x in read for y in nested(substitute_axes(x, change, lambda a: a, memo, apart=True))]
    return extents, new


def _axis(index: int, extent: Dim) -> Affine:
    return Affine({}) if extent == 1 else axis(index, extent)


def _once(first: int, extents: Shape, indices: Sequence[Affine]) -> tuple[Shape, dict[int, Affine]] | None:
    """One axis split; None if there is none to split."""
    for i, extent in enumerate(extents):
        whole = _axis(first + i, extent)
        size = _quotient(whole, extent, indices)
        if size is not None:
            count = floordiv(extent, size)
            sizes = (*extents[:i], count, size, *extents[i + 1 :])
            new = {first + j: _axis(first + j + (j > i), d) for j, d in enumerate(extents)}
            return sizes, new | {first + i: _axis(first + i, count) * size + _axis(first + i + 1, size)}
    return None


def _quotient(whole: Affine, extent: Dim, indices: Sequence[Affine]) -> Dim | None:
    """A symbolic size that the axis itself is divided by, and that divides its extent; one that others divide comes first."""
    atoms = (a for x in indices for a in x.terms if a.kind == "div" and a.args[0] == whole)
    sizes = dict.fromkeys(a.args[1] for a in atoms if isinstance(a.args[1], Expr) and _divides(a.args[1], extent))
    return max(sizes, key=lambda d: sum(_divides(e, d) for e in sizes), default=None)


def _divides(d: Dim, whole: Dim) -> bool:
    return floordiv(whole, d) * d == whole
