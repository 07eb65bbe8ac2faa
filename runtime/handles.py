"""Handles: numbers that stand for strings and for values that are no tensors, while a program runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np

from ..errors import InputError, MlcError
from .manifest import TensorInfo


class Handles:
    """The table of one run. Handle i < len(strings) is the i-th constant string; equal strings have equal handles.

    Args:
        strings: the constant ones, an object array of one axis.
        constant: their handles, as bytes: joining those takes half of the time of making an array of numbers.
    """

    __slots__ = ("_constant", "_found", "_more", "_strings")

    def __init__(self, strings: np.ndarray, constant: Mapping[str, bytes]) -> None:
        self._strings, self._constant = strings, constant
        self._found: dict[str, bytes] = {}  # strings met in this run
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
            raise _nothing() from None

    def encode(self, texts: np.ndarray, loc: str = "") -> np.ndarray:
        """I64 handles of an object array of str. Raises InputError for elements that are no text."""
        flat = texts.ravel().tolist()
        constant = self._constant
        try:  # categories that the model knows, mostly: elements that equal one are text
            known = itemgetter(*flat)(constant) if len(flat) > 1 else [constant[s] for s in flat]
        except (KeyError, TypeError):
            if {*map(type, flat)} != {str}:
                flat = strings(texts, loc).ravel().tolist()
            known = self._met(flat)
        return np.frombuffer(b"".join(known), np.int64).reshape(texts.shape)

    def _met(self, texts: list[str]) -> list[bytes]:
        """Handles of strings of which some may be new."""
        constant, found = self._constant, self._found
        new = [s for s in dict.fromkeys(texts) if s not in constant and s not in found]
        start = len(self._strings) + len(self._more)
        found.update(zip(new, words(range(start, start + len(new))), strict=True))
        self._more += new
        return [constant[s] if s in constant else found[s] for s in texts]

    def decode(self, handles: np.ndarray) -> np.ndarray:
        """The strings again, as an object array."""
        if not self._more and handles.ndim:
            try:
                return self._strings[handles]
            except IndexError:
                raise _nothing() from None
        flat = handles.ravel().tolist()
        if not flat:
            return np.empty(handles.shape, object)
        new = len(self._strings)
        if min(flat) >= new:  # what this run met, mostly
            first, known = new, self._more
        else:
            first, known = 0, [*self._strings.tolist(), *self._more]
        if min(flat) < 0 or max(flat) >= first + len(known):
            raise _nothing()
        out = np.empty(len(flat), object)
        out[:] = [known[h - first] for h in flat]
        return out.reshape(handles.shape)


def words(handles: Iterable[int]) -> list[bytes]:
    """Handles as they lie in memory."""
    return [h.to_bytes(8, sys.byteorder) for h in handles]


def _nothing() -> MlcError:
    return MlcError("a value inside the model refers to nothing", remedy="This is a bug in mlc.")


def encode_input(handles: Handles, array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """An input as buffers hold it: an array of strings, a value boxed by `held`, or a tensor as it is. Raises InputError."""
    if info.kind == "tensor":
        return array
    if info.kind == "object":
        return np.array(handles.of(array[()]), np.int64)
    return handles.encode(array, f"input {info.name}")


def decode_output(handles: Handles, array: np.ndarray, info: TensorInfo) -> Any:
    """An output as users see it."""
    match info.kind:
        case "tensor":
            return array
        case "str":
            return handles.decode(array)
        case "maps":
            return maps(array, info.labels)
    return handles.value(int(array))


def maps(x: np.ndarray, labels: Sequence[Any]) -> list[dict[Any, float]]:
    """Rows of scores (a vector is one) as dicts by label. Raises InputError where there are not as many labels as columns."""
    rows = x if x.ndim == 2 else np.atleast_2d(x)
    if rows.shape[1] != len(labels):
        raise InputError(f"{rows.shape[1]} scores", expected=f"one for each of {len(labels)} labels")
    match labels:  # classifiers of two and three classes make most maps: displays take a third of the time of `zip`
        case [a, b]:
            return [{a: p, b: q} for p, q in rows.tolist()]
        case [a, b, c]:
            return [{a: p, b: q, c: r} for p, q, r in rows.tolist()]
    return list(map(dict, map(zip, repeat(labels), rows.tolist())))


def strings(array: np.ndarray, loc: str) -> np.ndarray:
    """An object array of str. Raises InputError for elements that are no text."""
    out = array.astype(object) if array.dtype.kind != "O" else array
    if array.dtype.kind not in "OUST" or not all(type(s) is str for s in out.ravel()):
        try:
            texts = [s.decode() if isinstance(s, bytes) else s for s in out.ravel()]
        except UnicodeDecodeError as e:
            raise InputError(f"bytes that are not UTF-8: {e}", loc=loc) from None
        for s in texts:
            if not isinstance(s, str):
                raise InputError(f"an element of type {type(s).__name__}", expected="strings", loc=loc)
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
