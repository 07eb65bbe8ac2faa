"""Rows of A as signed bytes, for products with levels of few bits as bytes.

The elements of a group of a row become integers of 23 bits, x = q·2^(e−22) with |x| < 2^e for all of them, and those three
signed bytes, q = d₀ + 2⁸·d₁ + 2¹⁶·d₂. What is lost is the rounding to 2⁻²³ of the largest element of a group, about what float32
loses in a sum. Where rows may be rounded, fewer bytes do: one of x = q·l/127, with |x| ≤ l, or two of x = q·l/32600, which lose 2⁻¹⁶
of l. They lie in the order in which they are multiplied: for each word of levels those of all rows of a register tile.
Rows that hold an infinity, NaN, or a group of nothing but tiny numbers have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...kernel import GroupedKernel
from .. import llvm_ir as ir
from ..build import I1, I8, I32, PTR, Builder, subroutine, vec
from .frame import Frame

F32 = ir.FloatType()
ENTRY = 8  # 32-bit numbers of a group: what sums begin with, by digit; the weights of the digits; Σ of what x became
_KEPT = 22  # bits of the largest element, without its sign
_BIAS = 127
_ABOVE = 126  # |x| < 2^(exponent − 126), as float32 counts from −127
_MOST = {1: 127.0, 2: 32600.0}  # of so many digits: each is at most 127, with room for what rounding adds


def whole_zero(kernel: GroupedKernel) -> int | None:
    """The zero that all columns share, where it is a level itself: it is taken off before sums begin."""
    zero = kernel.zero
    return int(zero) if zero is not None and zero == int(zero) and 0 <= zero < 1 << kernel.bits else None


def register_tiles(b: Builder, f: Frame, rows: Any) -> Iterator[tuple[int, Any, Any]]:
    """(height, first row, number) of the register tiles of so many rows."""
    i, done = b.ir, b.i64(0)
    for h in f.schedule.integers:
        count = i.udiv(i.sub(rows, done), b.i64(h))
        yield h, done, count
        done = i.add(done, i.mul(count, b.i64(h)))


def plane_bytes(b: Builder, f: Frame, p: dict[str, Any]) -> Any:
    """Of the digits of a row."""
    return b.ir.mul(b.ir.mul(p["groups"], p["group"]), b.i64(f.each * f.schedule.digits))


def places(b: Builder, f: Frame, p: dict[str, Any], row: Any, planes: Any, table: Any) -> list[Any]:
    """Where digits and entries of a register tile begin that begins with `row`."""
    i = b.ir
    return [b.at(planes, i.mul(row, plane_bytes(b, f, p)), I8), b.at(table, i.mul(i.mul(row, p["groups"]), b.i64(ENTRY)), I32)]


class DigitsOfRows:
    """i1 digits(x, dims, planes, table): bytes [words, height, digits, elements of a word] of a register tile of rows, and an entry
    for each group and row; false where a row has none."""

    def __init__(self, f: Frame, height: int) -> None:
        self.f, self.height, self.lanes, self.digits = f, height, f.schedule.lanes, f.schedule.digits
        self.words, self.floats = vec(I32, self.lanes), vec(F32, self.lanes)
        self.zero = whole_zero(f.kernel) or 0
        self.b = subroutine(f.module, f"digits{height}", [PTR, PTR, PTR, PTR], I1)
        self.x, dims, self.planes, self.table = self.b.fn.args
        self.p = self.b.params(dims, f.size)

    def write(self) -> ir.Function:
        b = self.b
        (fit,) = b.loop(b.i64(0), b.i64(self.height), b.i64(1), [ir.Constant(I1, 1)], self._row)
        b.ir.ret(fit)
        return b.fn

    def _row(self, r: Any, fit: list[Any]) -> Sequence[Any]:
        b, i = self.b, self.b.ir
        line = b.at(self.x, i.mul(r, self.p["lda"]), F32)
        own = b.at(self.planes, i.mul(r, b.i64(self.digits * self.f.each)), I8)
        return b.loop(b.i64(0), self.p["groups"], b.i64(1), fit, lambda g, fit: [i.and_(fit[0], self._group(g, r, line, own))])

    def _group(self, g: Any, r: Any, line: Any, own: Any) -> Any:
        """Digits and entry of group g of row r, which begins at `line`; its first digit is at `own`. Whether it has any."""
        b, i, p = self.b, self.b.ir, self.p
        start = i.mul(g, p["span"])
        stop = b.smin(i.add(start, p["span"]), p["k"])
        largest = self._largest(line, start, stop)
        nothing = i.icmp_signed("==", largest, ir.Constant(I32, 0))
        exponent = i.lshr(largest, ir.Constant(I32, 23))
        least = ir.Constant(I32, _KEPT)
        fits = i.icmp_unsigned("<", i.sub(exponent, least), ir.Constant(I32, 255 - _KEPT))
        up, weights = self._units(i.select(nothing, ir.Constant(I32, 1 << 30), largest), i.select(nothing, least, exponent))
        sums = self._split(g, line, own, start, stop, up)
        self._enter(b.at(self.table, i.mul(i.add(i.mul(g, b.i64(self.height)), r), b.i64(ENTRY)), I32), weights, sums)
        return i.or_(fits, nothing)

    def _units(self, largest: Any, exponent: Any) -> tuple[Any, list[Any]]:
        """What elements are multiplied by to be integers, and what one of each digit is worth."""
        i = self.b.ir
        if self.digits == 3:
            up = self._power(i.sub(ir.Constant(I32, _BIAS + _KEPT + _ABOVE), exponent))
            return up, [self._power(i.add(exponent, ir.Constant(I32, _BIAS - _KEPT - _ABOVE + 8 * d))) for d in range(3)]
        largest, most = i.bitcast(largest, F32), ir.Constant(F32, _MOST[self.digits])
        one = i.fdiv(largest, most)
        return i.fdiv(most, largest), [i.fmul(one, ir.Constant(F32, 256.0**d)) for d in range(self.digits)]

    def _largest(self, line: Any, start: Any, stop: Any) -> Any:
        """Bits of the largest magnitude of elements [start, stop)."""
        b, i = self.b, self.b.ir

        def size(at: Any, seen: list[Any]) -> Sequence[Any]:
            bits = i.and_(i.bitcast(self._load(line, at, stop), self.words), ir.Constant(self.words, 0x7FFFFFFF))
            return [b.call(f"llvm.umax.v{self.lanes}i32", self.words, seen[0], bits)]

        (seen,) = b.loop(start, stop, b.i64(self.lanes), [ir.Constant(self.words, None)], size)
        return b.call(f"llvm.vector.reduce.umax.v{self.lanes}i32", I32, seen)

    def _split(self, g: Any, line: Any, own: Any, start: Any, stop: Any, up: Any) -> list[Any]:
        """Store the digits of elements [start, stop), those of group g; returns the sum of each digit."""
        b, i, each, lanes, words = self.b, self.b.ir, self.f.each, self.lanes, self.words
        up = b.splat(up, lanes)
        first = i.mul(g, self.p["group"])

        def some(at: Any, sums: list[Any]) -> Sequence[Any]:
            scaled = b.call(f"llvm.rint.v{lanes}f32", self.floats, i.fmul(self._load(line, at, stop), up))
            rest, out = i.fptosi(scaled, words), []
            word = i.add(first, i.udiv(i.sub(at, start), b.i64(each)))
            to = b.at(own, i.mul(word, b.i64(self.height * self.digits * each)), I8)
            for d in range(self.digits):
                digit = i.trunc(rest, vec(I8, lanes))
                out.append(i.add(sums[d], i.sext(digit, words)))
                self._store(digit, d, to)
                rest = i.ashr(i.add(rest, ir.Constant(words, 128)), ir.Constant(words, 8))
            return out

        sums = b.loop(start, stop, b.i64(lanes), [ir.Constant(words, None)] * self.digits, some)
        return [b.call(f"llvm.vector.reduce.add.v{lanes}i32", I32, v) for v in sums]

    def _store(self, digits: Any, d: int, to: Any) -> None:
        """Digit d of a vector of elements, a piece for each word of levels; those of low halves of the level's bytes come first."""
        b, i, each, lanes = self.b, self.b.ir, self.f.each, self.lanes
        if self.f.kernel.bits == 4:
            order = [*range(0, 8, 2), *range(1, 8, 2)]
            turned = [lane // 8 * 8 + order[lane % 8] for lane in range(lanes)]
            digits = i.shuffle_vector(digits, digits, ir.Constant(vec(I32, lanes), turned))
        pieces = i.bitcast(digits, vec(ir.IntType(8 * each), lanes // each))
        for n in range(lanes // each):
            place = b.at(to, b.i64((n * self.height * self.digits + d) * each), I8)
            i.store(i.extract_element(pieces, ir.Constant(I32, n)), place, align=1)

    def _enter(self, entry: Any, weights: list[Any], sums: list[Any]) -> None:
        """What the group's entry says of a row, from the sums of its digits and their weights."""
        b, i = self.b, self.b.ir
        total: Any = ir.Constant(F32, 0.0)
        for d, (n, weight) in enumerate(zip(sums, weights, strict=True)):
            i.store(i.mul(n, ir.Constant(I32, -self.zero)), b.at(entry, b.i64(d), I32), align=4)
            i.store(weight, b.at(entry, b.i64(self.digits + d), I32), align=4)
            total = i.fadd(total, i.fmul(i.sitofp(n, F32), weight))
        i.store(total, b.at(entry, b.i64(2 * self.digits), I32), align=4)

    def _load(self, line: Any, at: Any, stop: Any) -> Any:
        b = self.b
        return b.masked_load(self.floats, b.at(line, at, F32), b.below(b.ir.sub(stop, at), self.lanes), 4)

    def _power(self, biased: Any) -> Any:
        """2^(biased − 127)"""
        return self.b.ir.bitcast(self.b.ir.shl(biased, ir.Constant(I32, 23)), F32)
