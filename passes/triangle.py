"""Matrices that have one value on and below the diagonal and another above it: causal masks, however they are computed."""

from __future__ import annotations

import numpy as np

from ..ir import Value
from ..ir.op import Elementwise
from ..ir.ops import Add, Cast, Expand, Greater, GreaterEqual, Iota, Less, LessEqual, Reshape, Slice, Sub
from .base import const_of, scalar_of, splat_of

_DEEP = 12  # nodes between a mask and what it is made of; exporters need 5
Pair = tuple[np.ndarray, np.ndarray]


def halves(v: Value, deep: int = _DEEP) -> Pair | None:
    """(value on and below, value above the diagonal) of all square matrices in the last two axes of v; None where that is not known.

    Every elementwise op keeps such matrices what they are; they start at constants and at comparisons of row and column.
    """
    if not deep or (len(v.shape) < 2 and splat_of(v) is None):
        return None
    splat = splat_of(v)
    if splat is not None:
        return np.asarray(splat), np.asarray(splat)
    op, inputs = v.node.op, v.node.inputs
    data = const_of(v)
    if data is not None:
        return _of_array(data)
    match op:
        case Reshape() | Expand() if inputs[0].shape[-2:] == v.shape[-2:]:
            return halves(inputs[0], deep - 1)
        case Slice() if all(s == 0 for s in op.starts) and all(s == 1 for s in op.steps):
            return halves(inputs[0], deep - 1)
        case Less() | LessEqual() | Greater() | GreaterEqual():
            found = _compared(v)
            if found is not None:
                return found
    if not isinstance(op, Elementwise):
        return None
    pairs = [halves(x, deep - 1) for x in inputs]
    known = [p for p in pairs if p is not None]
    if len(known) < len(pairs):
        return None
    below, above = (op.reference(*(p[side] for p in known))[0] for side in (0, 1))
    return below, above


def _of_array(data: np.ndarray) -> Pair | None:
    rows, columns = data.shape[-2:]
    if rows != columns or rows < 2 or data.size != rows * columns or data.dtype.kind == "O":
        return None
    matrix = data.reshape(rows, columns)
    below, above = matrix[0, 0], matrix[0, 1]
    same = (matrix == np.where(np.tri(rows, dtype=bool), below, above)).all()
    return (np.asarray(below), np.asarray(above)) if same else None


def _compared(v: Value) -> Pair | None:
    """Of a comparison of (a multiple of 1 of) row and column numbers, whose outcome changes at the diagonal."""
    a, b = (_coordinate(x) for x in v.node.inputs)
    if a is None or b is None or {a[0], b[0]} != {-1, -2}:
        return None

    def outcome(row: int, column: int) -> np.ndarray:
        at = {-2: row, -1: column}
        return v.node.op.reference(*(np.asarray(at[axis] + shift) for axis, shift in (a, b)))[0]

    below, above = outcome(0, 0), outcome(0, 1)
    return None if below == above else (below, above)


def _coordinate(v: Value) -> tuple[int, int] | None:
    """(axis, shift) where v is the number of the row (axis −2) or column (−1) plus a constant."""
    shift = 0
    for _ in range(_DEEP):
        op, inputs = v.node.op, v.node.inputs
        match op:
            case Add():
                numbers = [(x, scalar_of(y)) for x, y in (inputs, inputs[::-1])]
                inner, number = next(((x, n) for x, n in numbers if n is not None), (v, None))
            case Sub():
                inner, number = inputs[0], scalar_of(inputs[1])
                number = None if number is None else -number
            case Cast() if v.dtype.is_int:
                inner, number = inputs[0], 0.0
            case _:
                break
        if number is None or not number.is_integer():
            return None
        v, shift = inner, shift + int(number)
    if isinstance(v.node.op, Reshape):
        shape, inner = v.shape, v.node.inputs[0]
        if isinstance(inner.node.op, Iota) and len(shape) >= 2:
            size = inner.shape[0]
            rest = (*shape[:-2], 1)
            if (*shape[:-2], shape[-1]) == (1,) * len(rest) and shape[-2] == size:
                return -2, shift
            if shape[:-1] == (1,) * len(rest) and shape[-1] == size:
                return -1, shift
    elif isinstance(v.node.op, Iota):
        return -1, shift
    return None
