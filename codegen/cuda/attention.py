"""AttentionKernel to CUDA: scores never reach memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from ...errors import CodegenError
from ...ir import DType, dim_max, dim_min, prod, upper
from ..kernel import AttentionKernel, bytes_of
from .attention_few import FEW, attention_few, schedule_few
from .attention_fma import attention_fma, schedule_attention_fma
from .attention_mma import attention_tiles, schedule_attention_mma, takes_attention
from .attention_wgmma import attention_groups, schedule_attention_groups, takes_attention_groups
from .emitted import Emitted
from .target import CudaTarget


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
    few = schedule_few(kernel)
    unknown = few is not None and upper(kernel.rows) > FEW
    found = []
    if few is not None:
        found.append(attention_few(kernel, few, aligned, dim_min(1, dim_max(0, FEW + 1 - kernel.rows)) if unknown else 1))
    if few is None or unknown:
        launch, shared = attention_fma(kernel, schedule_attention_fma(kernel), aligned)
        found.append((replace(launch, blocks=launch.blocks * dim_min(1, dim_max(0, kernel.rows - FEW))) if unknown else launch, shared))
    # One memory and one set of counters serve launches that follow each other.
    most, counters = functools.reduce(dim_max, (shared.bytes for _, shared in found)), max(shared.counters for _, shared in found)
    return Emitted(tuple(launch for launch, _ in found), flops, size, (most,) if counters else (), counters)
