"""ScalarOps as CUDA text: every scalar function and cast as one C++ expression over named values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import COMPARISONS, DType

# Elements in memory. BOOL is a byte; the 4-bit integers lie one to a byte, as everywhere in mlc.
STORAGE = {
    DType.F32: "float", DType.F64: "double", DType.F16: "f16", DType.BF16: "bf16", DType.I8: "i8", DType.U8: "u8",
    DType.I16: "short", DType.U16: "u16", DType.I32: "int", DType.U32: "u32", DType.I64: "i64", DType.U64: "u64",
    DType.BOOL: "u8", DType.I4: "i8", DType.I2: "i8", DType.U4: "u8", DType.U2: "u8", DType.C64: "c64", DType.C128: "c128",
    **{d: d.value for d in (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1)},
}  # fmt: skip
_NARROW = {DType.I4: (DType.I8, 4), DType.U4: (DType.U8, 4), DType.I2: (DType.I8, 2), DType.U2: (DType.U8, 2)}  # held in, bits
SMALL = tuple(d for d in STORAGE if d.is_float and d.itemsize < 4)  # computed in float, rounded by every operation
_INFIX = {"add": "+", "sub": "-", "div": "/"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"and_": "&", "or_": "|", "xor": "^"}
# C's names; float has the suffix f
_LIBM = {
    "pow": "pow", "fmod": "fmod", "abs": "fabs", "sqrt": "sqrt", "exp": "exp", "log": "log", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
    "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf", "normcdf": "normcdf", "floor": "floor", "ceil": "ceil",
    "round": "rint", "trunc": "trunc",
}  # fmt: skip
_WRAPPING = {"add": "wrap_add", "sub": "wrap_sub", "mul": "wrap_mul"}
_INTEGER = {"div": "int_div", "mod": "int_mod", "fmod": "int_fmod", "shl": "int_shl", "shr": "int_shr", "pow": "int_pow"}


@dataclass(frozen=True, slots=True)
class Term:
    """A C++ expression without side effects (a name or a literal, so that using it twice costs nothing), and its element type."""

    text: str
    dtype: DType


def storage(dtype: DType) -> str:
    """C++ type of one element in memory. Raises CodegenError for types the CUDA backend lacks."""
    try:
        return STORAGE[dtype]
    except KeyError:
        raise CodegenError(f"element type {dtype.value} on CUDA") from None


def register(dtype: DType) -> str:
    """C++ type of a value in a register."""
    return "bool" if dtype is DType.BOOL else storage(dtype)


def literal(value: float | int | bool, dtype: DType) -> str:
    """A constant of `dtype`; floats are exact."""
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if dtype in SMALL:
        return f"to_{dtype.value}({literal(value, DType.F32)})"
    if dtype.is_float:
        x = float(value)
        kind = "float" if dtype is DType.F32 else "double"
        if math.isnan(x):
            return f"({kind})NAN"
        if math.isinf(x):
            return f"({kind}){'-' if x < 0 else ''}INFINITY"
        text = x.hex() + ("f" if dtype is DType.F32 else "")
        if dtype is DType.F32:
            import numpy as np

            rounded = float(np.float32(x))
            if math.isinf(rounded):
                return f"(float){'-' if x < 0 else ''}INFINITY"
            text = rounded.hex() + "f"
        return f"({text})" if x < 0 or str(x)[0] == "-" else text
    if dtype is DType.C128:
        return f"c128{{{{{int(value)}ULL, 0ULL}}}}"
    n = int(value)
    if dtype is DType.I64:
        return "(-9223372036854775807LL - 1)" if n == -(2**63) else f"({n}LL)" if n < 0 else f"{n}LL"
    if dtype in (DType.U64, DType.C64):
        return f"{n}ULL"
    return f"(({storage(dtype)}){n}LL)"


class CudaScalars:
    """`ScalarOps[Term]`. Floats of 16 bits and less are computed in float and rounded by every call, as in NumPy's float16."""

    def const(self, value: float | int | bool, dtype: DType) -> Term:
        return Term(literal(value, dtype), dtype)

    def dtype(self, x: Term) -> DType:
        return x.dtype

    def cast(self, x: Term, dtype: DType) -> Term:
        return Term(_cast(x, dtype), dtype)

    def bits(self, x: Term, source: DType, dtype: DType) -> Term:
        """The bits of an element of `source`, read as another type of the same size."""
        return Term(f"read_bits<{storage(dtype)}>({_cast(x, source)})", dtype)

    def call(self, fn: str, *args: Term) -> Term:
        dtype = args[-1].dtype
        result = DType.BOOL if fn in COMPARISONS else dtype
        texts = [a.text for a in args]
        if fn == "select":
            return Term(f"({texts[0]} ? {texts[1]} : {texts[2]})", result)
        if dtype in SMALL:
            wide = Term(_float(fn, [f"to_float({t})" for t in texts], DType.F32), DType.F32)
            return Term(wide.text if result is DType.BOOL else f"to_{dtype.value}({wide.text})", result)
        if dtype.is_float:
            return Term(_float(fn, texts, dtype), result)
        return Term(_boolean(fn, texts) if dtype is DType.BOOL else _integer(fn, texts, dtype), result)


