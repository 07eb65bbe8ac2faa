"""The first k elements of a row so far, in order on the stack."""

from __future__ import annotations

from typing import Any

from ....ir import upper
from ...kernel import KEPT, IrregularKernel
from .. import llvm_ir as ir
from ..build import I32, I64, storage, vec
from .radix import Radix, lanes_of, word


class Kept:
    """Numbers that order as the keys do lie sorted, with their indices beside them.

    Most elements of a row are not before the last of the k kept so far, which is seen a vector at a time. One that is goes
    where as many are not after it, and the rest moves on by one place, in vectors too. Signed numbers, which compare everywhere.
    """

    def __init__(self, frame: Radix, kernel: IrregularKernel, k: Any) -> None:
        self.frame, self.b = frame, frame.b
        b, i = self.b, self.b.ir
        self.dtype, self.descending = kernel.operands[0].dtype, "descending" in kernel.flags
        self.storage = storage(self.dtype)
        self.word = word(self.dtype)
        self.lanes = lanes = lanes_of(self.dtype)
        self.wide, self.align = vec(self.word, lanes), self.word.width // 8
        room = -(-min(KEPT, upper(kernel.inner)) // lanes) * lanes
        # one place before the first, which is read and not used
        self.keys, self.indices = (b.at(b.alloca_entry(self.word, room + lanes), b.i64(lanes), self.word) for _ in range(2))
        self.count = i.mul(i.sdiv(i.add(k, b.i64(lanes - 1)), b.i64(lanes)), b.i64(lanes))  # of places, in whole vectors
        nothing = ir.Constant(self.wide, (1 << (self.word.width - 1)) - 1)
        frame.each(b.i64(0), self.count, lambda v: i.store(nothing, b.at(self.keys, v, self.word), align=self.align), b.i64(lanes))
        self.last = b.at(self.keys, i.sub(k, b.i64(1)), self.word)
        self.seen = b.alloca_entry(self.word, lanes)

    def number(self, x: Any) -> Any:
        return self.frame.number(x, self.dtype, self.descending)

    def index(self, j: Any) -> Any:
        """Where the j-th of those kept stood in the row."""
        index = self.b.load(self.word, self.b.at(self.indices, j, self.word), self.align)
        return self.b.ir.zext(index, I64) if self.word is I32 else index

    def insert(self, key: Any, index: Any, most: Any) -> None:
        """Behind all that are not after it, at place `most` at the latest."""
        b, i, lanes = self.b, self.b.ir, self.b.i64(self.lanes)
        splat = b.splat(key, self.lanes)

        def not_after(v: Any, carried: list[Any]) -> list[Any]:
            return [i.add(carried[0], self._ones(i.icmp_signed("<=", b.load(self.wide, b.at(self.keys, v, self.word), self.align), splat)))]

        (found,) = b.loop(b.i64(0), self.count, lanes, [b.i64(0)], not_after)
        place = b.smin(found, most)
        start = i.mul(i.sdiv(place, lanes), lanes)
        indices = b.splat(i.trunc(index, self.word) if self.word is I32 else index, self.lanes)

        def shift(back: Any) -> None:
            self._move_on(i.sub(i.sub(self.count, lanes), i.sub(back, start)), place, splat, indices)

        self.frame.each(start, self.count, shift, lanes)

    def _move_on(self, v: Any, place: Any, key: Any, index: Any) -> None:
        """The vector of places from v on: those behind `place` get what stood one before, `place` itself the new element."""
        b, i = self.b, self.b.ir
        lane = b.splat(i.trunc(i.sub(place, v), I32), self.lanes)
        iota = ir.Constant(vec(I32, self.lanes), list(range(self.lanes)))
        stays, is_it = i.icmp_signed("<", iota, lane), i.icmp_signed("==", iota, lane)
        for array, new in ((self.keys, key), (self.indices, index)):
            at = b.at(array, v, self.word)
            old, moved = b.load(self.wide, at, self.align), b.load(self.wide, b.at(at, b.i64(-1), self.word), self.align)
            i.store(i.select(stays, old, i.select(is_it, new, moved)), at, align=self.align)

    def take(self, keys: Any, j: Any, mask: Any) -> None:
        """A vector of the row from j on (where `mask` is set, unless it is None): inserts what is before the last one kept."""
        b, i = self.b, self.b.ir
        bits = ir.IntType(self.lanes)
        raw, at = vec(self.storage, self.lanes), b.at(keys, j, self.storage)
        x = self.number(b.load(raw, at) if mask is None else b.masked_load(raw, at, mask, 1))
        better = i.icmp_signed("<", x, b.splat(b.load(self.word, self.last, self.align), self.lanes))
        hits = i.bitcast(better if mask is None else i.and_(better, mask), bits)
        self.frame.set("hits", i.zext(hits, I64))
        with i.if_then(i.icmp_unsigned("!=", hits, ir.Constant(bits, 0)), likely=False):
            i.store(x, self.seen, align=self.align)
            self.frame.during(lambda: i.icmp_unsigned("!=", self.frame.get("hits"), b.i64(0)), lambda: self._take_next(j))

    def _take_next(self, j: Any) -> None:
        """The first element that is still a hit, unless those inserted since have pushed the last place before it."""
        b, i = self.b, self.b.ir
        left = self.frame.get("hits")
        lane = b.call("llvm.cttz.i64", I64, left, ir.Constant(ir.IntType(1), 1))
        self.frame.set("hits", i.and_(left, i.sub(left, b.i64(1))))
        key = b.load(self.word, b.at(self.seen, lane, self.word), self.align)
        with i.if_then(i.icmp_signed("<", key, b.load(self.word, self.last, self.align))):
            self.insert(key, i.add(j, lane), b.i64(KEPT))

    def _ones(self, mask: Any) -> Any:
        bits = ir.IntType(self.lanes)
        return self.b.ir.zext(self.b.call(f"llvm.ctpop.i{self.lanes}", bits, self.b.ir.bitcast(mask, bits)), I64)
