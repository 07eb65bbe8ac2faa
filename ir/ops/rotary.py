"""Rotary position embedding (Su et al., arXiv 2104.09864) of halves that lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import VerifyError
from ..op import Op, Trait, broadcast
from ..types import TensorType
from .nn import wide


@dataclass(frozen=True)
class Rotary(Op):
    """(x[…, 2H], cos[…, 2H or H], sin) -> x·cos + (−x₂, x₁)·sin, with x₁ and x₂ the halves of the last axis of x.

    cos and sin broadcast to x; those of H elements hold for both halves.
    """

    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE})

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, cos, sin = types
        size = x.shape[-1] if x.shape else None
        if not isinstance(size, int) or size % 2 or not size or any(t.dtype is not x.dtype for t in (cos, sin)):
            raise VerifyError(f"rotary embedding of {x} by {cos} and {sin}", expected="one dtype, and an even last axis")
        for t in (cos, sin):
            if not t.shape or t.shape[-1] not in (size, size // 2) or broadcast(t.shape[:-1], x.shape[:-1]) != x.shape[:-1]:
                raise VerifyError(f"rotary embedding of {x} by {t}", expected=f"{size} or {size // 2} columns, and axes that broadcast")
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, cos, sin = (a.astype(wide(args[0].dtype), copy=False) for a in args)
        half = x.shape[-1] // 2
        cos, sin = (np.concatenate((t, t), -1) if t.shape[-1] == half else t for t in (cos, sin))
        turned = np.concatenate((-x[..., half:], x[..., :half]), -1)
        return ((x * cos + turned * sin).astype(args[0].dtype),)
