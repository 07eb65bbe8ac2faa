"""Regular expressions as RE2 has them, which is what onnxruntime matches by (https://github.com/google/re2/wiki/Syntax).

Unlike Python's: \\d, \\w, \\s and \\b are about ASCII, `$` is the end of the text only, and there are [[:alpha:]], \\pL, \\x{…}, \\z
and \\Q…\\E.
What a whole match, or the longest one, does not depend on is not kept: groups, and which of two repetitions is to be the longer.
"""

from __future__ import annotations

import functools
import string
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

_LAST = 0x10FFFF
_MOST_REPEATS, _MOST_DEPTH = 1000, 200  # of RE2, those within each other multiplied; nested groups

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # of code points, first and last, ascending and apart


class Chars(NamedTuple):
    """One character of a set."""

    ranges: Ranges


class Byte(NamedTuple):
    """Any byte of a text in UTF-8."""


class At(NamedTuple):
    """A place: "begin" and "end" of the text, "line" and "end line", a "word" boundary, or "inside" where there is none."""

    place: str


class Concat(NamedTuple):
    items: tuple[Regex, ...]


class Either(NamedTuple):
    branches: tuple[Regex, ...]


class Repeat(NamedTuple):
    """`least` to `most` times, or without end where that is None."""

    body: Regex
    least: int
    most: int | None


Regex: TypeAlias = "Chars | Byte | At | Concat | Either | Repeat"


