"""GroupedKernel → LLVM IR: products with weights of few bits, which are read as they are.

Reading the levels is the floor for few rows of A: they are multiplied as integers (`row.py`) or become floats in registers, right
where they are multiplied (`decoded.py`). For many rows a strip of weights becomes floats once a unit (`expanded.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....errors import CodegenError
from ....ir import Dim, DType, dim_max, dim_min
from ...kernel import GroupedKernel, bytes_of
from .. import llvm_ir as ir
from ..build import Params, kernel_function
from ..emitted import Emitted, named
from ..epilogue import Epilogue
from ..target import CpuTarget
from ..text_cache import TextEmitter
from .decoded import DecodedTile
from .expanded import Expanded
from .frame import Frame
from .levels import Levels
from .row import run_as_integers
from .schedule import NO_HINTS, GroupedHints, GroupedSchedule, schedule_grouped
from .streams import STREAMED
from .tiles import Split, SplitProduct
from .units import TileFunctions, Units, Wide

_CALL_STRIPS = 8  # finding digits takes about as long as multiplying them by one
_FEW_STRIPS = 4  # the same of few rows, which do not wait long for each other, and may be read in as many streams
_CALL_BYTES = 160 << 10  # of weights that a call with one row reads at least: some 8 µs


def emit_grouped(kernel: GroupedKernel, target: CpuTarget, hints: GroupedHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for groups, epilogues or types of A that cannot be emitted, ScheduleError for hints that do not suit."""
    if kernel.operands[0].dtype is not DType.F32:
        raise CodegenError(f"{kernel.operands[0].dtype.value} by weights of few bits on the CPU", expected="float32")
    return _Emitter(kernel, schedule_grouped(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "grouped"

    def __init__(self, kernel: GroupedKernel, schedule: GroupedSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.params = Params()
        each, blocks = 32 // kernel.bits, kernel.blocks
        if blocks is None:
            raise CodegenError("weights of few bits whose scales lie apart", expected="blocks of levels and scales")
        self.blocks = blocks
        sizes = {"m": kernel.m, "n": kernel.n, "lda": kernel.lda, "ldc": kernel.ldc, "rows": schedule.rows, "blocks": schedule.blocks,
                 "chunk": schedule.chunk, "strips": schedule.strips,
                 "whole": kernel.k // each, "words": -(-kernel.k // each), "group": blocks.words, "groups": blocks.groups,
                 "k": kernel.k, "block": blocks.block, "scales": blocks.scales_at, "zeros": blocks.zeros_at,
                 "span": min(kernel.group, kernel.k), "depth": schedule.depth}  # fmt: skip
        self.size = {name: self.params.add(dim) for name, dim in sizes.items()}
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: no sizes."""
        k = self.kernel
        fixed = replace(self.schedule, rows=0, blocks=0, strips=0, chunk=0, chunks=0, depth=0)
        types = self.blocks.scale, self.blocks.zero, *(o.dtype for o in k.operands)
        return fixed, k.bits, k.values, k.zero, k.panel, types, self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        cost = s.rows * s.lanes * s.vectors * s.chunk * k.k * 2
        return Emitted(text, symbol, tuple(self.params.dims), s.blocks * s.chunks, cost, 2 * k.m * k.n * k.k, bytes_of(k.operands),
                       shared=s.every, least=self._least())  # fmt: skip

    def _least(self) -> Dim:
        """Strips of a call with few rows: several, unless a strip alone is worth a call; with many, whose digits each call
        finds anew, some."""
        few, strips = self.schedule.few, self.schedule.strips
        if not few:
            return 1
        strip = 4 * self.blocks.block * self.blocks.groups * self.schedule.lanes * self.schedule.vectors // self.blocks.panel
        more = max(1, min(_FEW_STRIPS, _CALL_BYTES // strip)) - 1
        many = max(1, min(_CALL_STRIPS, strips // 4)) - 1 if self.schedule.every else 0
        return 1 + many + (more - many) * dim_max(0, dim_min(1, (STREAMED if self.schedule.every else few) + 1 - self.kernel.m))

    def text(self) -> tuple[str, str]:
        k, s = self.kernel, self.schedule
        levels = Levels(k, s.table, s.lanes, self.target)
        f = Frame(ir.Module(), k, self.blocks, s, self.target, self.size, levels, self.epilogue)
        masks = (False, True) if s.masked else (False,)
        few = {(h, masked): DecodedTile(f, h, masked).write() for h in s.heights for masked in masks}
        _entry(f, few, _wide(f, masks) if s.expand else None)
        return named(str(f.module))


def _wide(f: Frame, masks: tuple[bool, ...]) -> Wide:
    split = Split(f) if f.schedule.tiles else None
    expanded = Expanded(f, split)
    if split is not None:
        products = {masked: SplitProduct(f, masked).write() for masked in masks}
        return Wide(expanded.expand(), split=split.split(), products=products)
    tiles = {(h, masked): expanded.tile(h, masked) for h in f.schedule.wide for masked in masks}
    return Wide(expanded.expand(), tiles)


def _entry(f: Frame, few: TileFunctions, wide: Wide | None) -> None:
    """void kernel(bufs, dims, begin, end)"""
    b = kernel_function(f.module)
    _, dims, begin, end = b.fn.args
    p = b.params(dims, f.size)
    units = Units(b, f, p, few, wide)
    if f.schedule.few:
        run_as_integers(b, f, p, units)
    if f.schedule.every:
        return

    def unit(u: Any, _: list[Any]) -> Sequence[Any]:
        units.write(u)
        return ()

    b.loop(begin, end, b.i64(1), [], unit)
    b.ir.ret_void()
