"""Constant indices that advance by equal steps, such as those of a slice that is assigned to, or of a strided view that an exporter spelt
out: index arithmetic says where they are, and nothing has to read them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir import Const, Dim, Value, lower
from ..simplify import Affine


class Steps(NamedTuple):
    """Element i of a constant is start + Σ steps·i."""

    start: int
    steps: tuple[int, ...]


def steps_of(data: np.ndarray) -> Steps | None:
    if data.size == 0 or data.dtype.kind not in "iu":
        return None
    start = int(data[(0,) * data.ndim])
    steps = tuple(int(data[tuple(int(a == b) for b in range(data.ndim))]) - start if n > 1 else 0 for a, n in enumerate(data.shape))
    if int(data[(-1,) * data.ndim]) != start + sum(s * (n - 1) for s, n in zip(steps, data.shape, strict=True)):
        return None  # which most that are none show here
    want = sum(
        (s * np.arange(n).reshape(n, *[1] * (data.ndim - 1 - a)) for a, (s, n) in enumerate(zip(steps, data.shape, strict=True))), start
    )
    return Steps(start, steps) if np.array_equal(data, np.broadcast_to(want, data.shape)) else None


def known_index(v: Value, index: tuple[Affine, ...], size: Dim) -> Affine | None:
    """Element `index` of v, an index of an axis of `size`, as index arithmetic: of a constant of equal steps, within the axis."""
    if not isinstance(v.node.op, Const):
        return None
    fixed = tuple(i.const if i.is_const and isinstance(i.const, int) else slice(None) for i in index)
    data = v.node.op.data[fixed]
    found = steps_of(data)
    if found is None or not 0 <= int(data.min()) <= int(data.max()) < lower(size):
        return None
    at = Affine({}, found.start)
    for i, step in zip((i for i, f in zip(index, fixed, strict=True) if isinstance(f, slice)), found.steps, strict=True):
        at = at + i * step
    return at


def distinct(indices: np.ndarray, shape: tuple[Dim, ...]) -> bool:
    """Whether indices [*rows, depth] of the first axes of a tensor of this shape address another element each, by equal steps."""
    total = [0] * (indices.ndim - 1)
    stride = 1
    for d in reversed(range(indices.shape[-1])):
        size = shape[d]
        found = steps_of(indices[..., d])
        if found is None or not isinstance(size, int) or not 0 <= int(indices[..., d].min()) <= int(indices[..., d].max()) < size:
            return False
        total = [t + s * stride for t, s in zip(total, found.steps, strict=True)]
        stride *= size
    reach = 0
    for step, n in sorted((abs(s), n) for s, n in zip(total, indices.shape[:-1], strict=True) if n > 1):
        if step <= reach:
            return False
        reach += step * (n - 1)
    return True