def joined(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Sorted, and those that touch as one."""
    out: list[tuple[int, int]] = []
    for lo, hi in sorted(ranges):
        if out and lo <= out[-1][1] + 1:
            out[-1] = out[-1][0], max(hi, out[-1][1])
        else:
            out.append((lo, hi))
    return tuple(out)


def others(ranges: Ranges) -> Ranges:
    """All characters that are in none."""
    starts, ends = [0, *(hi + 1 for _, hi in ranges)], [*(lo - 1 for lo, _ in ranges), _LAST]
    return tuple((lo, hi) for lo, hi in zip(starts, ends, strict=True) if lo <= hi)


def _of(text: str) -> Ranges:
    return joined([(ord(c), ord(c)) for c in text])


_PERL = {"d": _of(string.digits), "s": _of("\t\n\f\r "), "w": _of(string.ascii_letters + string.digits + "_")}
_POSIX = {
    "alnum": _of(string.ascii_letters + string.digits), "alpha": _of(string.ascii_letters), "ascii": ((0, 0x7F),), "blank": _of("\t "),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)), "digit": _PERL["d"], "graph": ((0x21, 0x7E),), "lower": _of(string.ascii_lowercase),
    "print": ((0x20, 0x7E),), "punct": _of(string.punctuation), "space": _of("\t\n\v\f\r "), "upper": _of(string.ascii_uppercase),
    "word": _PERL["w"], "xdigit": _of(string.hexdigits),
}  # fmt: skip
_CONTROL = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_PLACES = {"A": "begin", "z": "end", "b": "word", "B": "inside"}


@functools.cache
def _categories() -> list[tuple[str, int, int]]:
    """All characters: a general category of Unicode, and the first and the last of some that have it."""
    import unicodedata

    found, at = list[tuple[str, int, int]](), 0
    for name, same in groupby(map(unicodedata.category, map(chr, range(_LAST + 1)))):
        found.append((name, at, at := at + sum(1 for _ in same)))
    return [(name, lo, end - 1) for name, lo, end in found]


def _category(name: str) -> Ranges:
    """Characters of a general category such as L or Lu. Raises ValueError for names of scripts, which Python does not know."""
    found = [(lo, hi) for of, lo, hi in _categories() if of.startswith(name) or name == "Any"] if name else []
    if not found:
        raise ValueError(f"no general category of Unicode: {name}")
    return joined(found)


@functools.cache
def _cases() -> tuple[list[int], dict[int, frozenset[int]]]:
    """Characters that differ in case only, by each of them, in order."""
    alike: dict[str, set[int]] = {}
    for c in range(0x1F000):
        folded = chr(c).upper().lower()
        if len(folded) == 1 and (folded != chr(c) or chr(c).upper() != chr(c)):
            alike.setdefault(folded, {ord(folded)}).add(c)
    orbits = {c: frozenset(orbit) for orbit in alike.values() if len(orbit) > 1 for c in orbit}
    return sorted(orbits), orbits


def _folded(ranges: Ranges) -> Ranges:
    """With all that differs in case only."""
    keys, orbits = _cases()
    more = {o for lo, hi in ranges for c in keys[bisect_left(keys, lo) : bisect_left(keys, hi + 1)] for o in orbits[c]}
    return joined([*ranges, *((c, c) for c in more)])


class _Flags(NamedTuple):
    fold: bool = False
    lines: bool = False
    newline: bool = False  # matched by a dot


def parse(pattern: str) -> Regex:
    """Raises ValueError for what RE2 does not take, and for scripts of Unicode."""
    p = _Parser(pattern)
    found = p.either(_Flags(), 0)
    if p.at < len(pattern):
        raise p.wrong("a parenthesis that nothing opened")
    if _times(found) > _MOST_REPEATS:
        raise ValueError(f"repetitions in each other, more than {_MOST_REPEATS} in all, in {pattern[:80]!r}")
    return found


def _times(regex: Regex) -> int:
    """How often the part that is written out most often is."""
    match regex:
        case Concat(parts) | Either(parts):
            return max(map(_times, parts), default=1)
        case Repeat(body, least, most):
            return _times(body) * max(1, least if most is None else most)
        case _:
            return 1


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{what} at position {self.at} of {self.pattern[:80]!r}")

    def _has(self, text: str) -> bool:
        """Whether this follows, which it then is behind."""
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise self.wrong("an end")
        self.at += 1
        return self.pattern[self.at - 1]

    def _until(self, end: str) -> str:
        stop = self.pattern.find(end, self.at)
        if stop < 0:
            raise self.wrong(f"no {end}")
        text, self.at = self.pattern[self.at : stop], stop + len(end)
        return text

    def either(self, flags: _Flags, depth: int) -> Regex:
        """Up to a parenthesis that closes, or the end."""
        if depth > _MOST_DEPTH:
            raise self.wrong("too many groups in each other")
        branches: list[Regex] = []
        items: list[Regex] = []
        repeated = False
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            repeat = self._repeat()
            if repeat is not None:
                if repeated or not items:
                    raise self.wrong("a repetition of a repetition" if repeated else "a repetition of nothing")
                items[-1] = Repeat(items[-1], *repeat)
                repeated = True
                continue
            repeated = False
            if self._has("|"):
                branches.append(Concat(tuple(items)))
                items = []
            elif self._has(r"\Q"):
                stop = self.pattern.find(r"\E", self.at)
                quoted = self.pattern[self.at : stop] if stop >= 0 else self.pattern[self.at :]
                self.at += len(quoted) + (2 if stop >= 0 else 0)
                items += [_chars(((ord(c), ord(c)),), flags) for c in quoted]
            elif self._has("("):
                found, flags = self._group(flags, depth)
                items += [] if found is None else [found]
            else:
                items.append(self._one(flags))
        branches.append(Concat(tuple(items)))
        return branches[0] if len(branches) == 1 else Either(tuple(branches))

    def _repeat(self) -> tuple[int, int | None] | None:
        """How many times, if a repetition follows."""
        start = self.at
        c = self._next()
        found: tuple[int, int | None] | None = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(c)
        if c == "{" and (stop := self.pattern.find("}", start)) > 0:
            low, comma, high = self.pattern[start + 1 : stop].partition(",")
            if _digits(low) and (not high or _digits(high)):
                found = int(low), (int(high) if high else None if comma else int(low))
                if max(found[0], found[1] or 0) > _MOST_REPEATS or (found[1] is not None and found[1] < found[0]):
                    raise self.wrong("a number of repetitions")
                self.at = stop + 1
        if found is None:
            self.at = start
        else:
            self._has("?")
        return found

    def _group(self, flags: _Flags, depth: int) -> tuple[Regex | None, _Flags]:
        """What is in it, or None where it only sets flags; and the flags behind it."""
        inner = flags
        if self._has("?"):
            if self._has("P<") or self._has("<"):
                name = self._until(">")
                if not name.isidentifier() or not name.isascii():
                    raise self.wrong("a group's name")
            else:
                on = True
                while (c := self._next()) not in ":)":
                    if c == "-" and on:
                        on = False
                    elif c in "imsU":
                        named = {"i": "fold", "m": "lines", "s": "newline"}
                        inner = inner._replace(**{named[c]: on}) if c in named else inner
                    else:
                        raise self.wrong("a flag")
                if c == ")":
                    return None, inner
        found = self.either(inner, depth + 1)
        if not self._has(")"):
            raise self.wrong("a parenthesis that nothing closes")
        return found, flags

    def _one(self, flags: _Flags) -> Regex:
        c = self._next()
        if c == ".":
            return Chars(((0, _LAST),) if flags.newline else ((0, 9), (11, _LAST)))
        if c in "^$":
            start = c == "^"
            return At(("line" if start else "end line") if flags.lines else ("begin" if start else "end"))
        if c == "[":
            return Chars(self._set(flags))
        if c != "\\":
            return _chars(((ord(c), ord(c)),), flags)
        c = self._next()
        if c in _PLACES:
            return At(_PLACES[c])
        if c == "C":
            return Byte()
        found = self._class(c, flags)
        if found is None:
            code = self._escaped(c)
            found = _chars(((code, code),), flags).ranges
        return Chars(found)

    def _class(self, c: str, flags: _Flags) -> Ranges | None:
        """What \\d, \\pL and so on stand for."""
        if c.lower() in _PERL:
            found = _chars(_PERL[c.lower()], flags).ranges
            return found if c.islower() else others(found)
        if c not in "pP":
            return None
        name = self._next()
        if name == "{":
            name = self._until("}")
        negated = (c == "P") != name.startswith("^")
        found = _chars(_category(name.removeprefix("^")), flags).ranges
        return others(found) if negated else found

    def _escaped(self, c: str) -> int:
        """The character that an escape stands for."""
        if c in _CONTROL:
            return _CONTROL[c]
        if c == "x":
            digits = self._until("}") if self._has("{") else self._next() + self._next()
            code = int(digits, 16) if digits and all(d in string.hexdigits for d in digits) else _LAST + 1
            if code > _LAST:
                raise self.wrong("a number of a character")
            return code
        if c in string.octdigits:
            digits = c
            while len(digits) < 3 and self.at < len(self.pattern) and self.pattern[self.at] in string.octdigits:
                digits += self._next()
            if c != "0" and len(digits) == 1:
                raise self.wrong("a reference to a group")
            return int(digits, 8)
        if c.isalnum() or ord(c) > 0x7F:
            raise self.wrong("an escape")
        return ord(c)

    def _set(self, flags: _Flags) -> Ranges:
        negated, found = self._has("^"), list[tuple[int, int]]()
        first = True
        while first or not self._has("]"):
            first = False
            if self._has("[:"):
                name = self._until(":]")
                if name.removeprefix("^") not in _POSIX:
                    raise self.wrong("a class's name")
                of = _chars(_POSIX[name.removeprefix("^")], flags).ranges
                found += others(of) if name.startswith("^") else of
                continue
            c = self._next()
            if c == "\\":
                c = self._next()
                of_class = self._class(c, flags)
                if of_class is not None:
                    found += of_class
                    continue
                lo = self._escaped(c)
            else:
                lo = ord(c)
            hi = lo
            if self.pattern.startswith("-", self.at) and not self.pattern.startswith("-]", self.at):
                self.at += 1
                c = self._next()
                hi = self._escaped(self._next()) if c == "\\" else ord(c)
                if hi < lo:
                    raise self.wrong("a range")
            found += _chars(((lo, hi),), flags).ranges
        ranges = joined(found)
        return others(ranges) if negated else ranges


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _chars(ranges: Ranges, flags: _Flags) -> Chars:
    return Chars(_folded(ranges) if flags.fold else ranges)
