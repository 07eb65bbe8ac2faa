"""Regular expressions as RE2 has them, which is what onnxruntime matches by (https://github.com/google/re2/wiki/Syntax).

Unlike Python's: \\d, \\w, \\s and \\b are about ASCII, `$` is the end of the text only, and there are [[:alpha:]], \\pL, \\x{…}, \\z
and \\Q…\\E.
What a whole match, or the longest one, does not depend on is not kept: groups, and which of two repetitions is to be the longer.
"""

from __future__ import annotations

import string
from typing import NamedTuple, TypeAlias

from .character_sets import LAST, PERL, POSIX, Ranges, category, folded, joined, others

_MOST_REPEATS, _MOST_DEPTH = 1000, 200  # of RE2, those within each other multiplied; nested groups


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


_CONTROL = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_PLACES = {"A": "begin", "z": "end", "b": "word", "B": "inside"}


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
            return Chars(((0, LAST),) if flags.newline else ((0, 9), (11, LAST)))
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
        if c.lower() in PERL:
            found = _chars(PERL[c.lower()], flags).ranges
            return found if c.islower() else others(found)
        if c not in "pP":
            return None
        name = self._next()
        if name == "{":
            name = self._until("}")
        negated = (c == "P") != name.startswith("^")
        found = _chars(category(name.removeprefix("^")), flags).ranges
        return others(found) if negated else found

    def _escaped(self, c: str) -> int:
        """The character that an escape stands for."""
        if c in _CONTROL:
            return _CONTROL[c]
        if c == "x":
            digits = self._until("}") if self._has("{") else self._next() + self._next()
            code = int(digits, 16) if digits and all(d in string.hexdigits for d in digits) else LAST + 1
            if code > LAST:
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
                if name.removeprefix("^") not in POSIX:
                    raise self.wrong("a class's name")
                of = _chars(POSIX[name.removeprefix("^")], flags).ranges
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
    return Chars(folded(ranges) if flags.fold else ranges)
