"""What programs need of a device. `cupy_device` is the real one; the emulation (codegen/cuda/emulate) is another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Memory(Protocol):
    """A piece of device memory, which its last reference frees."""

    @property
    def ptr(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Device(Protocol):
    """A device. Streams, functions, events and graphs are the device's own objects, opaque to programs.

    Every method raises DeviceError, naming what failed.
    """

    name: str
    number: int
    capability: int  # 10 · major + minor

    def load(self, symbol: str, image: bytes, shared: int) -> Any:
        """A function of a cubin or PTX, allowed `shared` bytes of dynamic shared memory."""

    def allocate(self, nbytes: int, stream: Any = None) -> Memory:
        """Memory for work in `stream`: what is freed of it goes to later work of that stream only. Without one, memory as the
        caller's other arrays are, which a stream may use once it is `behind` the caller."""

    def behind(self, stream: Any) -> None:
        """Work put into `stream` from now on waits for what the caller's current stream holds."""

    def stream(self, given: object = None) -> Any:
        """A stream that nobody else uses, or one of the caller's: cupy's, torch's, or a number."""

    def recycle(self, stream: Any) -> None:
        """`stream`, of which nothing is under way, may be anybody's: memory that is freed of it goes to what it is for next, as
        otherwise to nothing."""

    def upload(self, ptr: int, source: np.ndarray, stream: Any) -> None:
        """Contiguous host memory to the device; `source` may be changed when this returns."""

    def download(self, target: np.ndarray, ptr: int, stream: Any) -> None:
        """Device memory to the host, complete when this returns."""

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None: ...

    def launch(self, function: Any, blocks: int, threads: int, shared: int, args: np.ndarray, stream: Any,
               maps: Sequence[Any] = (), overlap: bool = False) -> None:  # fmt: skip
        """A one-dimensional grid; `args` are 64-bit words, pointers and sizes alike, and `maps` follow them. `overlap`: it may begin
        while the launch before has not ended, for which it waits by itself."""

    def tensor_map(self, ptr: int, itemsize: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> Any:
        """A tensor as the bulk copy engine sees it, see `images.MapSpec`; to be kept until the launches that use it are over."""

    def synchronize(self, stream: Any) -> None: ...

    def record(self, stream: Any, timing: bool = False) -> Any:
        """An event at this point of the stream."""

    def wait(self, stream: Any, event: Any) -> None:
        """Work put into the stream from now on waits for the event."""

    def finish(self, event: Any) -> None:
        """Block until the event has happened."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Seconds between two events recorded with timing, both over."""

    def delay(self, stream: Any, seconds: float) -> None:
        """Keep the stream busy for about so long, that what is put into it meanwhile follows without gaps."""

    def begin_capture(self, stream: Any) -> bool:
        """Start recording launches instead of running them; False when the device has no graphs."""

    def end_capture(self, stream: Any) -> Any:
        """The graph."""

    def replay(self, graph: Any, stream: Any) -> None: ...

    def owner(self, ptr: int) -> int:
        """The number of the device that memory lies on, −1 for host memory."""

    def view(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A user's array over memory, which it keeps alive."""
