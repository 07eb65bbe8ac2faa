"""What a run knows: sizes, and which memory its buffers have. Tables of words, which native code reads too."""

from __future__ import annotations

import itertools
from collections.abc import MutableSequence

import numpy as np

from .address import address
from .words import Places


class Tables:
    """One run's, each indexed as `Places` says, in one piece of memory `at`; every run begins with what it `begins` with."""

    values: MutableSequence[int]
    slots: MutableSequence[int]
    sizes: MutableSequence[int]
    room: MutableSequence[int]
    held: MutableSequence[int]
    owned: MutableSequence[int]
    bufs: MutableSequence[int]

    def __init__(self, places: Places, table: np.ndarray) -> None:
        """`table`: what is known of the binding."""
        self.words, self._begin = table.copy(), table.copy()
        self.at = address(self.words)
        held = self.words.data
        for name, (start, end) in zip(places._fields[:-2], itertools.pairwise(places), strict=False):
            setattr(self, name, held[start:end])
        self._places = places

    def start(self) -> None:
        """As they are before the first yield."""
        self.words[:] = self._begin

    def begin_at(self, addresses: np.ndarray) -> None:
        """Runs begin with buffers at these addresses."""
        self._begin[self._places.bufs : self._places.spare] = addresses

    def begin_with(self, buffer: int, owned: int, room: int, at: int) -> None:
        """Runs begin with memory for a buffer."""
        p, begin = self._places, self._begin
        begin[p.owned + buffer], begin[p.room + buffer], begin[p.bufs + buffer] = owned, room, at
