"""What is known of values while a model is imported: constants, and small tensors of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ...ir import Const, Dim, DType, Expr, Node, Value
from ...ir.ops import DimTensor

# Shape arithmetic is about tensors of a few elements; what is larger is data.
CONTENT_LIMIT = 1024


class Contents:
    """Contents of values. They are written with `loc`, that of the node being imported."""

    loc: tuple[str, ...]

    def __init__(self) -> None:
        self._contents: dict[Value, np.ndarray] = {}

    def const(self, array: object, dtype: DType | None = None) -> Value:
        """A constant value."""
        return Node.make(Const(np.asarray(array, dtype.np if dtype else None)), (), self.loc).out

    def known(self, value: Value | None) -> np.ndarray | None:
        """The constant content, or None when it is not a constant."""
        if value is not None and isinstance(value.node.op, Const):
            return value.node.op.data
        return None

    def content(self, value: Value | None) -> np.ndarray | None:
        """Small known content as an object array of Dim, bool or Fraction (see `dim_arithmetic.py`); None when unknown."""
        if value is None:
            return None
        found = self._contents.get(value)
        if found is not None:
            return found
        op = value.node.op
        if isinstance(op, DimTensor):
            return _objects(op.dims, op.shape)
        if isinstance(op, Const) and op.data.size <= CONTENT_LIMIT and op.data.dtype.kind in "iubf":
            if op.data.dtype.kind == "f":
                if not np.isfinite(op.data).all():
                    return None
                return _objects([whole(Fraction(float(x))) for x in op.data.ravel()], op.data.shape)
            return _objects([x.item() for x in op.data.ravel()], op.data.shape)
        return None

    def is_symbolic(self, value: Value) -> bool:
        """True when the content is known and involves symbols (a constant is not symbolic)."""
        return value in self._contents or isinstance(value.node.op, DimTensor)

    def set_content(self, value: Value, content: np.ndarray) -> None:
        """Remember what a computed value holds."""
        self._contents[value] = content

    def dims(self, value: Value | None) -> tuple[Dim, ...] | None:
        """Known integer content of a tensor of rank 0 or 1; None when unknown."""
        content = self.content(value)
        if content is None or content.ndim > 1:
            return None
        flat = tuple(content.ravel())
        return flat if all(isinstance(d, (int, Expr)) and not isinstance(d, bool) for d in flat) else None

    def dim_vector(self, dims: Sequence[Dim]) -> Value:
        """I64 [n], known dims."""
        return self.dim_tensor(_objects(dims, (len(dims),)), DType.I64)

    def dim_tensor(self, content: np.ndarray, dtype: DType) -> Value:
        """A value holding known dims (a constant when all are numbers)."""
        flat = list(content.ravel())
        if all(not isinstance(d, Expr) for d in flat):
            return self.const(np.array([float(d) if isinstance(d, Fraction) else d for d in flat]).reshape(content.shape), dtype)
        return Node.make(DimTensor(tuple(flat), tuple(content.shape), dtype), (), self.loc).out


def whole(x: Fraction) -> int | Fraction:
    """A fraction as an int where it is one."""
    return int(x) if x.denominator == 1 else x


def _objects(flat: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(flat), dtype=object)
    for i, x in enumerate(flat):
        out[i] = x
    return out.reshape(shape)
