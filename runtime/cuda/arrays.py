"""Arrays that lie on a device, whoever made them: the CUDA array interface, or DLPack through cupy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError

_CUDA = (2, 13)  # DLPack's device types of CUDA memory, plain and managed
_LEGACY = 1  # cudaStreamLegacy, the default stream


@dataclass(frozen=True)
class DeviceArray:
    """Memory on a device. `stream`: number of the stream that fills it (0: none to wait for). `keep` holds the memory."""

    ptr: int
    shape: tuple[int, ...]
    dtype: np.dtype
    contiguous: bool
    stream: int
    keep: Any


def is_device_array(value: Any) -> bool:
    """Whether a value lies on a CUDA device, by what it says of itself."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(type(value), "__cuda_array_interface__") or "__cuda_array_interface__" in getattr(value, "__dict__", {}):
        try:
            return value.__cuda_array_interface__ is not None
        except (AttributeError, TypeError, RuntimeError, KeyError):
            pass  # torch raises for host tensors, those that have gradients, and types NumPy lacks
    where = getattr(value, "__dlpack_device__", None)
    return where is not None and int(where()[0]) in _CUDA


def device_array(value: Any, loc: str) -> DeviceArray:
    """The array's memory, without a copy. Raises InputError when it cannot be told."""
    try:
        interface = value.__cuda_array_interface__
    except (AttributeError, TypeError, RuntimeError, KeyError):
        interface = None
    # An interface that names no stream (torch's) does not say when the data is ready; DLPack settles that.
    if interface is not None and ("stream" in interface or not hasattr(value, "__dlpack__")):
        return _from_interface(interface, value)
    try:
        import cupy
    except ImportError:
        raise InputError(f"a {type(value).__name__} that only DLPack describes", expected="cupy, which reads DLPack", loc=loc) from None
    try:
        array = cupy.from_dlpack(value)
    except Exception as e:  # producers raise what they like
        raise InputError(f"a {type(value).__name__} that DLPack does not hand over: {str(e)[:100]}", loc=loc) from None
    # By its attributes: an array interface has no name for bfloat16. DLPack lets cupy's current stream wait for whoever fills it.
    stream = int(cupy.cuda.get_current_stream().ptr) or _LEGACY
    return DeviceArray(int(array.data.ptr), array.shape, np.dtype(array.dtype), bool(array.flags.c_contiguous), stream, array)


def _from_interface(given: dict[str, Any], keep: Any) -> DeviceArray:
    shape = tuple(int(d) for d in given["shape"])
    dtype = np.dtype(given["typestr"])
    real = getattr(keep, "dtype", dtype)
    if isinstance(real, np.dtype) and real.itemsize == dtype.itemsize:
        dtype = real  # typestr has no name for bfloat16
    strides = given.get("strides")
    return DeviceArray(int(given["data"][0]), shape, dtype, strides is None or _contiguous(shape, tuple(strides), dtype.itemsize),
                       int(given.get("stream") or 0), keep)  # fmt: skip


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    step = itemsize
    for d, s in zip(reversed(shape), reversed(strides), strict=True):
        if d != 1 and s != step and 0 not in shape:
            return False
        step *= d
    return True
