"""Sequences, optionals, and the lists that loops collect results in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np

from ..elements import dtype_of


def kept(value: Any) -> Any:
    """A tensor that stays as it is when the program goes on; other values are never changed."""
    return value.copy() if isinstance(value, np.ndarray) else value


def sequence_construct(*elements: Any) -> list[Any]:
    return [kept(e) for e in elements]


def _place(length: int, position: np.ndarray | None, last: int) -> int:
    at = last if position is None else int(position.item())
    if not -length <= at <= last:
        raise IndexError(f"position {at} of a sequence of {length}")
    return at + length if at < 0 else at


def sequence_at(sequence: list[Any], position: np.ndarray) -> Any:
    return sequence[_place(len(sequence), position, len(sequence) - 1)]


def sequence_insert(sequence: list[Any], element: Any, position: np.ndarray | None = None) -> list[Any]:
    at = _place(len(sequence), position, len(sequence))
    return [*sequence[:at], kept(element), *sequence[at:]]


def sequence_erase(sequence: list[Any], position: np.ndarray | None = None) -> list[Any]:
    at = _place(len(sequence), position, len(sequence) - 1)
    return [*sequence[:at], *sequence[at + 1 :]]


def sequence_length(sequence: list[Any]) -> int:
    return len(sequence)


def concat_from_sequence(sequence: list[np.ndarray], axis: int, stack: bool) -> np.ndarray:
    return np.stack(sequence, axis) if stack else np.concatenate(sequence, axis)


def split_to_sequence(x: np.ndarray, sizes: np.ndarray, axis: int, keepdims: bool) -> list[np.ndarray]:
    n = x.shape[axis]
    given = sizes.ravel().tolist()
    if sizes.ndim == 0:
        (size,) = given
        if size < 1:
            raise ValueError(f"parts of {size}")
        given = [min(size, n - start) for start in range(0, n, size)]
    if min(given, default=0) < 0 or sum(given) != n:
        raise ValueError(f"parts {given} of an axis of {n}")
    before = (slice(None),) * (axis % x.ndim)
    ends = accumulate(given)
    parts = [x[(*before, slice(end - size, end))].copy() for size, end in zip(given, ends, strict=True)]
    return parts if keepdims else [p.squeeze(axis) for p in parts]


def list_append(items: list[Any], element: Any) -> list[Any]:
    items.append(kept(element))
    return items


def list_stack(items: list[np.ndarray], shape: np.ndarray, dtype: str) -> np.ndarray:
    if items:
        return np.stack(items)
    return np.zeros((0, *shape.tolist()), dtype_of(dtype))


def optional(value: Any = None) -> Any:
    return kept(value)


def optional_get(value: Any) -> Any:
    if value is None:
        raise ValueError("the optional is empty")
    return value


def optional_has(value: Any) -> bool:
    return value is not None


SEQUENCE_CALLS: dict[str, Callable[..., Any]] = {
    "sequence_construct": sequence_construct, "sequence_at": sequence_at, "sequence_insert": sequence_insert,
    "sequence_erase": sequence_erase, "sequence_length": sequence_length, "concat_from_sequence": concat_from_sequence,
    "split_to_sequence": split_to_sequence, "list_append": list_append, "list_stack": list_stack,
    "optional": optional, "optional_get": optional_get, "optional_has": optional_has,
}  # fmt: skip
