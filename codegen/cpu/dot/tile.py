"""The register tile of dot products: some rows of A by one strip of packed B. What multiplies is in `on_vectors.py` and `on_tiles.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import I8, I64, PTR, storage, subroutine
from ..epilogue import Epilogue
from .im2col import ConvGather
from .instructions import DotKind, accumulator
from .schedule import DotSchedule
from .window import Window


@dataclass(frozen=True, eq=False)
class Frame:
    """What every function of a kernel knows; `size` are slots of the params table by name."""

    module: ir.Module
    kernel: ContractKernel
    schedule: DotSchedule
    kind: DotKind
    size: Mapping[str, int]
    conv: ConvGather | None
    window: Window | None
    epilogue: Epilogue


class RegisterTile(ABC):
    """void tile(bufs, dims, batch, block_start, row, row_end, column, column_end, a, stride, advance, step).

    Every tile of rows by every strip. A tile's sums rest in a small array, from which the epilogue stores row by row.
    """

    def __init__(self, f: Frame, height: int, masked: bool) -> None:
        self.f, self.s, self.height, self.masked = f, f.schedule, height, masked
        k, s = f.kernel, f.schedule
        self.vector = accumulator(f.kind, s.lanes)
        self.element = storage(k.operands[-1].dtype)
        b = self.b = subroutine(f.module, f"{height}{'t' if masked else ''}", [PTR, PTR, *[I64] * 6, PTR, *[I64] * 3])
        i = b.ir
        bufs, self.dims, self.batch, self.block_start, self.row, self.row_end, self.column, column_end, *place = b.fn.args
        self.a, self.stride, self.advance, self.step = place
        self.p = b.params(self.dims, f.size)
        self.window = f.window.begin(b, self.dims) if f.window is not None else None
        self.operands = b.operands(bufs, len(k.operands))
        self.strip_bytes = i.mul(self.p["pitch"], b.i64(k.panel))
        self.packed = b.at(self.operands[1], i.mul(self.batch, self.p["b_batch"]), I8)
        self.c = b.at(self.operands[-1], i.mul(self.batch, self.p["c_batch"]), self.element)
        self.sums = b.alloca(self.vector, b.i64(height * s.vectors))
        self.heights = i.sdiv(i.add(i.sub(self.row_end, self.row), b.i64(height - 1)), b.i64(height))
        self.strips = i.sdiv(i.add(i.sub(column_end, self.column), b.i64(k.panel - 1)), b.i64(k.panel))
        self.inner = self.strips if s.by_rows else self.heights

    def write(self) -> ir.Function:
        b, i = self.b, self.b.ir
        count = i.mul(self.heights, self.strips)
        with i.if_then(i.icmp_signed(">", count, b.i64(0))):
            self._walk(count)
        i.ret_void()
        return b.fn

    @abstractmethod
    def _walk(self, count: Any) -> None:
        """Multiply and finish all tiles, `count` of them."""

    def _place(self, t: Any) -> tuple[Any, Any]:
        """(first row, first column) of tile number t."""
        b, i = self.b, self.b.ir
        slow, fast = i.udiv(t, self.inner), i.urem(t, self.inner)
        high, wide = (slow, fast) if self.s.by_rows else (fast, slow)
        return i.add(self.row, i.mul(high, b.i64(self.height))), i.add(self.column, i.mul(wide, b.i64(self.f.kernel.panel)))

    def _rows(self, row: Any) -> Any:
        """Where A is from that row on."""
        return self.b.at(self.a, self.b.ir.mul(row, self.advance), I8)

    def _strip(self, column: Any) -> Any:
        """Where the strip of B is that begins with the column."""
        b, i = self.b, self.b.ir
        return b.at(self.packed, i.mul(i.udiv(column, b.i64(self.f.kernel.panel)), self.strip_bytes), I8)

    def _finish(self, row: Any, column: Any) -> None:
        """The epilogue of the tile whose sums there are."""
        b, i, s = self.b, self.b.ir, self.s
        masks = b.column_masks(i.sub(self.p["n"], column), s.lanes, s.vectors, self.masked)
        epilogue = self.f.epilogue.begin(b, self.dims, self.operands, self.batch, column, masks, hold=True)
        corner = b.at(self.c, column, self.element)

        def store(r: Any, m: Any) -> None:
            line = b.at(self.sums, i.mul(r, b.i64(s.vectors)), self.vector)
            acc = [b.load(self.vector, b.at(line, b.i64(v), self.vector), 16) for v in range(s.vectors)]
            epilogue.row(m, acc, b.at(corner, i.mul(m, self.p["ldc"]), self.element))

        end = b.smin(self.row_end, i.add(row, b.i64(self.height)))
        if self.window is not None:
            self.window.stored(row, end, self.block_start, store)
            return

        def along(r: Any, _: list[Any]) -> Sequence[Any]:
            store(r, i.add(self.block_start, i.add(row, r)))
            return ()

        b.loop(b.i64(0), i.sub(end, row), b.i64(1), [], along)
