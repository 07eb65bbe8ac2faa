"""Between which numbers the elements of an integer tensor lie, as far as the nodes that compute it tell."""

from __future__ import annotations

from ...ir import Const, Dim, DType, Value, dim_max, dim_min
from ...ir import ops as O
from .contents import Contents

_DEPTH = 16
Ends = tuple[Dim, Dim]
_NARROW: dict[DType, Ends] = {DType.BOOL: (0, 1), DType.U8: (0, 255), DType.I8: (-128, 127), DType.U16: (0, 65535)}


def ends(ctx: Contents, v: Value, depth: int = _DEPTH) -> Ends | None:
    """(least, greatest) at most, or None. An empty tensor may have any."""
    content = ctx.dims(v)
    if content:
        least = greatest = content[0]
        for d in content[1:]:
            least, greatest = dim_min(least, d), dim_max(greatest, d)
        return least, greatest
    op = v.node.op
    if isinstance(op, Const) and v.dtype.is_int and op.data.size:
        return int(op.data.min()), int(op.data.max())
    if v.dtype in _NARROW:
        return _NARROW[v.dtype]
    if depth == 0:
        return None

    def of(i: int) -> Ends | None:
        return ends(ctx, v.node.inputs[i], depth - 1)

    match op:
        case O.Iota():
            return 0, op.size - 1
        case O.ArgReduce():
            return 0, v.node.inputs[0].shape[op.axis] - 1
        case O.TopK() if v.index == 1:
            return 0, v.node.inputs[0].shape[op.axis] - 1
        case O.Sort():
            return 0, v.node.inputs[0].shape[-1] - 1
        case O.Cast() if v.node.inputs[0].dtype.is_int or v.node.inputs[0].dtype is DType.BOOL:
            return of(0)
        case O.Reshape() | O.Transpose() | O.Slice() | O.Expand() | O.Gather() | O.GatherElements() | O.GatherND() | O.Stretch():
            return of(0)
        case O.Within():
            return (op.lo[0], op.hi[0]) if len(op.lo) == 1 else None
    return _computed(v, of(0), of(1), of(2) if len(v.node.inputs) == 3 else None) if len(v.node.inputs) in (2, 3) else None


def _computed(v: Value, a: Ends | None, b: Ends | None, c: Ends | None) -> Ends | None:
    match v.node.op:
        case O.Min() if a is not None and b is not None:
            return dim_min(a[0], b[0]), dim_min(a[1], b[1])
        case O.Max() if a is not None and b is not None:
            return dim_max(a[0], b[0]), dim_max(a[1], b[1])
        case O.Add() if a is not None and b is not None:
            return a[0] + b[0], a[1] + b[1]
        case O.Sub() if a is not None and b is not None:
            return a[0] - b[1], a[1] - b[0]
        case O.Where() if b is not None and c is not None:
            return dim_min(b[0], c[0]), dim_max(b[1], c[1])
        case O.Concat() if a is not None and b is not None and len(v.node.inputs) == 2:
            return dim_min(a[0], b[0]), dim_max(a[1], b[1])
        case _:
            return None
