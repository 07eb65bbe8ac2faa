"""The first k of each row in order: kept so while the row is read where they are few, else sorted from fewer candidates."""

from __future__ import annotations

from typing import Any

from ....ir import upper
from ...kernel import KEPT
from .. import llvm_ir as ir
from ..build import I32, I64, storage, vec
from .radix import Radix


class FirstK(Radix):
    def _top(self, row: Any) -> None:
        b, i, k = self.b, self.b.ir, self.inner
        dtype = self.kernel.operands[0].dtype
        first = i.mul(row, self.n)
        keys, best = b.at(self.buffers[0], first, storage(dtype)), b.at(self.buffers[1], i.mul(row, k), I64)
        if len(self.buffers) == 2:
            self._keep_best(keys, best)
            return
        with i.if_else(i.icmp_signed("<=", k, b.i64(KEPT))) as (few, many):
            with few:
                self._keep_best(keys, best)
            with many:
                order, spare = (b.at(buffer, first, I64) for buffer in self.buffers[2:])
                descending = "descending" in self.kernel.flags
                found = self._candidates(order, k, keys, dtype, descending)
                self._radix_sort(order, spare, found, keys, dtype, descending)
                self.each(b.i64(0), k, lambda j: self.put(best, j, self.element(order, j)))

    def _keep_best(self, keys: Any, best: Any) -> None:
        """Numbers that order as the keys do lie sorted on the stack, with their indices beside them.

        Most elements are not before the last of the k kept so far, which is seen a vector at a time. One that is goes where
        as many are not after it, and the rest moves on by one place, in vectors too. Signed numbers, which compare everywhere.
        """
        b, i = self.b, self.b.ir
        dtype, descending = self.kernel.operands[0].dtype, "descending" in self.kernel.flags
        zero, k = b.i64(0), self.inner
        t = storage(dtype)
        word = I64 if dtype.itemsize == 8 else I32
        lanes = 512 // word.width
        wide = vec(word, lanes)
        align = word.width // 8
        room = -(-min(KEPT, upper(self.kernel.inner)) // lanes) * lanes
        # one place before the first, which is read and not used
        kept, where = (b.at(b.alloca_entry(word, room + lanes), b.i64(lanes), word) for _ in range(2))
        vectors = i.mul(i.sdiv(i.add(k, b.i64(lanes - 1)), b.i64(lanes)), b.i64(lanes))

        def number(x: Any) -> Any:
            bits = self._ordered_bits(x, dtype, descending)
            width = 8 * dtype.itemsize
            if width < word.width:
                return i.zext(bits, wide if isinstance(x.type, ir.VectorType) else word)
            top = 1 << (width - 1)
            return i.xor(bits, ir.Constant(bits.type, top))

        def count(mask: Any) -> Any:
            bits = ir.IntType(lanes)
            return i.zext(b.call(f"llvm.ctpop.i{lanes}", bits, i.bitcast(mask, bits)), I64)

        def insert(key: Any, index: Any, most: Any) -> None:
            """Behind all that are not after it, at `most` at the latest."""
            splat = b.splat(key, lanes)

            def before(v: Any, carried: list[Any]) -> list[Any]:
                return [i.add(carried[0], count(i.icmp_signed("<=", b.load(wide, b.at(kept, v, word), align), splat)))]

            (found,) = b.loop(zero, vectors, b.i64(lanes), [zero], before)
            place = b.smin(found, most)
            start = i.mul(i.sdiv(place, b.i64(lanes)), b.i64(lanes))
            indices = b.splat(i.trunc(index, word) if word is I32 else index, lanes)

            def shift(back: Any) -> None:
                v = i.sub(i.sub(vectors, b.i64(lanes)), i.sub(back, start))
                lane = b.splat(i.trunc(i.sub(place, v), I32), lanes)
                iota = ir.Constant(vec(I32, lanes), list(range(lanes)))
                stays, is_it = i.icmp_signed("<", iota, lane), i.icmp_signed("==", iota, lane)
                for array, new in ((kept, splat), (where, indices)):
                    at = b.at(array, v, word)
                    old, moved = b.load(wide, at, align), b.load(wide, b.at(at, b.i64(-1), word), align)
                    i.store(i.select(stays, old, i.select(is_it, new, moved)), at, align=align)

            self.each(start, vectors, shift, b.i64(lanes))

        nothing = ir.Constant(wide, (1 << (word.width - 1)) - 1)
        self.each(zero, vectors, lambda v: i.store(nothing, b.at(kept, v, word), align=align), b.i64(lanes))
        filled = b.smin(k, self.n)
        self.each(zero, filled, lambda j: insert(number(self.element(keys, j, t)), j, j))
        last = b.at(kept, i.sub(k, b.i64(1)), word)
        bits = ir.IntType(lanes)
        seen = b.alloca_entry(word, lanes)

        def chunk(j: Any, mask: Any) -> None:
            raw = vec(t, lanes)
            at = b.at(keys, j, t)
            x = number(b.load(raw, at) if mask is None else b.masked_load(raw, at, mask, 1))
            better = i.icmp_signed("<", x, b.splat(b.load(word, last, align), lanes))
            hits = i.bitcast(better if mask is None else i.and_(better, mask), bits)
            self.set("hits", i.zext(hits, I64))
            with i.if_then(i.icmp_unsigned("!=", hits, ir.Constant(bits, 0)), likely=False):
                i.store(x, seen, align=align)

                def take() -> None:
                    left = self.get("hits")
                    lane = b.call("llvm.cttz.i64", I64, left, ir.Constant(ir.IntType(1), 1))
                    self.set("hits", i.and_(left, i.sub(left, b.i64(1))))
                    key = b.load(word, b.at(seen, lane, word), align)
                    with i.if_then(i.icmp_signed("<", key, b.load(word, last, align))):
                        insert(key, i.add(j, lane), b.i64(KEPT))

                self.during(lambda: i.icmp_unsigned("!=", self.get("hits"), zero), take)

        whole = i.add(filled, i.mul(i.sdiv(i.sub(self.n, filled), b.i64(lanes)), b.i64(lanes)))
        with i.if_then(i.icmp_signed(">", k, zero)):
            self.each(filled, whole, lambda j: chunk(j, None), b.i64(lanes))
            rest = i.sub(self.n, whole)
            with i.if_then(i.icmp_signed(">", rest, zero)):
                chunk(whole, b.below(rest, lanes))

        def give(j: Any) -> None:
            index = b.load(word, b.at(where, j, word), align)
            self.put(best, j, i.zext(index, I64) if word is I32 else index)

        self.each(zero, filled, give)
