"""Pooling over large windows in passes: over each axis of a window in turn, k₁ + k₂ elements are read in place of k₁·k₂."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TypeVar

from ...ir import Dim, DType, Graph, Node, Value
from ...ir.ops import Pool

D = TypeVar("D", int, Dim)

_WORTH_PASSES = 1.6  # elements of a window for each that is read in passes; they also write what is between them


def separate_pools(graph: Graph) -> Graph:
    """The graph with a maximum, or a mean, of maxima and means over the windows of one axis each."""

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        op = node.op
        return [_separated(op, ins[0], node.loc)] if isinstance(op, Pool) and _worth_passes(op, node.out.dtype) else None

    return graph.rewrite(visit)


def _worth_passes(op: Pool, dtype: DType) -> bool:
    if op.kind != "max" and not (op.kind == "avg" and dtype in (DType.F32, DType.F64)):  # others would be rounded in between
        return False
    # a pass reads all of what is behind its axis, which later passes make fewer
    elements = sum(k * prod(op.strides[a + 1 :]) for a, k in enumerate(op.kernel))
    return len(op.kernel) > 1 and prod(op.kernel) >= _WORTH_PASSES * elements


def _separated(op: Pool, x: Value, loc: tuple[str, ...]) -> Value:
    for a in range(len(op.kernel)):
        part = replace(
            op, kernel=_only(op.kernel, a, 1), strides=_only(op.strides, a, 1), dilations=_only(op.dilations, a, 1),
            pads_lo=_only(op.pads_lo, a, 0), pads_hi=_only(op.pads_hi, a, 0),
        )  # fmt: skip
        x = Node.make(part, (x,), loc).out
    return x


def _only(values: tuple[D, ...], axis: int, other: D) -> tuple[D, ...]:
    """The value of one axis, and `other` for the rest."""
    return tuple(v if i == axis else other for i, v in enumerate(values))
