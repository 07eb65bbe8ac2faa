"""Weights on their way from a file: checked, and what runs stream copied, by other threads until somebody has to wait for them."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable

import numpy as np

from ..errors import ArtifactError
from .address import address, aligned
from .native import native
from .threads import current_core, leave_core

CHUNK = 4 << 20  # bytes that have one checksum


def checksum(data: bytes) -> int:
    """The checksum of native.ll, without a sign."""
    held = np.frombuffer(data, np.uint8)
    return int(native().checksum(address(held), held.nbytes)) % 2**64


def checksums(weights: np.ndarray) -> list[int]:
    """Of every chunk, with a sign."""
    sums = _Sums(weights)
    threads = _start(sums.work, weights.nbytes)
    sums.work()
    for t in threads:
        t.join()
    return sums.found.tolist()


class Arrival:
    """What is left to do until weights may be computed with.

    Args:
        weights: a flat array, 64-byte aligned.
        expected: a checksum for each chunk; None: nothing is checked.
        loc: the file.
        copied: how many of the first bytes get a `copy` in memory of large pages, which NumPy asks for from 4 MB on. A file's own pages
            are small, and finding 100 MB of them takes a fifth of the time of a run that does little but read them.
        source: where they come from: the file's descriptor (it may be closed then), and where weights start. They are read, not copied
            from the mapping, which would have to find those pages.
    """

    def __init__(
        self, weights: np.ndarray, expected: object, loc: str = "", copied: int = 0, source: tuple[int, int] | None = None
    ) -> None:
        self.copy: np.ndarray | None = None
        self._file: io.FileIO | None = None
        if source is not None and copied:
            self.copy, self._file, self._start = aligned(copied), io.FileIO(os.dup(source[0])), source[1]
        self._weights, self._expected, self._loc = weights, expected, loc
        self._copied = [False] * -(-copied // CHUNK)
        self._next = iter(range(len(self._copied)))  # a step is one under the GIL: each thread gets another
        whole = copied // CHUNK  # chunks that are checked where they were copied to
        self._of_copy = np.zeros(whole, np.int64)
        self._of_rest = _Sums(weights[whole * CHUNK :])
        self._done = False
        self._threads = _start(self._work, weights.nbytes if expected is not None else copied)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def wait(self) -> None:
        """Returns when all is done; may be called by several threads. Raises ArtifactError if the weights are not as expected."""
        if self._done:
            return
        self._work()
        for t in self._threads:
            t.join()
        # A process that was forked meanwhile has these threads no more: what they were at is done again.
        for i, there in enumerate(self._copied):
            if not there:
                self._take(i)
        if not all(self._copied):
            raise ArtifactError("a file that became shorter while it was read", loc=self._loc, remedy="Copy or compile it again.")
        if self._expected is not None and not self._as_expected():
            raise ArtifactError("the weights do not match their digests", loc=self._loc, remedy="Compile the model again.")
        self._done = True
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        for i in self._next:
            self._take(i)
        if self._expected is not None:
            self._of_rest.work()

    def _take(self, i: int) -> None:
        """Copy a chunk, and check it where it is then."""
        assert self.copy is not None and self._file is not None
        begin = at = i * CHUNK
        end = min(begin + CHUNK, self.copy.nbytes)
        while at < end:
            count = os.preadv(self._file.fileno(), [self.copy[at:end].data], self._start + at)
            if count == 0:
                return  # the file became shorter meanwhile
            at += count
        if self._expected is not None and i < len(self._of_copy):
            self._of_copy[i] = native().checksum(address(self.copy[begin:end]), CHUNK)
        self._copied[i] = True

    def _as_expected(self) -> bool:
        expected, whole = self._expected, len(self._of_copy)
        if not isinstance(expected, list) or len(expected) != whole + len(self._of_rest.found):
            return False
        if expected[:whole] != self._of_copy.tolist():
            return False
        found = self._of_rest.found.tolist()
        return all(a == b or a == self._of_rest.again(i) for i, (a, b) in enumerate(zip(expected[whole:], found, strict=True)))


class _Sums:
    """Checksums of the chunks of `data`, `found` by as many threads as `work`."""

    def __init__(self, data: np.ndarray) -> None:
        self._data, self._taken = data, np.zeros(1, np.int64)
        self.found = np.zeros(-(-data.nbytes // CHUNK), np.int64)

    def work(self) -> None:
        native().checksums(address(self._data), self._data.nbytes, CHUNK, address(self._taken), address(self.found))

    def again(self, i: int) -> int:
        """That of one chunk, computed now."""
        part = self._data[i * CHUNK : (i + 1) * CHUNK]
        return int(native().checksum(address(part), part.nbytes))


def _start(work: Callable[[], None], size: int) -> list[threading.Thread]:
    """Threads that do a part of the work on so many bytes; somebody else does one as well.

    They keep off the core of the thread that starts them: Linux may put them there though others are idle, and then loading waits for
    a time slice of some 4 ms.
    """
    cores, core = os.sched_getaffinity(0), current_core()

    def work_elsewhere() -> None:
        leave_core(core)
        work()

    threads = [threading.Thread(target=work_elsewhere) for _ in range(1, min(size // (2 * CHUNK), len(cores), 8))]
    for t in threads:
        t.start()
    return threads
