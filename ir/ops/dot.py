"""Products whose operands are narrower than the result: u8 by i8 into i32, bf16 by bf16 and f8 by f8 into f32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Op, broadcast
from ..types import TensorType
from .contract import MatMul
from .nn import Conv, Convolution

_F8 = DType.F8E4M3FN
_PAIRS = {(DType.U8, DType.I8): DType.I32, (DType.BF16, DType.BF16): DType.F32, (_F8, _F8): DType.F32}


@dataclass(frozen=True)
class DotMatMul(MatMul):
    """(a[…, M, K], b[…, K, N]) -> […, M, N]: MatMul of u8 by i8 into i32, or of bf16 by bf16 or f8e4m3fn by f8e4m3fn into f32."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        a, b = types
        out = _result(self, a, b)
        super().infer([TensorType(out, a.shape), TensorType(out, b.shape)])
        return (TensorType(out, (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = (x.astype(np.float64) for x in args)
        return (_rounded(np.matmul(a, b), args[0]),)


@dataclass(frozen=True)
class DotConv(Conv):
    """Conv of the same types; a third operand is what lies outside of the image."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        out = _result(self, *types[:2])
        (t,) = super().infer([TensorType(out, t.shape) for t in types[:2]])
        return (t,)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = (v.astype(np.float64) for v in args[:2])
        (out,) = super().reference(x, w)
        if len(args) == 3 and args[2].any():  # what is outside counts as much as an image of ones leaves out
            full = np.full(
                [s + lo + hi for s, lo, hi in zip(x.shape[1:-1], self.pads_lo, self.pads_hi, strict=True)], float(args[2].reshape(-1)[0])
            )
            outside = np.broadcast_to(full[None, ..., None], (x.shape[0], *full.shape, x.shape[-1])).copy()
            inside = tuple(slice(lo, lo + s) for lo, s in zip(self.pads_lo, x.shape[1:-1], strict=True))
            outside[(slice(None), *inside)] = 0
            none = (0,) * len(full.shape)
            (more,) = replace(self.of_kind(Conv), pads_lo=none, pads_hi=none).reference(outside, w)
            out = out + more
        return (_rounded(out, args[0]),)


@dataclass(frozen=True)
class Float8MatMul(Op):
    """(a f8e4m3fn […, M, K], b f8e4m3fn […, K, N]) -> f32 […, M, N].

    Lowering says by which type they are multiplied: all hold them exactly."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return DotMatMul().infer(_float8(self, types))

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return DotMatMul().reference(*args)


@dataclass(frozen=True)
class Float8Conv(Convolution):
    """(x f8e4m3fn [N, *S, C], w f8e4m3fn [*K, C/groups, O]) -> f32 [N, *out, O], fields as `Conv`."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return self.of_kind(DotConv).infer(_float8(self, types))

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.of_kind(DotConv).reference(*args)


def _float8(op: Op, types: Sequence[TensorType]) -> Sequence[TensorType]:
    if [t.dtype for t in types] != [_F8, _F8]:
        raise VerifyError(f"{op.name}: operands {', '.join(map(str, types))}", expected="two of f8e4m3fn")
    return types


def _result(op: Op, a: TensorType, b: TensorType) -> DType:
    if (a.dtype, b.dtype) not in _PAIRS:
        raise VerifyError(f"{op.name} of {a.dtype.value} by {b.dtype.value}", expected="u8 by i8, bf16 by bf16, or f8e4m3fn by f8e4m3fn")
    return _PAIRS[a.dtype, b.dtype]


def _rounded(out: np.ndarray, a: np.ndarray) -> np.ndarray:
    return out.astype(np.int64).astype(np.int32) if a.dtype == np.uint8 else out.astype(np.float32)
