"""Which emitter a contraction of float32 and other numbers goes to: vectors, tile registers, or either by the rows of a run."""

from __future__ import annotations

from collections.abc import Hashable

from ....ir import dim_min, floordiv, lower
from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import I64
from ..emitted import Emitted, named
from ..taking import each_chunk, taking_function
from ..target import CpuTarget
from ..text_cache import TextEmitter, text_of
from ..triple.emit import TripleProduct
from ..triple.schedule import schedule_triple
from .emit import VectorProduct
from .long_rows import LongRows, by_long_rows
from .schedule import NO_HINTS, ContractHints, schedule_contract


def emit_contract(kernel: ContractKernel, target: CpuTarget, hints: ContractHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    if hints == NO_HINTS and by_long_rows(kernel, target):
        return LongRows(kernel, target).emit()
    triple = schedule_triple(kernel, target) if hints == NO_HINTS else None
    if triple is not None and lower(kernel.m) >= triple.least:
        return TripleProduct(kernel, triple, target).emit()
    vectors = VectorProduct(kernel, schedule_contract(kernel, target, hints), target)
    if triple is None:
        return vectors.emit()
    return _Either(vectors, TripleProduct(kernel, triple, target)).emit()


class _Either(TextEmitter):
    """Tile registers from so many rows on, vectors for fewer: two kernels, which read their own parts of the table of sizes."""

    family = "either"

    def __init__(self, few: VectorProduct, many: TripleProduct) -> None:
        self.few, self.many = few, many

    def fingerprint(self) -> Hashable:
        return text_of(self.few)[1], text_of(self.many)[1]

    def described(self, text: str, symbol: str) -> Emitted:
        few, many = self.few.emit(), self.many.emit()
        m, least = self.few.kernel.m, self.many.schedule.least
        tall = dim_min(1, floordiv(m, least))
        units = few.units + tall * (many.units - few.units)
        dims = (m, least, len(few.dims), *few.dims, *many.dims)
        parts = tuple((text, symbol) for kernel in (few, many) for symbol, text in kernel.texts.items())
        return Emitted(text, symbol, dims, units, few.unit_cost, few.flops, few.bytes, takes=True, parts=parts)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        (_, few), (_, many) = text_of(self.few), text_of(self.many)
        b = taking_function(module)
        i = b.ir
        bufs, dims, take, share = b.fn.args
        own = b.at(dims, b.i64(3), I64)
        with i.if_else(i.icmp_signed(">=", b.param(dims, 0), b.param(dims, 1))) as (tall, short):
            with tall:
                b.call(many, ir.VoidType(), bufs, b.at(own, b.param(dims, 2), I64), take, share)
            with short:
                each_chunk(b, take, share, lambda begin, end: b.call(few, ir.VoidType(), bufs, own, begin, end))
        i.ret_void()
        return named(str(module))
