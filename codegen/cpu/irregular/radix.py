"""Sorting indices by their keys, byte by byte; and which indices the first few of a row are among."""

from __future__ import annotations

from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I32, I64, storage, vec
from .frame import Frame

PLACES = 1 << 10  # buckets of a selection
_WIDTH = 512  # bits of vectors of numbers in order
_FEW = 32  # words that are put in their places one after another: counting alone takes longer
_ENOUGH = 256  # candidates that are not worth another round


def word(dtype: DType) -> Any:
    """Type of the numbers that keys are compared as."""
    return I64 if dtype.itemsize == 8 else I32


def lanes_of(dtype: DType) -> int:
    return _WIDTH // word(dtype).width


class Radix(Frame):
    """Needs the cells of `RADIX_CELLS`, and those of `SELECT_CELLS` for `_candidates`."""

    def _radix_sort(self, order: Any, spare: Any, n: Any, keys: Any, dtype: DType, descending: bool) -> None:
        """Stable, byte by byte from the lowest: words of 32 bits of key over 32 bits of index go from `order` to `spare` and back.

        Rows have less than 2³² elements. Keys of 64 bits take two rounds.
        """
        b, i = self.b, self.b.ir
        low = b.i64(2**32 - 1)
        bits = max(32, 8 * dtype.itemsize)
        for start in range(0, bits, 32):

            def pack(j: Any, start: int = start) -> None:
                index = self.element(order, j)
                key = self._ordinal(self.element(keys, index, storage(dtype)), dtype, descending)
                part = i.and_(i.lshr(key, b.i64(start)), low)
                self.put(order, j, i.or_(i.shl(part, b.i64(32)), index))

            self.each(b.i64(0), n, pack)
            self.set("flips", b.i64(0))
            last = 32 + min(32, 8 * dtype.itemsize)
            with i.if_else(i.icmp_signed("<=", n, b.i64(_FEW))) as (few, many):
                with few:
                    self.each(b.i64(1), n, lambda j: self._insert(order, j))
                with many:
                    self.each(b.i64(32), b.i64(last), lambda shift: self._pass(order, spare, n, shift), b.i64(8))
            flipped = i.trunc(self.get("flips"), I1)
            source = i.select(flipped, spare, order)

            def unpack(j: Any, source: Any = source) -> None:
                self.put(order, j, i.and_(self.element(source, j), low))

            self.each(b.i64(0), n, unpack)

    def _insert(self, order: Any, j: Any) -> None:
        """Word j goes to its place among the words before it, which are in order."""
        b, i = self.b, self.b.ir
        word = self.element(order, j)
        key = i.lshr(word, b.i64(32))

        def step(places: Any) -> Any:  # how many places further left, negated: from −j up to 0
            at = i.neg(places)
            left = self.element(order, i.sub(at, b.i64(1)))
            later = i.icmp_unsigned(">", i.lshr(left, b.i64(32)), key)
            self.put(order, at, i.select(later, left, word))
            self.put(order, i.sub(at, b.i64(1)), i.select(later, word, left))
            return i.select(later, i.add(places, b.i64(1)), b.i64(0))

        b.walk(i.neg(j), b.i64(0), step)

    def _pass(self, order: Any, spare: Any, n: Any, shift: Any) -> None:
        """Distribute words by one byte; nothing to do where all have the same."""
        b, i = self.b, self.b.ir
        zero, one, places = b.i64(0), b.i64(1), self._cells["places"]
        flipped = i.trunc(self.get("flips"), I1)
        source, target = i.select(flipped, spare, order), i.select(flipped, order, spare)

        def digit(word: Any) -> Any:
            return i.and_(i.lshr(word, shift), b.i64(255))

        def count(j: Any) -> None:
            d = digit(self.element(source, j))
            self.put(places, d, i.add(self.element(places, d), one))

        self.each(zero, b.i64(256), lambda d: self.put(places, d, zero))
        self.each(zero, n, count)
        with i.if_then(i.icmp_signed(">", n, zero)):
            alike = i.icmp_signed("==", self.element(places, digit(self.element(source, zero))), n)
            with i.if_then(i.not_(alike)):

                def begin(d: Any, carried: list[Any]) -> list[Any]:
                    size = self.element(places, d)
                    self.put(places, d, carried[0])
                    return [i.add(carried[0], size)]

                def move(j: Any) -> None:
                    word = self.element(source, j)
                    d = digit(word)
                    at = self.element(places, d)
                    self.put(target, at, word)
                    self.put(places, d, i.add(at, one))

                b.loop(zero, b.i64(256), one, [zero], begin)
                self.each(zero, n, move)
                self.set("flips", i.add(self.get("flips"), one))

    def _ordinal(self, x: Any, dtype: DType, descending: bool) -> Any:
        """An unsigned 64-bit number that orders as x does (32 bits for smaller types); one for all NaN, above the others."""
        bits = self.ordered_bits(x, dtype, descending)
        return bits if bits.type.width == 64 else self.b.ir.zext(bits, I64)

    def ordered_bits(self, x: Any, dtype: DType, descending: bool) -> Any:
        """The same as wide as x, which may be a vector."""
        i = self.b.ir
        width = 8 * dtype.itemsize
        t: Any = ir.IntType(width)
        if isinstance(x.type, ir.VectorType):
            t = ir.VectorType(t, x.type.count)

        sign = ir.Constant(t, 1 << (width - 1))
        if dtype.is_float:
            bits = i.bitcast(i.fadd(x, ir.Constant(x.type, 0.0)), t)  # −0 becomes 0
            negative = i.icmp_signed("<", bits, ir.Constant(t, 0))
            bits = i.select(negative, i.not_(bits), i.or_(bits, sign))
            bits = i.select(i.fcmp_unordered("uno", x, x), ir.Constant(t, -1), bits)
        else:
            bits = i.xor(x, sign) if dtype.is_signed else x
        return i.not_(bits) if descending else bits

    def number(self, x: Any, dtype: DType, descending: bool) -> Any:
        """Signed, smaller the further to the front x belongs, of 32 bits or 64; of one key or a vector."""
        i = self.b.ir
        bits = self.ordered_bits(x, dtype, descending)
        width, to = 8 * dtype.itemsize, word(dtype)
        if width < to.width:
            return i.zext(bits, vec(to, x.type.count) if isinstance(x.type, ir.VectorType) else to)
        return i.xor(bits, ir.Constant(bits.type, 1 << (width - 1)))

    def _candidates(self, order: Any, k: Any, keys: Any, dtype: DType, descending: bool) -> Any:
        """Put indices in order of position into `order`, those of the first k of the row among them; how many. 1 ≤ k ≤ n.

        Keys are counted by bucket, from the least one to the greatest, until the k-th is in a small enough one.
        """
        b, i, places = self.b, self.b.ir, self._cells["places"]
        zero, one = b.i64(0), b.i64(1)

        def key(j: Any) -> Any:
            return self._ordinal(self.element(keys, j, storage(dtype)), dtype, descending)

        def extremes(j: Any, ends: list[Any]) -> list[Any]:
            x = key(j)
            return [b.call("llvm.umin.i64", I64, ends[0], x), b.call("llvm.umax.i64", I64, ends[1], x)]

        low, high = b.loop(zero, self.n, one, [b.i64(-1), zero], extremes)
        width = i.sub(b.i64(64), b.call("llvm.ctlz.i64", I64, i.xor(low, high), ir.Constant(I1, 0)))
        bits = PLACES.bit_length() - 2  # so that the least and the greatest are less than PLACES buckets apart
        self.set("shift", b.smax(i.sub(width, b.i64(bits)), zero))
        self.set("base", i.lshr(low, self.get("shift")))
        self.set("need", k)
        self.set("found", self.n)
        self.set("rounds", zero)

        def more() -> Any:
            first = i.icmp_signed("==", self.get("rounds"), zero)
            large = i.icmp_signed(">", self.get("found"), i.add(i.shl(k, one), b.i64(_ENOUGH)))
            return i.or_(first, i.and_(large, i.icmp_signed(">", self.get("shift"), zero)))

        def narrow() -> None:
            """Into the bucket of the k-th: what is below it stays a candidate."""
            with i.if_then(i.icmp_signed(">", self.get("rounds"), zero)):
                finer = b.smax(i.sub(self.get("shift"), b.i64(bits)), zero)
                self.set("base", i.shl(i.add(self.get("base"), self.get("bucket")), i.sub(self.get("shift"), finer)))
                self.set("shift", finer)
            self.set("rounds", i.add(self.get("rounds"), one))
            self.each(zero, b.i64(PLACES + 1), lambda d: self.put(places, d, zero))
            base, shift = self.get("base"), self.get("shift")

            def count(j: Any) -> None:
                d = i.sub(i.lshr(key(j), shift), base)
                d = b.call("llvm.umin.i64", I64, d, b.i64(PLACES))  # of other buckets of the last round
                self.put(places, d, i.add(self.element(places, d), one))

            self.each(zero, self.n, count)
            self.set("bucket", zero)

            def before() -> Any:
                return i.icmp_signed(">", self.get("need"), self.element(places, self.get("bucket")))

            def step() -> None:
                self.set("need", i.sub(self.get("need"), self.element(places, self.get("bucket"))))
                self.set("bucket", i.add(self.get("bucket"), one))

            self.during(before, step)
            self.set("found", i.add(i.sub(k, self.get("need")), self.element(places, self.get("bucket"))))

        self.during(more, narrow)
        last, shift = i.add(self.get("base"), self.get("bucket")), self.get("shift")

        def candidate(j: Any, carried: list[Any]) -> list[Any]:
            self.put(order, carried[0], j)
            return [i.add(carried[0], i.zext(i.icmp_unsigned("<=", i.lshr(key(j), shift), last), I64))]

        return b.loop(zero, self.n, one, [zero], candidate)[0]


RADIX_CELLS = {"flips": 1, "places": PLACES + 1}
SELECT_CELLS = {"shift": 1, "base": 1, "need": 1, "found": 1, "rounds": 1, "bucket": 1}
