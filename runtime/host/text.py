"""Operators that turn texts into numbers: what follows from their attributes alone is computed once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np

from ..texts import Texts
from .strings import in_rows

_FEW = 64  # tokens that are counted one by one
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
    """Tokens of texts along a new last axis."""

    def __init__(self, separators: list[str], expression: str, least: int, mark: bool, pad: str) -> None:
        try:
            self._cuts, self._wanted = [re.compile(s) for s in separators if s], re.compile(expression) if expression else None
        except re.error as e:
            raise ValueError(f"a pattern of the tokenizer: {e}") from None
        self._least, self._mark, self._pad = max(1, least), mark, pad

    def __call__(self, x: Texts) -> Texts:
        rows = [*map(self._tokens, x.items)]
        if self._mark and any(rows):
            width = max(map(len, rows))
            rows = [["\x02", *r, "\x03", *[self._pad] * (width - len(r))] for r in rows]
        return in_rows(rows, self._pad, x.shape)

    def _tokens(self, text: str) -> list[str]:
        if self._wanted is not None:
            wanted = self._wanted
            tokens = [m.group() for m in wanted.finditer(text)] if wanted.groups else wanted.findall(text)
        else:
            tokens = [text] if self._cuts else list(text)
            for cut in self._cuts:
                tokens = [part for token in tokens for part in cut.split(token)]
        least = self._least
        return tokens if least == 1 and "" not in tokens else [t for t in tokens if len(t) >= least]


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
        total = np.zeros(rows * self._columns, np.float32)
        for n, step in self._steps:
            span = (n - 1) * step
            if span >= width:
                continue
            grams = tokens if n == 1 else zip(*(tokens[i * step :] for i in range(n)), strict=False)
            columns = map(self._of[n].get, grams, repeat(-1))  # a gram that reaches into the next row counts in none
            if len(tokens) <= _FEW:
                for at, column in enumerate(columns):
                    if column >= 0 and at % width + span < width:
                        total[at // width * self._columns + column] += 1
                continue
            found = np.fromiter(columns, np.int64, len(tokens) - span)
            places = np.nonzero(found >= 0)[0]
            row, place = np.divmod(places, width)
            inside = place + span < width
            np.add.at(total, (row * self._columns + found[places])[inside], np.float32(1))
        out = total.reshape(rows, self._columns)
        if self._mode == "IDF":
            out = (out > 0).astype(np.float32) * self._weight
        elif self._mode == "TFIDF":
            out = out * self._weight
        return out.reshape(*shape[:-1], self._columns) if len(shape) != 1 else out[0]


class Chain:
    """Functions of texts, one after the other."""

    def __init__(self, functions: list[Any]) -> None:
        if not all(isinstance(f, TextFunction) for f in functions[:-1]) or not isinstance(functions[-1], TextFunction | TfIdf):
            raise ValueError("a chain of functions that are not of texts")
        self._functions = functions

    def __call__(self, x: Texts) -> Any:
        value: Any = x
        for function in self._functions:
            value = function(value)
        return value


TEXT_CLASSES: dict[str, Callable[..., Callable[..., Any]]] = {
    "string_normalizer": StringNormalizer, "tokenize": Tokenize, "tf_idf": TfIdf,
}  # fmt: skip
