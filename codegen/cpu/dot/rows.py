"""Rows of A for dot instructions, copied to where they are contiguous, whole 64-byte lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I8, Builder, vec
from ..target import CpuTarget

LINE = 64


class Copier:
    """Bytes from anywhere; reads no byte outside of the source."""

    def __init__(self, b: Builder, target: CpuTarget) -> None:
        self.b, self.masked = b, target.masked
        self.wide = LINE if target.masked else 16

    def copy(self, to: Any, source: Any, size: Any) -> None:
        """Exactly `size` bytes."""
        b, i = self.b, self.b.ir
        t = vec(I8, self.wide)
        if self.masked:

            def chunk(at: Any, _: list[Any]) -> Sequence[Any]:
                mask = i.bitcast(self._first(i.sub(size, at)), vec(I1, LINE))
                b.masked_store(b.masked_load(t, b.at(source, at, I8), mask, 1), b.at(to, at, I8), mask, 1)
                return ()

            b.loop(b.i64(0), size, b.i64(LINE), [], chunk)
            return
        whole = i.and_(size, b.i64(-self.wide))

        def move(t: Any) -> Any:
            def body(at: Any, _: list[Any]) -> Sequence[Any]:
                i.store(b.load(t, b.at(source, at, I8)), b.at(to, at, I8), align=1)
                return ()

            return body

        b.loop(b.i64(0), whole, b.i64(self.wide), [], move(t))
        b.loop(whole, size, b.i64(1), [], move(I8))

    def piece(self, to: Any, source: Any, size: Any) -> None:
        """Exactly `size` bytes, seldom more than a line; where loads can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(self._first(size), vec(I1, LINE))
        b.masked_store(b.masked_load(vec(I8, LINE), source, mask, 1), to, mask, 1)
        with i.if_then(i.icmp_signed(">", size, b.i64(LINE))):
            self.copy(b.at(to, b.i64(LINE), I8), b.at(source, b.i64(LINE), I8), i.sub(size, b.i64(LINE)))

    def part(self, source: Any, size: Any, at: Any) -> Any:
        """A line with `size` bytes from its byte `at` on, and zeros elsewhere; where loads can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(i.shl(self._first(size), at), vec(I1, LINE))
        return b.masked_load(vec(I8, LINE), b.at(source, i.neg(at), I8), mask, 1)

    def copy_padded(self, to: Any, source: Any, size: Any) -> None:
        """Less than a line, and zeros up to its end; where stores can be masked."""
        b, i = self.b, self.b.ir
        mask = i.bitcast(self._first(size), vec(I1, LINE))
        i.store(b.masked_load(vec(I8, LINE), source, mask, 1), to, align=1)

    def lines(self, to: Any, source: Any, size: Any) -> None:
        """Whole lines of 64 bytes."""
        b, t = self.b, vec(I8, LINE)

        def move(at: Any, _: list[Any]) -> Sequence[Any]:
            b.ir.store(b.load(t, b.at(source, at, I8)), b.at(to, at, I8), align=1)
            return ()

        b.loop(b.i64(0), size, b.i64(LINE), [], move)

    def fill(self, to: Any, value: Any, size: Any) -> None:
        """At least `size` bytes, up to 63 more, each `value` (a vector of it)."""
        b = self.b

        def body(at: Any, _: list[Any]) -> Sequence[Any]:
            b.ir.store(value, b.at(to, at, I8), align=1)
            return ()

        b.loop(b.i64(0), size, b.i64(self.wide), [], body)

    def fill_exactly(self, to: Any, value: Any, size: Any) -> None:
        """Exactly `size` bytes."""
        b, i = self.b, self.b.ir
        if self.masked:

            def part(at: Any, _: list[Any]) -> Sequence[Any]:
                b.masked_store(value, b.at(to, at, I8), i.bitcast(self._first(i.sub(size, at)), vec(I1, LINE)), 1)
                return ()

            b.loop(b.i64(0), size, b.i64(LINE), [], part)
            return
        whole, byte = i.and_(size, b.i64(-self.wide)), i.extract_element(value, b.i64(0))
        self.fill(to, value, whole)

        def single(at: Any, _: list[Any]) -> Sequence[Any]:
            i.store(byte, b.at(to, at, I8), align=1)
            return ()

        b.loop(whole, size, b.i64(1), [], single)

    def splat(self, byte: Any) -> Any:
        return self.b.splat(byte, self.wide)

    def _first(self, count: Any) -> Any:
        """The lowest min(count, 64) bits."""
        b, i = self.b, self.b.ir
        bits = i.sub(i.shl(b.i64(1), i.and_(count, b.i64(63))), b.i64(1))
        return i.select(i.icmp_signed(">=", count, b.i64(LINE)), b.i64(-1), bits)


def gather_plain(b: Builder, copier: Copier, source: Any, stride: Any, size: Any, to: Any, pitch: Any, rows: Any) -> None:
    """`rows` rows of `size` bytes, `stride` bytes apart, to rows `pitch` bytes apart, zeros behind."""
    i = b.ir
    zero = ir.Constant(vec(I8, copier.wide), None)

    def row(r: Any, _: list[Any]) -> Sequence[Any]:
        out = b.at(to, i.mul(r, pitch), I8)
        copier.copy(out, b.at(source, i.mul(r, stride), I8), size)
        copier.fill(b.at(out, size, I8), zero, i.sub(pitch, size))
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)


def gather_tiles(b: Builder, copier: Copier, source: Any, stride: Any, size: Any, to: Any, pitch: Any, rows: Any) -> None:
    """The same as tiles of 16 rows by 64 bytes, those of 16 rows one behind the other. Reads no more than `size` bytes of a row."""
    i = b.ir
    whole = i.and_(size, b.i64(-LINE))
    t = vec(I8, LINE)

    def row(r: Any, _: list[Any]) -> Sequence[Any]:
        line = i.add(i.mul(i.and_(r, b.i64(-16)), pitch), i.mul(i.and_(r, b.i64(15)), b.i64(LINE)))
        start, out = b.at(source, i.mul(r, stride), I8), b.at(to, line, I8)

        def move(at: Any, _: list[Any]) -> Sequence[Any]:
            i.store(b.load(t, b.at(start, at, I8)), b.at(out, i.mul(at, b.i64(16)), I8), align=LINE)
            return ()

        b.loop(b.i64(0), whole, b.i64(LINE), [], move)
        with i.if_then(i.icmp_signed("<", whole, size)):
            copier.copy_padded(b.at(out, i.mul(whole, b.i64(16)), I8), b.at(start, whole, I8), i.sub(size, whole))
        return ()

    b.loop(b.i64(0), rows, b.i64(1), [], row)
