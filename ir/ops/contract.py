"""Contractions: matrix product and scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..op import Op, broadcast
from ..types import TensorType
from .nn import wide


@dataclass(frozen=True)
class MatMul(Op):
    """(a[…, M, K], b[…, K, N]) -> […, M, N], leading axes broadcast. Both of rank ≥ 2 and of one dtype, the result's."""

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        a, b = types
        if a.dtype is not b.dtype:
            raise VerifyError(f"matmul: operand dtypes {a.dtype.value} and {b.dtype.value}", expected="one dtype")
        if a.rank < 2 or b.rank < 2:
            raise VerifyError(f"matmul: ranks {a.rank} and {b.rank}", expected="rank 2 or more")
        k1, k2 = a.shape[-1], b.shape[-2]
        if isinstance(k1, int) and isinstance(k2, int) and k1 != k2:
            raise VerifyError(f"matmul: inner dimensions {k1} and {k2}", expected="equal ones")
        return (TensorType(a.dtype, (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = args
        acc = wide(a.dtype)
        return (np.asarray(np.matmul(a.astype(acc, copy=False), b.astype(acc, copy=False))).astype(a.dtype, copy=False),)


@dataclass(frozen=True)
class Attention(Op):
    """softmax(q·kᵀ·scale + mask)·v per head: (q[B, H, S, D], k[B, Hk, L, D], v[B, Hk, L, Dv], mask?) -> [B, H, S, Dv].

    Query head h reads key head h // (H/Hk). `mask` is additive, of that dtype or float32, and broadcasts to [B, H, S, L].
    With `causal`, query i sees keys j ≤ i + (L − S): the last query sees all. A row with no visible key gives zeros.
    `rounded`: both products may take float32 operands in bfloat16.
    """

    scale: float
    causal: bool = False
    rounded: bool = False

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q, k, v = types[:3]
        if len(types) not in (3, 4) or any(t.rank != 4 for t in (q, k, v)):
            raise VerifyError(f"attention: {', '.join(map(str, types))}", expected="q, k, v of rank 4, maybe a mask")
        if len({t.dtype for t in types[:3]}) > 1 or any(t.dtype not in (q.dtype, DType.F32) for t in types[3:]):
            given = ", ".join(t.dtype.value for t in types)
            raise VerifyError(f"attention: operand dtypes {given}", expected="one dtype, or a mask of f32")
        heads, kv_heads = q.shape[1], k.shape[1]
        if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads == 0 or heads % kv_heads):
            raise VerifyError(f"attention: {heads} query heads", expected=f"a multiple of {kv_heads} key heads")
        if isinstance(q.shape[3], int) and isinstance(k.shape[3], int) and q.shape[3] != k.shape[3]:
            raise VerifyError(f"attention: head sizes {q.shape[3]} and {k.shape[3]}", expected="equal ones")
        if len(types) == 4:
            broadcast(types[3].shape, (q.shape[0], heads, q.shape[2], k.shape[2]))
        return (TensorType(q.dtype, (*broadcast((q.shape[0],), (k.shape[0],)), heads, q.shape[2], v.shape[3])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        dtype = args[0].dtype
        q, k, v = (a.astype(wide(dtype), copy=False) for a in args[:3])
        rep = q.shape[1] // k.shape[1]
        if rep > 1:
            k, v = np.repeat(k, rep, axis=1), np.repeat(v, rep, axis=1)
        s = q @ np.swapaxes(k, -1, -2) * np.asarray(self.scale, q.dtype)
        if len(args) == 4:
            s = s + args[3].astype(s.dtype)
        if self.causal:
            rows, cols = s.shape[-2:]
            s = np.where(np.arange(cols) <= np.arange(rows)[:, None] + (cols - rows), s, -np.inf)
        top = s.max(axis=-1, keepdims=True, initial=-np.inf)
        e = np.exp(s - np.where(np.isfinite(top), top, 0))
        total = e.sum(axis=-1, keepdims=True)
        return ((e / np.where(total == 0, 1, total) @ v).astype(dtype),)


def default_scale(head_size: int) -> float:
    """1/√D, the scale of attention when none is given."""
    return 1.0 / math.sqrt(head_size)
