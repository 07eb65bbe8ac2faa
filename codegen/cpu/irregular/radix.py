"""Sorting indices by their keys, byte by byte."""

from __future__ import annotations

from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I32, I64, storage, vec
from .frame import Frame

_WIDTH = 512  # bits of vectors of numbers in order
_FEW = 32  # words that are put in their places one after another: counting alone takes longer


def word(dtype: DType) -> Any:
    """Type of the numbers that keys are compared as."""
    return I64 if dtype.itemsize == 8 else I32


def lanes_of(dtype: DType) -> int:
    return _WIDTH // word(dtype).width


class Radix(Frame):
    """Needs the cells of `RADIX_CELLS`."""

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
                key = self.ordinal(self.element(keys, index, storage(dtype)), dtype, descending)
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
        zero, one, places = b.i64(0), b.i64(1), self.cell("places")
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

    def ordinal(self, x: Any, dtype: DType, descending: bool) -> Any:
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


RADIX_CELLS = {"flips": 1, "places": 256}
