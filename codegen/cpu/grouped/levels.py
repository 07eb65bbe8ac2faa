"""Levels of few bits as floats, in a vector of columns."""

from __future__ import annotations

from typing import Any

from ....ir import DType
from ...kernel import GroupedKernel
from .. import llvm_ir as ir
from ..build import I32, Builder, storage, vec
from ..math.minifloat import decode
from ..target import CpuTarget

F32 = ir.FloatType()


class Levels:
    """What levels stand for, by how they become floats: `table` as in `GroupedSchedule`.

    A zero that all columns share comes off each level, where it is a whole number; others come off at the end of a group, from
    `needs_sums` of A.
    """

    def __init__(self, kernel: GroupedKernel, table: bool, lanes: int, target: CpuTarget) -> None:
        self.bits, self.values, self.table, self.target = kernel.bits, kernel.values, table, target
        self.lanes, self.vector, self.words = lanes, vec(F32, lanes), vec(I32, lanes)
        self.common_zero = kernel.zero or 0.0
        level = not (table or kernel.values or kernel.zero is None or kernel.zero != int(kernel.zero))
        self.level_zero = int(self.common_zero) if level else 0
        self.needs_sums = kernel.zero is None or not (table or kernel.zero == self.level_zero)

    def floats(self, b: Builder, shifted: Any) -> Any:
        """The lowest level of words, without the zero that all share where that costs nothing."""
        if self.bits == 16:
            half = b.ir.trunc(shifted, vec(storage(DType.U16), self.lanes))
            half = b.ir.bitcast(half, vec(storage(DType.F16), self.lanes))
            return b.ir.fpext(half, self.vector) if self.target.half else decode(b, half, DType.F16)
        if self.table:
            values = ir.Constant(self.vector, [float(v - self.common_zero) for v in self.values or range(16)])
            return b.call("llvm.x86.avx512.permvar.sf.512", self.vector, values, shifted)
        level = b.ir.and_(shifted, ir.Constant(self.words, (1 << self.bits) - 1))
        if self.values:
            return self._looked_up(b, level)
        if self.level_zero:
            level = b.ir.sub(level, ir.Constant(self.words, self.level_zero))
        return b.ir.sitofp(level, self.vector)

    def _looked_up(self, b: Builder, level: Any) -> Any:
        """values[level] of each lane."""
        table = b.module.globals.get("values")
        if table is None:
            values = ir.Constant(ir.ArrayType(F32, 16), [float(v) for v in self.values])
            table = ir.GlobalVariable(b.module, "values", values, align=64)
        pointers = b.at(table, level, F32)
        name = f"llvm.masked.gather.v{self.lanes}f32.v{self.lanes}p0"
        every = ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [1] * self.lanes)
        return b.call(name, self.vector, pointers, ir.Constant(I32, 4), every, ir.Constant(self.vector, None))
