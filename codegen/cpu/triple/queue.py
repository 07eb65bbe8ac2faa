"""Tiles that pass by, one after the other: units of work are taken for them while those before are multiplied."""

from __future__ import annotations

from typing import Any

from .. import llvm_ir as ir
from ..build import I64, PTR, Builder
from ..taking import take
from .operands import Operands
from .schedule import STRIP, TALL

# what a queue holds in memory: who gives chunks, units that are left of one, and where the tiles of those that pass end
_TAKE, _SHARE, _BEGIN, _END, _EDGE = range(WORDS := 5)
MORE_ARGS, FOLLOWING_ARGS = [PTR], [PTR, PTR, PTR, *[I64] * 4]


class Queue:
    """Reads and writes one."""

    def __init__(self, b: Builder, memory: Any) -> None:
        self.b, self.memory = b, memory

    def start(self, function: Any, share: Any) -> None:
        """As it is before any chunk was taken."""
        for word, value in ((_TAKE, function), (_SHARE, share), (_BEGIN, self.b.i64(0)), (_END, self.b.i64(0))):
            self._set(word, value)

    @property
    def unit(self) -> Any:
        """The first that is left."""
        return self._get(_BEGIN)

    def close(self) -> None:
        """No tile of the units that passed is left."""
        self._set(_EDGE, self.b.i64(0))

    def take(self) -> Any:
        """Whether there was another chunk."""
        return take(self.b, self._get(_TAKE, PTR), self._get(_SHARE, PTR), self.b.at(self.memory, self.b.i64(_BEGIN), I64))

    def pass_on(self, units: Any, edge: Any) -> None:
        """So many units, whose tiles end at `edge`."""
        self._set(_BEGIN, self.b.ir.add(self.unit, units))
        self._set(_EDGE, edge)

    def inside(self, at: Any) -> Any:
        return self.b.ir.icmp_signed("<", at, self._get(_EDGE))

    def left(self) -> Any:
        return self.b.ir.sub(self._get(_END), self.unit)

    def _get(self, word: int, t: Any = I64) -> Any:
        return self.b.load(t, self.b.at(self.memory, self.b.i64(word), I64), 8)

    def _set(self, word: int, value: Any) -> None:
        self.b.ir.store(value, self.b.at(self.memory, self.b.i64(word), I64), align=8)


def write_more(b: Builder) -> None:
    """i64 more(queue): 1 if units are left, of another chunk if need be."""
    i, queue = b.ir, Queue(b, b.fn.args[0])
    with i.if_then(i.icmp_signed(">", queue.left(), b.i64(0))):
        i.ret(b.i64(1))
    i.ret(i.zext(queue.take(), I64))


def write_following(b: Builder, operands: Operands, more: ir.Function) -> None:
    """i64 following(dims, queue, list, first unit, k0, at, number): where the tile is behind number `number`, which is at `at`; -1: none.

    With k0 = 0 tiles are those of the units that are taken, up to one of another part of what stays, and they are listed if more of k
    follows; then the list tells.
    """
    i = b.ir
    dims, memory, listed, first, k0, at, number = b.fn.args
    p, queue, behind = operands.sizes(b, dims), Queue(b, memory), i.add(number, b.i64(1))
    line = b.at(listed, behind, I64)
    with i.if_then(i.icmp_signed(">", k0, b.i64(0))):
        i.ret(b.load(I64, line, 8))
    deep = i.icmp_signed("<", p["depth"], p["k"])
    beside = i.add(at, b.i64(TALL))

    def found(place: Any) -> None:
        with i.if_then(deep):
            i.store(place, line, align=8)
        i.ret(place)

    with i.if_then(queue.inside(beside)):
        found(beside)
    with i.if_then(i.icmp_signed("==", i.call(more, [memory]), b.i64(0))):
        found(b.i64(-1))
    inner, size = (p["blocks"], p["m"]) if operands.schedule.rows_pass else (p["chunks"], p["n"])
    unit = i.sub(queue.unit, first)
    room = i.sub(p["passing"], behind)
    count = b.smin(b.smin(queue.left(), i.sub(inner, unit)), i.select(deep, room, inner))
    other = i.or_(i.icmp_signed("<", unit, b.i64(0)), i.icmp_signed("<=", count, b.i64(0)))
    with i.if_then(other):
        found(b.i64(-1))
    queue.pass_on(count, share(b, size, STRIP, inner, i.add(unit, count)))
    found(share(b, size, STRIP, inner, unit))


def share(b: Builder, size: Any, step: int, parts: Any, at: Any) -> Any:
    """Where part number `at` begins, of equal ones (but for a step)."""
    i = b.ir
    steps = i.udiv(i.add(size, b.i64(step - 1)), b.i64(step))
    return b.smin(size, i.mul(i.udiv(i.mul(at, steps), parts), b.i64(step)))
