"""Ops that rearrange, select or repeat elements without computing on them (and `Iota`, which counts).

Negative indices count from the end, as in ONNX. Resize, which interpolates, is in resize.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import VerifyError
from ..dims import Dim, Shape, is_static, prod
from ..dtypes import DType
from ..op import Op, Trait, broadcast
from ..substitute import evaluate
from ..types import TensorType
from .reduce import check_axis
from .resize import Resize
from .scatter import ScatterElements, ScatterND

__all__ = [
    "Concat", "DimTensor", "Expand", "Gather", "GatherElements", "GatherND", "Iota", "OneHot", "Pad", "Reshape", "Resize",
    "ScatterElements", "ScatterND", "Slice", "Transpose",
]  # fmt: skip

_MOVE = frozenset({Trait.PURE, Trait.MOVE})


def check_index(name: str, index: TensorType) -> None:
    """Raise VerifyError unless `index` has a 32 or 64 bit integer dtype."""
    if index.dtype not in (DType.I32, DType.I64):
        raise VerifyError(f"{name} has indices of {index.dtype.value}", expected="i32 or i64")


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape."""

    shape: Shape
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE, Trait.MOVE, Trait.VIEW})

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        have, want = x.numel, prod(self.shape)
        if isinstance(have, int) and isinstance(want, int) and have != want:
            raise VerifyError(f"reshape of {x} to {list(self.shape)}", expected=f"{have} elements")
        return (TensorType(x.dtype, self.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.reshape(np.asarray(args[0]), tuple(map(int, self.shape))),)


@dataclass(frozen=True)
class Transpose(Op):
    """Axis i of the result is axis perm[i] of the operand."""

    perm: tuple[int, ...]
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if sorted(self.perm) != list(range(x.rank)):
            raise VerifyError(f"transpose of {x} by {list(self.perm)}", expected=f"a permutation of 0..{x.rank - 1}")
        return (TensorType(x.dtype, tuple(x.shape[p] for p in self.perm)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.transpose(np.asarray(args[0]), self.perm),)


@dataclass(frozen=True)
class Expand(Op):
    """Repeat along axes of size 1 (and new leading axes) to `shape`, which already is the broadcast of both shapes."""

    shape: Shape
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank > len(self.shape) or (is_static(self.shape) and broadcast(x.shape, self.shape) != self.shape):
            raise VerifyError(f"expand of {x} to {list(self.shape)}", expected="a shape that the operand broadcasts to")
        return (TensorType(x.dtype, self.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = tuple(evaluate(d, {}) for d in self.shape)
        return (np.array(np.broadcast_to(np.asarray(args[0]), shape), copy=True, order="C"),)


@dataclass(frozen=True)
class Stretch(Op):
    """Repeat along axes to `shape`, of the same rank: those whose size turns out to be 1 when the sizes are known."""

    shape: Shape
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if x.rank != len(self.shape) or (is_static((*self.shape, *x.shape)) and broadcast(x.shape, self.shape) != self.shape):
            raise VerifyError(f"stretch of {x} to {list(self.shape)}", expected="a shape that the operand broadcasts to")
        return (TensorType(x.dtype, self.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = tuple(evaluate(d, {}) for d in self.shape)
        return (np.array(np.broadcast_to(np.asarray(args[0]), shape), copy=True, order="C"),)


@dataclass(frozen=True)
class Slice(Op):
    """out[i…] = x[starts + i·steps…] for i < sizes; one entry per axis, in range, steps ≠ 0 (possibly negative)."""

    starts: tuple[Dim, ...]
    sizes: Shape
    steps: tuple[int, ...]
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if not len(self.starts) == len(self.sizes) == len(self.steps) == x.rank or 0 in self.steps:
            raise VerifyError(f"slice of {x} has {len(self.starts)} starts or a step of 0", expected=f"{x.rank}, no 0")
        for d, start, size, step in zip(x.shape, self.starts, self.sizes, self.steps, strict=True):
            if isinstance(d, int) and isinstance(start, int) and isinstance(size, int) and size > 0:
                last = start + (size - 1) * step
                if min(start, last) < 0 or max(start, last) >= d:
                    raise VerifyError(f"slice reads {start}..{last} of {d}", expected="indices in range")
        return (TensorType(x.dtype, self.sizes),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        for axis, (start, size, step) in enumerate(zip(self.starts, self.sizes, self.steps, strict=True)):
            assert isinstance(start, int) and isinstance(size, int)
            if (start, size, step) != (0, x.shape[axis], 1):
                x = np.take(x, start + step * np.arange(size), axis)
        return (np.array(x, copy=True, order="C"),)


@dataclass(frozen=True)
class Pad(Op):
    """`lo`/`hi` elements before/after each axis, operands (x, value scalar); negative ones crop.

    mode: constant, edge, reflect (without the border element) or wrap.
    """

    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]
    mode: str = "constant"
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, value = types
        if len(self.lo) != x.rank or len(self.hi) != x.rank or value.numel != 1 or value.dtype is not x.dtype:
            raise VerifyError(f"pad of {x} with {value} by {list(self.lo)}, {list(self.hi)}")
        if self.mode not in ("constant", "edge", "reflect", "wrap"):
            raise VerifyError(f"pad of mode {self.mode}", expected="constant, edge, reflect or wrap")
        return (TensorType(x.dtype, tuple(lo + d + hi for lo, d, hi in zip(self.lo, x.shape, self.hi, strict=True))),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, value = np.asarray(args[0]), np.asarray(args[1])
        for axis, (lo, hi) in enumerate(zip(self.lo, self.hi, strict=True)):
            assert isinstance(lo, int) and isinstance(hi, int)
            if lo == 0 and hi == 0:
                continue
            n = x.shape[axis]
            at = np.arange(-lo, n + hi)
            match self.mode:
                case "edge":
                    at = np.clip(at, 0, n - 1)
                case "wrap":
                    at = at % n
                case "reflect":
                    period = max(2 * (n - 1), 1)
                    at = (n - 1) - np.abs(at % period - (n - 1))
            inside = (at >= 0) & (at < n)
            y = np.take(x, np.where(inside, at, 0), axis) if n else np.zeros([*x.shape[:axis], len(at), *x.shape[axis + 1 :]], x.dtype)
            mask = inside.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
            x = np.where(mask, y, value.reshape(()).astype(x.dtype)).astype(x.dtype)
        return (np.asarray(x, order="C"),)


@dataclass(frozen=True)
class Concat(Op):
    """Operands one after the other along `axis`."""

    axis: int
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        first = types[0]
        check_axis("concat", self.axis, first.rank)
        shape: list[Dim] = list(first.shape)
        for t in types[1:]:
            if t.rank != first.rank or t.dtype is not first.dtype:
                raise VerifyError(f"concat of {first} and {t}", expected="one dtype and rank")
            for i, d in enumerate(t.shape):
                if i == self.axis:
                    shape[i] = shape[i] + d
                elif isinstance(d, int) and isinstance(shape[i], int) and d != shape[i]:
                    raise VerifyError(f"concat of {first} and {t} along axis {self.axis}", expected="equal other dims")
                elif isinstance(d, int):
                    shape[i] = d
        return (TensorType(first.dtype, tuple(shape)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.concatenate([np.asarray(a) for a in args], self.axis),)


@dataclass(frozen=True)
class Gather(Op):
    """x[…, indices[…], …]: the axes of `indices` take the place of `axis`."""

    axis: int
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, index = types
        check_axis("gather", self.axis, x.rank)
        check_index("gather", index)
        return (TensorType(x.dtype, (*x.shape[: self.axis], *index.shape, *x.shape[self.axis + 1 :])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, index = np.asarray(args[0]), np.asarray(args[1])
        return (np.asarray(np.take(x, np.where(index < 0, index + x.shape[self.axis], index), self.axis)),)


@dataclass(frozen=True)
class GatherElements(Op):
    """out[i, j, k] = x[i, indices[i, j, k], k] for axis 1."""

    axis: int
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, index = types
        check_axis("gatherelements", self.axis, x.rank)
        check_index("gatherelements", index)
        if index.rank != x.rank:
            raise VerifyError(f"gatherelements of {x} by {index}", expected="equal ranks")
        return (TensorType(x.dtype, index.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, index = np.asarray(args[0]), np.asarray(args[1])
        grid: list[Any] = list(np.indices(index.shape, sparse=True))
        grid[self.axis] = np.where(index < 0, index + x.shape[self.axis], index)
        return (np.ascontiguousarray(x[tuple(grid)]),)


@dataclass(frozen=True)
class GatherND(Op):
    """The last axis of `indices` indexes the axes of x after `batch_dims` shared leading ones."""

    batch_dims: int = 0
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, index = types
        check_index("gathernd", index)
        depth = index.shape[-1] if index.rank else 0
        if not isinstance(depth, int) or depth < 1 or self.batch_dims + depth > x.rank or self.batch_dims >= index.rank:
            raise VerifyError(f"gathernd of {x} by {index}", expected="a last axis of at most the rank of the data")
        return (TensorType(x.dtype, (*index.shape[:-1], *x.shape[self.batch_dims + depth :])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, index = np.asarray(args[0]), np.asarray(args[1])
        b, depth = self.batch_dims, index.shape[-1]
        sizes = np.array(x.shape[b : b + depth])
        index = np.where(index < 0, index + sizes, index)
        lead = [np.arange(index.shape[i]).reshape([-1 if j == i else 1 for j in range(index.ndim - 1)]) for i in range(b)]
        return (np.asarray(x[(*lead, *(index[..., i] for i in range(depth)))], order="C"),)


@dataclass(frozen=True)
class OneHot(Op):
    """values[1] where the index equals the position along the new `axis` of size `depth`, else values[0]."""

    axis: int
    depth: Dim
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        index, values = types
        check_axis("onehot", self.axis, index.rank + 1)
        if values.numel != 2:
            raise VerifyError(f"onehot with values {values}", expected="two elements: off, on")
        return (TensorType(values.dtype, (*index.shape[: self.axis], self.depth, *index.shape[self.axis :])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        index, values = np.asarray(args[0]), np.asarray(args[1]).ravel()
        index = np.expand_dims(np.where(index < 0, index + index.dtype.type(evaluate(self.depth, {})), index), self.axis)
        at = np.arange(evaluate(self.depth, {})).reshape([-1 if i == self.axis else 1 for i in range(index.ndim)])
        return (np.where(index == at, values[1], values[0]).astype(values.dtype),)


@dataclass(frozen=True)
class Iota(Op):
    """0, 1, … size − 1."""

    size: Dim
    dtype: DType = DType.I64
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(self.dtype, (self.size,)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.arange(evaluate(self.size, {})).astype(self.dtype.np),)


@dataclass(frozen=True)
class DimTensor(Op):
    """A small tensor whose elements (row-major in `shape`) are dims."""

    dims: tuple[Dim, ...]
    shape: tuple[int, ...]
    dtype: DType = DType.I64
    traits: ClassVar[frozenset[Trait]] = _MOVE

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if len(self.dims) != prod(self.shape):
            raise VerifyError(f"dimtensor of {len(self.dims)} dims has shape {list(self.shape)}")
        return (TensorType(self.dtype, self.shape),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.array(self.dims, self.dtype.np).reshape(self.shape),)
