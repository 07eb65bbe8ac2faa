"""Scalar functions on vectors in registers, for epilogues and gates. float16 and bfloat16 are computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from ...errors import CodegenError
from ...ir import DType
from .build import I16, I32, Builder, Splat, mangle, storage, vec
from .half import from_half, to_half
from .target import CpuTarget

_SMALL = (DType.F16, DType.BF16)
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT = {"add": "add", "sub": "sub", "mul": "mul"}
_INTRINSIC = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "round": "roundeven", "trunc": "trunc"}


def compute(dtype: DType) -> DType:
    return DType.F32 if dtype in _SMALL else dtype


class Lanes:
    def __init__(self, b: Builder, lanes: int, target: CpuTarget) -> None:
        self.b, self.lanes, self.target = b, lanes, target

    def type(self, dtype: DType) -> Any:
        return vec(ir.IntType(1) if dtype is DType.BOOL else storage(compute(dtype)), self.lanes)

    def const(self, value: float | int | bool, dtype: DType) -> Any:
        number = float(value) if dtype.is_float else int(value)
        return Splat(self.type(dtype), number)

    def from_storage(self, x: Any, dtype: DType) -> Any:
        i = self.b.ir
        if dtype is DType.BOOL:
            return i.icmp_unsigned("!=", x, ir.Constant(x.type, None))
        if dtype is DType.F16:
            return i.fpext(x, self.type(dtype)) if self.target.half else from_half(self.b, x)
        if dtype is DType.BF16:
            wide = vec(I32, self.lanes)
            return i.bitcast(i.shl(i.zext(x, wide), ir.Constant(wide, [16] * self.lanes)), self.type(dtype))
        return x

    def to_storage(self, x: Any, dtype: DType) -> Any:
        i = self.b.ir
        if dtype is DType.BOOL:
            return i.zext(x, vec(storage(dtype), self.lanes))
        if dtype is DType.F16:
            return i.fptrunc(x, vec(storage(dtype), self.lanes)) if self.target.half else to_half(self.b, x)
        if dtype is DType.BF16:  # round to nearest even; a NaN keeps a set mantissa bit
            wide = vec(I32, self.lanes)

            def c(v: int) -> Any:
                return ir.Constant(wide, [v] * self.lanes)

            bits = i.bitcast(x, wide)
            odd = i.and_(i.lshr(bits, c(16)), c(1))
            rounded = i.lshr(i.add(bits, i.add(odd, c(0x7FFF))), c(16))
            nan = i.or_(i.lshr(bits, c(16)), c(0x40))
            return i.trunc(i.select(i.fcmp_unordered("uno", x, x), nan, rounded), vec(I16, self.lanes))
        return x

    def from_accumulator(self, acc: Any, dtype: DType) -> Any:
        return acc

    def cast(self, x: Any, source: DType, to: DType) -> Any:
        if to in _SMALL and to is not source:
            single = self.cast(x, source, DType.F32)
            return self.from_storage(self.to_storage(single, to), to)
        source, to, i = compute(source), compute(to), self.b.ir
        if source is to:
            return x
        t = self.type(to)
        if source.is_float:
            if to is DType.BOOL:
                return i.fcmp_unordered("!=", x, ir.Constant(x.type, None))
            if to.is_float:
                return i.fpext(x, t) if to.itemsize > source.itemsize else i.fptrunc(x, t)
            sign = "s" if to.is_signed else "u"
            return self.b.call(f"llvm.fpto{sign}i.sat.{mangle(t)}.{mangle(x.type)}", t, x)
        signed = source.is_signed
        if to is DType.BOOL:
            return i.icmp_unsigned("!=", x, ir.Constant(x.type, None))
        if to.is_float:
            return i.sitofp(x, t) if signed else i.uitofp(x, t)
        width = 1 if source is DType.BOOL else source.itemsize * 8
        if to.itemsize * 8 == width:
            return x
        return i.trunc(x, t) if to.itemsize * 8 < width else i.sext(x, t) if signed else i.zext(x, t)

    def call(self, fn: str, args: Sequence[Any], dtypes: Sequence[DType]) -> Any:
        i, b = self.b.ir, self.b
        dtype = compute(dtypes[-1])
        x = args[-1]
        if fn == "select":
            return i.select(*args)
        if fn in _COMPARE:
            if dtype.is_float:
                return (i.fcmp_unordered if fn == "ne" else i.fcmp_ordered)(_COMPARE[fn], *args)
            return (i.icmp_signed if dtype.is_signed else i.icmp_unsigned)(_COMPARE[fn], *args)
        if fn in ("and_", "or_", "xor"):
            return getattr(i, fn)(*args)
        if fn == "not_":
            return i.not_(x)
        if not dtype.is_float:
            if fn in _INT:
                return getattr(i, _INT[fn])(*args)
            if fn in ("min", "max"):
                return b.call(f"llvm.{'s' if dtype.is_signed else 'u'}{fn}.{mangle(x.type)}", x.type, *args)
            if fn == "neg":
                return i.neg(x)
            raise CodegenError(f"{fn} on {dtype} in the epilogue of a contraction")
        if fn in _FLOAT:
            # a·b + c may round once (fused multiply-add); nothing else is reassociated
            return getattr(i, _FLOAT[fn])(*args, flags=("contract",))
        if fn in ("min", "max"):  # a NaN in either operand wins, as in NumPy
            return b.call(f"llvm.{fn}imum.{mangle(x.type)}", x.type, *args)
        if fn == "neg":
            return i.fneg(x)
        if fn in _INTRINSIC:
            return b.call(f"llvm.{_INTRINSIC[fn]}.{mangle(x.type)}", x.type, x)
        if fn == "fma" and self.target.fma:
            return b.call(f"llvm.fma.{mangle(x.type)}", x.type, *args)
        if fn == "fma":
            return i.fadd(i.fmul(args[0], args[1]), x)
        raise CodegenError(f"{fn} in the epilogue of a contraction")
