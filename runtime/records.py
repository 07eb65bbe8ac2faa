"""What a manifest tells of tensors, symbolic dims, buffers and steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .elements import HANDLES


class TensorInfo(NamedTuple):
    """An input or output: NumPy dtype, and a shape of sizes and names (or formulas) of symbolic dims.

    kind: "tensor", "str" (a tensor of strings, dtype object; of inputs also "text" and "key", see `handles.py`), "maps" (a list of
    dicts from `labels` to what a row of a tensor of this dtype and shape holds), or "object" (a list, a dict, an optional that
    may be None …).
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]
    kind: str = "tensor"
    labels: tuple[str | int, ...] = ()

    @property
    def stored(self) -> np.dtype:
        """The element type in memory: strings and objects are handles."""
        return np.dtype(np.int64) if self.kind in HANDLES else self.dtype


class Symbol(NamedTuple):
    """A symbolic dim and the sizes it may take, inclusive."""

    name: str
    lo: int
    hi: int


class BufferSpec(NamedTuple):
    """`size` and `shift` are dim slots, in bytes; `place` is an input or output position, an alias's buffer (never an
    alias itself), or a constant's offset in the weights. Arena and given buffers live from word `first` to `last`.
    Memory of given buffers comes from a handler. `kept` memory of the arena is zero before the first run there."""

    kind: str
    size: int
    place: int
    shift: int
    first: int
    last: int
    kept: bool = False


class StepInfo(NamedTuple):
    """For people: what the call at `word` of the program implements, and its cost (dim slots)."""

    word: int
    symbol: str
    loc: tuple[str, ...]
    flops: int
    bytes: int
