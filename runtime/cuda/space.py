"""Device memory as programs that yield need it: sizes read back, tensors made, and host functions fed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .device import Device, Memory


@dataclass(frozen=True)
class Placed:
    """A tensor on a device."""

    memory: Memory
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceSpace:
    """A `Space` on a device, for one run in one stream.

    What the program is done with is kept until the stream has been waited for: kernels in it may still use it.
    `owned`: the stream is the module's, and outputs are to be used in others.
    """

    def __init__(self, device: Device, stream: Any, owned: bool) -> None:
        self.device, self.stream, self.owned = device, stream, owned
        self.retired: list[Any] = []

    def word(self, at: int) -> int:
        return int(self.read(at, (), np.dtype(np.int64)))

    def set_word(self, at: int, value: int) -> None:
        self.device.upload(at, np.array([value], np.int64), self.stream)

    def new(self, nbytes: int) -> Memory:
        return self.device.allocate(nbytes, self.stream)

    def address(self, memory: Memory) -> int:
        return memory.ptr

    def nbytes(self, memory: Memory) -> int:
        return memory.nbytes

    def copy(self, to: int, source: int, nbytes: int) -> None:
        if nbytes:
            self.device.copy(to, source, nbytes, self.stream)

    def drop(self, memory: Memory) -> None:
        self.retired.append(memory)

    def output(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Placed, int]:
        size = math.prod(shape) * dtype.itemsize
        memory = output_memory(self.device, size, self.stream, self.owned)
        return Placed(memory, shape, dtype), memory.ptr

    def read(self, at: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        out = np.empty(shape, dtype)
        if out.nbytes:
            self.device.download(out, at, self.stream)
            self.retired.clear()  # the download has waited for all that was launched
        return out

    def hold(self, array: np.ndarray) -> Memory:
        memory = self.device.allocate(array.nbytes, self.stream)
        if array.nbytes:
            self.device.upload(memory.ptr, np.ascontiguousarray(array), self.stream)
        return memory


def output_memory(device: Device, nbytes: int, stream: Any, owned: bool) -> Memory:
    """Memory that the caller gets: of its stream, or such that work in the module's stream waits for what used it before."""
    if not owned:
        return device.allocate(nbytes, stream)
    memory = device.allocate(nbytes)
    device.behind(stream)
    return memory
