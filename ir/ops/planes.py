"""Windows over images whose channels are planes, [N, C, *S]: what channels-first models spare transposes with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dims import Dim
from ..op import Op
from ..types import TensorType
from .nn import Conv


@dataclass(frozen=True)
class PlaneConv(Op):
    """(x[N, C, *S], w[C, *K]) -> [N, C, *out]: every plane by a filter of its own; otherwise as `Conv` with C groups."""

    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    pads_hi: tuple[Dim, ...]
    dilations: tuple[int, ...]

    def _conv(self, channels: Dim) -> Conv:
        if not isinstance(channels, int):
            raise VerifyError(f"planeconv: {channels} filters", expected="a number that is known at compile time")
        return Conv(self.strides, self.pads_lo, self.pads_hi, self.dilations, channels)

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = types
        if x.rank < 3 or w.rank != x.rank - 1:
            raise VerifyError(f"planeconv: {x} by {w}", expected="[N, C, *S] by [C, *K]")
        last = TensorType(x.dtype, (x.shape[0], *x.shape[2:], x.shape[1]))
        n, *out, c = self._conv(w.shape[0]).infer((last, TensorType(w.dtype, (*w.shape[1:], 1, w.shape[0]))))[0].shape
        return (TensorType(x.dtype, (n, c, *out)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = args
        (y,) = self._conv(w.shape[0]).reference(np.moveaxis(x, 1, -1), np.moveaxis(w, 0, -1)[..., None, :])
        return (np.ascontiguousarray(np.moveaxis(y, -1, 1)),)
