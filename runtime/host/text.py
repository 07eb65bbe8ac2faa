"""Operators that turn texts into numbers: what follows from their attributes alone is computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np

from ..texts import Texts, Words
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
        self.mark, self.pad = mark, pad
        if not any(separators):
            one = r"(?s)." if expression in ("", ".") else expression
            self._finders = [Automaton(parse(one), least=max(1, least))]
        else:
            self._finders = [Automaton(parse(s), least=max(1, least), gaps=True) for s in separators if s]

    def __call__(self, x: Texts) -> Texts:
        return in_rows(self.rows(x.items), self.pad, x.shape)

    def rows(self, texts: list[str]) -> list[list[str]]:
        """Of each text, without padding."""
        texts, ends = self._cut(texts)
        found, after = self._finders[-1].tokens(texts)
        rows = _rows(found, _ends(ends, after))
        return [["\x02", *r, "\x03"] for r in rows] if self.mark and any(rows) else rows

    def numbers(self, texts: list[str], words: Words) -> tuple[np.ndarray, np.ndarray]:
        """Of the words, I32, and I64 ends of texts among them, without marks."""
        texts, ends = self._cut(texts)
        found, after = self._finders[-1].numbers(texts, words)
        return found, _ends(ends, after)

    def _cut(self, texts: list[str]) -> tuple[list[str], np.ndarray | None]:
        """By all separators but the last; and where parts of each text end, if there are others."""
        ends = None
        for cut in self._finders[:-1]:
            texts, after = cut.tokens(texts)
            ends = _ends(ends, after)
        return texts, ends


def _ends(of_texts: np.ndarray | None, of_parts: np.ndarray) -> np.ndarray:
    """Where texts end among tokens, by where they end among their parts (None: they are whole), and those among tokens."""
    return of_parts if of_texts is None else np.append(0, of_parts)[of_texts]


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
        self._mode, self.columns = mode, max(indexes, default=-1) + 1
        if min(indexes, default=0) < 0:
            raise ValueError(f"column {min(indexes)}")
        self._weight = np.ones(self.columns, np.float32)
        for gram, column in enumerate(indexes if weights else ()):
            self._weight[column] = weights[gram]
        self.of: dict[int, dict[Any, int]] = {}  # by length: columns of single tokens, or of tuples
        gram = 0
        for n, start in enumerate(counts, 1):
            end = counts[n] if n < len(counts) else len(pool)
            grams = [pool[at] if n == 1 else tuple(pool[at : at + n]) for at in range(start, end, n)]
            if min_gram <= n <= max_gram:
                self.of[n] = {g: indexes[gram + i] for i, g in enumerate(grams)}
            gram += len(grams)
        self.steps = [(n, 1 + skip) for n in self.of for skip in range(1 if n == 1 else max_skip + 1)]

    def __call__(self, x: Texts | np.ndarray) -> np.ndarray:
        tokens, shape = (x.items, x.shape) if isinstance(x, Texts) else (x.ravel().tolist(), x.shape)
        width, rows = shape[-1] if shape else 1, math.prod(shape[:-1])
        out = self.of_rows([tokens[at : at + width] for at in range(0, rows * width, width)] if width else [[]] * rows)
        return out.reshape(*shape[:-1], self.columns) if len(shape) != 1 else out[0]

    def counts(self, token: Any) -> bool:
        """Whether any gram has it."""
        return any(token in (grams if n == 1 else {t for g in grams for t in g}) for n, grams in self.of.items())

    def of_rows(self, rows: list[list[Any]]) -> np.ndarray:
        """F32 [rows, columns]."""
        columns = self.columns
        total = np.zeros(len(rows) * columns, np.float32)
        for n, step in self.steps:
            grams = rows if n == 1 else [[*zip(*(r[i * step :] for i in range(n)), strict=False)] for r in rows]
            find = self.of[n].get
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
        return self.weighted(total.reshape(len(rows), columns))

    def weighted(self, out: np.ndarray) -> np.ndarray:
        if self._mode == "IDF":
            out = (out > 0).astype(np.float32) * self._weight
        elif self._mode == "TFIDF":
            out = out * self._weight
        return out


class Grams:
    """What counts grams of words by their numbers: those of a gram lead from column to column of tables, one a length."""

    def __init__(self, counts: TfIdf) -> None:
        self._counts = counts
        tokens = {t: None for n, grams in counts.of.items() for g in grams for t in ((g,) if n == 1 else g)}
        self.words = Words([*tokens])
        number, self._size = {t: i for i, t in enumerate(tokens)}, len(tokens)
        # By length: for each word behind the first, the prefixes and it that are known, sorted; and columns, by place in the last.
        self._known: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}
        for n, grams in counts.of.items():
            words = np.array([[number[t] for t in ((g,) if n == 1 else g)] for g in grams], np.int64).reshape(-1, n)
            place, known = words[:, 0], []
            for k in range(1, n):
                found, place = np.unique(place * self._size + words[:, k], return_inverse=True)
                known.append(found)
            columns = np.full(len(known[-1]) if known else self._size, -1, np.int64)
            columns[place.reshape(-1)] = [*grams.values()]
            self._known[n] = known, columns

    def __call__(self, numbers: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """F32 [rows, columns], by the numbers of all words in order, and where each row ends among them."""
        columns = self._counts.columns
        total = np.zeros(len(ends) * columns, np.float32)
        lengths = ends.copy()
        lengths[1:] -= ends[:-1]
        first, until = np.repeat(np.arange(0, len(total), columns), lengths), np.repeat(ends, lengths)
        for n, step in self._counts.steps:
            known, columns_of = self._known[n]
            starts = np.nonzero((np.arange(len(numbers)) + (n - 1) * step < until) & (numbers >= 0))[0]
            place = numbers[starts].astype(np.int64)
            for k, keys in enumerate(known, 1):
                word = numbers[starts + k * step]
                key = place * self._size + word
                place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                fits = (word >= 0) & (keys[place] == key)
                starts, place = starts[fits], place[fits]
            to = columns_of[place]
            np.add.at(total, (first[starts] + to)[to >= 0], np.float32(1))
        return self._counts.weighted(total.reshape(len(ends), columns))


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
                self._grams = Grams(last) if last.of and not tokens.mark else None

    def __call__(self, x: Texts) -> Any:
        value: Any = x
        for function in self._functions:
            value = function(value)
        if self._counted is None:
            return value
        tokens, last = self._counted
        if self._grams is None or len(value.items) <= _FEW:
            counts = last.of_rows(tokens.rows(value.items))
        else:
            counts = self._grams(*tokens.numbers(value.items, self._grams.words))
        return counts if len(value.shape) == 1 else counts.reshape(*value.shape, counts.shape[1])


TEXT_CLASSES: dict[str, Callable[..., Callable[..., Any]]] = {
    "string_normalizer": StringNormalizer, "tokenize": Tokenize, "tf_idf": TfIdf, "regex_full_match": FullMatch,
}  # fmt: skip
