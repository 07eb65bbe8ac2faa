"""ContractKernel by multiply-add, for every element type: tiles in shared memory, double-buffered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import DType
from ..kernel import ContractKernel
from .contract_schedule import FmaSchedule, tiles
from .contract_shares import Shares, shares
from .contract_text import ContractParameters, a_pack, accumulator, b_pack, contract_launch, converted, shared_parameters
from .emitted import Launch
from .epilogue import epilogue
from .scalars import storage
from .writer import Params


@dataclass(frozen=True, kw_only=True)
class FmaParameters(ContractParameters):
    """contract_fma.cu.j2"""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int
    pack_a: int
    pack_b: int
    a_convert: str
    b_convert: str
    multiply_add: str


def fma_tiles(kernel: ContractKernel, plan: FmaSchedule, aligned: Sequence[int]) -> tuple[Launch, Shares]:
    """The launch, and what its blocks share."""
    params = Params()
    acc = accumulator(kernel)
    a, b = kernel.operands[0].dtype, kernel.operands[1].dtype
    lines = epilogue(kernel, params, aligned)
    values = FmaParameters(
        **shared_parameters(kernel, params, lines, plan.threads, plan.splits, (plan.bm, plan.bn)),
        bm=plan.bm, bn=plan.bn, bk=plan.bk, tm=plan.tm,
        tn=plan.tn, slices=plan.slices, pack_a=a_pack(kernel, aligned[0], 4), pack_b=b_pack(kernel, aligned[1], 4),
        a_convert=converted("next_a[i].v[e]", a, acc), b_convert=converted("next_b[i].v[e]", b, acc),
        multiply_add=multiply_add(acc, "left[i]", "right[j]"),
    )  # fmt: skip
    blocks = tiles(kernel, plan) * plan.splits
    return contract_launch("contract_fma.cu.j2", kernel, values, params, blocks, plan.shared(acc.itemsize)), shares(kernel, plan)


def multiply_add(acc: DType, left: str, right: str) -> str:
    """sum[i][j] + left·right."""
    if acc in (DType.F32, DType.F64):
        return f"{'fmaf' if acc is DType.F32 else 'fma'}({left}, {right}, sum[i][j])"
    t = storage(acc)
    return f"wrap_add<{t}>(sum[i][j], wrap_mul<{t}>({left}, {right}))"
