"""Handles: numbers that stand for strings and for values that are no tensors, while a program runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, MlcError
from .manifest import TensorInfo


class Handles:
    """The table of one run. Handle i < len(strings) is the i-th constant string; equal strings have equal handles."""

    __slots__ = ("_constant", "_found", "_more", "_strings")

    def __init__(self, strings: Sequence[str], constant: Mapping[str, int]) -> None:
        self._strings, self._constant = strings, constant
        self._found: dict[str, int] = {}  # strings met in this run
        self._more: list[Any] = []

    def of(self, value: Any) -> int:
        """A new handle of any value that is no string."""
        self._more.append(value)
        return len(self._strings) + len(self._more) - 1

    def value(self, handle: int) -> Any:
        """What a handle stands for. Raises MlcError for a number that is none."""
        if 0 <= handle < len(self._strings):
            return self._strings[handle]
        try:
            return self._more[handle - len(self._strings)] if handle >= 0 else self._more[len(self._more)]
        except IndexError:
            raise MlcError("a value inside the model refers to nothing", remedy="This is a bug in mlc.") from None

    def encode(self, strings: np.ndarray) -> np.ndarray:
        """I64 handles of an array of str."""
        return np.array([self._string(s) for s in strings.ravel()], np.int64).reshape(strings.shape)

    def decode(self, handles: np.ndarray) -> np.ndarray:
        """The strings again, as an object array."""
        out = np.empty(handles.size, object)
        out[:] = [self.value(h) for h in handles.ravel().tolist()]
        return out.reshape(handles.shape)

    def _string(self, s: str) -> int:
        known = self._constant.get(s)
        if known is None:
            known = self._found.get(s)
            if known is None:
                known = self._found[s] = self.of(s)
        return known


def encode_input(handles: Handles, array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """An input as buffers hold it: an array of strings, a value boxed by `held`, or a tensor as it is. Raises InputError."""
    if info.kind == "tensor":
        return array
    if info.kind == "object":
        return np.array(handles.of(array[()]), np.int64)
    return handles.encode(strings(array, f"input {info.name}"))


def decode_output(handles: Handles, array: np.ndarray, info: TensorInfo) -> Any:
    """An output as users see it."""
    if info.kind == "tensor":
        return array
    return handles.decode(array) if info.kind == "str" else handles.value(int(array))


def strings(array: np.ndarray, loc: str) -> np.ndarray:
    """An object array of str. Raises InputError for elements that are no text."""
    out = array.astype(object) if array.dtype.kind != "O" else array
    if array.dtype.kind not in "OUST" or not all(type(s) is str for s in out.ravel()):
        try:
            texts = [s.decode() if isinstance(s, bytes) else s for s in out.ravel()]
        except UnicodeDecodeError as e:
            raise InputError(f"bytes that are not UTF-8: {e}", loc=loc) from None
        odd = next((s for s in texts if not isinstance(s, str)), None)
        if odd is not None:
            raise InputError(f"an element of type {type(odd).__name__}", expected="strings", loc=loc)
        out = np.empty(len(texts), object)
        out[:] = [str(s) for s in texts]
        out = out.reshape(array.shape)
    return out


def held(value: Any, loc: str) -> np.ndarray:
    """A sequence, optional or map, boxed in an array of no axes; its elements become arrays. Raises InputError."""
    box = np.empty((), object)
    boxed = type(value) is np.ndarray and value.dtype.kind == "O" and not value.ndim and not isinstance(value[()], str)
    box[()] = _held(value[()] if boxed else value, loc)
    return box


def _held(value: Any, loc: str) -> Any:
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return [_held(v, loc) for v in value]
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as e:
        raise InputError(f"a {type(value).__name__}: {str(e)[:80]}", expected="arrays, lists of arrays, or None", loc=loc) from None
    return strings(array, loc) if array.dtype.kind in "OUST" else array
