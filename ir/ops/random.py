"""Where randomness that no seed fixes comes from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..dtypes import DType
from ..op import Op, Trait
from ..types import TensorType


@dataclass(frozen=True)
class Clock(Op):
    """A counter of the processor that runs on, as an I64 scalar: another number every time it is read."""

    traits: ClassVar[frozenset[Trait]] = frozenset()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(DType.I64, ()),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.array(time.perf_counter_ns()),)
