"""Operators on maps, which are dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..elements import dtype_of


def zip_map(x: np.ndarray, labels: list[Any]) -> list[dict[Any, float]]:
    rows = np.atleast_2d(x)
    if rows.shape[1] != len(labels):
        raise ValueError(f"{rows.shape[1]} scores for {len(labels)} labels")
    return [dict(zip(labels, row, strict=True)) for row in rows.tolist()]


def dict_vectorizer(x: dict[Any, Any], words: list[Any], dtype: str) -> np.ndarray:
    if dtype == "str":
        out = np.empty((1, len(words)), object)
        out[0] = [x.get(w, "") for w in words]
        return out
    return np.asarray([[x.get(w, 0) for w in words]], dtype_of(dtype))


MAP_CALLS: dict[str, Callable[..., Any]] = {"zip_map": zip_map, "dict_vectorizer": dict_vectorizer}
