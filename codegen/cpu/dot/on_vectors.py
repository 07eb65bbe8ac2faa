"""Dot products on vectors: four elements of bytes, or two of bfloat16, of a row by those of a column in each lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I8, I32, I64, vec
from ..tiles import BYTES
from .instructions import VectorDot
from .tile import Frame, RegisterTile

_UNROLL = 4  # lanes of K that a turn of the loop takes: their addresses differ by constants
_NEAR = 3  # rows that one address reaches: at itself, a stride behind it, and two


class VectorRegisters(RegisterTile):
    def __init__(self, f: Frame, height: int, masked: bool) -> None:
        super().__init__(f, height, masked)
        self.dot = VectorDot(f.kind, self.s.how, self.s.lanes)
        self.lanes = vec(I32, self.s.lanes)
        self.width = 4 * f.kernel.panel  # bytes of a line of B
        self.log_share = self.s.share.bit_length() - 1
        self._register = "w" if not f.epilogue.target.is_x86 else "v" if self.s.lanes == 16 else "x"

    def _walk(self, count: Any) -> None:
        b = self.b

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            row, column = self._place(t)
            self._multiply(row, column)
            self._finish(row, column)
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], tile)

    def _multiply(self, row: Any, column: Any) -> None:
        b, i, sums = self.b, self.b.ir, self.height * self.s.vectors
        asks, far = self._later(i.udiv(i.sub(row, self.row), b.i64(self.height)))
        b_strip = self._strip(column)

        def single(_: Any, carried: list[Any]) -> Sequence[Any]:
            acc, (line, *corners) = carried[:sums], self._opaque(carried[sums:], "r")
            return self._steps(1, acc, line, corners)

        def piece(start: Any, size: Any, before: list[Any]) -> list[Any]:
            """`size` bytes of K, of rows of A whose first one is at `start`; before: sums and the line of B."""
            done = i.sub(i.ptrtoint(before[-1], I64), i.ptrtoint(b_strip, I64))

            def several(at: Any, carried: list[Any]) -> Sequence[Any]:
                acc, (line, *corners) = carried[:sums], self._opaque(carried[sums:], "r")
                with i.if_then(asks):
                    here = i.add(done, i.mul(at, b.i64(self.width)))
                    self._fetch(b.at(b_strip, i.add(far, i.lshr(here, b.i64(self.log_share))), I8))
                return self._steps(_UNROLL, acc, line, corners)

            corners = [b.at(start, i.mul(self.stride, b.i64(r)), I8) for r in range(0, self.height, _NEAR)]
            steps = i.udiv(i.add(size, b.i64(3)), b.i64(4))
            whole = i.and_(steps, b.i64(-_UNROLL))
            carried = b.loop(b.i64(0), whole, b.i64(_UNROLL), [*before, *corners], several)
            return b.loop(whole, steps, b.i64(1), carried, single)[: sums + 1]

        carried = [*[ir.Constant(self.vector, None)] * sums, b_strip]
        if self.window is not None:
            carried = self.window.taps(self._rows(row), carried, piece, joined=True)
        else:
            carried = piece(self._rows(row), self.p["row_bytes"], carried)
        for x, value in enumerate(carried[:sums]):
            i.store(value, b.at(self.sums, b.i64(x), self.vector), align=16)

    def _steps(self, count: int, acc: list[Any], line: Any, corners: Sequence[Any]) -> list[Any]:
        """`count` lanes of K, of B at `line`; corners: every third row of A. Returns all that the loop carries."""
        b, i, vectors = self.b, self.b.ir, self.s.vectors
        for u in range(count):
            y = [b.load(self.lanes, b.at(line, b.i64(u * self.width + 4 * self.s.lanes * v), I8), 4) for v in range(vectors)]
            for r in range(self.height):
                place = b.at(b.at(corners[r // _NEAR], i.mul(self.stride, b.i64(r % _NEAR)), I8), b.i64(4 * u), I8)
                x = b.splat(b.load(I32, place, 1), self.s.lanes)
                mine = slice(r * vectors, (r + 1) * vectors)
                acc[mine] = self._opaque([self.dot(b, z, x, y[v]) for v, z in enumerate(acc[mine])], self._register)
        return [*acc, b.at(line, b.i64(count * self.width), I8), *(b.at(p, b.i64(4 * count), I8) for p in corners)]

    def _later(self, turn: Any) -> tuple[Any, Any]:
        """(whether tile of rows number `turn` asks memory for a part of the next strip, how far from the strip in use it begins).

        The first tiles of rows share the strip that comes next; where strips are the inner loop, the first tile meets all of them.
        """
        b, i, strip_bytes = self.b, self.b.ir, self.strip_bytes
        asks = i.icmp_unsigned("<", turn, b.i64(1 << self.log_share))
        return asks, i.add(strip_bytes, i.mul(turn, i.lshr(strip_bytes, b.i64(self.log_share))))

    def _fetch(self, far: Any) -> None:
        """Ask memory for this turn's part of that part."""
        for x in range(0, max(BYTES, (_UNROLL * self.width) >> self.log_share), BYTES):
            self.b.prefetch(self.b.at(far, self.b.i64(x), I8), 2)

    def _opaque(self, values: Sequence[Any], constraint: str) -> list[Any]:
        """The same values, in registers, before any load that follows: no instruction, but LLVM would move loads of many rows up
        until they spill registers, and keep an address for each row."""
        b = self.b
        t = ir.LiteralStructType([v.type for v in values])
        constraints = ",".join([f"={constraint}"] * len(values) + [str(x) for x in range(len(values))] + ["~{memory}"])
        out = b.ir.call(ir.InlineAsm(ir.FunctionType(t, [v.type for v in values]), "", constraints), list(values))
        return [b.ir.extract_value(out, x) for x in range(len(values))]
