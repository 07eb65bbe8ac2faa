"""Operators on maps, which are dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..elements import dtype_of
from ..handles import maps


def dict_vectorizer(x: dict[Any, Any], words: list[Any], dtype: str) -> np.ndarray:
    if dtype == "str":
        out = np.empty((1, len(words)), object)
        out[0] = [x.get(w, "") for w in words]
        return out
    return np.asarray([[x.get(w, 0) for w in words]], dtype_of(dtype))


def cast_map(x: dict[int, Any], dtype: str, size: int) -> np.ndarray:
    """Numbers as texts have six decimals, and what no key says is 0 or "0.f", as onnxruntime has it."""
    keys = sorted(x)
    if size >= 0 and keys and not 0 <= keys[0] <= keys[-1] < size:
        raise ValueError(f"keys {keys[0]} to {keys[-1]} of a map of at most {size}")
    nothing = "0.f" if dtype == "str" else 0
    values: list[Any] = [x[k] for k in keys] if size < 0 else [x.get(k, nothing) for k in range(size)]
    if dtype == "str":
        out = np.empty((1, len(values)), object)
        out[0] = [v if isinstance(v, str) else f"{v:.6f}" for v in values]
        return out
    wide = np.array([float(v) for v in values], np.float64)
    return wide.astype(dtype_of(dtype))[None]


MAP_CALLS: dict[str, Callable[..., Any]] = {"cast_map": cast_map, "zip_map": maps, "dict_vectorizer": dict_vectorizer}
