"""Handles: numbers that stand for strings and for values that are no tensors, while a program runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np

from ..errors import InputError, MlcError
from .records import TensorInfo

_OBJECTS = 1 << 48  # handles from here on are of values that are no strings
_FEW = 16  # handles whose least Python finds as quickly
_UNKNOWN = -1  # of a string that is compared with constants only, and equals none


class Handles:
    """The table of one run. Handle i < len(strings) is the i-th constant string.

    What handles are for decides what they cost. "str": they are compared, so that equal strings have equal handles; "text": they
    are never, so that every element has its own; "key": they are compared with those of constants only, and no string is read again.

    Args:
        strings: the constant ones, an object array of one axis.
        constant: their handles, as bytes: joining those takes half of the time of making an array of numbers.
    """

    __slots__ = ("_constant", "_found", "_more", "_objects", "_strings", "_whole")

    def __init__(self, strings: np.ndarray, constant: Mapping[str, bytes]) -> None:
        self._strings, self._constant = strings, constant
        self._found: dict[str, int] = {}  # strings met in this run, by text where they are compared
        self._more: list[str] = []
        self._objects: list[Any] = []
        self._whole: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # tensors of texts by their first handle: all handles, all texts

    def of(self, value: Any) -> int:
        """A new handle of any value that is no string."""
        self._objects.append(value)
        return _OBJECTS + len(self._objects) - 1

    def value(self, handle: int) -> Any:
        """What a handle stands for. Raises MlcError for a number that is none."""
        try:
            if handle >= _OBJECTS:
                return self._objects[handle - _OBJECTS]
            known = len(self._strings)
            if handle >= 0:
                return self._strings[handle] if handle < known else self._more[handle - known]
        except IndexError:
            pass
        raise _nothing()

    def encode(self, texts: np.ndarray, use: str = "str", loc: str = "") -> np.ndarray:
        """I64 handles of an object array of str, for one of the uses. Raises InputError for elements that are no text."""
        flat = texts.ravel().tolist()
        if use == "text":
            start = len(self._strings) + len(self._more)
            items = _texts(flat, texts, loc)
            self._more += items
            handles = np.arange(start, start + len(flat), dtype=np.int64)
            if items is flat:
                self._whole[start] = handles, texts.ravel()
            return handles.reshape(texts.shape)
        constant = self._constant
        try:  # categories that the model knows, mostly: elements that equal one are text
            known = itemgetter(*flat)(constant) if len(flat) > 1 else [constant[s] for s in flat]
        except (KeyError, TypeError):
            flat = _texts(flat, texts, loc)
            if use != "key":
                return self._met(flat).reshape(texts.shape)
            known = [*map(constant.get, flat, repeat(_NO_WORD))]
        return np.frombuffer(b"".join(known), np.int64).reshape(texts.shape)

    def _met(self, texts: list[str]) -> np.ndarray:
        """Handles of strings of which some may be new."""
        constant, found = self._constant, self._found
        new = {*texts}.difference(constant, found)
        found.update(zip(new, range(start := len(self._strings) + len(self._more), start + len(new)), strict=True))
        self._more += new
        handles = np.fromiter(map(found.get, texts, repeat(-1)), np.int64, len(texts))
        for i in np.flatnonzero(handles < 0).tolist() if constant else ():
            handles[i] = int.from_bytes(constant[texts[i]], sys.byteorder)
        return handles

    def decode(self, handles: np.ndarray) -> np.ndarray:
        """The strings again, as an object array."""
        if not handles.size:
            return np.empty(handles.shape, object)
        whole = self._whole.get(int(handles.flat[0])) if self._whole else None
        if whole is not None and whole[0].size == handles.size and (whole[0] == handles.ravel()).all():  # as it was
            return whole[1].copy().reshape(handles.shape)
        known, first = len(self._strings), min(handles.ravel().tolist()) if handles.size < _FEW else int(handles.min())
        if first < 0:
            raise _nothing()
        try:
            if not self._more:
                table, first = self._strings, 0
            elif first >= known:  # what this run met, mostly, and from one place on
                end = int(handles.max()) + 1 - known
                table = np.array([*self._more[first - known : end], None], object)[:-1]
            else:
                table, first = np.array([*self._strings.tolist(), *self._more, None], object)[:-1], 0
            got = table[handles - first if first else handles]
        except IndexError:
            raise _nothing() from None
        if handles.ndim:
            return got
        out = np.empty((), object)
        out[()] = got
        return out


def words(handles: Iterable[int]) -> list[bytes]:
    """Handles as they lie in memory."""
    return [h.to_bytes(8, sys.byteorder, signed=True) for h in handles]


_NO_WORD = words([_UNKNOWN])[0]


def _texts(flat: list[Any], texts: np.ndarray, loc: str) -> list[str]:
    """The elements of an array, each a str. Raises InputError."""
    return flat if {*map(type, flat)} <= {str} else strings(texts, loc).ravel().tolist()


def _nothing() -> MlcError:
    return MlcError("a value inside the model refers to nothing", remedy="This is a bug in mlc.")


def encode_input(handles: Handles, array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """An input as buffers hold it: an array of strings, a value boxed by `held`, or a tensor as it is. Raises InputError."""
    if info.kind == "tensor":
        return array
    if info.kind == "object":
        return np.array(handles.of(array[()]), np.int64)
    return handles.encode(array, info.kind, f"input {info.name}")


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
