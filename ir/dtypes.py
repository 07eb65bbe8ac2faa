"""Element types: every ONNX dtype, with its NumPy storage type and ONNX number."""

from __future__ import annotations

import enum

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..errors import VerifyError


class DType(enum.Enum):
    """`value` is the name used in IR text; `onnx` is TensorProto.DataType."""

    __hash__ = object.__hash__  # that of an Enum is a function in Python

    F32 = "f32"
    U8 = "u8"
    I8 = "i8"
    U16 = "u16"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    STRING = "str"
    BOOL = "bool"
    F16 = "f16"
    F64 = "f64"
    U32 = "u32"
    U64 = "u64"
    C64 = "c64"
    C128 = "c128"
    BF16 = "bf16"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    U4 = "u4"
    I4 = "i4"
    F4E2M1 = "f4e2m1"
    F8E8M0 = "f8e8m0"
    U2 = "u2"
    I2 = "i2"
    OBJECT = "object"  # a handle to what is no tensor: a sequence, optional or map; no ONNX element type

    @property
    def onnx(self) -> int:
        return _ONNX[self]

    @property
    def np(self) -> np.dtype:
        """NumPy (or ml_dtypes) storage type; sub-byte types take one byte per element."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        return _NUMPY[self].itemsize

    @property
    def bits(self) -> int:
        """Bits of information in an element; those below 8 still take a byte."""
        return {"u4": 4, "i4": 4, "f4": 4, "u2": 2, "i2": 2}.get(self.value[:2], 8 * self.itemsize)

    @property
    def is_float(self) -> bool:
        return self.value[0] == "f" or self is DType.BF16

    @property
    def is_complex(self) -> bool:
        return self in (DType.C64, DType.C128)

    @property
    def is_int(self) -> bool:
        return self.value[0] in "iu"

    @property
    def is_signed(self) -> bool:
        return self.value[0] == "i"

    def __repr__(self) -> str:
        return self.value

    @staticmethod
    def from_numpy(dtype: npt.DTypeLike) -> DType:
        """The element type of a NumPy dtype. Raises VerifyError for one without an ONNX twin."""
        dt = np.dtype(dtype)
        if dt.kind in "OUS" or dt.kind == "T":
            return DType.STRING
        try:
            return _FROM_NUMPY[dt]
        except KeyError:
            raise VerifyError(f"NumPy dtype {dt} has no ONNX element type") from None

    @staticmethod
    def from_onnx(number: int) -> DType:
        """The element type of a TensorProto.DataType number. Raises VerifyError when unknown."""
        try:
            return _FROM_ONNX[number]
        except KeyError:
            raise VerifyError(f"ONNX element type {number} is unknown") from None


_ORDER = ["F32", "U8", "I8", "U16", "I16", "I32", "I64", "STRING", "BOOL", "F16", "F64", "U32", "U64", "C64", "C128",
          "BF16", "F8E4M3FN", "F8E4M3FNUZ", "F8E5M2", "F8E5M2FNUZ", "U4", "I4", "F4E2M1", "F8E8M0", "U2", "I2"]  # fmt: skip
_ONNX = {DType[name]: i + 1 for i, name in enumerate(_ORDER)}
_FROM_ONNX = {i: d for d, i in _ONNX.items()}
_NUMPY = {
    DType.F32: np.dtype(np.float32), DType.U8: np.dtype(np.uint8), DType.I8: np.dtype(np.int8),
    DType.U16: np.dtype(np.uint16), DType.I16: np.dtype(np.int16), DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64), DType.STRING: np.dtype(object), DType.BOOL: np.dtype(np.bool_),
    DType.F16: np.dtype(np.float16), DType.F64: np.dtype(np.float64), DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64), DType.C64: np.dtype(np.complex64), DType.C128: np.dtype(np.complex128),
    DType.BF16: np.dtype(ml_dtypes.bfloat16), DType.F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz), DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz), DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I4: np.dtype(ml_dtypes.int4), DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu), DType.U2: np.dtype(ml_dtypes.uint2), DType.I2: np.dtype(ml_dtypes.int2),
    DType.OBJECT: np.dtype(object),
}  # fmt: skip
_FROM_NUMPY = {n: d for d, n in _NUMPY.items() if n != np.dtype(object)}
