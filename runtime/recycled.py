"""Memory of outputs: what the caller has dropped serves later runs, so that the system need not clear new pages for each.

A page that is touched for the first time costs as much as reading 15 KiB; an allocator gives what is large back as soon as it is free.
"""

from __future__ import annotations

import threading
from collections import deque
from sys import getrefcount

import numpy as np

from .address import address, aligned_array

LIMIT = 64 << 20  # bytes that may be kept by one module
_LEAST = 1 << 16  # smaller memories stay with the allocator anyway
_LOOKS = 4  # memories that are asked whether they are free, before a new one is made


def _references(blocks: deque[np.ndarray]) -> tuple[np.ndarray, int]:
    """The first memory, taken out, and how many references to it are counted."""
    block = blocks.popleft()
    return block, getrefcount(block)


# References to a memory that only the pool has: variables and arguments on the way, of which interpreters count some or all.
_OWN = _references(deque([np.empty(0, np.uint8)]))[1]


class Recycled:
    """Hands out arrays; may be used by several threads at once. A memory is free when no array refers to it any more."""

    def __init__(self) -> None:
        self._of: dict[int, deque[np.ndarray]] = {}  # by size, in the order of their last use
        self._kept = 0
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
        """As `address.aligned_array`."""
        if size < _LEAST or size > LIMIT:
            return aligned_array(shape, dtype, size)
        step = 1 << (size.bit_length() - 4)  # states that grow from run to run find memory, too
        room = (size + 64 + step - 1) // step * step
        with self._lock:
            blocks = self._of.setdefault(room, deque())
            block = self._free(blocks)
            if block is None:
                block = np.empty(room, np.uint8)
                self._make_room(room, blocks)
            blocks.append(block)
            return np.ndarray(shape, dtype, block, -address(block) % 64)

    @staticmethod
    def _free(blocks: deque[np.ndarray]) -> np.ndarray | None:
        """One that nobody refers to, taken out; those that are looked at in vain move to the end."""
        for _ in range(_LOOKS):
            if not blocks:
                return None
            block, references = _references(blocks)
            if references == _OWN:
                return block
            blocks.append(block)
        return None

    def _make_room(self, nbytes: int, blocks: deque[np.ndarray]) -> None:
        """Count a new memory; beyond the limit, those of other sizes go, then the oldest of this one."""
        self._kept += nbytes
        if self._kept <= LIMIT:
            return
        for room, others in list(self._of.items()):
            if others is not blocks:
                self._of.pop(room, None)
                self._kept -= room * len(others)
        while self._kept > LIMIT and blocks:
            blocks.popleft()
            self._kept -= nbytes
