"""Values that are no tensors as named arrays, which an .npz archive can hold, and back.

| value | arrays |
|---|---|
| a tensor, or an optional that holds one | `NAME` (strings as NumPy texts) |
| a sequence | its elements: `NAME[0]`, `NAME[1]`, …; `NAME[]` if there are none |
| a map | `NAME{keys}` and `NAME{values}`, in order |
| an optional that holds nothing | `NAME?` |

Elements are values in turn: `NAME[0][1]`, `NAME[2]{keys}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError

_KEYS, VALUES, _NONE, _EMPTY = "{keys}", "{values}", "?", "[]"


def flatten(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, those of a value in order."""
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        _flatten(name, value, found)
    return found


def _flatten(name: str, value: Any, found: dict[str, np.ndarray]) -> None:
    match value:
        case None:
            found[name + _NONE] = np.empty(0, np.float32)
        case dict():
            found[name + _KEYS] = np.asarray(list(value.keys()))
            found[name + VALUES] = np.asarray(list(value.values()))
        case list() | tuple():
            if not value:
                found[name + _EMPTY] = np.empty(0, np.float32)
            for i, element in enumerate(value):
                _flatten(f"{name}[{i}]", element, found)
        case _:
            found[name] = np.asarray(value)


def gather(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, Any]:
    """The arrays, those that belong to one of the names (of values that may be no tensors) put together.

    Raises InputError where they do not make one value.
    """
    found: dict[str, Any] = {}
    rest = dict(arrays)
    for name in names:
        own = {key[len(name) :]: rest.pop(key) for key in list(rest) if key == name or key.startswith((name + "[", name + "{", name + "?"))}
        if own:
            found[name] = _gather(name, own)
    return {**rest, **found}


def _gather(name: str, parts: dict[str, np.ndarray]) -> Any:
    """`parts` by what follows the name."""
    if len(parts) == 1:
        if "" in parts:
            return parts[""]
        if _NONE in parts:
            return None
        if _EMPTY in parts:
            return []
    if parts.keys() == {_KEYS, VALUES}:
        return dict(zip(parts[_KEYS].tolist(), parts[VALUES].tolist(), strict=True))
    elements: dict[int, dict[str, np.ndarray]] = {}
    for key, array in parts.items():
        number, closed, after = key[1:].partition("]")
        if key[:1] != "[" or not closed or not number.isdecimal():
            raise InputError(
                f"arrays {', '.join(name + k for k in sorted(parts))}", expected=f"the parts of one value {name}", loc="--inputs"
            )
        elements.setdefault(int(number), {})[after] = array
    if sorted(elements) != list(range(len(elements))):
        raise InputError(f"elements {sorted(elements)} of {name}", expected=f"0 to {len(elements) - 1}", loc="--inputs")
    return [_gather(f"{name}[{i}]", elements[i]) for i in range(len(elements))]
