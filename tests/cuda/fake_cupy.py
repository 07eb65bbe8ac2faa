"""What runtime/cuda asks of cupy, without a GPU: calls are recorded, memory is the host's, and errors can be planted.

It says nothing of what a device does. It shows that errors become typed ones, that nothing leaks, and which calls are made.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np


class RuntimeFault(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError"""


class DriverFault(RuntimeError):
    """cupy.cuda.driver.CUDADriverError, which is made of a number, or here of a text."""

    def __init__(self, status: int | str) -> None:
        super().__init__({700: "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"}.get(status, status))


class OutOfMemory(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError"""


class FakeCupy:
    """Args:
    devices: how many there are.
    memory: bytes that may be allocated at once.
    fail: name of a call -> the exception that it raises.
    """

    def __init__(self, devices: int = 1, capability: str = "90", memory: int = 1 << 30) -> None:
        self.log: list[str] = []
        self.streams: list[int] = [0]  # the current one is the last
        self.used, self.memory = 0, memory
        self.fail: dict[str, Exception] = {}
        self.owner = 0
        self.kind = 0  # of all memory: not registered
        self.current = 0
        self.contexts: set[int] = set()  # threads that have the device's context
        self.made: list[int] = []  # streams
        self.capturing: set[int] = set()  # streams
        self.devices = devices

        def number(device: int) -> int:
            if not 0 <= device < devices:
                raise RuntimeFault("cudaErrorInvalidDevice: invalid device ordinal")
            return device

        runtime = SimpleNamespace(
            getDevice=lambda: self.current, setDevice=self._set_device, CUDARuntimeError=RuntimeFault, getDeviceCount=self.call("getDeviceCount", lambda: devices), runtimeGetVersion=lambda: 12080, driverGetVersion=lambda: 13000,
            getDeviceProperties=lambda n: {"name": b"a fake"}, memGetInfo=lambda: (self.memory - self.used, self.memory), memcpyAsync=self.call("memcpyAsync", self._copy),
            memsetAsync=self.call("memsetAsync", self._fill),
            pointerGetAttributes=lambda p: SimpleNamespace(device=self.owner, devicePointer=p, type=self.kind), streamCaptureModeRelaxed=2)  # fmt: skip
        driver = SimpleNamespace(CUDADriverError=DriverFault, launchKernel=self.call("launchKernel", self._launch),
                                 funcSetAttribute=self.call("funcSetAttribute", self._allow))  # fmt: skip
        fake = self

        class Device:
            def __init__(self, device: int | None = None) -> None:
                self.id, self.compute_capability = number(device or 0), capability

        class Stream:
            """With the rules of stream capture (CUDA programming guide, "CUDA Graphs"), of which a stream that is captured breaks none."""

            def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None) -> None:
                assert not ptds and priority is None
                self.ptr = 0 if null else 1000 + len(fake.made)
                self.device_id = -1 if null else fake.current
                fake.made.append(self.ptr)

            @classmethod
            def from_external(cls, obj: Any) -> Any:
                version, ptr = obj.__cuda_stream__()
                if version != 0 or type(ptr) is not int:
                    raise TypeError("__cuda_stream__() must return (0, int)")
                stream = cls.__new__(cls)
                stream.ptr, stream.device_id = ptr, -1
                return stream

            def __enter__(self) -> Any:
                if self.device_id not in (-1, fake.current):
                    raise RuntimeError("The device that the stream is created on does not match with the current device")
                fake.streams.append(self.ptr)
                return self

            def __exit__(self, *_: object) -> None:
                fake.streams.pop()

            def synchronize(self) -> None:
                fake.waited_for(self.ptr)
                fake.call("synchronize", lambda: None)()

            def wait_event(self, event: Any) -> None:
                fake.log.append(f"{self.ptr} waits for event of {event.of}")

            def record(self, event: Any = None) -> Any:
                event = fake.cuda.Event() if event is None else event
                event.record(self)
                return event

            def begin_capture(self, mode: int | None = None) -> None:
                if self.ptr in (0, 1):
                    raise RuntimeError("cannot capture on the default (legacy) stream")
                if self.ptr in fake.capturing or mode not in (0, 1, 2):
                    raise RuntimeFault("cudaErrorIllegalState: the operation cannot be performed in the present state")
                fake.capturing.add(self.ptr)
                fake.log.append("begin_capture")

            def end_capture(self) -> Any:
                if self.ptr not in fake.capturing:
                    raise RuntimeFault("cudaErrorIllegalState: the operation cannot be performed in the present state")
                fake.capturing.remove(self.ptr)
                fake.log.append("end_capture")
                return SimpleNamespace(launch=lambda stream=None: fake.call("graph", lambda: None)())

        class Module:
            def load(self, cubin: bytes) -> None:
                assert type(cubin) is bytes
                fake.call("load", lambda: None)()

            def get_function(self, name: str) -> Any:
                return SimpleNamespace(ptr=1)

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
                self.timed, self.of = not disable_timing, -1

            def record(self, stream: Any = None) -> None:
                self.of = fake.streams[-1] if stream is None else stream.ptr

            def synchronize(self) -> None:
                fake.waited_for(self.of)

        self.cuda = SimpleNamespace(
            runtime=runtime, driver=driver, Device=Device, Stream=Stream, Event=Event, alloc=self._alloc,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemory), function=SimpleNamespace(Module=Module),
            get_current_stream=lambda: self.stream_of(self.streams[-1]), get_elapsed_time=self._elapsed)  # fmt: skip
        self.ndarray = lambda shape, dtype, memptr: SimpleNamespace(shape=shape, dtype=dtype, memptr=memptr)

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: self.log.append("free_all_blocks"))

    def stream_of(self, number: int) -> Any:
        """One that others made."""
        return self.cuda.Stream.from_external(SimpleNamespace(__cuda_stream__=lambda: (0, number)))

    def waited_for(self, stream: int) -> None:
        if stream in self.capturing:
            raise RuntimeFault("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

    def _set_device(self, device: int) -> None:
        self.cuda.Device(device)
        self.current = device
        self.contexts.add(threading.get_ident())

    def call(self, name: str, real: Any) -> Any:
        @functools.wraps(real)
        def made(*args: Any, **more: Any) -> Any:
            self.log.append(name)
            if name in self.fail:
                raise self.fail[name]
            return real(*args, **more)

        return made

    def _alloc(self, size: int) -> Any:
        assert type(size) is int and size > 0
        if self.used + size > self.memory:
            raise OutOfMemory(f"{size} bytes")
        return _Pointer(self, size)

    def _copy(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        words(dst, src, size, kind, stream)
        self.waited_for(stream)  # memory of the host that is not page-locked has no place in a graph
        ctypes.memmove(dst, src, size)

    def _fill(self, ptr: int, value: int, size: int, stream: int) -> None:
        words(ptr, value, size, stream)

    def _allow(self, f: int, attribute: int, value: int) -> None:
        words(f, attribute, value)

    def _launch(
        self, f: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, params: int, extra: int
    ) -> None:
        words(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra)

    def _elapsed(self, start: Any, end: Any) -> float:
        """In milliseconds."""
        if not (start.timed and end.timed) or min(start.of, end.of) < 0:
            raise RuntimeFault("cudaErrorInvalidResourceHandle: invalid resource handle")
        return 1.0


def words(*values: int) -> None:
    """Numbers as functions in C take them: a float, or an object that only holds a number, is refused."""
    for v in values:
        if not 0 <= v.__index__() < 1 << 63:
            raise OverflowError("Python int too large to convert to C")


class _Pointer:
    """Counts as used until its last reference is gone."""

    def __init__(self, fake: FakeCupy, size: int) -> None:
        self.fake, self.size, self.stream = fake, size, fake.streams[-1]
        self._bytes = np.zeros(size + 256, np.uint8)
        self.ptr = self._bytes.ctypes.data + -self._bytes.ctypes.data % 256
        fake.used += size

    def __del__(self) -> None:
        self.fake.used -= self.size
