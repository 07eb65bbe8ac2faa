"""WinogradKernel → LLVM IR: transform a block of image tiles, run the products of every position, transform back.

A unit keeps the transformed input [tile][channels / lanes][position][lane] and the products [tile][position][strip] on its
stack, small enough for the second-level cache, so that both transforms write and read one run of memory;
transformed weights [strip][position][channel][panel] stream by in the order of use.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....ir import DType
from ...kernel import WinogradKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I64, PTR, subroutine, vec
from ..emitted import Emitted, named
from ..float_mode import flush_subnormals
from ..product import Product
from ..row_tiles import cut_rows
from ..taking import each_chunk, taking_function
from ..target import CpuTarget
from ..text_cache import TextEmitter
from .frame import F32, Frame
from .inputs import InputTiles
from .outputs import OutputTiles
from .schedule import NO_HINTS, WinogradHints, WinogradSchedule, schedule_winograd


def emit_winograd(kernel: WinogradKernel, target: CpuTarget, hints: WinogradHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_winograd(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "winograd"

    def __init__(self, kernel: WinogradKernel, schedule: WinogradSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target, s = kernel, schedule, target, schedule
        self.frame = Frame(kernel, schedule, target)
        self.product = Product(DType.F32, DType.F32, s.lanes, kernel.panel, min(s.unroll, s.lanes), True, target)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: no sizes."""
        k, s = self.kernel, self.schedule
        fixed = replace(s, tile=0, block=0, most=0, blocks=0, group=0, groups=0, strips=0, of_group=min(2, s.of_group), share=0)
        ragged = k.n % s.lanes != 0, k.channels % s.lanes != 0
        shape = k.groups > 1, k.tile, k.conv.kernel, self.frame.places.flat, self.frame.places.dilated
        return fixed, ragged, shape, k.panel, tuple(o.dtype for o in k.operands), self.frame.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        flops = 2 * self.frame.places.tiles * self.frame.points * k.channels * k.n * k.groups
        unit = 2 * s.block * self.frame.points * k.channels * s.group * self.frame.strip
        return Emitted(text, symbol, tuple(self.frame.params.dims), s.blocks * s.groups, unit, flops, bytes_of(k.operands), takes=True)

    def text(self) -> tuple[str, str]:
        s = self.schedule
        self.module = ir.Module()
        into = InputTiles(self.frame, self.module).write()
        ends = {}
        if s.of_group > 1 or not s.tail:
            ends[False] = self._strip_function(s.vectors, masked=not s.tail and self.kernel.n % s.lanes != 0)
        if s.tail:
            ends[True] = self._strip_function(s.tail, masked=self.kernel.n % s.lanes != 0)
        self._entry(into, ends)
        return named(str(self.module))

    def _entry(self, into: ir.Function, strips: dict[bool, ir.Function]) -> None:
        """void kernel(bufs, dims, take, share): units, groups of strips fastest, so that they share a transformed input."""
        b = taking_function(self.module)
        bufs, dims, take, share = b.fn.args
        i, p = b.ir, b.params(dims, self.frame.size)
        rows = i.add(p["most"], b.i64(max(self.schedule.heights) - 1))  # a row tile may go beyond what there is
        v = b.alloca(F32, i.mul(rows, p["tile"]))
        products = b.alloca(F32, i.mul(rows, b.i64(self.frame.points * self.frame.strip)))
        zeros = b.alloca(F32, i.add(p["total"], b.i64(self.schedule.lanes)))
        b.clear(zeros, i.mul(p["total"], b.i64(4)))
        transformed = b.alloca(I64, b.i64(1))  # the block whose input is in v
        i.store(b.i64(-1), transformed, align=8)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            group, block = i.urem(u, p["groups"]), i.udiv(u, p["groups"])
            first = i.mul(block, p["block"])
            count = b.smin(p["block"], i.sub(p["tiles"], first))
            with i.if_then(i.icmp_signed("!=", block, b.load(I64, transformed, 8))):
                i.call(into, [bufs, dims, v, first, count, zeros])
                i.store(block, transformed, align=8)
            low = i.mul(group, p["group"])
            high = b.smin(i.add(low, p["group"]), p["strips"])

            def strip(at: Any, _: list[Any]) -> Sequence[Any]:
                of = b.i64(0)
                if self.kernel.groups > 1:
                    of, at = i.udiv(at, p["of_group"]), i.urem(at, p["of_group"])
                args = [bufs, dims, v, products, first, count, of, i.mul(at, b.i64(self.frame.strip))]
                if len(strips) == 1:
                    i.call(next(iter(strips.values())), args)
                    return ()
                last = i.icmp_signed("==", i.add(at, b.i64(1)), p["of_group"])
                with i.if_else(last) as (then, other):
                    with then:
                        i.call(strips[True], args)
                    with other:
                        i.call(strips[False], args)
                return ()

            b.loop(low, high, b.i64(1), [], strip)
            return ()

        restore = flush_subnormals(b, self.target)
        each_chunk(b, take, share, lambda begin, end: b.loop(begin, end, b.i64(1), [], unit))
        restore()
        i.ret_void()

    def _strip_function(self, vectors: int, masked: bool) -> ir.Function:
        """void strip(bufs, dims, v, products, first, count, group, column): all of one strip of output channels."""
        s = self.schedule
        half = masked and s.half
        gemms = {mr: self._product_function(mr, vectors, half) for mr in s.heights}
        back = OutputTiles(self.frame, self.module, vectors, masked, half).write()
        b = subroutine(self.module, f"strip{vectors}{'t' if masked else ''}", [PTR, PTR, PTR, PTR, *[I64] * 4])
        bufs, dims, v, products, first, count, group, column = b.fn.args
        i, p = b.ir, b.params(dims, self.frame.size)
        panel = b.i64(self.kernel.panel)
        inner = i.urem(column, panel) if self.kernel.panel != self.frame.strip else b.i64(0)
        step = i.mul(p["channels"], panel)
        start = i.add(i.mul(i.mul(i.sub(column, inner), b.i64(self.frame.points)), p["channels"]), inner)
        if self.kernel.groups > 1:
            start = i.add(start, i.mul(group, p["weights"]))
            v = b.at(v, i.mul(i.mul(group, p["channels"]), b.i64(self.frame.points)), F32)
        weights = b.at(b.operand(bufs, 1), start, F32)

        def position(at: Any, _: list[Any]) -> Sequence[Any]:
            a = b.at(v, i.mul(at, b.i64(s.lanes)), F32)
            w = b.at(weights, i.mul(at, step), F32)
            c = b.at(products, i.mul(at, b.i64(self.frame.strip)), F32)
            cut_rows(b, s.heights, count, lambda mr, low, high: i.call(gemms[mr], [dims, a, w, c, low, high]))
            return ()

        b.loop(b.i64(0), b.i64(self.frame.points), b.i64(1), [], position)
        i.call(back, [bufs, dims, products, first, count, group, column])
        i.ret_void()
        return b.fn

    def _product_function(self, mr: int, vectors: int, half: bool) -> ir.Function:
        """void product(dims, a, w, c, low, high): c[t] = a[t] · w for image tiles [low, high) of one position; `half` of the last vector.

        The last row tile may go beyond: finding the rows of one would take as many instructions as multiplying few channels.
        """
        b = subroutine(self.module, f"{mr}x{vectors}{'h' if half else ''}", [PTR, PTR, PTR, PTR, I64, I64])
        dims, a, w, c, low, high = b.fn.args
        i, p, lanes = b.ir, b.params(dims, self.frame.size), self.schedule.lanes
        panel = self.kernel.panel
        whole = i.and_(p["channels"], b.i64(-lanes))
        tail = replace(self.product, unroll=4, exact=False)

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            first = b.at(a, i.mul(t, p["tile"]), F32)
            starts = [first, *(b.at(first, p[f"row {r}"], F32) for r in range(1, mr))]
            size = i.mul(p["channels"], b.i64(4 * panel))
            ahead = self.product.ahead(b, size, w, i.udiv(t, b.i64(mr)), p["share"]) if self.schedule.prefetch else None

            def run(product: Product, c: Any, length: Any, acc: list[Any]) -> list[Any]:
                rows = [b.at(x, i.mul(c, b.i64(self.frame.points)), F32) for x in starts]
                return product.accumulate(b, length, rows, b.at(w, i.mul(c, b.i64(panel)), F32), acc, vectors, ahead, half=half)

            last = vec(F32, lanes // 2) if half else self.frame.vector
            acc = [ir.Constant(v, None) for v in (*[self.frame.vector] * (vectors - 1), last)] * mr
            acc = b.loop(b.i64(0), whole, b.i64(lanes), acc, lambda c, acc: run(self.product, c, p["lanes"], acc))
            if self.kernel.channels % lanes:
                acc = run(tail, whole, i.sub(p["channels"], whole), acc)
            row = self.frame.points * self.frame.strip
            out = b.at(c, i.mul(t, b.i64(row)), F32)
            for n, x in enumerate(acc):
                r, at = divmod(n, vectors)
                i.store(x, b.at(out, b.i64(r * row + at * lanes), F32), align=4)
            return ()

        b.loop(low, high, b.i64(mr), [], tile)
        i.ret_void()
        return b.fn
