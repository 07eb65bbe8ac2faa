"""Ops that combine elements along axes: reductions, arg-reductions, softmax, norms, cumulative sum, top-k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import VerifyError
from ..dims import Dim, Shape
from ..dtypes import DType
from ..op import Op, broadcast
from ..substitute import evaluate
from ..types import TensorType


def check_axis(name: str, axis: int, rank: int) -> None:
    """Raise VerifyError unless 0 ≤ axis < rank."""
    if not 0 <= axis < rank:
        raise VerifyError(f"{name} has axis {axis}", expected=f"0..{rank - 1}")


def _wide(x: np.ndarray) -> np.ndarray:
    """Small floats accumulate in float32, float32 in float64: the reference is the better of the two sides."""
    dtype = DType.from_numpy(x.dtype)
    return x.astype(np.float32 if dtype.itemsize < 4 else np.float64) if dtype.is_float else x


def _reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes)


_UFUNCS: dict[str, Any] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


@dataclass(frozen=True)
class Reduce(Op):
    """kind ∈ sum, mean, prod, max, min over sorted `axes`; of nothing: 0, NaN, 1, the lowest, the highest value."""

    kind: str
    axes: tuple[int, ...]
    keepdims: bool

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if self.kind not in (*_UFUNCS, "mean"):
            raise VerifyError(f"reduce of kind {self.kind}", expected="sum, mean, prod, max or min")
        for a in self.axes:
            check_axis("reduce", a, x.rank)
        return (TensorType(x.dtype, _reduced(x.shape, self.axes, self.keepdims)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        with np.errstate(all="ignore"):
            if self.kind == "mean":
                count = int(np.prod([x.shape[a] for a in self.axes], dtype=np.int64))
                total = _UFUNCS["sum"].reduce(_wide(x), self.axes, keepdims=self.keepdims)
                if DType.from_numpy(x.dtype).is_int:
                    out = (total / count).astype(np.int64) if count else np.zeros_like(total)
                else:
                    out = total / total.dtype.type(count)
            elif self.kind in ("max", "min"):
                out = _UFUNCS[self.kind].reduce(x, self.axes, keepdims=self.keepdims, initial=_extreme(x.dtype, self.kind))
            else:
                out = _UFUNCS[self.kind].reduce(_wide(x), self.axes, keepdims=self.keepdims)
            return (np.asarray(out).astype(x.dtype),)


def _extreme(dtype: np.dtype, kind: str) -> object:
    if dtype.kind == "b":
        return dtype.type(kind == "min")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return dtype.type(info.min if kind == "max" else info.max)
    return dtype.type(-np.inf if kind == "max" else np.inf)


@dataclass(frozen=True)
class ArgReduce(Op):
    """Index (I64) of the extreme element along `axis`; the first one, or the last with `select_last`."""

    kind: str
    axis: int
    keepdims: bool
    select_last: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        check_axis(self.kind, self.axis, x.rank)
        if self.kind not in ("argmax", "argmin"):
            raise VerifyError(f"argreduce of kind {self.kind}", expected="argmax or argmin")
        return (TensorType(DType.I64, _reduced(x.shape, (self.axis,), self.keepdims)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        fn = np.argmax if self.kind == "argmax" else np.argmin
        if self.select_last:
            out = x.shape[self.axis] - 1 - fn(np.flip(x, self.axis), self.axis)
        else:
            out = fn(x, self.axis)
        return (np.asarray(np.expand_dims(out, self.axis) if self.keepdims else out, np.int64),)


@dataclass(frozen=True)
class Softmax(Op):
    """exp(x − max) / Σ exp(x − max) along `axis`, or its logarithm."""

    axis: int
    log: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        check_axis("softmax", self.axis, x.rank)
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = _wide(np.asarray(args[0]))
        if x.size == 0:
            return (x.astype(args[0].dtype),)
        with np.errstate(all="ignore"):
            x = x - x.max(self.axis, keepdims=True)
            e = np.exp(x)
            total = e.sum(self.axis, keepdims=True)
            return ((x - np.log(total) if self.log else e / total).astype(args[0].dtype),)


@dataclass(frozen=True)
class LayerNorm(Op):
    """(x − mean) / √(var + ε) · scale + bias over axes `axis`…, computed in float32 or wider; operands (x, scale, bias)."""

    axis: int
    epsilon: float

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, scale, bias = types
        _check_norm(self.name, self.axis, x, scale, bias)
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, scale, bias = (_wide(np.asarray(a)) for a in args)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            d = x - x.mean(axes, keepdims=True)
            y = d / np.sqrt((d * d).mean(axes, keepdims=True) + self.epsilon) * scale + bias
        return (y.astype(args[0].dtype),)


@dataclass(frozen=True)
class RMSNorm(Op):
    """x / √(mean(x²) + ε) · scale over axes `axis`…; operands (x, scale)."""

    axis: int
    epsilon: float

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, scale = types
        _check_norm(self.name, self.axis, x, scale)
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, scale = (_wide(np.asarray(a)) for a in args)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            y = x / np.sqrt((x * x).mean(axes, keepdims=True) + self.epsilon) * scale
        return (y.astype(args[0].dtype),)


def _check_norm(name: str, axis: int, x: TensorType, *params: TensorType) -> None:
    check_axis(name, axis, x.rank)
    for p in params:
        if p.dtype is not x.dtype:
            raise VerifyError(f"{name} of {x.dtype.value} has a parameter of {p.dtype.value}", expected="one dtype")
        if p.rank > x.rank or broadcast(x.shape, p.shape) != x.shape:
            raise VerifyError(f"{name} parameter {p} does not broadcast to {x}")


@dataclass(frozen=True)
class _Cumulative(Op):
    """What comes of the elements up to each along `axis`; `exclusive` leaves out the element itself, `reverse` runs from the end."""

    ufunc: ClassVar[Any]

    axis: int
    exclusive: bool = False
    reverse: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        check_axis(self.name, self.axis, x.rank)
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        y = np.flip(x, self.axis) if self.reverse else x
        total = self.ufunc.accumulate(_wide(y), self.axis, dtype=None if DType.from_numpy(x.dtype).is_float else x.dtype)
        if self.exclusive:
            total = np.roll(total, 1, self.axis)
            first = [slice(None)] * x.ndim
            first[self.axis] = slice(0, 1)
            total[tuple(first)] = self.ufunc.identity
        return (np.ascontiguousarray(np.flip(total, self.axis) if self.reverse else total).astype(x.dtype),)


@dataclass(frozen=True)
class CumSum(_Cumulative):
    """Running sum."""

    ufunc: ClassVar[Any] = np.add


@dataclass(frozen=True)
class CumProd(_Cumulative):
    """Running product."""

    ufunc: ClassVar[Any] = np.multiply


@dataclass(frozen=True)
class TopK(Op):
    """The k largest (or smallest) along `axis`, in order; equal ones by lower index. Results (values, indices I64)."""

    axis: int
    k: Dim
    largest: bool = True
    sorted: bool = True

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        check_axis("topk", self.axis, x.rank)
        size = x.shape[self.axis]
        if isinstance(self.k, int) and (self.k < 0 or (isinstance(size, int) and self.k > size)):
            raise VerifyError(f"topk of {self.k} out of {size} elements", expected="0 ≤ k ≤ size")
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return (TensorType(x.dtype, shape), TensorType(DType.I64, shape))

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        if self.largest:  # stable descending: sort the reversed array, so that ties keep the lower index
            order = x.shape[self.axis] - 1 - np.flip(np.argsort(np.flip(x, self.axis), self.axis, kind="stable"), self.axis)
        else:
            order = np.argsort(x, self.axis, kind="stable")
        order = np.take(order, np.arange(evaluate(self.k, {})), self.axis)
        return (np.take_along_axis(x, order, self.axis), order.astype(np.int64))
