"""Windows over images whose channels are planes, [N, C, *S]: what channels-first models spare transposes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..types import TensorType
from .nn import Conv, Convolution


@dataclass(frozen=True)
class PlaneConv(Convolution):
    """(x[N, C, *S], w[O, C/groups, *K]) -> [N, O, *out]: as `Conv`, of channels that are planes."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = types
        if x.rank < 3 or w.rank != x.rank:
            raise VerifyError(f"planeconv: {x} by {w}", expected="[N, C, *S] by [O, C/groups, *K]")
        last = TensorType(x.dtype, (x.shape[0], *x.shape[2:], x.shape[1]))
        n, *out, o = self.of_kind(Conv).infer((last, TensorType(w.dtype, (*w.shape[2:], w.shape[1], w.shape[0]))))[0].shape
        return (TensorType(x.dtype, (n, o, *out)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = args
        (y,) = self.of_kind(Conv).reference(np.moveaxis(x, 1, -1), np.moveaxis(w, (0, 1), (-1, -2)))
        return (np.ascontiguousarray(np.moveaxis(y, -1, 1)),)
