"""Element types by the names that manifests use."""

from __future__ import annotations

import numpy as np

from ..errors import ArtifactError
from .fields import brief

_PLAIN = {
    "f32": "float32", "f64": "float64", "f16": "float16", "bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32",
    "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64", "c64": "complex64", "c128": "complex128",
}  # fmt: skip
_EXTENDED = {
    "bf16": "bfloat16", "f8e4m3fn": "float8_e4m3fn", "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2": "float8_e5m2",
    "f8e5m2fnuz": "float8_e5m2fnuz", "u4": "uint4", "i4": "int4", "f4e2m1": "float4_e2m1fn", "f8e8m0": "float8_e8m0fnu",
    "u2": "uint2", "i2": "int2",
}  # fmt: skip
STRINGS = ("str", "text", "key")  # what is done with handles of strings, see handles.py
HANDLES = (*STRINGS, "object")  # held as I64 handles in buffers


def is_float(dtype: np.dtype) -> bool:
    """Whether elements are real floats: NumPy's, or small ones of ml_dtypes, whose kind is V to NumPy."""
    return "float" in dtype.name


def dtype_of(name: object) -> np.dtype:
    """The NumPy dtype of an element type name. Raises ArtifactError when there is none."""
    if isinstance(name, str) and name in _PLAIN:
        return np.dtype(_PLAIN[name])
    if name in HANDLES:
        return np.dtype(object)
    if isinstance(name, str) and name in _EXTENDED:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _EXTENDED[name]))
    raise ArtifactError(f"element type {brief(name)}", expected="one that modules can hold")
