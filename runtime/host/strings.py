"""Operators on tensors of strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from ..elements import dtype_of


def as_strings(items: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """An object array."""
    out = np.empty(len(items), object)
    out[:] = items
    return out.reshape(shape)


def cast_string(x: np.ndarray, to: str) -> np.ndarray:
    """Floats print as onnxruntime does: 8 significant digits (17 for float64), inf as INF, NaN as NaN."""
    flat = x.ravel()
    if to == "str":
        return as_strings([_text(v, x.dtype) for v in flat.tolist()], x.shape)
    dtype = dtype_of(to)
    if dtype.kind == "b":
        return np.array([s not in ("", "0", "false", "False") for s in flat], dtype).reshape(x.shape)
    if dtype.kind in "iu":
        return np.array([int(s) for s in flat], dtype).reshape(x.shape)
    return np.array([float(s) for s in flat], np.float64).astype(dtype).reshape(x.shape)


def _text(value: Any, dtype: np.dtype) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "INF" if value > 0 else "-INF"
    return f"{value:.17g}" if dtype == np.float64 else f"{value:.8g}"


def string_concat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.add(a, b), object)


def string_split(x: np.ndarray, delimiter: str, maxsplit: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [s.split(delimiter or None, maxsplit) if s else [] for s in x.ravel().tolist()]  # nothing in "", as onnxruntime
    counts = np.array([*map(len, rows)], np.int64).reshape(x.shape)
    columns = [*zip_longest(*rows, fillvalue="")]
    parts = as_strings([*chain.from_iterable(columns)], (len(columns), len(rows))).T
    return parts.reshape(*x.shape, len(columns)), counts


def regex_full_match(x: np.ndarray, pattern: str) -> np.ndarray:
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"pattern {pattern[:80]!r}: {e}") from None
    return np.array([m is not None for m in map(compiled.fullmatch, x.ravel().tolist())], bool).reshape(x.shape)


_WORD = 0xFFFFFFFF
_FEW = 32  # strings that are hashed one by one
_MOST = 1 << 24  # words of a matrix of all


def murmur_hash(x: np.ndarray, seed: int) -> np.ndarray:
    """Appleby's MurmurHash3_x86_32, by bytes."""
    texts = [s.encode() for s in x.ravel().tolist()]
    width = max(map(len, texts), default=0) // 4 + 1
    if len(texts) < _FEW or len(texts) * width > _MOST:
        return np.array([_murmur(s, seed) for s in texts], np.uint32).reshape(x.shape)
    return _murmur_all(texts, width, seed).reshape(x.shape)


def _murmur(data: bytes, seed: int) -> int:
    h = seed
    whole = len(data) // 4 * 4
    for at in range(0, len(data), 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & _WORD
        k = ((k << 15 | k >> 17) & _WORD) * 0x1B873593 & _WORD
        h ^= k
        if at < whole:
            h = (((h << 13 | h >> 19) & _WORD) * 5 + 0xE6546B64) & _WORD
    h ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor & _WORD
    return h ^ h >> 16


def _murmur_all(texts: list[bytes], width: int, seed: int) -> np.ndarray:
    """The same word by word: from the longest on, so that those which have a k-th word are the first ones."""
    u = np.uint32
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    order = np.argsort(-lengths, kind="stable")
    falling = -lengths[order]
    words = np.array(texts, f"S{4 * width}").view("<u4").reshape(-1, width)[order] * u(0xCC9E2D51)  # zeros behind each
    words = (words << u(15) | words >> u(17)) * u(0x1B873593)
    h = np.full(len(texts), seed, u)
    starts = 4 * np.arange(width)
    for k, (some, all_four) in enumerate(zip(*(np.searchsorted(falling, -starts - n, "right") for n in (1, 4)), strict=True)):
        h[:some] ^= words[:some, k]
        whole = h[:all_four]
        h[:all_four] = (whole << u(13) | whole >> u(19)) * u(5) + u(0xE6546B64)
    h ^= (-falling).astype(u)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> u(shift)) * u(factor)
    out = np.empty_like(h)
    out[order] = h ^ h >> u(16)
    return out


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
    "cast_string": cast_string, "string_concat": string_concat, "string_split": string_split,
    "regex_full_match": regex_full_match, "unique": unique, "murmur_hash": murmur_hash, "time_warp": time_warp,
}  # fmt: skip
