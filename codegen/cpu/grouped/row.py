"""Rows by weights of few bits as dot products of bytes: few, as decoders of text have them, in several streams from memory; where there are
no tile registers, any number of them.

Elements of A become signed bytes (`digits.py`), levels are bytes as they are, so that sums of digit times level are exact.
That takes half the instructions of turning levels into floats, which would be as slow as reading them from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I8, I32, Builder
from .digits import ENTRY, DigitsOfRows, places, plane_bytes, register_tiles
from .frame import Frame
from .streams import Streams
from .units import Units

F32 = ir.FloatType()
_SLACK = 128  # bytes behind the digits of a row, into which whole vectors may run


def run_as_integers(b: Builder, f: Frame, p: dict[str, Any], units: Units) -> None:
    """Do all of the kernel's call, strips [begin, end), where rows are few or `every` one is multiplied so; else go on behind. Rows that
    have no digits are multiplied as floats."""
    i, s = b.ir, f.schedule
    run = _Integers(b, f, p)
    if s.every:

        def block(first: Any, _: list[Any]) -> Sequence[Any]:
            rows = b.smin(i.sub(p["m"], first), b.i64(s.few))
            with i.if_else(run.split(first, rows)) as (fit, other):
                with fit:
                    run.multiply(first, rows)
                with other:
                    units.decoded(first, i.add(first, rows), run.begin, run.end)
            return ()

        b.loop(b.i64(0), p["m"], b.i64(s.few), [], block)
        i.ret_void()
        return
    with i.if_then(run.few):
        fits = run.split(b.i64(0), p["m"])
        with i.if_then(fits):
            run.multiply(b.i64(0), p["m"])
            i.ret_void()


class _Integers:
    """Rows of A as digits, and their products."""

    def __init__(self, b: Builder, f: Frame, p: dict[str, Any]) -> None:
        self.b, self.f, self.p, i, s = b, f, p, b.ir, f.schedule
        self.bufs, self.dims, self.begin, self.end = b.fn.args
        self.digits = {h: DigitsOfRows(f, h).write() for h in s.integers}
        self.streams = Streams(f).write()
        self.few = i.icmp_unsigned("<=", i.sub(p["m"], b.i64(1)), b.i64(s.few - 1))
        most = b.smin(p["m"], b.i64(s.few)) if s.every else i.select(self.few, p["m"], b.i64(0))
        self.planes = b.alloca(I8, i.add(i.mul(most, plane_bytes(b, f, p)), b.i64(_SLACK * max(s.integers))))
        self.table = b.alloca(I32, i.mul(i.mul(p["groups"], most), b.i64(ENTRY)))
        self.a = b.operand(self.bufs, 0)

    def split(self, first: Any, rows: Any) -> Any:
        """Digits of rows from the first on; whether they have any."""
        b, i, fits = self.b, self.b.ir, ir.Constant(I1, 1)
        for h, start, count in register_tiles(b, self.f, rows):

            def tile(n: Any, seen: list[Any], h: int = h, start: Any = start) -> Sequence[Any]:
                row = i.add(start, i.mul(n, b.i64(h)))
                x = b.at(self.a, i.mul(i.add(first, row), self.p["lda"]), F32)
                own = places(b, self.f, self.p, row, self.planes, self.table)
                return [i.and_(seen[0], i.call(self.digits[h], [x, self.dims, *own]))]

            (fits,) = b.loop(b.i64(0), count, b.i64(1), [fits], tile)
        return fits

    def multiply(self, first: Any, rows: Any) -> None:
        self.b.ir.call(self.streams, [self.bufs, self.dims, self.begin, self.end, self.planes, self.table, first, rows])
