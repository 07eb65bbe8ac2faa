"""Operators that turn texts into numbers: what follows from their attributes alone is computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np

from ..texts import Texts
from .automaton import Automaton
from .re2_syntax import parse
from .strings import in_rows

_FEW = 4  # rows whose tokens are counted one by one
_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


class TextFunction:
    """Base: texts to texts."""

    def __call__(self, x: Texts) -> Texts:
        raise NotImplementedError


class StringNormalizer(TextFunction):
    """Texts in one case, without stop words: of [C] or [1, C] those that are left, or one empty string."""

    def __init__(self, case: str, sensitive: bool, stopwords: list[str]) -> None:
        self._change, self._fold = _CASES[case], str if sensitive else str.lower
        self._stop = {self._fold(w) for w in stopwords}

    def __call__(self, x: Texts) -> Texts:
        if not self._stop:
            return Texts([*map(self._change, x.items)], x.shape)
        words = [self._change(s) for s in x.items if self._fold(s) not in self._stop] or [""]
        return Texts(words, (1, len(words)) if len(x.shape) == 2 else (len(words),))


class Tokenize(TextFunction):
    """Tokens of texts along a new last axis: what matches an expression, or is between separators; each character, for a dot or none."""

    def __init__(self, separators: list[str], expression: str, least: int, mark: bool, pad: str) -> None:
        self._least, self._mark, self.pad = max(1, least), mark, pad
        self._wanted = Automaton(parse(expression), least=self._least) if expression not in ("", ".") else None
        self._cuts = [Automaton(parse(s), least=self._least, gaps=True) for s in separators if s]

    def __call__(self, x: Texts) -> Texts:
        return in_rows(self.rows(x.items), self.pad, x.shape)

    def rows(self, texts: list[str]) -> list[list[str]]:
        """Of each text, without padding."""
        rows = self._all(texts)
        return [["\x02", *r, "\x03"] for r in rows] if self._mark and any(rows) else rows

    def _all(self, texts: list[str]) -> list[list[str]]:
        if self._wanted is not None:
            return _rows(*self._wanted.tokens(texts))
        if not self._cuts:
            return [[*s] for s in texts] if self._least == 1 else [[] for _ in texts]
        found, ends = texts, np.arange(1, len(texts) + 1)
        for cut in self._cuts:
            found, after = cut.tokens(found)
            ends = np.append(0, after)[ends]
        return _rows(found, ends)


def _rows(found: list[str], ends: np.ndarray) -> list[list[str]]:
    if len(ends) == 1:
        return [found]
    until = ends.tolist()
    return [*map(found.__getitem__, map(slice, [0, *until], until))]


class TfIdf:
    """Counts (TF), presence (IDF) or weighted counts (TFIDF) of the n-grams in `pool`, by row.

    counts[n − 1] is where n-grams start in the pool; gram i (in order over all lengths) counts in column indexes[i].
    """

    def __init__(
        self, mode: str, min_gram: int, max_gram: int, max_skip: int, counts: list[int], indexes: list[int], pool: list[Any],
        weights: list[float],
    ) -> None:  # fmt: skip
        self._mode, self._columns = mode, max(indexes, default=-1) + 1
        if min(indexes, default=0) < 0:
            raise ValueError(f"column {min(indexes)}")
        self._weight = np.ones(self._columns, np.float32)
        for gram, column in enumerate(indexes if weights else ()):
            self._weight[column] = weights[gram]
        self._of: dict[int, dict[Any, int]] = {}  # by length: columns of single tokens, or of tuples
        gram = 0
        for n, start in enumerate(counts, 1):
            end = counts[n] if n < len(counts) else len(pool)
            grams = [pool[at] if n == 1 else tuple(pool[at : at + n]) for at in range(start, end, n)]
            if min_gram <= n <= max_gram:
                self._of[n] = {g: indexes[gram + i] for i, g in enumerate(grams)}
            gram += len(grams)
        self._steps = [(n, 1 + skip) for n in self._of for skip in range(1 if n == 1 else max_skip + 1)]

    def __call__(self, x: Texts | np.ndarray) -> np.ndarray:
        tokens, shape = (x.items, x.shape) if isinstance(x, Texts) else (x.ravel().tolist(), x.shape)
        width, rows = shape[-1] if shape else 1, math.prod(shape[:-1])
        out = self.of_rows([tokens[at : at + width] for at in range(0, rows * width, width)] if width else [[]] * rows)
        return out.reshape(*shape[:-1], self._columns) if len(shape) != 1 else out[0]

    def counts(self, token: Any) -> bool:
        """Whether any gram has it."""
        return any(token in (grams if n == 1 else {t for g in grams for t in g}) for n, grams in self._of.items())

    def of_rows(self, rows: list[list[Any]]) -> np.ndarray:
        """F32 [rows, columns]."""
        columns = self._columns
        total = np.zeros(len(rows) * columns, np.float32)
        for n, step in self._steps:
            grams = rows if n == 1 else [[*zip(*(r[i * step :] for i in range(n)), strict=False)] for r in rows]
            find = self._of[n].get
            if len(rows) <= _FEW:
                counts: Any = total.data  # quicker than the array, one by one
                first = 0
                for row in grams:
                    for column in map(find, row, repeat(-1)):
                        if column >= 0:
                            counts[first + column] += 1.0
                    first += columns
                continue
            lengths = [*map(len, grams)]
            found = np.fromiter(map(find, chain.from_iterable(grams), repeat(-1)), np.int64, sum(lengths))
            places = found + np.repeat(np.arange(0, len(total), columns), lengths)
            np.add.at(total, places[found >= 0], np.float32(1))
        out = total.reshape(len(rows), columns)
        if self._mode == "IDF":
            out = (out > 0).astype(np.float32) * self._weight
        elif self._mode == "TFIDF":
            out = out * self._weight
        return out


class FullMatch:
    """Which texts match an expression as a whole."""

    def __init__(self, pattern: str) -> None:
        self._automaton = Automaton(parse(pattern))

    def __call__(self, x: Texts) -> np.ndarray:
        return self._automaton.full_match(x.items).reshape(x.shape)


class Chain:
    """Functions of texts, one after the other."""

    def __init__(self, functions: list[Any]) -> None:
        if not all(isinstance(f, TextFunction) for f in functions[:-1]) or not isinstance(functions[-1], TextFunction | TfIdf):
            raise ValueError("a chain of functions that are not of texts")
        self._functions, self._counted = functions, None
        match functions:
            case [*first, Tokenize() as tokens, TfIdf() as last] if not last.counts(tokens.pad):  # nor are rows padded
                self._functions, self._counted = first, (tokens, last)

    def __call__(self, x: Texts) -> Any:
        value: Any = x
        for function in self._functions:
            value = function(value)
        if self._counted is None:
            return value
        tokens, last = self._counted
        counts = last.of_rows(tokens.rows(value.items))
        return counts if len(value.shape) == 1 else counts.reshape(*value.shape, counts.shape[1])


TEXT_CLASSES: dict[str, Callable[..., Callable[..., Any]]] = {
    "string_normalizer": StringNormalizer, "tokenize": Tokenize, "tf_idf": TfIdf, "regex_full_match": FullMatch,
}  # fmt: skip
