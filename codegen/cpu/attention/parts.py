"""A run of the keys of a head by itself: its results, and what it takes to weigh them against those of other runs."""

from __future__ import annotations

from typing import Any

from .. import llvm_ir as ir
from ..build import I64, PTR, Builder
from .frame import SIZES, Spec

_F32 = ir.FloatType()


class Part:
    """Tables of buffers and sizes as they would be if there were no other keys, so that nothing else has to know of parts."""

    def __init__(self, b: Builder, spec: Spec, bufs: Any, p: dict[str, Any]) -> None:
        self.b, self.spec, self.p = b, spec, p
        i = b.ir
        self.pointers = b.operands(bufs, 5 + (spec.mask is not None))
        self.bufs, self.dims = b.alloca(PTR, b.i64(len(self.pointers))), b.alloca(I64, b.i64(len(SIZES)))
        i.store(self.pointers[0], self.bufs, align=8)
        for at, name in enumerate(SIZES):
            i.store(p[name], b.at(self.dims, b.i64(at), I64), align=8)

    def tables(self, part: Any, batch: Any, head: Any) -> tuple[Any, Any]:
        """(bufs, dims) of one part; they hold until the next call."""
        b, i, p = self.b, self.b.ir, self.p
        start = i.mul(part, p["part"])
        _, k, v, *mask, tops, out = self.pointers
        results = i.mul(part, p["results"])
        head_results = i.mul(i.add(i.mul(batch, p["heads"]), head), p["rows"])
        moved = [
            (k, i.mul(start, p["k_row"])),
            (v, i.mul(start, p["v_row"])),
            *((m, i.mul(start, p["m_key"])) for m in mask),
            (tops, i.add(results, head_results)),
            (out, i.mul(results, b.i64(self.spec.value_size))),
        ]
        for at, (pointer, offset) in enumerate(moved, 1):
            i.store(b.at(pointer, offset, _F32), b.at(self.bufs, b.i64(at), PTR), align=8)
        keys = b.smax(b.smin(p["part"], i.sub(p["keys"], start)), b.i64(0))
        for name, value in (("keys", keys), ("seen", i.sub(p["seen"], start))):
            i.store(value, b.at(self.dims, b.i64(SIZES.index(name)), I64), align=8)
        return self.bufs, self.dims
