"""Few rows by weights of few bits, as decoders of text have them: dot products of bytes, in several streams from memory.

Elements of A become three signed bytes (`digits.py`), levels are bytes as they are, so that sums of digit times level are exact.
That takes half the instructions of turning levels into floats, which would be as slow as reading them from memory.

Rows that have no digits are left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I8, I32, Builder
from .digits import ENTRY, DigitsOfRows, places, plane_bytes, register_tiles
from .frame import Frame
from .streams import Streams

F32 = ir.FloatType()
_SLACK = 128  # bytes behind the digits of a row, into which whole vectors may run


def run_if_few(b: Builder, f: Frame, p: dict[str, Any]) -> None:
    """Do all of the kernel's call, strips [begin, end), where rows are few and have digits; else go on behind."""
    i, few_rows, heights = b.ir, f.schedule.few, f.schedule.integers
    bufs, dims, begin, end = b.fn.args
    digits = {h: DigitsOfRows(f, h).write() for h in heights}
    streams = Streams(f).write()
    few = i.icmp_unsigned("<=", i.sub(p["m"], b.i64(1)), b.i64(few_rows - 1))
    rows = i.select(few, p["m"], b.i64(0))
    planes = b.alloca(I8, i.add(i.mul(rows, plane_bytes(b, f, p)), b.i64(_SLACK * max(heights))))
    table = b.alloca(I32, i.mul(i.mul(p["groups"], rows), b.i64(ENTRY)))
    with i.if_then(few):
        a, fits = b.operand(bufs, 0), ir.Constant(I1, 1)
        for h, first, count in register_tiles(b, f, rows):

            def tile(n: Any, seen: list[Any], h: int = h, first: Any = first) -> Sequence[Any]:
                row = i.add(first, i.mul(n, b.i64(h)))
                x = b.at(a, i.mul(row, p["lda"]), F32)
                return [i.and_(seen[0], i.call(digits[h], [x, dims, *places(b, f, p, row, planes, table)]))]

            (fits,) = b.loop(b.i64(0), count, b.i64(1), [fits], tile)
        with i.if_then(fits):
            i.call(streams, [bufs, dims, begin, end, planes, table])
            i.ret_void()
