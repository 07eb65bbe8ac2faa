"""ContractKernel → LLVM IR: a register tile of C accumulates over k while A is broadcast and packed B streams by.

One function per tile shape walks the rows of a unit; the entry cuts units out of batch × row blocks × strips, so that
a strip of B (lanes·vectors columns by k) is used by every row tile of a block while it is in cache. All sizes are read
from the params table: layers that differ in sizes only share one compiled function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ...kernel import bytes_of
from .. import llvm_ir as ir
from ..build import kernel_function
from ..emitted import TIDY, WALKED, Emitted, named
from ..float_mode import flush_subnormals
from ..text_cache import TextEmitter
from .parts import ProductParts
from .tile import RegisterTile
from .units import Units


class VectorProduct(ProductParts, TextEmitter):
    """The kernel: tiles by rows, and the entry that cuts units for them."""

    family = "contract"

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""
        k, s = self.kernel, self.schedule
        rank = len(k.conv.kernel) if k.conv else 0
        fixed = replace(s, block=0, blocks=0, whole_block=0, whole_blocks=0, strips=0, k_block=0, steps=0, share=0, share_apart=0)
        return (
            fixed,
            self.single,
            rank,
            k.panel,
            k.last,
            k.b_row != 0,
            self.diagonal,
            self.abreast and self.abreast.channels,
            self.planes is not None,
            tuple(o.dtype for o in k.operands),
            self.epilogue.fingerprint(),
            self.target,
        )

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        flops = 2 * k.batch * k.m * k.n * (k.k // k.diagonal)
        units, cost = self.batches * s.blocks * s.strips, 2 * s.block * s.lanes * s.vectors * k.k
        return Emitted(text, symbol, tuple(self.params.dims), units, cost, flops, bytes_of(k.operands))

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self._write(module)
        walked = self.schedule.mode != "segments" and self.kernel.diagonal == 1
        return named(str(module), WALKED if walked else TIDY)

    def _write(self, module: ir.Module) -> None:
        s = self.schedule
        self.module = module
        tile_fns = {}
        if not self.single:
            for mr in s.tiles:
                tile_fns[mr, False] = RegisterTile(self, mr, s.vectors, masked=False).write()
        if s.tail:
            for mr in s.tail_tiles:
                tile_fns[mr, True] = RegisterTile(self, mr, s.vectors if s.tail < 0 else s.tail, masked=True).write()
        self._entry(tile_fns)

    def _entry(self, tiles: dict[tuple[int, bool], ir.Function]) -> None:
        """void kernel(bufs, dims, begin, end)"""
        b = kernel_function(self.module)
        units = Units(b, self, tiles)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            units.write(u)
            return ()

        restore = flush_subnormals(b, self.target) if self.schedule.acc.is_float else None
        b.loop(b.fn.args[2], units.end, b.i64(1), [], unit)
        if restore is not None:
            restore()
        b.ir.ret_void()
