"""Products with weights of few bits: levels, and a scale and zero point of each group of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..dtypes import DType
from ..types import TensorType
from .contract import MatMul

_ROWS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class GroupedMatMul(MatMul):
    """(x[…, M, K], levels u8|f16[K, N], scales f32[⌈K/group⌉, N], zeros f32[⌈K/group⌉, N]) -> f32 […, M, N]; x of f32, f16 or bf16.

    Σ_k x[m, k] · (levels[k, n] − zeros[k/group, n]) · scales[k/group, n]; levels have `bits` bits, 4 or 8; those of 16 bits
    are numbers of float16. With `values`, 16 of
    them for 4 bits, a level stands for values[level], as in the uneven steps of NF4. `row_bits`: how many bits of the largest element of
    a group of x have to count, where the model lets x be rounded to fewer than float32 has.
    """

    bits: int
    group: int
    values: tuple[float, ...] = ()
    row_bits: int = 24

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        stored = DType.F16 if self.bits == 16 else DType.U8
        if len(types) != 4 or types[0].dtype not in _ROWS or [t.dtype for t in types[1:]] != [stored, DType.F32, DType.F32]:
            given = ", ".join(map(str, types))
            raise VerifyError(f"groupedmatmul: operands {given}", expected=f"f32, f16 or bf16, {stored.value} levels, f32 scales and zeros")
        x, levels, scales, zeros = types
        if self.bits not in (4, 8, 16) or self.group < 1:
            raise VerifyError(f"groupedmatmul: {self.bits} bits in groups of {self.group}", expected="4, 8 or 16, a group of 1 or more")
        if self.values and (self.bits, len(self.values)) != (4, 16):
            raise VerifyError(f"groupedmatmul: {len(self.values)} values for {self.bits} bits", expected="16 for 4 bits")
        if levels.rank != 2 or not isinstance(levels.shape[0], int) or not isinstance(levels.shape[1], int):
            raise VerifyError(f"groupedmatmul: levels {levels}", expected="[K, N] of known sizes")
        wanted = (-(-levels.shape[0] // self.group), levels.shape[1])
        if scales.shape != wanted or zeros.shape != wanted:
            raise VerifyError(f"groupedmatmul: scales {scales} and zeros {zeros}", expected=f"both [{wanted[0]}, {wanted[1]}]")
        return super().infer([TensorType(DType.F32, t.shape) for t in (x, levels)])

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, levels, scales, zeros = args
        k = len(levels)
        s, z = (np.repeat(v.astype(np.float64), self.group, axis=0)[:k] for v in (scales, zeros))
        plain = np.asarray(self.values, np.float64)[levels] if self.values else levels.astype(np.float64)
        return (np.matmul(x.astype(np.float64), (plain - z) * s).astype(np.float32),)
