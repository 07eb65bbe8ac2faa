"""Scalar functions on vectors in registers, for epilogues and gates.

Floats of 16 bits and less are computed in float32, integers of 4 and 2 bits in 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....errors import CodegenError
from ....ir import DType
from .. import llvm_ir as ir
from ..build import I16, I32, Builder, mangle, storage, vec
from ..target import CpuTarget
from .minifloat import FORMATS, decode, encode

_NARROW = {DType.I4: (DType.I8, 4), DType.U4: (DType.U8, 4), DType.I2: (DType.I8, 2), DType.U2: (DType.U8, 2)}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INT = {"add": "add", "sub": "sub", "mul": "mul"}
_INTRINSIC = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "round": "roundeven", "trunc": "trunc"}

ROUND, ROUND_BITS = 12582912.0, 0x4B400000  # 1.5·2²³: adding it leaves the nearest integer in the low mantissa bits


def compute(dtype: DType) -> DType:
    """The dtype in which elements of `dtype` are held in registers."""
    if dtype in _NARROW:
        return _NARROW[dtype][0]
    return DType.F32 if dtype.is_float and dtype.itemsize < 4 else dtype


class Lanes:
    """`flush`: subnormal numbers may become zero where they are rounded to bfloat16, as they do in products of bfloat16."""

    def __init__(self, b: Builder, lanes: int, target: CpuTarget, flush: bool = False) -> None:
        self.b, self.lanes, self.target = b, lanes, target
        self.native_bf16 = flush and lanes == 16 and "avx512bf16" in target.features and target.vector_bits == 512

    def type(self, dtype: DType) -> Any:
        return vec(ir.IntType(1) if dtype is DType.BOOL else storage(compute(dtype)), self.lanes)

    def const(self, value: float | int | bool, dtype: DType) -> Any:
        return ir.Constant(self.type(dtype), float(value) if dtype.is_float else int(value))

    def from_storage(self, x: Any, dtype: DType) -> Any:
        i = self.b.ir
        if dtype is DType.BOOL:
            return i.icmp_unsigned("!=", x, ir.Constant(x.type, None))
        if dtype is DType.F16:
            return i.fpext(x, self.type(dtype)) if self.target.half else decode(self.b, x, dtype)
        if dtype is DType.BF16:
            wide = vec(I32, self.lanes)
            return i.bitcast(i.shl(i.zext(x, wide), ir.Constant(wide, [16] * self.lanes)), self.type(dtype))
        if dtype in FORMATS or dtype is DType.F8E8M0:
            return decode(self.b, x, dtype)
        if dtype in _NARROW:
            return self._wrapped(x, dtype)
        return x

    def _wrapped(self, x: Any, dtype: DType) -> Any:
        """The low bits of each byte, extended by their sign if they have one."""
        i = self.b.ir
        by = ir.Constant(x.type, 8 - _NARROW[dtype][1])
        return (i.ashr if dtype.is_signed else i.lshr)(i.shl(x, by), by)

    def to_storage(self, x: Any, dtype: DType) -> Any:
        i = self.b.ir
        if dtype is DType.BOOL:
            return i.zext(x, vec(storage(dtype), self.lanes))
        if dtype is DType.F16:
            return i.fptrunc(x, vec(storage(dtype), self.lanes)) if self.target.half else encode(self.b, x, dtype)
        if dtype is DType.BF16 and self.native_bf16:
            got = self.b.call("llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(ir.BFloatType(), self.lanes), x)
            return i.bitcast(got, vec(I16, self.lanes))
        if dtype is DType.BF16:  # round to nearest even; a NaN keeps a set mantissa bit
            wide = vec(I32, self.lanes)

            def c(v: int) -> Any:
                return ir.Constant(wide, [v] * self.lanes)

            bits = i.bitcast(x, wide)
            odd = i.and_(i.lshr(bits, c(16)), c(1))
            rounded = i.lshr(i.add(bits, i.add(odd, c(0x7FFF))), c(16))
            nan = i.or_(i.lshr(bits, c(16)), c(0x40))
            return i.trunc(i.select(i.fcmp_unordered("uno", x, x), nan, rounded), vec(I16, self.lanes))
        if dtype in FORMATS or dtype is DType.F8E8M0:
            return encode(self.b, x, dtype)
        if dtype in _NARROW:
            return i.and_(x, ir.Constant(x.type, 2 ** _NARROW[dtype][1] - 1))
        return x

    def bits(self, x: Any, source: DType, to: DType) -> Any:
        """Elements of `source` read as elements of `to`, which has as many bits."""
        return self.from_storage(self.b.ir.bitcast(self.to_storage(x, source), vec(storage(to), self.lanes)), to)

    def cast(self, x: Any, source: DType, to: DType) -> Any:
        if to is not source and compute(to) is not to:
            held = self.cast(x, source, compute(to))  # rounded or wrapped by going through memory's form
            return self.from_storage(self.to_storage(held, to), to)
        source, to, i = compute(source), compute(to), self.b.ir
        if source is to:
            return x
        t = self.type(to)
        if source.is_float:
            if to is DType.BOOL:
                return i.fcmp_unordered("!=", x, ir.Constant(x.type, None))
            if to.is_float:
                return i.fpext(x, t) if to.itemsize > source.itemsize else i.fptrunc(x, t)
            if to.itemsize < 4:  # what does not fit wraps, as where constants are folded
                return i.trunc(self.cast(x, source, DType.I32), t)
            return self._saturated(x, to)
        signed = source.is_signed
        if to is DType.BOOL:
            return i.icmp_unsigned("!=", x, ir.Constant(x.type, None))
        if to.is_float:
            return i.sitofp(x, t) if signed else i.uitofp(x, t)
        width = 1 if source is DType.BOOL else source.itemsize * 8
        if to.itemsize * 8 == width:
            return x
        return i.trunc(x, t) if to.itemsize * 8 < width else i.sext(x, t) if signed else i.zext(x, t)

    def _saturated(self, x: Any, to: DType) -> Any:
        """float to an integer of 4 or 8 bytes, toward zero; NaN to 0, what is out of range to the nearer end."""
        i, t, bits = self.b.ir, self.type(to), 8 * to.itemsize
        if self.lanes == 1 or not to.is_signed:
            return self.b.call(f"llvm.fpto{'s' if to.is_signed else 'u'}i.sat.{mangle(t)}.{mangle(x.type)}", t, x)
        limit = 2.0 ** (bits - 1)  # in vectors the intrinsic would go lane by lane on x86
        if x.type.element == storage(DType.F64) and bits == 32:  # which has both ends exactly
            least, greatest = ir.Constant(x.type, -limit), ir.Constant(x.type, limit - 1)
            inside = i.select(i.fcmp_ordered(">", x, least), x, least)
            inside = i.select(i.fcmp_ordered("<", inside, greatest), inside, greatest)
            return i.select(i.fcmp_unordered("uno", x, x), ir.Constant(t, 0), i.fptosi(inside, t))
        size = self.b.call(f"llvm.fabs.{mangle(x.type)}", x.type, x)
        out = i.fptosi(i.select(i.fcmp_ordered("<", size, ir.Constant(x.type, limit)), x, ir.Constant(x.type, 0.0)), t)
        out = i.select(i.fcmp_ordered(">=", x, ir.Constant(x.type, limit)), ir.Constant(t, 2 ** (bits - 1) - 1), out)
        return i.select(i.fcmp_ordered("<=", x, ir.Constant(x.type, -limit)), ir.Constant(t, -(2 ** (bits - 1))), out)

    def convert(self, x: Any, to: DType) -> Any:
        """A float that is known to lie in the range of a small integer type, toward zero. NaN gives any number."""
        i = self.b.ir
        return i.trunc(i.fptosi(x, vec(I32, self.lanes)), self.type(to))

    def quantize(self, x: Any, zero: Any, low: int, high: int, over: Any = None) -> Any:
        """min(max(round(x) + zero, low), high) of f32 as I32, |numbers| < 2¹⁶; `zero` a number or an I32. NaN gives `low`.

        Rounding keeps order, so x may be bounded first; adding 1.5·2²³ then leaves the nearest integer in the low bits. With
        `over`, of x / over for one finite number that has an inverse (NaN by a negative one: `high`), x being bounded before that.
        """
        return self.quantize_within(x, *self._ends(x, zero, low, high, over), over)

    def _ends(self, x: Any, zero: Any, low: int, high: int, over: Any) -> tuple[Any, Any, Any]:
        """What x is held between, and what its bits are more than the result."""
        i, t = self.b.ir, vec(I32, self.lanes)
        if isinstance(zero, int):
            least, greatest = (ir.Constant(x.type, float(end - zero)) for end in (low, high))
            bits: Any = ir.Constant(t, ROUND_BITS - zero)
        else:
            least, greatest = (i.sitofp(i.sub(ir.Constant(t, end), zero), x.type) for end in (low, high))
            bits = i.sub(ir.Constant(t, ROUND_BITS), zero)
        if over is not None:
            wide = self._all(over)
            ends = [i.fmul(end, wide) for end in (least, greatest)]
            down = i.fcmp_ordered("<", *ends)
            least, greatest = i.select(down, *ends), i.select(down, *ends[::-1])
        return least, greatest, bits

    def quantize_within(self, x: Any, least: Any, greatest: Any, bits: Any, over: Any = None, inverse: Any = None) -> Any:
        """`quantize` by numbers that are known in all lanes (`DerivedNumbers.ends_of`)."""
        i, t = self.b.ir, vec(I32, self.lanes)
        x = i.select(i.fcmp_ordered(">", x, least), x, least)
        x = i.select(i.fcmp_ordered("<", x, greatest), x, greatest)
        if over is not None:
            x = self._corrected(x, over, inverse)[1]
        return i.sub(i.bitcast(i.fadd(x, ir.Constant(x.type, ROUND)), t), bits)

    def divide(self, x: Any, y: Any, inverse: Any = None) -> Any:
        """x / y for one y, correctly rounded but for the ends of the range. `inverse`: 1 / y, where that is known in all lanes."""
        q, better = self._corrected(x, y, inverse)
        return self.b.ir.select(self.b.ir.fcmp_unordered("uno", better, better), q, better)  # nothing to correct where q or 1/y is infinite

    def _corrected(self, x: Any, y: Any, inverse: Any) -> tuple[Any, Any]:
        """x·(1/y), and that after one step of P. Markstein's correction."""
        i, b = self.b.ir, self.b
        if inverse is None:
            inverse = self._all(i.fdiv(ir.Constant(y.type, [1.0]), y))
        q = i.fmul(x, inverse)
        rest = b.fma(i.fneg(q), self._all(y), x)
        return q, b.fma(rest, inverse, q)

    def _all(self, x: Any) -> Any:
        return self.b.splat(self.b.ir.extract_element(x, ir.Constant(I32, 0)), self.lanes)

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
        if fn == "fma":
            return b.fma(args[0], args[1], x, self.target.fma)
        raise CodegenError(f"{fn} in the epilogue of a contraction")
