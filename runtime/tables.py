"""What a run that yields knows: sizes, and which memory its buffers have. Tables of words, which native code reads too."""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, NamedTuple

from .manifest import Manifest

if TYPE_CHECKING:
    from .binding import Binding


class Places(NamedTuple):
    """Where each table starts in one block of words; the last two hold `constants` and what is computed on the way."""

    values: int  # by number of a value of the dim table
    slots: int  # by dim slot
    sizes: int  # bytes, by buffer, as the following ones
    room: int  # bytes allocated by a handler, which may be written again; 0: none
    held: int  # bytes that a buffer holds that was handed on; −1: none was
    owned: int  # whether the memory is this run's to drop
    bufs: int  # addresses
    constants: int
    spare: int
    total: int

    @staticmethod
    def of(m: Manifest, constants: int) -> Places:
        buffers = len(m.buffers)
        sizes = [m.dims.n_values, len(m.dims.slots), *[buffers] * 5, constants, 2]
        return Places(*(sum(sizes[:i]) for i in range(len(sizes) + 1)))


class Tables:
    """One run's; each is indexed as `Places` says."""

    values: MutableSequence[int]
    slots: MutableSequence[int]
    sizes: MutableSequence[int]
    room: MutableSequence[int]
    held: MutableSequence[int]
    owned: MutableSequence[int]
    bufs: MutableSequence[int]


class Lists(Tables):
    """Where only Python reads them; `bufs` is the caller's."""

    def __init__(self, binding: Binding, bufs: MutableSequence[int]) -> None:
        n = len(binding.sizes)
        self.values, self.slots, self.sizes = [*binding.values], [*binding.slots], [*binding.sizes]
        self.room, self.held, self.owned = [0] * n, [-1] * n, [0] * n
        self.bufs = bufs


class Block(Tables):
    """In one piece of memory, `at`; every run begins with what it `begins` with."""

    def __init__(self, places: Places, constants: list[int], binding: Binding) -> None:
        n = len(binding.sizes)
        self._memory = (ctypes.c_int64 * places.total)()
        self.at = ctypes.addressof(self._memory)
        words = memoryview(self._memory).cast("B").cast("q")
        for name, (start, end) in zip(places._fields[:-1], itertools.pairwise(places), strict=True):
            setattr(self, name, words[start:end])
        words[places.constants : places.spare] = memoryview(array("q", constants))
        self._words, self._places = words[: places.constants], places
        unknown = [*[0] * n, *[-1] * n, *[0] * n, *[0] * n]
        self._begin = memoryview(array("q", [*binding.values, *binding.slots, *binding.sizes, *unknown]))

    def start(self) -> None:
        """As they are before the first yield."""
        self._words[:] = self._begin

    def begin_with(self, buffer: int, owned: int, room: int, at: int) -> None:
        """Runs begin with memory for a buffer."""
        p, begin = self._places, self._begin
        begin[p.owned + buffer], begin[p.room + buffer], begin[p.bufs + buffer] = owned, room, at
