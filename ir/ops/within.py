"""A check of what data say, which only a run can make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError, VerifyError
from ..dims import Dim, symbols_of
from ..dtypes import DType
from ..op import Op, Trait
from ..substitute import evaluate
from ..types import TensorType


@dataclass(frozen=True)
class Within(Op):
    """Integers as they are. A run fails with an InputError where one lies outside of lo to hi, both included.

    `lo` and `hi` have one entry, or one for each place along the last axis. Not pure: a constant that is out of range must
    fail where and when it is used, not while it is folded.
    """

    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        places = x.shape[-1] if x.rank else 1
        if x.dtype not in (DType.I32, DType.I64) or len(self.lo) != len(self.hi) or len(self.lo) not in (1, places):
            raise VerifyError(f"within of {x} by {len(self.lo)} and {len(self.hi)} limits", expected="i32 or i64, limits alike")
        return (x,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.asarray(args[0])
        lo, hi = (np.array([evaluate(d, {}) for d in limits]) for limits in (self.lo, self.hi))
        bad = x[(x < lo) | (x > hi)] if x.ndim else x.reshape(1)[(x < lo[0]) | (x > hi[0])]
        if bad.size:
            raise InputError(f"index {bad[0]}", expected=f"{lo.min()} to {hi.max()}")
        return (x,)

    def known_of(self, x: np.ndarray) -> bool:
        """Whether no run can fail with these integers: limits are known, and they lie within."""
        if symbols_of((*self.lo, *self.hi)):
            return False
        try:
            self.reference(x)
        except InputError:
            return False
        return True
