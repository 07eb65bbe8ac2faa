"""Sizes and addresses that every function of a product asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import PTR, Builder, Params, storage
from .schedule import TripleSchedule
from .split import Splitter

Sizes = Mapping[str, Any]


class Operands:
    """`keeps` splits what stays, `passes` what passes by."""

    def __init__(self, kernel: ContractKernel, schedule: TripleSchedule) -> None:
        self.kernel, self.schedule = kernel, schedule
        k, s = kernel, schedule
        self.params = Params()
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "m": k.m, "n": k.n, "k": k.k, "lda": k.lda, "a_batch": k.a_batch, "b_batch": k.b_batch, "ldc": k.ldc,
                "c_batch": k.c_batch, "blocks": s.blocks, "chunks": s.chunks, "depth": s.depth, "kept": s.kept, "passing": s.passing,
                "sums": s.sums, "listed": s.listed,
            }.items()
        }  # fmt: skip
        of_rows, of_strips = (Splitter(rows, kernel.panel, s.short) for rows in (True, False))
        self.keeps, self.passes = (of_strips, of_rows) if s.rows_pass else (of_rows, of_strips)
        self.stored = storage(kernel.operands[-1].dtype)  # results

    def sizes(self, b: Builder, dims: Any) -> Sizes:
        return {name: b.param(dims, at) for name, at in self.size.items()}

    def pointers(self, b: Builder, bufs: Any) -> list[Any]:
        return [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(self.kernel.operands))]

    def a(self, b: Builder, p: Sizes, pointers: list[Any], batch: Any) -> Any:
        return b.at(pointers[0], b.ir.mul(batch, p["a_batch"]), ir.FloatType())

    def packed(self, b: Builder, p: Sizes, pointers: list[Any], batch: Any) -> Any:
        return b.at(pointers[1], b.ir.mul(batch, p["b_batch"]), ir.FloatType())

    def strip(self, b: Builder, p: Sizes, packed: Any, column: Any) -> Any:
        """Row 0 of the strip at a column: strips are halves of panels."""
        i = b.ir
        half = i.and_(column, b.i64(self.kernel.panel - 1))
        return b.at(packed, i.add(i.mul(i.sub(column, half), p["k"]), half), ir.FloatType())