def _float(fn: str, x: list[str], dtype: DType) -> str:
    suffix = "f" if dtype is DType.F32 else ""
    one = "1.0f" if suffix else "1.0"
    if fn in _INFIX:
        return f"({x[0]} {_INFIX[fn]} {x[1]})"
    if fn in _COMPARE:
        return f"({x[0]} {_COMPARE[fn]} {x[1]})"
    if fn in ("min", "max"):
        return f"take_{fn}({x[0]}, {x[1]})"
    if fn == "normcdf" and suffix:
        return f"normal_cdf({x[0]})"
    if fn in _LIBM:
        return f"{_LIBM[fn]}{suffix}({', '.join(x)})"
    match fn:
        case "mul":  # by itself: compilers would make one instruction of it and a sum, and what is rounded down behind it another number
            return f"__{'f' if suffix else 'd'}mul_rn({x[0]}, {x[1]})"
        case "neg":
            return f"(-{x[0]})"
        case "fma":
            return f"fma{suffix}({x[0]}, {x[1]}, {x[2]})"
        case "rsqrt":
            return f"({one} / sqrt{suffix}({x[0]}))"
        case "mod":
            return f"float_mod({x[0]}, {x[1]})"
        case "isnan":
            return f"({x[0]} != {x[0]})"
        case "isinf":
            return f"(fabs{suffix}({x[0]}) == ({'float' if suffix else 'double'})INFINITY)"
    raise CodegenError(f"{fn} on {dtype.value} on CUDA")


def _integer(fn: str, x: list[str], dtype: DType) -> str:
    t = storage(dtype)
    if fn in _WRAPPING:
        return f"{_WRAPPING[fn]}<{t}>({x[0]}, {x[1]})"
    if fn in _INTEGER:
        return f"{_INTEGER[fn]}<{t}>({x[0]}, {x[1]})"
    if fn in _COMPARE:
        return f"({x[0]} {_COMPARE[fn]} {x[1]})"
    if fn in _BITS:
        return f"(({t})({x[0]} {_BITS[fn]} {x[1]}))"
    match fn:
        case "min" | "max":
            return f"({x[0]} {'<' if fn == 'min' else '>'} {x[1]} ? {x[0]} : {x[1]})"
        case "not_":
            return f"(({t})~{x[0]})"
        case "neg":
            return f"wrap_sub<{t}>(({t})0, {x[0]})"
        case "abs":
            return f"int_abs<{t}>({x[0]})"
        case "fma":
            return f"wrap_add<{t}>(wrap_mul<{t}>({x[0]}, {x[1]}), {x[2]})"
        case "floor" | "ceil" | "round" | "trunc":
            return x[0]
        case "isnan" | "isinf":
            return "false"
    raise CodegenError(f"{fn} on {dtype.value} on CUDA")


def _boolean(fn: str, x: list[str]) -> str:
    match fn:
        case "and_" | "mul" | "min":
            return f"({x[0]} && {x[1]})"
        case "or_" | "add" | "max":
            return f"({x[0]} || {x[1]})"
        case "xor" | "ne":
            return f"({x[0]} != {x[1]})"
        case "eq":
            return f"({x[0]} == {x[1]})"
        case "not_":
            return f"(!{x[0]})"
        case "lt" | "le" | "gt" | "ge":
            return f"((int){x[0]} {_COMPARE[fn]} (int){x[1]})"
    raise CodegenError(f"{fn} on bool on CUDA")


def _cast(x: Term, to: DType) -> str:
    source = x.dtype
    if source is to:
        return x.text
    if source in SMALL:
        return _cast(Term(f"to_float({x.text})", DType.F32), to)
    if to in SMALL:
        return f"to_{to.value}({_cast(x, DType.F32)})"
    if source in _NARROW:  # in memory only the low bits say something
        held, bits = _NARROW[source]
        return _cast(Term(f"narrow<{storage(held)}, {bits}>({x.text})", held), to)
    if to in _NARROW:  # keeps the low bits
        held, bits = _NARROW[to]
        return f"narrow<{storage(held)}, {bits}>({_cast(x, held)})"
    if to is DType.BOOL:
        return f"({x.text} != 0)"
    if source.is_float and to.is_int and to.itemsize < 4:  # what does not fit wraps, as where constants are folded
        return f"(({storage(to)}){_cast(x, DType.I32)})"
    if source.is_float and not to.is_float:
        bits = to.itemsize * 8
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if to.is_signed else (0, 2**bits)
        limits = ", ".join((literal(low, source), literal(high, source), literal(low, to), literal(high - 1, to)))
        return f"saturate<{storage(to)}, {storage(source)}>({x.text}, {limits})"
    return f"(({register(to)}){x.text})"
