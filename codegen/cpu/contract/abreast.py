"""Groups of a convolution whose columns fill one vector each: a register tile has several side by side.

With one, what a tap's rows take to find is a third of its time, and as many sums as rows hardly hide the latency of multiply-adds.
Pixels are the same for all groups, so that further ones cost no address: their channels are a constant apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...expr import Axis, Load, children, postorder
from ...kernel import ContractKernel
from ..build import Builder
from ..epilogue import BATCH, COLUMN, stride_along
from ..product import Product
from ..target import CpuTarget
from .diagonal import DiagonalProduct

_WIDEST = 3  # by 8 rows: as many sums as registers hold beside a line of B


def groups_abreast(kernel: ContractKernel, target: CpuTarget, mode: str) -> int:
    """How many, of a kernel whose groups have one vector of columns."""
    groups, channels = kernel.batch, kernel.k
    if mode != "taps" or target.vector_registers < 32 or not isinstance(groups, int) or not isinstance(channels, int):
        return 1
    if not _of_all_columns(kernel):
        return 1
    return next((n for n in range(_WIDEST, 1, -1) if groups % n == 0), min(groups, _WIDEST))


def _of_all_columns(kernel: ContractKernel) -> bool:
    """Whether the epilogue of the first column of a group reads what it would as one behind the last of the group before."""
    inside = postorder([kernel.epilogue], lambda e: () if isinstance(e, Load) else children(e))
    if any(isinstance(e, Axis) and e.index in (BATCH, COLUMN) for e in inside):
        return False
    strides = [(stride_along(e.offset, BATCH), stride_along(e.offset, COLUMN)) for e in inside if isinstance(e, Load)]
    return all(column is not None and group == column * kernel.n for group, column in strides)


@dataclass(frozen=True, slots=True)
class AbreastProduct:
    """`channels`: from those of a group to those of the next, which `blocks` know, if B has only blocks."""

    channels: int
    product: Product
    blocks: DiagonalProduct | None

    def accumulate(self, b: Builder, length: Any, starts: Sequence[Any], strips: Sequence[Any], acc: Sequence[Any]) -> list[Any]:
        """acc[r·groups + g] += Σ_{t < length} starts[r][g·channels + t] · strips[g][t·panel …]."""
        if self.blocks is None:
            return self.product.accumulate_groups(b, length, starts, strips, self.channels, list(acc))
        out, groups = list(acc), len(strips)
        for g, strip in enumerate(strips):
            own = [b.at(start, b.i64(g * self.channels), self.blocks.element) for start in starts]
            out[g::groups] = self.blocks.accumulate(b, own, strip, out[g::groups], 1)
        return out
