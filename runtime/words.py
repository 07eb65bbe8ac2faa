"""Sizes as words for native code: what follows from the sizes that are known, and whether they make sense.

A word is an operation and three places in the tables of a run (`tables.py`); see @mlc_evaluate of native.ll. Checks are words, too:
where one fails, or a size leaves ±2⁶², native code says which, and `refusal` says to people why.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArtifactError, InputError, MlcError
from .address import address
from .dimexpr import show
from .fields import LIMIT
from .manifest import Manifest
from .native import native
from .stages import Stage, Stages

# to = a + b and so on; a ≤ b?; a = b?; to = the b-th word (b is a number) at address a; to = address a + b; exchange a and b;
# copy b bytes from address a to address to
END, ADD, MUL, FLOORDIV, MIN, MAX, MOVE, AT_MOST, EQUAL, LOAD, POINT, SWAP, COPY = range(13)


class UnequalError(InputError):
    """Sizes differ that a program takes as equal."""


class Places(NamedTuple):
    """Where each table starts in one block of words; behind them are two that anything may use, and `constants`."""

    values: int  # by number of a value of the dim table
    slots: int  # by dim slot
    sizes: int  # bytes, by buffer, as the following ones
    room: int  # bytes allocated by a handler, which may be written again; 0: none
    held: int  # bytes that a buffer holds that was handed on; −1: none was
    owned: int  # whether the memory is this run's to drop
    bufs: int  # addresses
    spare: int
    constants: int

    @staticmethod
    def of(m: Manifest) -> Places:
        sizes = [0, m.dims.n_values, len(m.dims.slots), *[len(m.buffers)] * 5, 2]
        return Places(*accumulate(sizes))


class Words:
    """Of a program: each stage's, which start at `starts`; more may be appended until `finish`.

    `begin` is what tables hold before the first stage, but for the symbols, which lie at `symbols`.
    """

    def __init__(self, m: Manifest, stages: Stages) -> None:
        self.manifest, self.places = m, Places.of(m)
        first = self.places.values + len(m.dims.constants)
        self.symbols = slice(first, first + len(m.dims.symbols))
        self.words: list[int] = []
        self._constants: dict[int, int] = {}  # places by value
        self._reasons: dict[int, tuple[Any, ...]] = {}  # by word: what it means when a check fails
        self._stages = [self._stage(k, stage) for k, stage in enumerate(stages.all)]
        self.finish()

    def finish(self) -> None:
        m, p = self.manifest, self.places
        self.code = np.array(self.words, np.int64)
        self.starts = [address(self.code) + 8 * begin for begin, _ in self._stages]
        self.begin = begin = np.zeros(p.constants + len(self._constants), np.int64)
        begin[p.values : self.symbols.start] = m.dims.constants
        begin[p.sizes : p.room] = [b.size if b.kind == "const" else 0 for b in m.buffers]
        begin[p.held : p.owned] = -1
        begin[p.constants :] = list(self._constants)

    def evaluate(self, stage: int, table: np.ndarray, symbols: Mapping[str, int]) -> None:
        """Fill in what a stage adds to a table. Raises InputError for sizes that make no sense, and names `symbols`."""
        failed = native().evaluate(address(table), self.starts[stage])
        if failed >= 0:
            raise self._refusal(self._reasons.get(self._stages[stage][0] + failed), table, symbols)

    def emit(self, op: int, to: int, a: int, b: int) -> None:
        self.words += (op, to, a, b)

    def constant(self, value: int) -> int:
        """Its place."""
        return self._constants.setdefault(value, self.places.constants + len(self._constants))

    def repeat(self, stage: int) -> None:
        """Append what a stage does, without its end."""
        begin, end = self._stages[stage]
        self.words += self.words[begin : end - 4]

    def _check(self, op: int, a: int, b: int, *reason: Any) -> None:
        self._reasons[len(self.words)] = reason
        self.words += (op, 0, a, b)

    def _stage(self, k: int, stage: Stage) -> tuple[int, int]:
        m, p, emit, check = self.manifest, self.places, self.emit, self._check
        begin = len(self.words)
        for fn, a, b, out in m.dims.code[k]:
            emit(fn, p.values + out, p.values + a, p.values + b)
        for slot in stage.slots:
            emit(MOVE, p.slots + slot, p.values + m.dims.slots[slot], 0)
        for a, b in stage.equal:  # before all else: where they differ, another program may fit
            check(EQUAL, p.slots + a, p.slots + b, "unequal", a, b)
        for slot, lo, hi, loc in stage.limits:
            check(AT_MOST, p.slots + lo, p.slots + slot, "limit", slot, lo, hi, loc)
            check(AT_MOST, p.slots + slot, p.slots + hi, "limit", slot, lo, hi, loc)
        for slot in stage.sizes:
            check(AT_MOST, self.constant(0), p.slots + slot, "negative", slot)
        for i in stage.buffers:
            self._buffer(i)
        for i, need in stage.control:
            check(AT_MOST, self.constant(need), p.sizes + i, "small", i, need)
        emit(END, 0, 0, 0)
        return begin, len(self.words)

    def _buffer(self, i: int) -> None:
        """Its bytes agree with what the tensor really has; an alias stays inside of its buffer."""
        m, p, emit, check = self.manifest, self.places, self.emit, self._check
        b, size, spare = m.buffers[i], p.sizes + i, p.spare
        if b.kind != "const":
            emit(MOVE, size, p.slots + b.size, 0)
            check(AT_MOST, self.constant(0), size, "bytes", i)
            check(AT_MOST, size, self.constant(LIMIT), "bytes", i)
        if b.kind == "input" or b.kind == "output":
            infos, shapes = (m.inputs, m.input_shapes) if b.kind == "input" else (m.outputs, m.output_shapes)
            emit(MOVE, spare, self.constant(infos[b.place].dtype.itemsize), 0)
            for slot in shapes[b.place]:
                emit(MUL, spare, spare, p.slots + slot)
            check(EQUAL, spare, size, "tensor", i, infos[b.place].name)
        elif b.kind == "alias":
            shift = p.slots + b.shift
            check(AT_MOST, self.constant(0), shift, "outside", i)
            # no bytes may lie anywhere
            emit(ADD, spare, shift, size)
            emit(MIN, spare + 1, size, self.constant(1))
            emit(MUL, spare, spare, spare + 1)
            check(AT_MOST, spare, p.sizes + b.place, "outside", i)

    def _refusal(self, reason: tuple[Any, ...] | None, table: np.ndarray, symbols: Mapping[str, int]) -> MlcError:
        m, p = self.manifest, self.places
        slots, sizes = table[p.slots : p.sizes].tolist(), table[p.sizes : p.room].tolist()
        given, exprs = show_sizes(symbols), m.raw["dims"]
        match reason:
            case ("limit", slot, lo, hi, loc):
                found = f"{show(exprs[slot], exprs)} = {slots[slot]} (sizes {given})"
                return InputError(found, expected=f"{slots[lo]} to {slots[hi]}", loc=loc)
            case ("negative", slot):
                return InputError(f"sizes {given} make a dimension of {slots[slot]} inside the model", remedy="Give larger inputs.")
            case ("unequal", a, b):
                texts = [str(show(exprs[s], exprs)) for s in (a, b)]
                left, right = (t if t == str(slots[s]) else f"{t} = {slots[s]}" for t, s in zip(texts, (a, b), strict=True))
                return UnequalError(f"{left} differs from {right} (sizes {given})", expected="equal sizes, for this model to make sense")
            case ("bytes", i):
                return ArtifactError(f"buffer {i} of {sizes[i]} bytes")
            case ("tensor", i, name):
                kind, real = m.buffers[i].kind, int(table[p.spare])
                return ArtifactError(f"buffer {i} of {sizes[i]} bytes", expected=f"{real} bytes as {kind} {name}")
            case ("outside", i):
                return ArtifactError(f"buffer {i} reaches outside buffer {m.buffers[i].place}")
            case ("small", i, need):
                return ArtifactError(f"buffer {i} of {sizes[i]} bytes", expected=f"at least {need}")
        return InputError(f"sizes {given}", expected="tensors of less than 2**62 elements")


def show_sizes(symbols: Mapping[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in symbols.items())
