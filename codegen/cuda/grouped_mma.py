"""Weights of few bits by tensor cores: they become 16-bit floats on the way to shared memory, so that memory is read in few bits.

That pays for a moderate number of rows: each tile of rows expands the weights again. For many they are expanded once, see `grouped.py`.
What is asked of memory at a time decides the speed: threads ask for weights some steps ahead, and blocks share k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Dim, dim_min
from ..kernel import ContractKernel, GroupedKernel
from .attention_mma import SIXTEEN
from .contract_mma import MmaParameters, fragment_epilogue
from .contract_schedule import MAX_SPLITS, SPLIT_K, WAVE, MmaSchedule, ceil, tiles
from .contract_shares import Shares, shares
from .contract_text import PIECE, a_pack, contract_launch, shared_parameters
from .emitted import Launch

RANGES = ((2, 16), (17, 128))  # of rows, with a kernel each
MOST_ROWS = RANGES[-1][1]
AHEAD = 4  # steps that weights are asked for before they are expanded
_RUN = 8  # elements of k that a thread expands at a time, which are 16 bytes
_CODES = 64  # bytes
# By rows: the least tile that has them all. 64 of k are 32 bytes of levels, as much as memory brings at a time.
_TILES = (MmaSchedule(16, 64, 32, 1, 4, 4, 4, 1.0), MmaSchedule(32, 64, 32, 2, 2, 4, 4, 1.0), MmaSchedule(64, 64, 32, 2, 2, 4, 3, 1.0),
          MmaSchedule(128, 64, 32, 4, 1, 4, 2, 1.0))  # fmt: skip
_OFTEN = _TILES[2]  # for many rows of a number that only a run knows


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


def schedule_levels(kernel: GroupedKernel, most: int) -> MmaSchedule:
    """For up to `most` rows. Blocks share k until they fill the device, or a share is short."""
    rows = kernel.m if isinstance(kernel.m, int) else min(most, _OFTEN.bm)
    plan = next((t for t in _TILES if t.bm >= rows), _TILES[-1])
    blocks = ceil(kernel.n, plan.bn) * ceil(rows, plan.bm)
    return replace(plan, splits=max(1, min(MAX_SPLITS, WAVE * plan.resident // blocks, kernel.k // SPLIT_K)))


def levels_tiles(kernel: GroupedKernel, product: ContractKernel, plan: MmaSchedule, most: int, aligned: Sequence[int], weights: Weights,
                 gate: Dim) -> tuple[Launch, Shares]:  # fmt: skip
    """The launch, and what its blocks share. `product` is the contraction of expanded weights, `gate` is 0 where it is not to
    run, which is for more than `most` rows too."""
    use, pack = SIXTEEN[kernel.operands[0].dtype]
    params, lines = fragment_epilogue(product, aligned)
    whole = PIECE // kernel.operands[0].dtype.itemsize
    values = MmaParameters(
        **shared_parameters(product, params, lines, plan.threads, plan.splits, (plan.bm, plan.bn)),
        mma=use.name, operand_word=use.word, bm=plan.bm, bn=plan.bn, bk=plan.words * use.group, group=use.group,
        warps_m=plan.warps_m, warps_n=plan.warps_n, stages=plan.stages, async_a=a_pack(product, aligned[0], whole) == whole,
        copy_b="levels", border=False, ahead=AHEAD, bits=kernel.bits, scale_group=kernel.group, scale_zero=weights.zero,
        whole=weights.whole, codes=weights.codes, pack_weights=pack,
    )  # fmt: skip
    read = replace(product, operands=kernel.operands)
    shared = plan.shared + (_CODES if weights.codes else 0)
    launch = contract_launch("contract_mma.cu.j2", read, values, params, tiles(product, plan) * plan.splits * gate, shared)
    return launch, shares(replace(product, m=dim_min(product.m, most)), plan)
