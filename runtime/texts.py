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
    _loops().murmur(items, len(items), seed, address(out))
    return out


def read_integers(items: list[str]) -> np.ndarray | None:
    """I64 numbers; None where a text is more than a sign and 1 to 18 digits, which Python is to read."""
    out = np.empty(len(items), np.int64)
    try:
        done = _loops().read(items, len(items), address(out))
    except UnicodeEncodeError:
        return None
    return out if done == len(items) else None


def print_integers(x: np.ndarray) -> list[str]:
    """The texts of I64 numbers."""
    out: list[Any] = [None] * x.size
    _loops().print(address(x), x.size, out)
    return out


class Words:
    """Words by number, for native code (`%words` in texts.ll). Raises UnicodeEncodeError."""

    def __init__(self, words: list[str]) -> None:
        texts = [w.encode() for w in words]
        hashes = np.empty(len(words), np.int64)
        _loops().hash_words(words, len(words), address(hashes))
        slots = np.full(2 << max(len(words), 1).bit_length(), -1, np.int32)
        mask, taken = len(slots) - 1, slots.data
        for number, h in enumerate(hashes.view(np.uint64).tolist()):
            at = (h ^ h >> 32) & mask
            while taken[at] >= 0:
                at = (at + 1) & mask
            taken[at] = number
        begins = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        self._arrays: list[np.ndarray] = [slots, hashes, begins, np.frombuffer(b"".join(texts) or b"\0", np.uint8)]
        self._struct = np.array([address(slots), mask, *map(address, self._arrays[1:]), 0], np.int64)
        self.at = address(self._struct)

    def room(self, count: int) -> np.ndarray:
        """I32, for so many numbers of what is found next; −1 is for other words."""
        numbers = np.empty(count, np.int32)
        self._struct[5] = address(numbers)
        return numbers


class Walk:
    """What native code knows of an automaton, and where in a text it stopped (`%walk` in texts.ll)."""

    def __init__(self, kinds: np.ndarray, least: int, gaps: bool) -> None:
        self._words = np.zeros(13, np.int64)
        self._arrays: list[np.ndarray] = [kinds] * 4
        self.at = address(self._words)
        self._words[3], self._words[10], self._words[11] = address(kinds), least, gaps
        self.begin()

    def point(self, *arrays: np.ndarray) -> None:
        """At the table, what is accepted, and states to begin in."""
        self._arrays[: len(arrays)] = arrays
        self._words[: len(arrays)] = [*map(address, arrays)]

    def number(self, words: Words | None) -> None:
        """Tokens are found as numbers of these words from now on, or as texts."""
        self._words[12] = 0 if words is None else words.at

    def begin(self) -> None:
        """With a first text, as it does by itself where all are done."""
        self._words[4:10] = 0, -1, 0, 0, 0, 0

    @property
    def state(self) -> int:
        """The one whose followers are not known."""
        return int(self._words[5])

    @state.setter
    def state(self, number: int) -> None:
        self._words[5] = number


def full_matches(items: list[str], at: int, walk: Walk, out: int) -> int:
    """Which match as a whole, BOOL at the address `out`, from number `at` on. Returns how many are done. Raises UnicodeEncodeError."""
    return int(_loops().full_matches(items, len(items), at, walk.at, out))


def tokens(items: list[str], at: int, walk: Walk, found: list[str], ends: int) -> int:
    """Matches, or the gaps between them, go to the end of `found`, from text number `at` on; I64 at `ends` says how many there are
    up to the end of each. Returns how many are done. Raises UnicodeEncodeError."""
    return int(_loops().tokens(items, len(items), at, walk.at, found, ends))


class _Loops(NamedTuple):
    """The functions of texts.ll. All but `all_str` have the table of Python's functions as their first argument already."""

    code: Code
    all_str: Any
    murmur: Any
    read: Any
    print: Any
    full_matches: Any
    tokens: Any
    hash_words: Any


@functools.cache
def _loops() -> _Loops:
    code = compiled("texts")
    word, number, object_ = ctypes.c_size_t, ctypes.c_int64, ctypes.py_object
    of = ctypes.PYFUNCTYPE  # which keeps the GIL, and raises what Python's functions leave
    alike = of(number, word, number, word, number)(code.address("mlc_alike"))

    def native(items: list[Any]) -> bool:
        count = len(items)
        return bool(alike(_word(id(items) + _ITEMS).value, count, id(str), _TYPE) == count)

    def calling(name: str, *arguments: Any) -> Any:
        return functools.partial(of(number, word, *arguments)(code.address(name)), address(_CALLS))

    _CALLS[:] = [_python(name) for name in _CALLED]
    probes: list[tuple[list[Any], bool]] = [(["a", "é" * 9], True), (["a", np.str_("b")], False), (["a", "", None], False), ([b"a"], False)]
    return _Loops(
        code,
        native if all(native(items) is want for items, want in probes) else lambda items: {*map(type, items)} <= _STR,
        calling("mlc_murmur", object_, number, number, word),
        calling("mlc_read_integers", object_, number, word),
        calling("mlc_print_integers", word, number, object_),
        calling("mlc_full_matches", object_, number, number, word, word),
        calling("mlc_tokens", object_, number, number, word, object_, word),
        calling("mlc_hash_words", object_, number, word),
    )


def _python(name: str) -> int:
    """The address of a function of Python's C interface."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


_CALLED = ("PyList_GetItem", "PyList_SetItem", "PyList_Append", "PyUnicode_AsUTF8AndSize", "PyUnicode_FromStringAndSize", "Py_DecRef")
_CALLS = np.zeros(len(_CALLED), np.int64)  # their addresses (`%calls` in texts.ll)

# Where lists have the address of their items, and objects that of their type, in CPython's C ABI; `_loops` tries it.
_word = ctypes.c_size_t.from_address
_TYPE = object.__basicsize__ - ctypes.sizeof(ctypes.c_void_p)
_ITEMS = list.__basicsize__ - 2 * ctypes.sizeof(ctypes.c_void_p)
