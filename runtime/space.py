"""Where the buffers of a run lie: what binding sizes, handing tensors on and running host functions need of memory."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Protocol

import numpy as np

from .address import address, aligned, aligned_array

_word = ctypes.c_int64.from_address
_memory = ctypes.pythonapi.PyMemoryView_FromMemory  # a third of the time that an array type of ctypes takes
_memory.argtypes, _memory.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE


class Space(Protocol):
    """Memory of a run, on the host or on a device. Addresses are numbers; a memory is whatever keeps one valid."""

    def word(self, at: int) -> int:
        """The I64 at an address."""

    def set_word(self, at: int, value: int) -> None: ...

    def new(self, nbytes: int) -> Any:
        """Uninitialized memory. Raises MemoryError, ValueError or DeviceError when there is not enough."""

    def address(self, memory: Any) -> int: ...

    def nbytes(self, memory: Any) -> int: ...

    def copy(self, to: int, source: int, nbytes: int) -> None: ...

    def drop(self, memory: Any) -> None:
        """The program is done with a memory, which what it started may still use."""

    def output(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, int]:
        """A new output, as the module hands it out, and its address. Raises as `new`."""

    def read(self, at: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A tensor, as host functions read it."""

    def hold(self, array: np.ndarray) -> Any:
        """Memory with the elements of an array."""


class HostSpace:
    """Memory of this process: arrays, which host functions read and make in place."""

    def word(self, at: int) -> int:
        return _word(at).value

    def set_word(self, at: int, value: int) -> None:
        _word(at).value = value

    def new(self, nbytes: int) -> np.ndarray:
        return aligned(nbytes)

    def address(self, memory: np.ndarray) -> int:
        return address(memory)

    def nbytes(self, memory: np.ndarray) -> int:
        return memory.nbytes

    def copy(self, to: int, source: int, nbytes: int) -> None:
        ctypes.memmove(to, source, nbytes)

    def drop(self, memory: np.ndarray) -> None:
        pass

    def output(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, int]:
        out = aligned_array(shape, dtype, math.prod(shape) * dtype.itemsize)
        return out, address(out)

    def read(self, at: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, _memory(at, size, _WRITABLE))

    def hold(self, array: np.ndarray) -> np.ndarray:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


HOST = HostSpace()
