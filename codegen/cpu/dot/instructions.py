"""Instructions that multiply several pairs a lane and add them up: what a processor has, and what stands in for them.

A lane holds `group` neighbouring elements of K (4 bytes of them); packed B has the same order, see `codegen/packing.py`.
All integer rows are exact: none saturates in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....errors import CodegenError
from ....ir import DType
from .. import llvm_ir as ir
from ..build import I16, I32, Builder, storage, vec
from ..target import CpuTarget


@dataclass(frozen=True, slots=True)
class DotKind:
    """Operand and accumulator types of a dot product, and how many elements make one 32-bit lane."""

    a: DType
    b: DType
    acc: DType

    @property
    def group(self) -> int:
        return 4 // self.a.itemsize


KINDS = {(k.a, k.b): k for k in (DotKind(DType.U8, DType.I8, DType.I32), DotKind(DType.BF16, DType.BF16, DType.F32))}
_TILES = {DType.U8: "amx-int8", DType.BF16: "amx-bf16"}


def dot_kind(a: DType, b: DType) -> DotKind:
    """Raises CodegenError for operand types without a dot product."""
    if (a, b) not in KINDS:
        raise CodegenError(f"dot product of {a.value} by {b.value}", expected=" or ".join(f"{x.value} by {y.value}" for x, y in KINDS))
    return KINDS[a, b]


def instruction(kind: DotKind, target: CpuTarget) -> str:
    """The row of the table that serves: "tiles" (AMX), "dot" (VNNI, AVX512-BF16), "madd" (pairs of 16 bits), "lanes"."""
    f = target.features
    if target.is_x86 and {"amx-tile", _TILES[kind.a]} <= f and target.masked:
        return "tiles"
    return vector_instruction(kind, target)


def vector_instruction(kind: DotKind, target: CpuTarget) -> str:
    """The row that serves without tile registers."""
    f = target.features
    if kind.a is DType.BF16:
        return "dot" if "avx512bf16" in f and target.vector_bits == 512 else "lanes"
    if target.vector_bits == 512 and "avx512vnni" in f:
        return "dot"
    if target.vector_bits == 256 and ("avxvnni" in f or {"avx512vnni", "avx512vl"} <= f):
        return "dot"
    return "madd" if target.is_x86 else "lanes"


@dataclass(frozen=True, slots=True)
class VectorDot:
    """acc + Σ over the group of a·b, lane by lane; a and b are vectors of 32-bit lanes as they lie in memory."""

    kind: DotKind
    how: str
    lanes: int

    def __call__(self, b: Builder, acc: Any, x: Any, y: Any) -> Any:
        if self.kind.a is DType.BF16:
            return self._native_bf16(b, acc, x, y) if self.how == "dot" else self._pairs_bf16(b, acc, x, y)
        match self.how:
            case "dot":
                return b.call(f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}", acc.type, acc, x, y)
            case "madd":
                return self._madd(b, acc, x, y)
        return self._lanewise(b, acc, x, y)

    def _madd(self, b: Builder, acc: Any, x: Any, y: Any) -> Any:
        """Even and odd bytes as 16-bit numbers: their products in pairs are exact in 32 bits."""
        i, t = b.ir, vec(I16, 2 * self.lanes)
        x, y = i.bitcast(x, t), i.bitcast(y, t)
        low, eight = ir.Constant(t, [255] * t.count), ir.Constant(t, [8] * t.count)
        name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[self.lanes]
        even = b.call(name, acc.type, i.and_(x, low), i.ashr(i.shl(y, eight), eight))
        odd = b.call(name, acc.type, i.lshr(x, eight), i.ashr(y, eight))
        return i.add(acc, i.add(even, odd))

    def _lanewise(self, b: Builder, acc: Any, x: Any, y: Any) -> Any:
        i, t = b.ir, acc.type

        def c(v: int) -> Any:
            return ir.Constant(t, [v] * self.lanes)

        for at in range(4):
            left = i.and_(i.lshr(x, c(8 * at)), c(255))
            right = i.ashr(i.shl(y, c(24 - 8 * at)), c(24))
            acc = i.add(acc, i.mul(left, right))
        return acc

    def _native_bf16(self, b: Builder, acc: Any, x: Any, y: Any) -> Any:
        t = ir.VectorType(ir.BFloatType(), 2 * self.lanes)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}"
        return b.call(name, acc.type, acc, b.ir.bitcast(x, t), b.ir.bitcast(y, t))

    def _pairs_bf16(self, b: Builder, acc: Any, x: Any, y: Any) -> Any:
        i, t = b.ir, vec(I32, self.lanes)
        sixteen, high = ir.Constant(t, [16] * self.lanes), ir.Constant(t, [-65536] * self.lanes)
        for part in (lambda v: i.shl(v, sixteen), lambda v: i.and_(v, high)):
            left, right = i.bitcast(part(x), acc.type), i.bitcast(part(y), acc.type)
            acc = b.call(f"llvm.fmuladd.v{self.lanes}f32", acc.type, left, right, acc)
        return acc


def accumulator(kind: DotKind, lanes: int) -> Any:
    return vec(storage(kind.acc), lanes)
