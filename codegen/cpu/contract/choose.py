"""Which emitter a contraction of float32 and other numbers goes to: vectors, tile registers, or either by the rows of a run."""

from __future__ import annotations

from collections.abc import Hashable

from ....ir import dim_min, floordiv, lower
from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import I64
from ..emitted import PLACEHOLDER, WALKED, Emitted, named
from ..taking import each_chunk, taking_function
from ..target import CpuTarget
from ..text_cache import TextEmitter
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
    """Tile registers from so many rows on, vectors for fewer. Both read their own part of the table of sizes."""

    family = "either"

    def __init__(self, few: VectorProduct, many: TripleProduct) -> None:
        self.few, self.many = few, many

    def fingerprint(self) -> Hashable:
        return self.few.fingerprint(), self.many.fingerprint()

    def described(self, text: str, symbol: str) -> Emitted:
        few, many = (part.described(text, symbol) for part in (self.few, self.many))
        m, least = self.few.kernel.m, self.many.schedule.least
        tall = dim_min(1, floordiv(m, least))
        units = few.units + tall * (many.units - few.units)
        dims = (m, least, len(few.dims), *few.dims, *many.dims)
        return Emitted(text, symbol, dims, units, few.unit_cost, few.flops, few.bytes, takes=True)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        few, many = self.few.write(module, f"{PLACEHOLDER}.vectors"), self.many.write(module, f"{PLACEHOLDER}.tiles")
        b = taking_function(module)
        i = b.ir
        bufs, dims, take, share = b.fn.args
        own = b.at(dims, b.i64(3), I64)
        with i.if_else(i.icmp_signed(">=", b.param(dims, 0), b.param(dims, 1))) as (tall, short):
            with tall:
                i.call(many, [bufs, b.at(own, b.param(dims, 2), I64), take, share])
            with short:
                each_chunk(b, take, share, lambda begin, end: i.call(few, [bufs, own, begin, end]))
        i.ret_void()
        for part in (few, many):
            part.linkage = "internal"
        return named(str(module), WALKED)
