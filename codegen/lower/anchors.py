"""Which kernel an anchor becomes."""

from __future__ import annotations

from ...ir import Node, Value
from .contract import emit_contraction
from .fusion import is_contraction
from .rows import emit_rows
from .state import Lowering


def emit_anchor(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, which is the result of `node` or pointwise behind it."""
    if is_contraction(node):
        emit_contraction(lw, node, root)
    else:
        emit_rows(lw, node, root)
