"""What the functions of a vector product share: its sizes, and how its rows are read and its results finished and stored."""

from __future__ import annotations

import math
from dataclasses import replace

from ....errors import CodegenError
from ....ir import Dim
from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import Params, storage, vec
from ..epilogue import Epilogue
from ..product import Product
from ..target import CpuTarget
from .abreast import AbreastProduct
from .diagonal import DiagonalProduct
from .planes import PlaneStore
from .rows import ConvRows, RowSource, StridedRows
from .schedule import ContractSchedule


class ProductParts:
    """Raises CodegenError for element types or epilogues that cannot be emitted."""

    module: ir.Module  # that the functions are written into

    def __init__(self, kernel: ContractKernel, schedule: ContractSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.dtype = kernel.operands[0].dtype
        self.acc = storage(schedule.acc)
        self.vector = vec(self.acc, schedule.lanes)
        self.product = Product(self.dtype, schedule.acc, schedule.lanes, kernel.panel, schedule.unroll, schedule.k_multiple, target)
        k, conv = kernel, kernel.conv
        self.last = replace(self.product, panel=k.last)
        channels = k.k // (math.prod(conv.kernel) if conv is not None else 1)
        self.diagonal: DiagonalProduct | None = None
        if k.diagonal > 1:
            assert isinstance(channels, int) and isinstance(k.n, int)
            inputs, outputs = channels // k.diagonal, k.n // k.diagonal
            self.diagonal = DiagonalProduct(inputs, outputs, k.n, schedule.lanes, k.panel, target)
        self.abreast: AbreastProduct | None = None
        self.batches, self.columns = k.batch, k.n  # that strips are cut of
        if schedule.abreast > 1:
            assert isinstance(channels, int)
            self.abreast = AbreastProduct(channels, self.product, self.diagonal)
            self.batches, self.columns = 1, k.batch * k.n
        self.strip, self.widest = schedule.lanes * schedule.vectors, max(schedule.vectors, schedule.tail)  # columns; vectors of any strip
        self.single = isinstance(self.columns, int) and self.columns < max(self.strip, k.last)  # no strip but the last
        self.params = Params()
        grouped = conv is not None
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "batch": self.batches, "m": k.m, "n": self.columns, "k": k.k, "lda": k.lda, "a_batch": channels if grouped else k.a_batch,
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
            self.rows = ConvRows(conv, self.params, schedule.mode == "segments", schedule.abreast)
        self.epilogue = Epilogue(kernel, self.params, target, schedule.lanes)
        self.planes: PlaneStore | None = None
        if k.planes is not None:
            if any(o.dtype is not schedule.acc for o in (k.operands[0], k.operands[-1])):
                raise CodegenError(f"planes of {k.operands[-1].dtype.value}", expected=schedule.acc.value)
            self.planes = PlaneStore(k.planes, self.params, self.acc, schedule.lanes, schedule.lanes * self.widest)

    def _b_step(self) -> Dim:
        """Elements of B in one step of k, or in one tap of a convolution."""
        k, s = self.kernel, self.schedule
        return k.panel if s.mode == "matmul" else k.k // s.steps // k.diagonal * k.panel
