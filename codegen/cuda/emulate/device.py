"""The emulation as a device of the runtime (runtime/cuda/device.py): whole modules run on the CPU."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....errors import DeviceError
from .compiler import Library

_MAP_BYTES, _MAP_ALIGN = 128, 64
GARBAGE = 0xFF  # what new memory holds: NaN, and indices far outside


def tensor_map(ptr: int, itemsize: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> np.ndarray:
    """The bytes of `emulate::Map`. Raises DeviceError for what the driver would not take (`cuTensorMapEncodeTiled`)."""
    rank = len(sizes)
    fits = ptr and ptr % 16 == 0 and all(0 < s <= 1 << 32 for s in sizes) and all(s % 16 == 0 and s < 1 << 40 for s in strides)
    fits = fits and all(stride or size == 1 for stride, size in zip(strides, sizes[1:], strict=True))  # which nothing documents
    if not (fits and all(0 < b <= 256 for b in box) and box[0] * itemsize in (32, 64, 128)):
        raise DeviceError(f"a tensor map at {ptr:#x} of sizes {list(sizes)}, strides {list(strides)}, box {list(box)}")
    pad = [0] * (4 - rank)
    room = np.empty(_MAP_BYTES + _MAP_ALIGN, np.uint8)
    out = room[-room.ctypes.data % _MAP_ALIGN :][:_MAP_BYTES]
    out[:] = np.frombuffer(struct.pack("<Q2i8Q4i32x", ptr, itemsize, rank, *sizes, *pad, 0, *strides, *pad, *box, *pad), np.uint8)
    return out


class Block:
    """Host memory that plays device memory, 256-byte aligned."""

    def __init__(self, nbytes: int) -> None:
        self._bytes = np.full(nbytes + 256, GARBAGE, np.uint8)
        skip = -self._bytes.ctypes.data % 256
        self.data = self._bytes[skip : skip + nbytes]
        self.ptr, self.nbytes = int(self._bytes.ctypes.data) + skip, nbytes


class EmulatedArray:
    """An array on the emulated device, known by the CUDA array interface alone."""

    def __init__(self, memory: Any, shape: tuple[int, ...], dtype: np.dtype, stream: int | None = None) -> None:
        self.memory, self.shape, self.dtype = memory, shape, dtype
        self.__cuda_array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (memory.ptr, False),
                                         "strides": None, "stream": stream}  # fmt: skip

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return self.memory.data[:size].view(self.dtype).reshape(self.shape).copy()


class EmulatedDevice:
    """Launches run at once, in one order of blocks and threads per `seed`; streams and events are in order by nature.

    Args:
        library: the kernels of the modules that will run.
        memory: bytes that may be allocated at once, None: no limit.
        graphs: record graphs, and replay them.
    """

    name = "the emulation"

    def __init__(self, library: Library, *, capability: int = 90, number: int = 0, seed: int = 0, memory: int | None = None,
                 graphs: bool = True) -> None:  # fmt: skip
        self.library, self.capability, self.number, self.seed = library, capability, number, seed
        self.memory, self.graphs = memory, graphs
        self.launches = 0
        self.replays = 0
        self._recording: list[tuple[Any, ...]] | None = None

    def load(self, symbol: str, image: bytes, shared: int) -> str:
        return symbol

    def behind(self, stream: Any) -> None:
        pass

    def allocate(self, nbytes: int, stream: Any = None) -> Block:
        if self.memory is not None and nbytes > self.memory:
            raise DeviceError(f"out of device memory: {nbytes} bytes wanted, {self.memory} free on {self.name}")
        return Block(nbytes)

    def stream(self, given: object = None) -> int:
        return given if isinstance(given, int) else 0

    def recycle(self, stream: Any) -> None:
        pass

    def upload(self, ptr: int, source: np.ndarray, stream: Any) -> None:
        _bytes(ptr, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

    def download(self, target: np.ndarray, ptr: int, stream: Any) -> None:
        target.reshape(-1).view(np.uint8)[:] = _bytes(ptr, target.nbytes)

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        _bytes(to, nbytes)[:] = _bytes(source, nbytes)

    def launch(self, function: str, blocks: int, threads: int, shared: int, args: np.ndarray, stream: Any,
               maps: Sequence[np.ndarray] = (), overlap: bool = False) -> None:  # fmt: skip
        if self._recording is not None:
            self._recording.append((function, blocks, threads, shared, args, maps))
            return
        self.launches += 1
        self.library.run(function, [*(int(a) for a in args), *(m.ctypes.data for m in maps)], blocks, threads, shared, self.seed)

    def tensor_map(self, ptr: int, itemsize: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> np.ndarray:
        return tensor_map(ptr, itemsize, sizes, strides, box)

    def synchronize(self, stream: Any) -> None:
        pass

    def record(self, stream: Any, timing: bool = False) -> float:
        return time.perf_counter()

    def wait(self, stream: Any, event: Any) -> None:
        pass

    def finish(self, event: Any) -> None:
        pass

    def elapsed(self, start: float, end: float) -> float:
        return end - start

    def delay(self, stream: Any, seconds: float) -> None:
        pass

    def begin_capture(self, stream: Any) -> bool:
        if self.graphs:
            self._recording = []
        return self.graphs

    def end_capture(self, stream: Any) -> Any:
        graph, self._recording = self._recording, None
        return graph

    def replay(self, graph: Any, stream: Any) -> None:
        self.replays += 1
        for function, blocks, threads, shared, args, maps in graph:
            self.launch(function, blocks, threads, shared, args, stream, maps)

    def owner(self, ptr: int) -> int:
        return self.number

    def view(self, memory: Any, shape: tuple[int, ...], dtype: np.dtype) -> EmulatedArray:
        return EmulatedArray(memory, shape, dtype)


def _bytes(ptr: int, nbytes: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(ptr))
