"""Axes that indices take apart: where ⌊i / d⌋ is read of an axis of e·d elements, an axis of e around one of d.

A norm over a group of channels, flattened, has a factor for each channel: ⌊i / (height · width)⌋. Numbers are divided by quickly;
sizes that only a run knows are not, once per element. Maps are taken apart by numbers, too: what moves where is seen in strides only.
So are rows whose elements are written: along whole vectors of them the factor is one number, and is not gathered; and rows of what
windows and reductions give, where the channels that are read belong to heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir import Dim, Expr, Shape, floordiv, prod
from ..simplify import Affine, axis, nested, substitute_axes

_ROW = 16  # elements of the last axis that stay together: a vector


def split_axes(
    outer: Sequence[Affine], extents: Shape, indices: Iterable[Affine], *, numbers: bool = False, row: int | None = None
) -> tuple[Shape, dict[int, Affine]]:
    """The extents of the axes behind those `outer` ones, and what each axis is of the new ones. numbers: also where d is one. row: only
    this one of them, by a number, so that vectors along it stay whole."""
    before = dict(enumerate(outer))
    new = before | {len(outer) + i: _axis(len(outer) + i, d) for i, d in enumerate(extents)}
    read = list(indices)
    while (step := _once(len(outer), extents, read, numbers, row)) is not None:
        extents, change = step[0], before | step[1]
        memo: dict[Affine, Affine] = {}
        new = {i: substitute_axes(x, change, lambda a: a, memo, apart=True) for i, x in new.items()}
        read = [y for x in read for y in nested(substitute_axes(x, change, lambda a: a, memo, apart=True))]
    return extents, new


def _axis(index: int, extent: Dim) -> Affine:
    return Affine({}) if extent == 1 else axis(index, extent)


def _once(first: int, extents: Shape, indices: Sequence[Affine], numbers: bool, row: int | None) -> tuple[Shape, dict[int, Affine]] | None:
    """One axis split; None if there is none to split."""
    for i, extent in enumerate(extents):
        if row is not None and (i != row or not isinstance(extent, int)):
            continue
        whole = _axis(first + i, extent)
        least = _ROW if i == row else None if not numbers else _ROW if prod(extents[i + 1 :]) == 1 else 1
        size = _quotient(whole, extent, indices, least)
        if size is not None:
            count = floordiv(extent, size)
            sizes = (*extents[:i], count, size, *extents[i + 1 :])
            new = {first + j: _axis(first + j + (j > i), d) for j, d in enumerate(extents)}
            return sizes, new | {first + i: _axis(first + i, count) * size + _axis(first + i + 1, size)}
    return None


def _quotient(whole: Affine, extent: Dim, indices: Sequence[Affine], least: int | None) -> Dim | None:
    """A size that the axis itself is divided by, and that divides its extent: symbolic, or a number from `least` on; one that others
    divide comes first."""
    found = (a.args[1] for x in indices for a in x.terms if a.kind == "div" and a.args[0] == whole)
    known = (d for d in found if isinstance(d, Expr) or (least is not None and d >= least))
    sizes = dict.fromkeys(d for d in known if _divides(d, extent))
    return max(sizes, key=lambda d: sum(_divides(e, d) for e in sizes), default=None)


def _divides(d: Dim, whole: Dim) -> bool:
    return floordiv(whole, d) * d == whole
