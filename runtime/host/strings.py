"""Operators on tensors of strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from operator import add, eq
from typing import Any

import numpy as np

from ..elements import dtype_of
from ..texts import Texts, murmur, print_integers, read_integers

_FEW = 32  # elements that are done one by one


def cast_string(x: np.ndarray | Texts, to: str) -> np.ndarray | Texts:
    """Floats print as onnxruntime does: 8 significant digits (17 for float64), inf as INF, NaN as NaN."""
    if not isinstance(x, Texts):
        return Texts(_printed(x), x.shape)
    dtype = dtype_of(to)
    items = x.items
    if dtype.kind == "b":
        return np.array([s not in ("", "0", "false", "False") for s in items], dtype).reshape(x.shape)
    if dtype.kind in "iu":
        found = read_integers(items) if dtype == np.int64 and len(items) > _FEW else None
        return (np.array([*map(int, items)], dtype) if found is None else found).reshape(x.shape)
    return np.array([*map(float, items)], np.float64).astype(dtype, copy=False).reshape(x.shape)


def _printed(x: np.ndarray) -> list[str]:
    if x.dtype.kind in "iu" and x.dtype != np.uint64 and x.size > _FEW:
        return print_integers(np.ascontiguousarray(x, np.int64))
    values = x.ravel().tolist()
    if x.dtype.kind == "b":
        return ["1" if v else "0" for v in values]
    if x.dtype.kind in "iu":
        return [*map(str, values)]
    form = "%.17g" if x.dtype == np.float64 else "%.8g"
    if len(values) < _FEW:
        texts, finite = [form % v for v in values], all(map(math.isfinite, values))
    else:  # in one call
        texts, finite = (f"{form}\n" * len(values) % tuple(values)).split(), bool(np.isfinite(x).all())
    return texts if finite else [_NAMES.get(s, s) for s in texts]


_NAMES = {"nan": "NaN", "-nan": "NaN", "inf": "INF", "-inf": "-INF"}


def string_reshape(x: Texts, shape: Sequence[int]) -> Texts:
    """At most one size is −1: what is left for it."""
    count, known = len(x.items), -math.prod(shape)
    return Texts(x.items, tuple([count // known if d < 0 else d for d in shape]))


def string_equal(a: Texts, b: Texts) -> np.ndarray:
    """Of one shape."""
    return np.array([*map(eq, a.items, b.items)], bool).reshape(a.shape)


def string_concat(a: Texts, b: Texts) -> Texts:
    if a.shape == b.shape:
        return Texts([*map(add, a.items, b.items)], a.shape)
    return Texts.of(np.asarray(np.add(a.array(), b.array()), object))


def string_split(x: Texts, delimiter: str, maxsplit: int) -> tuple[Texts, np.ndarray]:
    rows = [*map(str.split, x.items, repeat(delimiter or None), repeat(maxsplit))]
    if delimiter and not all(x.items):  # nothing in "", as onnxruntime
        rows = [r if s else [] for r, s in zip(rows, x.items, strict=True)]
    return in_rows(rows, "", x.shape), np.array([*map(len, rows)], np.int64).reshape(x.shape)


def in_rows(rows: list[list[str]], pad: str, shape: tuple[int, ...]) -> Texts:
    """Rows of any lengths along a new last axis, padded."""
    lengths = {*map(len, rows)}
    width = max(lengths, default=0)
    if len(lengths) > 1:
        pads = [[pad] * k for k in range(width + 1)]
        rows = [r if len(r) == width else r + pads[width - len(r)] for r in rows]
    return Texts([*chain.from_iterable(rows)], (*shape, width))


def murmur_hash(x: Texts, seed: int) -> np.ndarray:
    """MurmurHash3_x86_32, by bytes."""
    return murmur(x.items, seed).reshape(x.shape)


def time_warp(costs: np.ndarray) -> np.ndarray:
    """Equal costs prefer the step in both directions, then down, then right."""
    m, n = costs.shape
    if not m or not n:
        raise ValueError(f"costs of shape {[m, n]}")
    total = np.full((m + 1, n + 1), np.inf, np.float32)
    total[0, 0] = 0
    step = np.zeros((m + 1, n + 1), np.int8)
    for i in range(1, m + 1):
        for j in range(1, n + 1):
            before = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
            step[i, j] = best = int(np.argmin(before))
            total[i, j] = costs[i - 1, j - 1] + before[best]
    path = []
    while m > 0 and n > 0:
        path.append((m - 1, n - 1))
        kind = step[m, n]
        m, n = m - (kind != 2), n - (kind != 1)
    return np.array(path[::-1], np.int32).T


def unique(x: np.ndarray, axis: int, sorted: bool) -> tuple[np.ndarray, ...]:
    """np.unique, with what it finds in the order of first places unless `sorted`."""
    along = None if axis < 0 else axis
    values, first, inverse, counts = np.unique(x, True, True, True, axis=along)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        values, first, counts = np.take(values, order, axis=along or 0), first[order], counts[order]
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        inverse = rank[inverse]
    return values, first, inverse, counts


STRING_CALLS: dict[str, Callable[..., Any]] = {
    "cast_string": cast_string, "string_concat": string_concat, "string_split": string_split, "string_equal": string_equal,
    "murmur_hash": murmur_hash, "string_reshape": string_reshape,
}  # fmt: skip
ARRAY_CALLS: dict[str, Callable[..., Any]] = {"unique": unique, "time_warp": time_warp}
