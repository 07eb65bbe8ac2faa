"""AttentionKernel to CUDA: scores never reach memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from ...errors import CodegenError
from ...ir import Dim, DType, dim_max, lower, prod, upper
from ..kernel import AttentionKernel, bytes_of
from .attention_few import attention_few, schedule_few
from .attention_fma import attention_fma, schedule_attention_fma
from .attention_mma import attention_tiles, schedule_attention_mma, takes_attention
from .attention_wgmma import attention_groups, schedule_attention_groups, takes_attention_groups
from .contract_shares import Shares
from .emitted import Emitted, Launch
from .launching import between
from .target import FEW, CudaTarget


def emit_attention(kernel: AttentionKernel, aligned: Sequence[int], target: CudaTarget) -> Emitted:
    """On tensor cores where they take the operands.

    Raises CodegenError for element types other than f32, f16 and bf16.
    """
    pairs = prod((kernel.batch, kernel.heads, kernel.rows, kernel.keys))
    flops, size = 2 * pairs * (kernel.size + kernel.value_size), bytes_of(kernel.operands)
    # How many queries there are may be known to a launch only: then one has blocks of few queries, or the other of many.
    unknown = lower(kernel.rows) <= FEW < upper(kernel.rows)
    few: list[tuple[Launch, Shares]] = []
    many: list[tuple[Launch, Shares]] = []
    types = {o.dtype for o in kernel.operands if not o.written}
    if takes_attention(kernel, target.tf32):
        groups = schedule_attention_groups(kernel) if target.warp_groups and takes_attention_groups(kernel, aligned) else None
        if unknown:
            few = [attention_tiles(kernel, schedule_attention_mma(kernel, FEW), aligned)]
        if groups is not None:
            many = [(attention_groups(kernel, groups, aligned), Shares())]
        else:
            many = [attention_tiles(kernel, schedule_attention_mma(kernel), aligned)]
    elif types == {DType.F32}:
        plan = schedule_few(kernel)
        if plan is not None:
            few = [attention_few(kernel, plan, aligned)]
        if plan is None or unknown:
            many = [attention_fma(kernel, schedule_attention_fma(kernel), aligned)]
    else:
        raise CodegenError(f"attention on {', '.join(sorted(t.value for t in types))}", expected="f32, or heads of f16 or bf16 up to 256")
    if few and many:
        few, many = _gated(few, between(kernel.rows, 0, FEW)), _gated(many, between(kernel.rows, FEW + 1, None))
    launches, shared = zip(*few, *many, strict=True)
    # One memory and one set of counters serve launches that follow each other.
    memory, counters = functools.reduce(dim_max, (s.bytes for s in shared)), max(s.counters for s in shared)
    return Emitted(launches, flops, size, (memory,) if counters else (), counters)


def _gated(found: list[tuple[Launch, Shares]], gate: Dim) -> list[tuple[Launch, Shares]]:
    return [(replace(launch, blocks=launch.blocks * gate), shared) for launch, shared in found]
