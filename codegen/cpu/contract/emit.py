"""ContractKernel → LLVM IR: a register tile of C accumulates over k while A is broadcast and packed B streams by.

One function per tile shape walks the rows of a unit; the entry cuts units out of batch × row blocks × strips, so that
a strip of B (lanes·vectors columns by k) is used by every row tile of a block while it is in cache. All sizes are read
from the params table: layers that differ in sizes only share one compiled function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ....errors import CodegenError
from ....ir import Dim
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import Params, kernel_function, storage, vec
from ..emitted import PLACEHOLDER, TIDY, WALKED, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..product import Product
from ..target import CpuTarget
from ..text_cache import TextEmitter
from .diagonal import DiagonalProduct
from .planes import PlaneStore
from .rows import ConvRows, RowSource, StridedRows
from .schedule import ContractSchedule
from .tile import RegisterTile
from .units import Units


class VectorProduct(TextEmitter):
    """Raises CodegenError for element types or epilogues that cannot be emitted."""

    family = "contract"

    def __init__(self, kernel: ContractKernel, schedule: ContractSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.dtype = kernel.operands[0].dtype
        self.acc = storage(schedule.acc)
        self.vector = vec(self.acc, schedule.lanes)
        self.product = Product(self.dtype, schedule.acc, schedule.lanes, kernel.panel, schedule.unroll, schedule.k_multiple, target)
        k = kernel
        self.diagonal: DiagonalProduct | None = None
        if k.diagonal > 1:
            assert isinstance(k.k, int) and isinstance(k.n, int)
            inputs, outputs = k.k // _taps(k) // k.diagonal, k.n // k.diagonal
            self.diagonal = DiagonalProduct(inputs, outputs, k.n, schedule.lanes, k.panel, target)
        self.params = Params()
        conv = k.conv
        grouped = conv is not None
        channels = k.k // _taps(k)
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "batch": k.batch, "m": k.m, "n": k.n, "k": k.k, "lda": k.lda, "a_batch": channels if grouped else k.a_batch,
                "b_batch": k.b_batch, "b_row": k.b_row, "ldc": k.ldc, "c_batch": k.n if grouped else k.c_batch,
                "block": schedule.block, "blocks": schedule.blocks, "whole_block": schedule.whole_block,
                "whole_blocks": schedule.whole_blocks, "strips": schedule.strips, "channels": channels,
                "k_block": schedule.k_block, "k_steps": schedule.steps, "b_step": self._b_step(),
                "share": schedule.share, "share_apart": min(schedule.share, schedule.share_apart),
            }.items()
        }  # fmt: skip
        self.rows: RowSource
        if schedule.mode == "matmul" or conv is None:
            self.rows = StridedRows(schedule.split)
        else:
            self.rows = ConvRows(conv, self.params, schedule.mode == "segments")
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)
        self.planes: PlaneStore | None = None
        if k.planes is not None:
            if any(o.dtype is not schedule.acc for o in (k.operands[0], k.operands[-1])):
                raise CodegenError(f"planes of {k.operands[-1].dtype.value}", expected=schedule.acc.value)
            self.planes = PlaneStore(k.planes, self.params, self.acc, schedule.lanes, schedule.lanes * schedule.vectors)

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""
        k, s = self.kernel, self.schedule
        narrow = isinstance(k.n, int) and k.n < s.lanes * s.vectors
        rank = len(k.conv.kernel) if k.conv else 0
        fixed = replace(s, block=0, blocks=0, whole_block=0, whole_blocks=0, strips=0, k_block=0, steps=0, share=0, share_apart=0)
        return (
            fixed,
            narrow,
            rank,
            k.panel,
            k.b_row != 0,
            self.diagonal,
            self.planes is not None,
            tuple(o.dtype for o in k.operands),
            self.epilogue.fingerprint(),
            self.target,
        )

    def _b_step(self) -> Dim:
        """Elements of B in one step of k, or in one tap of a convolution."""
        k, s = self.kernel, self.schedule
        return k.panel if s.mode == "matmul" else k.k // s.steps // k.diagonal * k.panel

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        flops = 2 * k.batch * k.m * k.n * (k.k // k.diagonal)
        strip = s.lanes * s.vectors
        return Emitted(
            text, symbol, tuple(self.params.dims), k.batch * s.blocks * s.strips, 2 * s.block * strip * k.k, flops, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        walked = self.schedule.mode != "segments" and self.kernel.diagonal == 1
        return named(str(module), WALKED if walked else TIDY)

    def write(self, module: ir.Module, name: str) -> ir.Function:
        """The kernel's function, called `name`, and those that it calls."""
        k, s = self.kernel, self.schedule
        self.module = module
        tile_fns = {}
        if not (isinstance(k.n, int) and k.n < s.lanes * s.vectors):
            for mr in s.tiles:
                tile_fns[mr, False] = RegisterTile(self, mr, s.vectors, masked=False).write()
        if s.tail:
            for mr in s.tail_tiles:
                tile_fns[mr, True] = RegisterTile(self, mr, s.vectors if s.tail < 0 else s.tail, masked=True).write()
        return self._entry(tile_fns, name)

    def _entry(self, tiles: dict[tuple[int, bool], ir.Function], name: str) -> ir.Function:
        """void kernel(bufs, dims, begin, end)"""
        b = kernel_function(self.module, name)
        units = Units(b, self, tiles)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            units.write(u)
            return ()

        restore = flush_subnormals(b, self.target) if self.schedule.acc.is_float else None
        b.loop(b.fn.args[2], units.end, b.i64(1), [], unit)
        if restore is not None:
            restore()
        b.ir.ret_void()
        return b.fn


def _taps(kernel: ContractKernel) -> int:
    taps = 1
    for k in kernel.conv.kernel if kernel.conv else ():
        taps *= k
    return taps
