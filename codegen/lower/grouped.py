"""Weights of few bits as operands of a grouped kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import CodegenError
from ...ir import Const, Node
from ...ir.ops import GroupedMatMul
from ..packing import Deferred, levels_size, pack_b, pack_levels, packed_size
from .state import Lowering


@dataclass(frozen=True)
class Levels:
    """Buffers of packed levels, and of scales and maybe zeros; the zero that all columns have, if it is one."""

    levels: int
    others: tuple[int, ...]
    zero: float | None


def pack_grouped(lw: Lowering, node: Node, panel: int) -> Levels:
    """Raises CodegenError for weights that are computed at run time."""
    op = node.op
    assert isinstance(op, GroupedMatMul)
    data = [v.node.op.data for v in node.inputs[1:] if isinstance(v.node.op, Const)]
    if len(data) < 3:
        raise CodegenError("weights of few bits that are computed", expected="constants", loc=" + ".join(node.loc))
    levels, scales, zeros = data
    k, n = levels.shape
    size = levels_size(k, n, panel, op.bits)
    deferred = Deferred(np.dtype(np.uint32), size, lambda out: pack_levels(levels, panel, op.bits, out), streamed=True)
    packed = lw.storage.const_lazy(("levels", id(levels), panel, op.bits), deferred, levels).buffer
    one = bool(zeros.size) and bool((zeros == zeros.flat[0]).all())
    others = [_columns(lw, scales, panel)] if one else [_columns(lw, scales, panel), _columns(lw, zeros, panel)]
    return Levels(packed, tuple(others), float(zeros.flat[0]) if one else None)


def _columns(lw: Lowering, rows: np.ndarray, panel: int) -> int:
    groups, n = rows.shape
    size = packed_size(groups, n, panel)
    assert isinstance(size, int)
    deferred = Deferred(rows.dtype, size, lambda out: pack_b(rows, panel, 1, out), streamed=True)
    return lw.storage.const_lazy(("columns", id(rows), panel), deferred, rows).buffer
