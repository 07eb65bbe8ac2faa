"""What is done to the scores of the next token: penalties, masks, temperature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from ......ir import Dim, DType, Value
from ......ir import ops as O
from ....compose import Build
from .growing import Inside

LOWEST = float(np.finfo(np.float32).min)
LARGEST_GRAM = 256  # n-grams are compared token by token, which takes a few nodes for each


@dataclass(frozen=True)
class Processors:
    """In the order in which they are applied. Absent ones are None, or 0."""

    repetition: Value | None  # f32 scalar: scores of tokens in the sequence are divided by it, multiplied if negative
    ngram: int  # no n-gram of this size occurs twice
    vocabulary: Value | None  # i32[V], 0: never
    prefix: Value | None  # i32[R, V], 0: not as the first token
    min_length: Value | None  # scalar: no end before
    eos: int
    temperature: Value | float | None = None
    presence: Value | None = None  # f32[R, V], taken off
    timestamps: Timestamps | None = None

    def apply(self, b: Build, inside: Inside, scores: Value, sequences: Value, first: bool) -> Value:
        """scores f32[R, V] behind sequences i32[R, L]."""
        rows, vocabulary = scores.shape
        length = sequences.shape[1]
        lowest = b.const(LOWEST, DType.F32)
        if self.repetition is not None:
            penalty, zero = inside(self.repetition), b.const(0, DType.F32)
            changed = b.where(b.emit(O.Less(), scores, zero), b.mul(scores, penalty), b.div(scores, penalty))
            scores = b.where(_occurring(b, sequences, None, rows, vocabulary), changed, scores)
        if self.ngram:
            scores = b.where(_occurring(b, *_repeating(b, sequences, self.ngram), rows, vocabulary), lowest, scores)
        if self.vocabulary is not None:
            scores = b.where(_allowed(b, inside(self.vocabulary)), scores, lowest)
        if first and self.prefix is not None:
            scores = b.where(_allowed(b, inside(self.prefix)), scores, lowest)
        if self.min_length is not None and self.eos >= 0:
            early = b.emit(O.Less(), b.dim(length, DType.I64), inside(self.min_length))
            end = b.emit(O.Equal(), b.iota(vocabulary), b.const(self.eos, DType.I64))
            scores = b.where(b.emit(O.And(), end, early), lowest, scores)
        if self.temperature is not None:
            scores = b.div(scores, inside(self.temperature) if isinstance(self.temperature, Value) else self.temperature)
        if self.presence is not None:
            scores = b.sub(scores, inside(self.presence))
        return scores if self.timestamps is None else self.timestamps.apply(b, inside, scores, sequences)


@dataclass(frozen=True)
class Timestamps:
    """Whisper's rules: timestamps come in pairs, do not decrease and are preferred, and which tokens open a sequence."""

    asked: Value  # whether the rules hold, bool scalar
    eos: int
    start: int  # of the transcription
    translate: int
    transcribe: int
    start_of_lm: int
    none: int  # says that there are no timestamps
    first: int  # timestamp
    largest: int = 50  # of the first one

    def apply(self, b: Build, inside: Inside, scores: Value, sequences: Value) -> Value:
        vocabulary, length = scores.shape[1], sequences.shape[1]
        token, place = b.reshape(b.iota(vocabulary, DType.I32), (1, vocabulary)), b.iota(length)

        def either(*conditions: Value) -> Value:
            return reduce(lambda x, y: b.emit(O.Or(), x, y), conditions)

        def both(*conditions: Value) -> Value:
            return reduce(lambda x, y: b.emit(O.And(), x, y), conditions)

        def is_(*numbers: int) -> Value:
            return either(*(b.emit(O.Equal(), token, b.const(n, DType.I32)) for n in numbers))

        def not_(c: Value) -> Value:
            return b.emit(O.Not(), c)

        stamped = b.emit(O.GreaterEqual(), sequences, b.const(self.first, DType.I32))  # [R, L]
        size = b.dim(length, DType.I64)
        before = b.min(b.reduce("min", b.where(stamped, place, size), [1]), b.sub(size, 1))  # [R, 1]
        begin = b.add(before, 1)  # behind the first timestamp, or the end
        later = b.emit(O.Less(), begin, size)
        at = [b.slice(stamped, 1, length - 1, 1), b.emit(O.Gather(1), stamped, b.reshape(b.max(b.sub(size, 2), 0), (1,)))]
        last, previous = at[0], b.emit(O.Or(), not_(later), at[1])
        stamp = b.emit(O.GreaterEqual(), token, b.const(self.first, DType.I32))
        text = b.emit(O.Less(), token, b.const(self.eos, DType.I32))
        newest = b.reduce("max", b.where(stamped, b.add(b.mul(place, 2**32), b.cast(sequences, DType.I64)), b.const(-1, DType.I64)), [1])
        value = b.emit(O.BitAnd(), newest, b.const(2**32 - 1, DType.I64))
        least = b.where(both(last, not_(previous)), value, b.add(value, 1))
        some = b.emit(O.GreaterEqual(), newest, b.const(0, DType.I64))
        lost = [
            is_(self.none, self.start_of_lm), both(later, is_(self.start, self.translate, self.transcribe)),
            both(last, previous, stamp), both(last, not_(previous), text),
            both(some, stamp, b.emit(O.Less(), b.cast(token, DType.I64), least)),
            both(not_(later), b.emit(O.Greater(), token, b.const(self.first + self.largest, DType.I32))),
        ]  # fmt: skip
        lowest, asked = b.const(LOWEST, DType.F32), inside(self.asked)
        scores = b.where(both(asked, either(*lost)), lowest, scores)
        # A timestamp, where one is more probable than any other token.
        stamps = b.where(stamp, scores, lowest)
        most = b.reduce("max", stamps, [1])
        likely = b.add(most, b.emit(O.Log(), b.reduce("sum", b.emit(O.Exp(), b.sub(stamps, most)), [1])))
        other = b.reduce("max", b.where(stamp, lowest, scores), [1])
        return b.where(both(asked, b.emit(O.Greater(), likely, other), not_(stamp)), lowest, scores)


