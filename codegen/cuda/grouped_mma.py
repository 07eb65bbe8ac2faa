"""Weights of few bits by tensor cores: they become 16-bit floats on the way to shared memory, so that memory is read in few bits.

That pays for a moderate number of rows: each tile of rows expands the weights again. For many they are expanded once, see `grouped.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim
from ..kernel import ContractKernel, GroupedKernel
from .attention_mma import SIXTEEN
from .contract_mma import MmaParameters, fragment_epilogue
from .contract_schedule import MmaSchedule, tiles
from .contract_text import PIECE, a_pack, contract_launch, shared_parameters
from .emitted import Launch

MOST_ROWS = 128  # of one tile, and so weights are expanded once or twice
_RUN = 8  # elements of k that a thread expands at a time, which are 16 bytes
_CODES = 64  # bytes
# By rows: the least tile that has them all. 64 of k are 32 bytes of levels, as much as memory brings at a time.
_TILES = (MmaSchedule(32, 64, 32, 2, 2, 4, 4, 1.0), MmaSchedule(64, 64, 32, 2, 2, 4, 3, 1.0), MmaSchedule(128, 64, 32, 4, 1, 4, 2, 1.0))
_OFTEN = _TILES[1]  # for a number of rows that only a run knows


@dataclass(frozen=True)
class Weights:
    """Texts of a GroupedKernel's weights: the zero of group `at`, whether it is known to be a whole number, and the values that
    levels stand for, if any."""

    zero: str
    whole: str
    codes: Sequence[str]


def takes_levels(kernel: GroupedKernel) -> bool:
    """Whether A is of 16-bit floats, and what a thread expands at a time is whole words of one group."""
    return kernel.operands[0].dtype in SIXTEEN and kernel.k % _RUN == 0 and kernel.group % _RUN == 0 and kernel.n > 0


def levels_tiles(kernel: GroupedKernel, product: ContractKernel, aligned: Sequence[int], weights: Weights, gate: Dim) -> Launch:
    """The launch for up to MOST_ROWS rows; `product` is the contraction of expanded weights, `gate` is 0 where it is not to run."""
    m = kernel.m
    plan = next((t for t in _TILES if t.bm >= m), _TILES[-1]) if isinstance(m, int) else _OFTEN
    use, pack = SIXTEEN[kernel.operands[0].dtype]
    params, lines = fragment_epilogue(product, 1, aligned)
    whole = PIECE // kernel.operands[0].dtype.itemsize
    values = MmaParameters(
        **shared_parameters(product, params, lines, plan.threads, 1, (plan.bm, plan.bn)),
        mma=use.name, operand_word=use.word, bm=plan.bm, bn=plan.bn, bk=plan.words * use.group, group=use.group,
        warps_m=plan.warps_m, warps_n=plan.warps_n, stages=plan.stages, async_a=a_pack(product, aligned[0], whole) == whole,
        copy_b="levels", border=False, bits=kernel.bits, scale_group=kernel.group, scale_zero=weights.zero,
        whole=weights.whole, codes=weights.codes, pack_weights=pack,
    )  # fmt: skip
    read = replace(product, operands=kernel.operands)
    shared = plan.shared + (_CODES if weights.codes else 0)
    return contract_launch("contract_mma.cu.j2", read, values, params, tiles(product, plan) * gate, shared)
