"""A cupy whose streams do as late as they may what is put into them: when somebody waits, and then no more than that wait asks for.

What a module forgets to order is then done in the wrong order: work of one stream before that of another which it needs, or into memory
that was freed meanwhile, which goes to whoever asks next for so much in the stream that it was allocated in, as in cupy's pool.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_driver import EmulatingCupy

_HOST_TO_DEVICE = 1
_FIRST_OWN = 1000  # number of streams that modules make
_ROUND = 512  # bytes that sizes of memory are multiples of


class LazyCupy(EmulatingCupy):
    def __init__(self, sources: Mapping[str, str]) -> None:
        super().__init__(sources)
        self.queues: dict[int, deque[Callable[[], None]]] = defaultdict(deque)  # by stream
        self.freed: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)  # by stream and size
        numbers, fake, base = itertools.count(_FIRST_OWN), self, self.cuda.Stream

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
                self.stream, self.over = 0, True

            def record(self, stream: Any = None) -> None:
                self.stream, self.over = fake.streams[-1] if stream is None else stream.ptr, False
                fake.queues[self.stream].append(self._happen)

            def _happen(self) -> None:
                self.over = True

            def synchronize(self) -> None:
                while not self.over:
                    fake.step(self.stream)

        class Stream(base):
            def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None) -> None:
                super().__init__(null, non_blocking, ptds, priority)
                self.ptr = next(numbers)

            def synchronize(self) -> None:
                fake.log.append("synchronize")
                while fake.queues[self.ptr]:
                    fake.step(self.ptr)

            def wait_event(self, event: Event) -> None:
                fake.queues[self.ptr].append(event.synchronize)

            def record(self, event: Event | None = None) -> Event:
                event = event or Event()
                event.record(self)
                return event

            def end_capture(self) -> Any:
                fake.capturing.remove(self.ptr)
                recorded, fake.recording = fake.recording, None
                run = fake.call("graph", lambda: [fake.now.run(*call) for call in recorded])
                return SimpleNamespace(launch=lambda stream=None: fake.queues[stream.ptr].append(run))

        self.cuda.Stream, self.cuda.Event = Stream, Event
        self.now, self.library = self.library, SimpleNamespace(run=self._run_later)

    def step(self, stream: int) -> None:
        """The next of what a stream has to do."""
        self.queues[stream].popleft()()

    def _launch(self, *args: int) -> None:
        self.launching = args[8]
        super()._launch(*args)

    def _run_later(self, *call: Any) -> None:
        self.queues[self.launching].append(lambda: self.now.run(*call))  # without tensor maps, which nobody would keep

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        data = ctypes.string_at(source, size) if kind == _HOST_TO_DEVICE else None  # pageable memory is read when the call is made
        self.queues[stream].append(lambda: ctypes.memmove(to, source if data is None else data, size))

    def _alloc(self, size: int) -> Any:
        return _Pooled(self, -(-size // _ROUND) * _ROUND, self.streams[-1])

    def filled(self, data: np.ndarray, stream: int) -> Any:
        """An array of a user, which work in a stream fills."""
        self.streams.append(stream)
        memory = self._alloc(data.nbytes)
        self.streams.pop()
        kept = data.copy()
        self.queues[stream].append(lambda: ctypes.memmove(memory.ptr, kept.ctypes.data, kept.nbytes))
        interface = {"shape": data.shape, "typestr": data.dtype.str, "data": (memory.ptr, False), "version": 3, "stream": stream}
        return type("Filled", (), {"__cuda_array_interface__": interface, "memory": memory, "dtype": data.dtype})()

    def read(self, array: Any, stream: int) -> Callable[[], np.ndarray]:
        """Work in a stream that reads an output; what it read is there when it is called, after everything is over."""
        found = np.empty(array.shape, array.dtype)
        at = array.memptr.ptr
        self.queues[stream].append(lambda: ctypes.memmove(found.ctypes.data, at, found.nbytes))
        return lambda: found

    def finish(self) -> None:
        """All streams come to their end, by turns: those of users, then those of modules."""
        for users in (True, False):
            while busy := [s for s, queue in self.queues.items() if queue and (s < _FIRST_OWN) == users]:
                for stream in sorted(busy):
                    if self.queues[stream]:  # none waited for it meanwhile
                        self.step(stream)


class _Pooled:
    """Memory that goes back to what its stream may have again."""

    def __init__(self, fake: LazyCupy, size: int, stream: int) -> None:
        self.fake, self.key = fake, (stream, size)
        free = fake.freed[self.key]
        self._bytes = free.pop() if free else np.full(size + 256, 0xFF, np.uint8)
        self.ptr = self._bytes.ctypes.data + -self._bytes.ctypes.data % 256

    def __del__(self) -> None:
        self.fake.freed[self.key].append(self._bytes)
