"""Which kernel an anchor becomes."""

from __future__ import annotations

from ...ir import Node, Value
from ...ir.ops import PlaneConv
from .contract import emit_contraction
from .contraction import is_contraction
from .planes import emit_planes
from .rows import emit_rows
from .state import Lowering
from .windows import WINDOWS, emit_windows


def emit_anchor(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, which is the result of `node` or pointwise behind it."""
    if is_contraction(node):
        emit_contraction(lw, node, root)
    elif isinstance(node.op, PlaneConv):
        emit_planes(lw, node, node.op, root)
    elif isinstance(node.op, WINDOWS):
        emit_windows(lw, node, root)
    else:
        emit_rows(lw, node, root)
