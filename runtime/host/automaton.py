"""Regular expressions as automata over the bytes of UTF-8, in time linear in the text.

All states of a nondeterministic automaton are followed at once (K. Thompson, "Regular Expression Search Algorithm", CACM 11(6), 1968).
Their sets are states of a deterministic one, whose table is made as far as texts need it, and which native code walks (`texts.ll`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from threading import RLock
from typing import Any

import numpy as np

from ..address import address
from ..texts import Walk, Words, full_matches, tokens
from .re2_syntax import At, Byte, Chars, Concat, Either, Ranges, Regex, Repeat

_MOST_NODES, _MOST_STATES = 200_000, 4096
_FIRST_STATES = 16
_UNKNOWN, _DEAD = -1, 0  # in the table

# What a place lies beside: the end of the text (or its beginning), or a byte of these kinds. Bits of `accepts`, and indices of `starts`.
_END, _NEWLINE, _WORD, _OTHER = range(4)
_WORDS = ((48, 57), (65, 90), (95, 95), (97, 122))
_KINDS = np.full(256, _OTHER, np.uint8)
_KINDS[10] = _NEWLINE
for _lo, _hi in _WORDS:
    _KINDS[_lo : _hi + 1] = _WORD
_HOLDS: dict[str, Callable[[int, int], bool]] = {  # kinds of what is before a place, and behind it
    "begin": lambda before, behind: before == _END, "end": lambda before, behind: behind == _END,
    "line": lambda before, behind: before in (_END, _NEWLINE), "end line": lambda before, behind: behind in (_END, _NEWLINE),
    "word": lambda before, behind: (before == _WORD) != (behind == _WORD),
    "inside": lambda before, behind: (before == _WORD) == (behind == _WORD),
}  # fmt: skip

_KINDS_OF_BYTES = (_NEWLINE, _WORD, _OTHER)
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))  # of one byte, two …

_State = tuple[frozenset[int], int]
_Bytes = tuple[tuple[int, int], ...]  # ranges of the bytes that make characters, one after the other


class _Nodes:
    """The nondeterministic automaton. Nodes are numbers, 0 is the end: of each, those that follow without a byte, where a place
    holds or anywhere, and those that follow by bytes (first, last, node)."""

    def __init__(self, regex: Regex) -> None:
        self.free: list[tuple[int, ...]] = [()]
        self.place: list[Callable[[int, int], bool] | None] = [None]
        self.moves: list[tuple[tuple[int, int, int], ...]] = [()]
        self._shared: dict[tuple[_Bytes, int], int] = {}
        self.start = self._before(regex, 0)

    def _new(self, free: tuple[int, ...], moves: tuple[tuple[int, int, int], ...] = (), place: str = "") -> int:
        if len(self.free) >= _MOST_NODES:
            raise ValueError("a pattern that is too large")
        self.free.append(free)
        self.moves.append(moves)
        self.place.append(_HOLDS[place] if place else None)
        return len(self.free) - 1

    def _before(self, regex: Regex, end: int) -> int:
        """The node from which `regex` leads to `end`."""
        match regex:
            case Chars(ranges):
                moves = [(*first, self._rest(rest, end)) for first, *rest in _encoded(ranges)]
                return self._new((), tuple(moves))
            case Byte():
                return self._new((), ((0, 255, end),))
            case At(place):
                return self._new((end,), place=place)
            case Concat(items):
                for item in reversed(items):
                    end = self._before(item, end)
                return end
            case Either(branches):
                return self._new(tuple(self._before(b, end) for b in branches))
            case Repeat(body, least, most):
                if most is None:
                    loop = self._new(())
                    self.free[loop] = (self._before(body, loop), end)
                    end = loop
                else:
                    after = end
                    for _ in range(most - least):
                        end = self._new((self._before(body, end), after))
                for _ in range(least):
                    end = self._before(body, end)
                return end

    def _rest(self, rest: list[tuple[int, int]], end: int) -> int:
        """The node from which these bytes lead to `end`: characters that end alike share it."""
        for k in range(len(rest) - 1, -1, -1):
            key = ((rest[k],), end)
            found = self._shared.get(key)
            if found is None:
                found = self._shared[key] = self._new((), ((*rest[k], end),))
            end = found
        return end

    def closed(self, nodes: Iterable[int], before: int, behind: int) -> set[int]:
        """With all that is reached without a byte at a place between two kinds."""
        found: set[int] = set()
        stack = list(nodes)
        while stack:
            n = stack.pop()
            if n not in found:
                found.add(n)
                place = self.place[n]
                if place is None or place(before, behind):
                    stack += self.free[n]
        return found


class Automaton:
    """The deterministic one. A state is a set of nodes and the kind of the byte before, if that matters; 0 is the empty set."""

    def __init__(self, regex: Regex, *, least: int = 1, gaps: bool = False) -> None:
        """Tokens are of `least` characters (1 or more), and what is between matches where `gaps` are asked for."""
        self._nodes = n = _Nodes(regex)
        self._places = any(n.place)
        bytes_ = {m[:2] for moves in n.moves for m in moves} | ({(10, 10), *_WORDS} if self._places else set())
        self._cuts = sorted({0, 256, *(lo for lo, _ in bytes_), *(hi + 1 for _, hi in bytes_)})
        self._cut = {b: i for i, b in enumerate(self._cuts)}
        self._lock = RLock()
        self.walk = Walk(_KINDS, least, gaps)
        self._forget()

    def full_match(self, texts: list[str]) -> np.ndarray:
        """BOOL: which match as a whole. Raises UnicodeEncodeError."""
        out = np.empty(len(texts), bool)
        self._walked(full_matches, texts, address(out))
        return out

    def tokens(self, texts: list[str]) -> tuple[list[str], np.ndarray]:
        """The leftmost longest matches in texts, or the gaps between them, and I64 numbers of them up to the end of each text.

        Raises UnicodeEncodeError.
        """
        found: list[str] = []
        ends = np.empty(len(texts), np.int64)
        with self._lock:
            self.walk.number(None)
            self._walked(tokens, texts, found, address(ends))
        return found, ends

    def numbers(self, texts: list[str], words: Words) -> tuple[np.ndarray, np.ndarray]:
        """As `tokens`, by I32 numbers of words: −1 for others."""
        ends = np.empty(len(texts), np.int64)
        with self._lock:
            found = words.room(sum(map(len, texts)))
            self.walk.number(words)
            self._walked(tokens, texts, [], address(ends))
        return found[: ends[-1] if len(ends) else 0], ends

    def _walked(self, walk: Callable[..., int], texts: list[str], *to: Any) -> None:
        """Calls native code until all texts are done: it goes on with a text, and stops where it comes to what is not known."""
        with self._lock:
            at = 0
            try:
                while (at := walk(texts, at, self.walk, *to)) < len(texts):
                    self.walk.state = self._known(self.walk.state)
            except BaseException:
                self.walk.begin()
                raise

    def _forget(self) -> None:
        self._states: dict[_State, int] = {}
        self._keys: list[_State] = []
        self._table, self._accepts = np.full((_FIRST_STATES, 256), _UNKNOWN, np.int32), np.zeros(_FIRST_STATES, np.uint8)
        self._number([], _OTHER)
        self._table[_DEAD] = _DEAD
        starts = [self._number([self._nodes.start], kind) for kind in range(4)]
        self.walk.point(self._table, self._accepts, np.array(starts, np.int32))

    def _number(self, nodes: Iterable[int], before: int) -> int:
        """Of a state."""
        n, found = self._nodes, frozenset(nodes)
        if not self._places:
            found, before = frozenset(i for i in n.closed(found, _OTHER, _OTHER) if n.moves[i] or i == 0), _OTHER
        key = (found, before if found else _OTHER)
        number = self._states.get(key)
        if number is None:
            number = self._states[key] = len(self._keys)
            self._keys.append(key)
            if number == len(self._accepts):
                self._table = np.concatenate([self._table, np.full_like(self._table, _UNKNOWN)])
                self._accepts = np.concatenate([self._accepts, np.zeros_like(self._accepts)])
            self._accepts[number] = sum(1 << kind for kind in range(4) if 0 in n.closed(found, before, kind))
        return number

    def _known(self, state: int) -> int:
        """The number of a state all of whose followers are known now."""
        nodes, before = self._keys[state]
        if len(self._keys) >= _MOST_STATES:
            self._forget()
            state = self._number(nodes, before)
        after: list[set[int]] = [set() for _ in self._cuts[1:]]
        for kind in _KINDS_OF_BYTES if self._places else (_OTHER,):
            for node in self._nodes.closed(nodes, before, kind):
                for lo, hi, to in self._nodes.moves[node]:
                    for i in range(self._cut[lo], self._cut[hi + 1]):
                        if not self._places or _KINDS[self._cuts[i]] == kind:
                            after[i].add(to)
        row = np.empty(256, np.int32)
        for i, (lo, hi) in enumerate(pairwise(self._cuts)):
            row[lo:hi] = self._number(after[i], int(_KINDS[lo])) if after[i] else _DEAD
        self._table[state] = row
        self.walk.point(self._table, self._accepts)
        return state


def _encoded(ranges: Ranges) -> Iterator[_Bytes]:
    """The characters of ranges in UTF-8: each as ranges of bytes of which all combinations are meant."""
    for lo, hi in ranges:
        for first, last in _LENGTHS:
            if (start := max(lo, first)) <= (end := min(hi, last)):
                yield from _alike(_utf8(start), _utf8(end))


def _alike(lo: bytes, hi: bytes) -> Iterator[_Bytes]:
    """Of as many bytes each."""
    if len(lo) == 1:
        yield ((lo[0], hi[0]),)
    elif lo[0] == hi[0]:
        yield from (((lo[0], lo[0]), *rest) for rest in _alike(lo[1:], hi[1:]))
    else:
        least, most = bytes([0x80] * (len(lo) - 1)), bytes([0xBF] * (len(lo) - 1))
        first, last = lo[0], hi[0]
        if lo[1:] != least:
            yield from (((first, first), *rest) for rest in _alike(lo[1:], most))
            first += 1
        if hi[1:] != most:
            yield from (((last, last), *rest) for rest in _alike(least, hi[1:]))
            last -= 1
        if first <= last:
            yield ((first, last), *[(0x80, 0xBF)] * (len(lo) - 1))


def _utf8(c: int) -> bytes:
    return chr(c).encode("utf-8", "surrogatepass")
