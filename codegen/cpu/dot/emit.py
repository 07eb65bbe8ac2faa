"""ContractKernel with grouped operands → LLVM IR: dot products of bytes or bfloat16, on tile registers or vectors.

A unit is a block of rows by some strips of packed B. Its rows of A are read in place where they are whole lines, else
copied once (`units.py`). A register tile leaves its sums in a small array, from which the epilogue stores row by row.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....ir import floordiv, prod
from ...kernel import ContractKernel, bytes_of
from ...packing import padded_k
from .. import llvm_ir as ir
from ..build import Params, kernel_function
from ..emitted import Emitted, named
from ..epilogue import Epilogue
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import Tiles
from .im2col import ConvGather
from .instructions import dot_kind
from .on_tiles import TileRegisters
from .on_vectors import VectorRegisters
from .schedule import NO_HINTS, DotHints, DotSchedule, schedule_dot
from .tile import Frame
from .units import Units
from .window import Window


def emit_dot_contract(kernel: ContractKernel, target: CpuTarget, hints: DotHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted, ScheduleError for hints that do not suit."""
    return _Emitter(kernel, schedule_dot(kernel, target, hints), target).emit()


class _Emitter(TextEmitter):
    family = "dot"

    def __init__(self, kernel: ContractKernel, schedule: DotSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.kind = dot_kind(kernel.operands[0].dtype, kernel.operands[1].dtype)
        self.params = Params()
        k, grouped = kernel, kernel.conv is not None
        taps = prod(k.conv.kernel) if k.conv is not None else 1
        channels = floordiv(k.k, taps)
        size = self.kind.a.itemsize
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "m": k.m, "n": k.n, "row_bytes": k.k * size, "pitch": padded_k(k.k, self.kind.group) * size,
                "lda": k.lda * size, "a_batch": (channels if grouped else k.a_batch) * size, "b_batch": k.b_batch * size,
                "ldc": k.ldc, "c_batch": k.n if grouped else k.c_batch, "rows": schedule.rows, "blocks": schedule.blocks,
                "strips": schedule.strips, "chunks": schedule.chunks, "channel_bytes": channels * size,
            }.items()
        }  # fmt: skip
        self.conv = None
        if k.conv is not None and schedule.gather == "conv":
            self.conv = ConvGather(k.conv, self.params, schedule.segments, schedule.line)
        self.window = None
        if schedule.window is not None:
            assert isinstance(schedule.rows, int)
            self.window = Window(schedule.window, schedule.rows, self.params)
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""
        k = self.kernel
        rank = len(k.conv.kernel) if k.conv else 0
        fixed = replace(self.schedule, rows=0, blocks=0, strips=0, chunks=0, window=None)
        lines = self.window is not None and self.window.lines
        return fixed, lines, rank, k.panel, k.border, tuple(o.dtype for o in k.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        rows = s.rows * s.window.length(1) if s.window is not None else s.rows
        cost = rows * s.strips * k.panel * k.k // (2 if s.how == "tiles" else 1)
        return Emitted(
            text, symbol, tuple(self.params.dims), k.batch * s.blocks * s.chunks, cost, 2 * k.batch * k.m * k.n * k.k, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        s, module = self.schedule, ir.Module()
        f = Frame(module, self.kernel, s, self.kind, self.size, self.conv, self.window, self.epilogue)
        tile = TileRegisters if s.how == "tiles" else VectorRegisters
        masks = (False, True) if s.masked else (False,)
        _entry(f, {(h, masked): tile(f, h, masked).write() for h in s.heights for masked in masks})
        return named(str(module))


def _entry(f: Frame, tiles: Mapping[tuple[int, bool], ir.Function]) -> None:
    """void kernel(bufs, dims, begin, end)"""
    b = kernel_function(f.module)
    units = Units(b, f, tiles)
    registers = Tiles(b, f.kind.a) if f.schedule.how == "tiles" else None
    if registers is not None:
        registers.configure()

    def unit(u: Any, _: list[Any]) -> Sequence[Any]:
        units.write(u)
        return ()

    _, _, begin, end = b.fn.args
    b.loop(begin, end, b.i64(1), [], unit)
    if registers is not None:
        registers.release()
    b.ir.ret_void()
