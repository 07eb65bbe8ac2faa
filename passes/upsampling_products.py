"""Transposed convolutions whose windows do not overlap are products, so that they can be lowered to few bits as those are.

convtranspose(x[n, h, w, c], k×l filters at strides k, l) + bias  →  x·w[c, k·l·o] + bias, its pixels dealt out to k by l squares
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Node, Shape, Value, const, prod
from ..ir.ops import Add, ConvTranspose, MatMul, Reshape, Transpose
from .base import Pass, PassContext, apply, const_of, reshape, transpose


@dataclass(frozen=True)
class UpsamplingProducts(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
            match node.op:
                case ConvTranspose() as op if const_of(ins[1]) is not None and is_disjoint(op, ins[1].shape[:-2]):
                    y = apply(MatMul(), ins[0], columns_of(ins[1]), loc=node.loc)
                    return (dealt(y, ins[1].shape[:-1], node.out.shape),)
                case Add():
                    data, other = sorted(ins, key=lambda v: const_of(v) is not None)
                    bias = const_of(other)
                    moved = None if bias is None else biased(data, bias, node.loc)
                    return None if moved is None else (moved,)
            return None

        return graph.rewrite(visit)


def is_disjoint(op: ConvTranspose, kernel: tuple[object, ...]) -> bool:
    """Whether every result is one pixel by one tap."""
    plain = op.groups == 1 and all(d == 1 for d in op.dilations)
    return plain and kernel == op.strides and not any((*op.pads_lo, *op.pads_hi, *op.output_padding))


def columns_of(w: Value) -> Value:
    """Filters [*K, O, C] as a matrix [C, K·O]."""
    return transpose(reshape(w, (prod(w.shape[:-1]), w.shape[-1])), (1, 0))


def dealt(y: Value, columns: Shape, shape: Shape) -> Value:
    """The product [n, *spatial, K·O] as an image of this shape; `columns` are [*K, O]."""
    y = reshape(y, (*y.shape[:-1], *columns))
    return reshape(transpose(y, _order(len(columns) - 1)), shape)


def biased(v: Value, bias: np.ndarray, loc: tuple[str, ...]) -> Value | None:
    """`dealt(y, …) + bias[O]` as `dealt(y + bias for every tap, …)`; None where v is nothing of the kind."""
    if not v.shape or bias.size != v.shape[-1] or bias.shape[-1:] != v.shape[-1:] or not isinstance(v.node.op, Reshape):
        return None
    turned = v.node.inputs[0]
    rank = (turned.type.rank - 2) // 2
    if not isinstance(turned.node.op, Transpose) or rank < 1 or turned.node.op.perm != _order(rank):
        return None
    parts = turned.node.inputs[0]
    y, columns = parts.node.inputs[0] if isinstance(parts.node.op, Reshape) else parts, parts.shape[1 + rank :]
    if y.shape != (*parts.shape[: 1 + rank], prod(columns)) or columns[-1] != bias.size:
        return None
    each = np.tile(bias.reshape(-1), int(prod(columns[:-1])))
    return dealt(apply(Add(), y, const(each), loc=loc), columns, v.shape)


def _order(rank: int) -> tuple[int, ...]:
    """Of axes [n, *spatial, *K, O] in the image: every tap beside its axis."""
    return (0, *(axis for d in range(rank) for axis in (1 + d, 1 + rank + d)), 1 + 2 * rank)
