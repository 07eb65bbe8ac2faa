"""Values of a manifest, checked where they are read: each function returns what it is given, or raises ArtifactError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError

LIMIT = 2**62  # magnitudes beyond are no sizes; native code computes in 64 bits


def items(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a list")
    return value


def text(value: Any) -> str:
    if type(value) is not str:
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a text")
    return value


def whole(value: Any) -> int:
    if type(value) is not int or not -LIMIT <= value <= LIMIT:
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a whole number")
    return value


def below(value: Any, end: int, what: str) -> int:
    """A whole number from 0 on that is less than `end`."""
    if type(value) is not int or not 0 <= value < end:
        raise ArtifactError(f"{what} {brief(value)}", expected=f"0 to {end - 1}")
    return value


def all_below(values: Sequence[Any], end: int, what: str) -> Sequence[int]:
    """Whole numbers from 0 on that are less than `end`."""
    if values and not (set(map(type, values)) == {int} and min(values) >= 0 and max(values) < end):
        for value in values:
            below(value, end, what)
    return values


def brief(value: object) -> str:
    """A short text of anything JSON may hold, for messages."""
    try:
        return repr(value)[:60]
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
