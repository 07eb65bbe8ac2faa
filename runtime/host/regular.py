"""Whole matches of regular expressions in time linear in the text.

Python's `re` goes back where it guessed wrong, which takes time exponential in the text where repetitions lie in each other, such as
(a*)*b. Those are matched by all states at once (K. Thompson, "Regular Expression Search Algorithm", CACM 11(6), 1968), whose sets are
remembered: a deterministic automaton, made as far as texts need it. Others are quicker with `re`, and bounded by a small power.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

_MOST_STATES, _MOST_SETS = 20_000, 2000
_FEW_REPEATS = 3  # side by side: re tries every way of dividing a text between them
_MORE = 2  # so many repetitions, or more, are ways to divide a text

Match = Callable[[str], object]
States = frozenset[int]


def full_match(pattern: str) -> Match:
    """What tells whether a text matches as a whole, by truth. Raises re.error.

    Patterns that look beyond a character, as \\b does, are left to `re` in any case.
    """
    compiled = re.compile(pattern)
    parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    if _backtracks(parsed):
        with suppress(_UnlikeError):
            return _Automaton(parsed, compiled.flags).matches
    return compiled.fullmatch


def _backtracks(parsed: Any) -> bool:
    """Whether matching may take time beyond a small power of the text's length."""
    repeats, stack = 0, [(parsed, False)]
    while stack:
        items, inside = stack.pop()
        for op, argument in items:
            if op in _REPEATS:
                least, most, body = argument
                if inside and most != least:
                    return True
                repeats += most != least and most >= _MORE
                stack.append((body, inside or most >= _MORE))
            elif op is _OPS.BRANCH:
                if inside:
                    return True
                stack += [(b, inside) for b in argument[1]]
            elif op is _OPS.SUBPATTERN:
                stack.append((argument[3], inside))
    return repeats > _FEW_REPEATS


_OPS: Any = re._constants  # type: ignore[attr-defined]
_REPEATS = (_OPS.MAX_REPEAT, _OPS.MIN_REPEAT)
_ONE = (_OPS.LITERAL, _OPS.NOT_LITERAL, _OPS.ANY, _OPS.IN)


class _UnlikeError(Exception):
    """No automaton, or a large one, is like this pattern."""


class _Automaton:
    """States are numbers; each has followers that need no character, or one test of a character and a follower. 0 is the end."""

    def __init__(self, parsed: Any, flags: int) -> None:
        self._flags = flags
        self._free: list[tuple[int, ...]] = [()]
        self._tests: list[tuple[Match, int] | None] = [None]
        items = list(parsed)
        if items[:1] == [(_OPS.AT, _OPS.AT_BEGINNING)]:  # which a whole match does anyway
            del items[0]
        if items[-1:] == [(_OPS.AT, _OPS.AT_END)]:
            del items[-1]
        self._start = self._closed([self._before(items, 0, parsed.state)])
        self._steps: dict[States, dict[str, States]] = {}

    def matches(self, text: str) -> bool:
        states, known = self._start, self._steps
        for c in text:
            steps = known.get(states)
            if steps is None:
                if len(known) >= _MOST_SETS:
                    known.clear()
                steps = known[states] = {}
            after = steps.get(c)
            if after is None:
                after = steps[c] = self._closed(t[1] for s in states if (t := self._tests[s]) is not None and t[0](c))
            if not after:
                return False
            states = after
        return 0 in states

    def _new(self, free: tuple[int, ...], test: tuple[Match, int] | None = None) -> int:
        if len(self._free) >= _MOST_STATES:
            raise _UnlikeError
        self._free.append(free)
        self._tests.append(test)
        return len(self._free) - 1

    def _closed(self, states: Iterable[int]) -> States:
        """With all that is reached without a character."""
        found: set[int] = set()
        stack = list(states)
        while stack:
            s = stack.pop()
            if s not in found:
                found.add(s)
                stack += self._free[s]
        return frozenset(found)

    def _before(self, items: Any, end: int, state: Any) -> int:
        """The state from which `items` lead to `end`."""
        for op, argument in reversed(list(items)):
            if op in _ONE:
                one = re._parser.SubPattern(state, [(op, argument)])  # type: ignore[attr-defined]
                end = self._new((), (re._compiler.compile(one, self._flags & ~re.DEBUG).fullmatch, end))  # type: ignore[attr-defined]
            elif op is _OPS.BRANCH:
                end = self._new(tuple(self._before(b, end, state) for b in argument[1]))
            elif op is _OPS.SUBPATTERN and not argument[1] and not argument[2]:  # no flags of its own
                end = self._before(argument[3], end, state)
            elif op in _REPEATS:
                least, most, body = argument
                end = self._repeated(least, most, body, end, state)
            else:
                raise _UnlikeError
        return end

    def _repeated(self, least: int, most: int, body: Any, end: int, state: Any) -> int:
        if most == _OPS.MAXREPEAT:
            loop = self._new(())
            self._free[loop] = (self._before(body, loop, state), end)
            end = loop
        else:
            after = end
            for _ in range(most - least):
                end = self._new((self._before(body, end, state), after))
        for _ in range(least):
            end = self._before(body, end, state)
        return end
