"""WinogradKernel → LLVM IR: transform a block of image tiles, run the products of every position, transform back.

A unit keeps the transformed input [tile][channels / lanes][position][lane] and the products [tile][position][strip] on its
stack, small enough for the second-level cache, so that both transforms write and read one run of memory;
transformed weights [strip][position][channel][panel] stream by in the order of use.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ...kernel import WinogradKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I64, PTR, subroutine
from ..emitted import Emitted, named
from ..float_mode import flush_subnormals
from ..taking import each_chunk, taking_function
from ..target import CpuTarget
from ..text_cache import TextEmitter, text_of
from .frame import F32, Frame
from .outputs import OutputTiles
from .parts import InputPart, ProductsPart, fixed
from .schedule import NO_HINTS, WinogradHints, WinogradSchedule, schedule_winograd


def emit_winograd(kernel: WinogradKernel, target: CpuTarget, hints: WinogradHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_winograd(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "winograd"

    def __init__(self, kernel: WinogradKernel, schedule: WinogradSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target, s = kernel, schedule, target, schedule
        self.frame = Frame(kernel, schedule, target)
        self.into = InputPart(self.frame)
        masked = kernel.n % s.lanes != 0
        self.products: dict[bool, ProductsPart] = {}  # of the last strip of a group, and of others
        if s.of_group > 1 or not s.tail:
            self.products[False] = ProductsPart(self.frame, s.vectors, masked and not s.tail)
        if s.tail:
            self.products[True] = ProductsPart(self.frame, s.tail, masked)

    def fingerprint(self) -> Hashable:
        return fixed(self.frame), tuple(o.dtype for o in self.kernel.operands), self.frame.epilogue.fingerprint()

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        flops = 2 * self.frame.places.tiles * self.frame.points * k.channels * k.n * k.groups
        unit = 2 * s.block * self.frame.points * k.channels * s.group * self.frame.strip
        return Emitted(text, symbol, tuple(self.frame.params.dims), s.blocks * s.groups, unit, flops, bytes_of(k.operands), takes=True,
                       parts=tuple(text_of(part) for part in (self.into, *self.products.values())))  # fmt: skip

    def text(self) -> tuple[str, str]:
        self.module = ir.Module()
        self._entry({last: self._strip_function(part) for last, part in self.products.items()})
        return named(str(self.module))

    def _entry(self, strips: dict[bool, ir.Function]) -> None:
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
                b.call(text_of(self.into)[1], ir.VoidType(), bufs, dims, v, first, count, zeros)
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

    def _strip_function(self, part: ProductsPart) -> ir.Function:
        """void strip(bufs, dims, v, products, first, count, group, column): all of one strip of output channels."""
        vectors, masked = part.vectors, part.masked
        back = OutputTiles(self.frame, self.module, vectors, masked, part.half).write()
        b = subroutine(self.module, f"strip{vectors}{'t' if masked else ''}", [PTR, PTR, PTR, PTR, *[I64] * 4])
        bufs, dims, v, products, first, count, group, column = b.fn.args
        i, p = b.ir, b.params(dims, self.frame.size)
        panel = b.i64(self.kernel.panel)
        inner = i.urem(column, panel) if self.kernel.panel != self.frame.strip else b.i64(0)
        start = i.add(i.mul(i.mul(i.sub(column, inner), b.i64(self.frame.points)), p["channels"]), inner)
        if self.kernel.groups > 1:
            start = i.add(start, i.mul(group, p["weights"]))
            v = b.at(v, i.mul(i.mul(group, p["channels"]), b.i64(self.frame.points)), F32)
        weights = b.at(b.operand(bufs, 1), start, F32)
        b.call(text_of(part)[1], ir.VoidType(), dims, v, weights, products, count)
        i.call(back, [bufs, dims, products, first, count, group, column])
        i.ret_void()
        return b.fn
