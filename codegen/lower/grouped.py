"""Weights of few bits as operands of a grouped kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import CodegenError
from ...ir import Const, Node
from ...ir.ops import GroupedMatMul
from ..group_blocks import GroupBlocks, scale_type, zero_type
from ..packing import Deferred, levels_size, pack_b, pack_levels, packed_size
from .state import Lowering


@dataclass(frozen=True)
class Levels:
    """Buffers of packed levels, and of scales and maybe zeros, unless `blocks` says that all lie in the first; the zero that all
    columns have, if it is one."""

    levels: int
    others: tuple[int, ...]
    zero: float | None
    blocks: GroupBlocks | None = None


def pack_grouped(lw: Lowering, node: Node, panel: int) -> Levels:
    """Raises CodegenError for weights that are computed at run time."""
    op = node.op
    assert isinstance(op, GroupedMatMul)
    data = [v.node.op.data for v in node.inputs[1:] if isinstance(v.node.op, Const)]
    if len(data) < 3:
        raise CodegenError("weights of few bits that are computed", expected="constants", loc=" + ".join(node.loc))
    levels, scales, zeros = data
    k, n = levels.shape
    one = bool(zeros.size) and bool((zeros == zeros.flat[0]).all())
    zero = float(zeros.flat[0]) if one else None
    if panel > 1:
        blocks = GroupBlocks(k, n, panel, op.bits, op.group, scale_type(scales), None if one else zero_type(zeros))
        deferred = Deferred(np.dtype(np.uint32), blocks.size, lambda out: blocks.pack(levels, scales, zeros, out), streamed=True)
        key = ("blocks", *map(id, data), panel, op.bits, op.group)
        return Levels(lw.storage.const_lazy(key, deferred, data).buffer, (), zero, blocks)
    size = levels_size(k, n, panel, op.bits)
    deferred = Deferred(np.dtype(np.uint32), size, lambda out: pack_levels(levels, panel, op.bits, out), streamed=True)
    packed = lw.storage.const_lazy(("levels", id(levels), panel, op.bits), deferred, levels).buffer
    others = [_columns(lw, scales, panel)] if one else [_columns(lw, scales, panel), _columns(lw, zeros, panel)]
    return Levels(packed, tuple(others), zero)


def _columns(lw: Lowering, rows: np.ndarray, panel: int) -> int:
    groups, n = rows.shape
    size = packed_size(groups, n, panel)
    assert isinstance(size, int)
    deferred = Deferred(rows.dtype, size, lambda out: pack_b(rows, panel, 1, out), streamed=True)
    return lw.storage.const_lazy(("columns", id(rows), panel), deferred, rows).buffer