def _allowed(b: Build, mask: Value) -> Value:
    return b.emit(O.Not(), b.emit(O.Equal(), mask, b.const(0, mask.dtype)))


def _occurring(b: Build, tokens: Value, counted: Value | None, rows: Dim, vocabulary: Dim) -> Value:
    """bool[R, V]: whether a token is in a row of tokens[R, L] at a place that is counted."""
    counted = b.expand(b.const([[1]], DType.I32), tokens.shape) if counted is None else b.cast(counted, DType.I32)
    none = b.expand(b.const([[0]], DType.I32), (rows, vocabulary))
    found = b.emit(O.ScatterElements(1, "max"), none, b.cast(tokens, DType.I64), counted)
    return b.emit(O.Greater(), found, b.const(0, DType.I32))


def _repeating(b: Build, sequences: Value, size: int) -> tuple[Value, Value]:
    """The last token of the n-gram at each place, and whether all its others are those at the end of the sequence."""
    length = sequences.shape[1]
    end, place = b.dim(length, DType.I64), b.iota(length)

    def behind(k: int) -> Value:
        return b.emit(O.Gather(1), sequences, b.min(b.add(place, k), b.sub(end, 1)))

    same = b.emit(O.LessEqual(), b.reshape(b.add(place, size), (1, length)), end)
    for k in range(size - 1):
        at = b.reshape(b.max(b.sub(end, size - 1 - k), 0), (1,))
        same = b.emit(O.And(), same, b.emit(O.Equal(), behind(k), b.emit(O.Gather(1), sequences, at)))
    return behind(size - 1), b.expand(same, sequences.shape)
