"""Which nodes are contractions, and the (batch, m, n) of their results."""

from __future__ import annotations

from ...ir import Const, Dim, DType, Node, Op, Shape, lower, prod, upper
from ...ir.ops import Conv, DotConv, MatMul, Transpose
from ..simplify import Affine, axis, nested, strides_of, unravel

_VECTOR = 16  # output channels: of 512 bits, or of two vectors of 256
_DOT_PANEL = 32  # output channels that dot products take together
_FOLD = 3  # elements of k whose products take as long as folding a vector to a sum does, beyond turning as many elements of B
_TURN = 5  # measured: with many rows, register tiles on turned B gain more than turning costs, unless sums are long
_LINE = 64  # bytes of K that they take together


def is_contraction(node: Node) -> bool:
    """Whether the node becomes a ContractKernel. Depthwise convolutions are loops over taps instead.

    Groups of a few channels waste lanes of a contraction, but a loop over taps would gather every element.
    """
    op = node.op
    if not isinstance(op, (MatMul, Conv)) or node.out.dtype not in (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32):
        return False
    if isinstance(op, MatMul):
        return not is_dot(node)
    if op.groups == 1:
        return True
    return node.inputs[1].shape[-2] != 1 or node.out.shape[-1] != op.groups


def is_dot(node: Node) -> bool:
    """Products of rows that lie along k in both operands, by a single column or row: sums of k, in vectors along it.

    A contraction would use one lane of each vector, or transpose a matrix to use it once.
    """
    if type(node.op) is not MatMul:
        return False
    a, b = node.inputs
    if b.shape[-1] == 1:
        return True
    return a.shape[-2] == 1 and prod(b.shape[:-2]) == prod(node.out.shape[:-2]) and _swaps_last(b.node.op)


def sums_along_k(m: Dim, k: Dim, dtype: DType, most: int) -> bool:
    """Whether vectors along k pay for up to `most` rows of A and a computed B that lies by columns: they are folded for every row,
    where turning B takes as long for any number of them."""
    rows = upper(m)
    return dtype in (DType.F32, DType.F64) and rows <= most and max(_FOLD * rows, rows * rows // _TURN) <= lower(k)


def _swaps_last(op: Op) -> bool:
    """Whether the columns of the result are rows of a stored operand."""
    return isinstance(op, Transpose) and op.perm[-2:] == (len(op.perm) - 1, len(op.perm) - 2)


def contraction_linear(anchor: Node, index: tuple[Affine, ...]) -> Affine:
    """Element of the result of a contraction for (b, m, n)."""
    b, m, n = index
    _batch, rows, columns = contraction_shape(anchor)
    if isinstance(anchor.op, Conv):
        return m * anchor.out.shape[-1] + b * columns + n
    return b * (rows * columns) + m * columns + n


def merged_groups(conv: Node) -> int:
    """Neighbouring groups of a convolution that one product takes together, with zeros for what does not belong together.

    As long as their output channels fit one vector this wastes no more lanes than one group each, and sums are longer. Of dot products,
    taps become whole lines by it, which need no gathering.
    """
    assert isinstance(conv.op, Conv)
    groups = conv.op.groups
    each = conv.out.shape[-1] // groups
    if not isinstance(each, int) or not isinstance(conv.inputs[1].node.op, Const):
        return 1
    if isinstance(conv.op, DotConv):
        w = conv.inputs[1]
        line = _LINE // w.dtype.itemsize
        most = min(_DOT_PANEL // max(1, each), line // w.shape[-2]) if isinstance(w.shape[-2], int) else 1
    elif type(conv.op) is Conv:
        most = _VECTOR // max(1, each)
    else:
        return 1
    return max(g for g in range(1, max(1, most) + 1) if groups % g == 0)


def contraction_shape(anchor: Node) -> Shape:
    """(batch, m, n): of a matrix product, with the batch folded into m when B has none; of a convolution, batch = groups,
    small ones merged."""
    shape = anchor.out.shape
    if isinstance(anchor.op, Conv):
        batch = anchor.op.groups // merged_groups(anchor)
        return batch, prod(shape[:-1]), shape[-1] // batch
    if prod(anchor.inputs[1].shape[:-2]) == 1:
        return 1, prod(shape[:-1]), shape[-1]
    return prod(shape[:-2]), shape[-2], shape[-1]


def epilogue_fits(anchor: Node, node: Node) -> bool:
    """Whether an epilogue can read the other operands of an elementwise node."""
    extents = contraction_shape(anchor)
    shape = node.out.shape
    if 0 in shape:
        return False
    linear = contraction_linear(anchor, tuple(axis(i, d) for i, d in enumerate(extents)))
    index = unravel(linear, shape)
    for v in node.inputs:
        if v.shape == shape or prod(v.shape) == 1:
            continue
        offset = Affine({})
        for i, d, s in zip(index[len(index) - len(v.shape) :], v.shape, strides_of(v.shape), strict=True):
            offset = offset if d == 1 else offset + i * s
        if not epilogue_reads(offset):
            return False
    return True


def epilogue_reads(offset: Affine) -> bool:
    """Whether that is a place of (b, m, n) that lies side by side for neighbouring n, or is the same for all of them. Along b and m it may
    be divided: ⌊m / rows⌋ is the image, or the sequence, of a row."""
    inner = [a for x in nested(offset)[1:] for a in x.terms]
    if any(a.kind == "e" or (a.kind == "axis" and a.args[0] == 2) for a in inner):
        return False
    return all(a.kind != "e" and (c == 1 or a.kind != "axis" or a.args[0] != 2) for a, c in offset.terms.items())
