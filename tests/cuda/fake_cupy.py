"""What runtime/cuda asks of cupy, without a GPU: calls are recorded, memory is the host's, and errors can be planted.

It says nothing of what a device does. It shows that errors become typed ones, that nothing leaks, and which calls are made.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np


class RuntimeFault(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError"""


class DriverFault(RuntimeError):
    """cupy.cuda.driver.CUDADriverError"""


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
        runtime = SimpleNamespace(
            getDevice=lambda: self.current, setDevice=self._set_device, CUDARuntimeError=RuntimeFault, getDeviceCount=self.call("getDeviceCount", lambda: devices), runtimeGetVersion=lambda: 12080, driverGetVersion=lambda: 13000,
            getDeviceProperties=lambda n: {"name": b"a fake"}, memGetInfo=lambda: (self.memory - self.used, self.memory), memcpyAsync=self.call("memcpyAsync", self._copy),
            memsetAsync=self.call("memsetAsync", lambda *a: None),
            pointerGetAttributes=lambda p: SimpleNamespace(device=self.owner, devicePointer=p, type=self.kind), streamCaptureModeRelaxed=2)  # fmt: skip
        driver = SimpleNamespace(CUDADriverError=DriverFault, launchKernel=self.call("launchKernel", lambda *a: None),
                                 funcSetAttribute=self.call("funcSetAttribute", lambda *a: None))  # fmt: skip
        fake = self

        class Device:
            def __init__(self, number: int | None = None) -> None:
                self.id, self.compute_capability = number or 0, capability

        class Stream:
            def __init__(self, number: int | None = None, non_blocking: bool = False) -> None:
                self.device_id = -1
                self.ptr = len(fake.streams) * 100 + id(self) % 97 + 1 if number is None else number

            @classmethod
            def from_external(cls, given: Any) -> Any:
                return cls(given.__cuda_stream__()[1])

            def __enter__(self) -> None:
                fake.streams.append(self.ptr)

            def __exit__(self, *_: object) -> None:
                fake.streams.pop()

            def synchronize(self) -> None:
                fake.call("synchronize", lambda: None)()

            def wait_event(self, event: Any) -> None:
                fake.log.append(f"{self.ptr} waits for {event}")

            def record(self, event: Any = None) -> str:
                return f"event of {self.ptr}"

            def begin_capture(self, mode: int) -> None:
                fake.log.append("begin_capture")

            def end_capture(self) -> Any:
                fake.log.append("end_capture")
                return SimpleNamespace(launch=fake.call("graph", lambda stream: None))

        class Module:
            def load(self, image: bytes) -> None:
                fake.call("load", lambda: None)()

            def get_function(self, symbol: str) -> Any:
                return SimpleNamespace(ptr=1)

        class Event:
            def __init__(self, disable_timing: bool = True) -> None: ...
            def record(self, stream: Any = None) -> None: ...
            def synchronize(self) -> None: ...

        self.cuda = SimpleNamespace(
            runtime=runtime, driver=driver, Device=Device, Stream=Stream, Event=Event, alloc=self._alloc,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemory), function=SimpleNamespace(Module=Module),
            get_current_stream=lambda: Stream(self.streams[-1]))  # fmt: skip
        self.ndarray = lambda shape, dtype, memptr: SimpleNamespace(shape=shape, dtype=dtype, memptr=memptr)

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: self.log.append("free_all_blocks"))

    def _set_device(self, number: int) -> None:
        self.current = number
        self.contexts.add(threading.get_ident())

    def call(self, name: str, real: Any) -> Any:
        def made(*args: Any, **more: Any) -> Any:
            self.log.append(name)
            if name in self.fail:
                raise self.fail[name]
            return real(*args, **more)

        return made

    def _alloc(self, size: int) -> Any:
        if self.used + size > self.memory:
            raise OutOfMemory(f"{size} bytes")
        return _Pointer(self, size)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        ctypes.memmove(to, source, size)


class _Pointer:
    """Counts as used until its last reference is gone."""

    def __init__(self, fake: FakeCupy, size: int) -> None:
        self.fake, self.size, self.stream = fake, size, fake.streams[-1]
        self._bytes = np.zeros(size + 256, np.uint8)
        self.ptr = self._bytes.ctypes.data + -self._bytes.ctypes.data % 256
        fake.used += size

    def __del__(self) -> None:
        self.fake.used -= self.size
