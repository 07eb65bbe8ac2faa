"""What every function of a kernel with weights of few bits knows, and where rows of its results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...group_blocks import GroupBlocks
from ...kernel import GroupedKernel
from .. import llvm_ir as ir
from ..build import Builder, storage
from ..epilogue import Epilogue
from ..shelf import Shelf
from ..target import CpuTarget
from .levels import Levels
from .schedule import GroupedSchedule


@dataclass(frozen=True, eq=False)
class Frame:
    """`size` are slots of the params table by name."""

    module: ir.Module
    kernel: GroupedKernel
    blocks: GroupBlocks
    schedule: GroupedSchedule
    target: CpuTarget
    size: dict[str, int]
    levels: Levels
    epilogue: Epilogue

    @property
    def each(self) -> int:
        """Elements of K that a word of levels holds."""
        return 32 // self.kernel.bits

    @property
    def columns(self) -> int:
        """Of a strip."""
        return self.schedule.lanes * self.schedule.vectors


class Results:
    """Rows of a strip of C, from `column` on, through the epilogue to memory. `hold` as in `Epilogue.begin`."""

    def __init__(
        self, b: Builder, f: Frame, p: dict[str, Any], dims: Any, operands: list[Any], column: Any, masked: bool, hold: bool = False
    ) -> None:
        self.b, self.p, self.column = b, p, column
        self.c, self.element = operands[-1], storage(f.kernel.operands[-1].dtype)
        masks = b.column_masks(b.ir.sub(p["n"], column), f.schedule.lanes, f.schedule.vectors, masked)
        self.epilogue = f.epilogue.begin(b, dims, operands, b.i64(0), column, masks, hold)

    def store(self, m: Any, sums: Sequence[Any]) -> None:
        """Row m."""
        b, i = self.b, self.b.ir
        self.epilogue.row(m, sums, b.at(self.c, i.add(i.mul(m, self.p["ldc"]), self.column), self.element))

    def store_rows(self, m: Any, height: int, sums: Shelf) -> None:
        """Rows [m, m + height); a long epilogue is written once, not once a row."""
        b = self.b

        def one(r: Any, row: Sequence[Any]) -> None:
            self.store(b.ir.add(m, r), row)

        if self.epilogue.e.long and height > 1:
            sums.each(b.i64(height), one)
        else:
            for r in range(height):
                one(b.i64(r), sums.row(b.i64(r)))
