"""Tensors of strings outside of programs, and native loops over lists of them."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np

from .address import address
from .native import Code, compiled

_FEW = 16  # objects whose types Python finds as quickly
_STR = {str}


class Texts:
    """The strings in order and the shape: functions of texts read lists, and make lists, several times as fast as object arrays."""

    __slots__ = ("items", "shape")

    def __init__(self, items: list[str], shape: tuple[int, ...]) -> None:
        self.items, self.shape = items, shape

    @staticmethod
    def of(array: np.ndarray) -> Texts:
        return Texts(array.ravel().tolist(), array.shape)

    def array(self) -> np.ndarray:
        """A new object array."""
        items, shape = self.items, self.shape
        out = np.fromiter(items, object, len(items))
        return out if len(shape) == 1 else out.reshape(shape)


def all_str(items: list[Any]) -> bool:
    """Whether each is a str, and of no other type derived from it."""
    return {*map(type, items)} <= _STR if len(items) < _FEW else _loops().all_str(items)


def murmur(items: list[str], seed: int) -> np.ndarray:
    """U32 MurmurHash3_x86_32 by Appleby of the UTF-8 bytes. Raises UnicodeEncodeError."""
    out = np.empty(len(items), np.uint32)
    loops = _loops()
    loops.murmur(items, len(items), loops.get, loops.utf8, seed, address(out))
    return out


def read_integers(items: list[str]) -> np.ndarray | None:
    """I64 numbers; None where a text is more than a sign and 1 to 18 digits, which Python is to read."""
    out = np.empty(len(items), np.int64)
    loops = _loops()
    try:
        done = loops.read(items, len(items), loops.get, loops.utf8, address(out))
    except UnicodeEncodeError:
        return None
    return out if done == len(items) else None


def print_integers(x: np.ndarray) -> list[str]:
    """The texts of I64 numbers."""
    out: list[Any] = [None] * x.size
    loops = _loops()
    loops.print(address(x), x.size, loops.make, loops.set, out)
    return out


class Walk:
    """What native code knows of an automaton, and where in a text it stopped (`%walk` in texts.ll)."""

    def __init__(self, kinds: np.ndarray) -> None:
        self._words = np.zeros(8, np.int64)
        self._arrays: list[np.ndarray] = [kinds] * 4
        self.at = address(self._words)
        self._words[3] = address(kinds)

    def point(self, *arrays: np.ndarray) -> None:
        """At the table, what is accepted, and states to begin in."""
        self._arrays[: len(arrays)] = arrays
        self._words[: len(arrays)] = [*map(address, arrays)]

    def begin(self) -> None:
        """With the first text."""
        self._words[4], self._words[5] = 0, -1

    @property
    def state(self) -> int:
        """The one whose followers are not known."""
        return int(self._words[5])

    @state.setter
    def state(self, number: int) -> None:
        self._words[5] = number


def full_matches(items: list[str], at: int, walk: Walk, out: np.ndarray) -> int:
    """Which match as a whole, BOOL, from number `at` on. Returns how many are done. Raises UnicodeEncodeError."""
    loops = _loops()
    return int(loops.full_matches(items, len(items), at, loops.get, loops.utf8, walk.at, address(out)))


class _Loops(NamedTuple):
    """texts.ll, and what it calls of Python."""

    code: Code
    all_str: Any
    murmur: Any
    read: Any
    print: Any
    full_matches: Any
    get: int
    set: int
    utf8: int
    make: int


@functools.cache
def _loops() -> _Loops:
    code = compiled("texts")
    word, number, object_ = ctypes.c_size_t, ctypes.c_int64, ctypes.py_object
    of = ctypes.PYFUNCTYPE  # which keeps the GIL, and raises what Python's functions leave
    alike = of(number, word, number, word, number)(code.address("mlc_alike"))
    names = "PyList_GetItem", "PyList_SetItem", "PyUnicode_AsUTF8AndSize", "PyUnicode_FromStringAndSize"
    calls = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in names]

    def native(items: list[Any]) -> bool:
        count = len(items)
        return bool(alike(_word(id(items) + _ITEMS).value, count, id(str), _TYPE) == count)

    probes: list[tuple[list[Any], bool]] = [(["a", "é" * 9], True), (["a", np.str_("b")], False), (["a", "", None], False), ([b"a"], False)]
    return _Loops(
        code,
        native if all(native(items) is want for items, want in probes) else lambda items: {*map(type, items)} <= _STR,
        of(number, object_, number, word, word, number, word)(code.address("mlc_murmur")),
        of(number, object_, number, word, word, word)(code.address("mlc_read_integers")),
        of(number, word, number, word, word, object_)(code.address("mlc_print_integers")),
        of(number, object_, number, number, word, word, word, word)(code.address("mlc_full_matches")),
        *calls,
    )  # fmt: skip


# Where lists have the address of their items, and objects that of their type, in CPython's C ABI; `_loops` tries it.
_word = ctypes.c_size_t.from_address
_TYPE = object.__basicsize__ - ctypes.sizeof(ctypes.c_void_p)
_ITEMS = list.__basicsize__ - 2 * ctypes.sizeof(ctypes.c_void_p)
