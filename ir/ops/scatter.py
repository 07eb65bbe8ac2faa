"""Scatter ops: a copy of the data with some elements replaced or combined with updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Op
from ..types import TensorType
from .reduce import check_axis

REDUCTIONS = ("none", "add", "mul", "max", "min")


def _check(name: str, reduction: str, x: TensorType, index: TensorType, updates: TensorType) -> None:
    if reduction not in REDUCTIONS:
        raise VerifyError(f"{name} with reduction {reduction}", expected=", ".join(REDUCTIONS))
    if index.dtype not in (DType.I32, DType.I64):
        raise VerifyError(f"{name} has indices of {index.dtype.value}", expected="i32 or i64")
    if updates.dtype is not x.dtype:
        raise VerifyError(f"{name} of {x.dtype.value} has updates of {updates.dtype.value}", expected="one dtype")


def _apply(out: np.ndarray, at: tuple[Any, ...], updates: np.ndarray, reduction: str) -> None:
    """Combine updates into out[at]; later updates win for "none"."""
    match reduction:
        case "none":
            out[at] = updates
        case "add":
            np.add.at(out, at, updates)
        case "mul":
            np.multiply.at(out, at, updates)
        case "max":
            np.maximum.at(out, at, updates)
        case "min":
            np.minimum.at(out, at, updates)


@dataclass(frozen=True)
class ScatterElements(Op):
    """out[i, indices[i, j, k], k] (axis 1) = updates[i, j, k]; operands (x, indices, updates)."""

    axis: int
    reduction: str = "none"

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, index, updates = types
        check_axis(self.name, self.axis, x.rank)
        _check(self.name, self.reduction, x, index, updates)
        if not x.rank == index.rank == updates.rank:
            raise VerifyError(f"{self.name} of {x} by {index}", expected="equal ranks")
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        out, index, updates = np.array(args[0], copy=True, order="C"), np.asarray(args[1]), np.asarray(args[2])
        grid: list[Any] = list(np.indices(index.shape, sparse=True))
        grid[self.axis] = np.where(index < 0, index + out.shape[self.axis], index)
        _apply(out, tuple(grid), updates, self.reduction)
        return (out,)


@dataclass(frozen=True)
class ScatterND(Op):
    """out[indices[i…, :], …] = updates[i…, …]; operands (x, indices, updates)."""

    reduction: str = "none"

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, index, updates = types
        _check(self.name, self.reduction, x, index, updates)
        depth = index.shape[-1] if index.rank else 0
        if not isinstance(depth, int) or not 1 <= depth <= x.rank or updates.rank != index.rank - 1 + x.rank - depth:
            raise VerifyError(f"{self.name} of {x} by {index} with {updates}", expected="indices [..., k ≤ rank], updates to match")
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        out, index, updates = np.array(args[0], copy=True, order="C"), np.asarray(args[1]), np.asarray(args[2])
        depth = index.shape[-1]
        index = np.where(index < 0, index + np.array(out.shape[:depth]), index)
        _apply(out, tuple(index[..., i] for i in range(depth)), updates, self.reduction)
        return (out,)
