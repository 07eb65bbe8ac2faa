"""Python's search for unreachable cycles, made rare while graphs grow: it took a third of the time of passes, and finds next to nothing
there, as nodes refer to their operands only."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 100_000  # between two searches among new objects; Python's own is 700


class _Rarely:
    """The threshold is the process's: the first of several threads that compile sets it, the last one sets back what it found."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = (0, 0, 0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.before = gc.get_threshold()
                if 0 < self.before[0] < _NEW_OBJECTS:  # 0: none at all
                    gc.set_threshold(_NEW_OBJECTS, *self.before[1:])
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    gc.set_threshold(*self.before)


rare_collections = _Rarely()
