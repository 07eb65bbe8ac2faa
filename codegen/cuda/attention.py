"""AttentionKernel to CUDA: scores never reach memory; a warp carries the softmax of a few queries along the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import CodegenError
from ...ir import DType, ceildiv, dim_max, dim_min, lower, prod, upper
from ..kernel import AttentionKernel, bytes_of
from .attention_few import FEW, attention_few, schedule_few
from .attention_mma import attention_tiles, schedule_attention_mma, takes_attention
from .attention_text import LoadingText, loading_text
from .attention_wgmma import attention_groups, schedule_attention_groups, takes_attention_groups
from .emitted import Emitted, Launch
from .launching import launch_of
from .target import CudaTarget
from .writer import Params, operand_pointers

SHARED_LIMIT = 48 << 10  # bytes a block has without asking the driver for more


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """`warps` of a block, `rows` queries of a warp; `staged`: keys, values and queries lie in shared memory."""

    warps: int
    rows: int
    staged: bool

    def shared(self, size: int, value_size: int) -> int:
        return 4 * (32 * (size + 1 + value_size) + self.warps * self.rows * size) if self.staged else 0


@dataclass(frozen=True, kw_only=True)
class AttentionParameters(LoadingText):
    """attention.cu.j2"""

    warps: int
    rows_per_warp: int
    staged: bool


def schedule_attention(kernel: AttentionKernel) -> AttentionSchedule:
    """Four warps of four queries; fewer where there are fewer queries, so that no warp idles."""
    rows = upper(kernel.rows)
    for warps, each in ((1, 1), (2, 2), (4, 4)):
        if rows <= warps * each:
            break
    plan = AttentionSchedule(warps, each, True)
    return plan if plan.shared(kernel.size, kernel.value_size) <= SHARED_LIMIT else AttentionSchedule(warps, each, False)


def emit_attention(kernel: AttentionKernel, aligned: Sequence[int], target: CudaTarget) -> Emitted:
    """On tensor cores where they take the operands.

    Raises CodegenError for element types other than f32, f16 and bf16.
    """
    pairs = prod((kernel.batch, kernel.heads, kernel.rows, kernel.keys))
    flops, size = 2 * pairs * (kernel.size + kernel.value_size), bytes_of(kernel.operands)
    groups = schedule_attention_groups(kernel) if target.warp_groups and takes_attention_groups(kernel, aligned) else None
    if groups is not None:
        return Emitted((attention_groups(kernel, groups, aligned),), flops, size)
    if takes_attention(kernel, target.tf32):
        launch, shared = attention_tiles(kernel, schedule_attention_mma(kernel), aligned)
        return Emitted((launch,), flops, size, (shared.bytes,) if shared.counters else (), shared.counters)
    types = {o.dtype for o in kernel.operands}
    if types != {DType.F32}:
        raise CodegenError(f"attention on {', '.join(sorted(t.value for t in types))}", expected="f32, or heads of f16 or bf16 up to 256")
    many = _by_multiply_add(kernel)
    plan = schedule_few(kernel, many.blocks)
    if plan is None:
        return Emitted((many,), flops, size)
    unknown = lower(kernel.rows) <= FEW < upper(kernel.rows)
    gate = dim_min(1, dim_max(0, FEW + 1 - kernel.rows)) if unknown else 1
    launch, shared = attention_few(kernel, plan, aligned, gate)
    launches = (launch, replace(many, blocks=many.blocks * (1 - gate))) if unknown else (launch,)
    return Emitted(launches, flops, size, (shared.bytes,) if shared.counters else (), shared.counters)


def _by_multiply_add(kernel: AttentionKernel) -> Launch:
    plan, params = schedule_attention(kernel), Params()
    values = AttentionParameters(**loading_text(kernel, params), warps=plan.warps, rows_per_warp=plan.rows, staged=plan.staged)
    blocks = prod((kernel.batch, kernel.heads, ceildiv(kernel.rows, plan.warps * plan.rows)))
    shared = plan.shared(kernel.size, kernel.value_size)
    return launch_of("attention.cu.j2", operand_pointers(kernel.operands), values, params, blocks, plan.warps * 32, shared)
