"""Sets of characters as RE2's regular expressions name them: of Perl, of POSIX, general categories of Unicode; and without case."""

from __future__ import annotations

import functools
import string
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

LAST = 0x10FFFF  # code point

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # of code points, first and last, ascending and apart


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
    starts, ends = [0, *(hi + 1 for _, hi in ranges)], [*(lo - 1 for lo, _ in ranges), LAST]
    return tuple((lo, hi) for lo, hi in zip(starts, ends, strict=True) if lo <= hi)


def _of(text: str) -> Ranges:
    return joined([(ord(c), ord(c)) for c in text])


PERL = {"d": _of(string.digits), "s": _of("\t\n\f\r "), "w": _of(string.ascii_letters + string.digits + "_")}
POSIX = {
    "alnum": _of(string.ascii_letters + string.digits), "alpha": _of(string.ascii_letters), "ascii": ((0, 0x7F),), "blank": _of("\t "),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)), "digit": PERL["d"], "graph": ((0x21, 0x7E),), "lower": _of(string.ascii_lowercase),
    "print": ((0x20, 0x7E),), "punct": _of(string.punctuation), "space": _of("\t\n\v\f\r "), "upper": _of(string.ascii_uppercase),
    "word": PERL["w"], "xdigit": _of(string.hexdigits),
}  # fmt: skip


@functools.cache
def _categories() -> list[tuple[str, int, int]]:
    """All characters: a general category of Unicode, and the first and the last of some that have it."""
    import unicodedata

    found, at = list[tuple[str, int, int]](), 0
    for name, same in groupby(map(unicodedata.category, map(chr, range(LAST + 1)))):
        found.append((name, at, at := at + sum(1 for _ in same)))
    return [(name, lo, end - 1) for name, lo, end in found]


def category(name: str) -> Ranges:
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


def folded(ranges: Ranges) -> Ranges:
    """With all that differs in case only."""
    keys, orbits = _cases()
    more = {o for lo, hi in ranges for c in keys[bisect_left(keys, lo) : bisect_left(keys, hi + 1)] for o in orbits[c]}
    return joined([*ranges, *((c, c) for c in more)])
