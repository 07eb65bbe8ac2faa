"""Weights of few bits as one stream of memory: each group of rows has its levels, scales and zeros side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import VerifyError
from ..ir import DType
from .packing import pack_levels, unpack_levels

_WORD = 4  # bytes


@dataclass(frozen=True, slots=True)
class GroupBlocks:
    """u32 [⌈N/panel⌉, groups, block]; a block holds levels [words, panel], as `pack_levels` lays them out, then scales [panel],
    then zeros [panel] if they are not one number for all (`zero` is None then). The last group is as long as the others.

    One stream from memory is read faster than two or three. scale: F32, or F16 where that is exact; zero: U8 or F32.
    """

    k: int
    n: int
    panel: int
    bits: int
    group: int
    scale: DType
    zero: DType | None

    @property
    def groups(self) -> int:
        return -(-self.k // self.group)

    @property
    def panels(self) -> int:
        return -(-self.n // self.panel)

    @property
    def words(self) -> int:
        """Of a column of a group."""
        return -(-min(self.group, self.k) * self.bits // 32)

    @property
    def scales_at(self) -> int:
        """Words of a block before its scales."""
        return self.words * self.panel

    @property
    def zeros_at(self) -> int:
        """Words of a block before its zeros."""
        return self.scales_at + self.panel * self.scale.itemsize // _WORD

    @property
    def block(self) -> int:
        """Words of a block."""
        return self.zeros_at + (self.panel * self.zero.itemsize // _WORD if self.zero is not None else 0)

    @property
    def size(self) -> int:
        """Words in all."""
        return self.panels * self.groups * self.block

    def pack(self, levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray, out: np.ndarray) -> None:
        """Levels u8 (or f16) [K, N], scales and zeros f32 [groups, N] into u32 [size]."""
        blocks = out.reshape(self.panels, self.groups, self.block)
        if (deep := self._deep) > self.k:
            levels, given = np.zeros((deep, self.n), levels.dtype), levels
            levels[self._places()] = given
        packed = pack_levels(levels, self.panel, self.bits)
        blocks[..., : self.scales_at] = packed.reshape(self.panels, self.groups, -1)
        blocks[..., self.scales_at : self.zeros_at] = self._columns(scales, self.scale)
        if self.zero is not None:
            blocks[..., self.zeros_at :] = self._columns(zeros, self.zero)

    def unpack(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Inverse of `pack`; zeros are None where they are one number."""
        if words.size < self.size:
            raise VerifyError(f"weights of few bits end at {words.size} words", expected=str(self.size))
        blocks = words[: self.size].reshape(self.panels, self.groups, self.block)
        packed = np.ascontiguousarray(blocks[..., : self.scales_at]).reshape(-1)
        levels = unpack_levels(packed, self._deep, self.n, self.panel, self.bits)[self._places()]
        scales = self._rows(blocks[..., self.scales_at : self.zeros_at], self.scale)
        return levels, scales, None if self.zero is None else self._rows(blocks[..., self.zeros_at :], self.zero)

    @property
    def _deep(self) -> int:
        """Rows with those that fill up groups."""
        return self.groups * self.words * (32 // self.bits)

    def _places(self) -> np.ndarray:
        """Where the rows of K are among those."""
        group, row = np.divmod(np.arange(self.k), self.group)
        return np.asarray(group * (self._deep // self.groups) + row)

    def _columns(self, rows: np.ndarray, dtype: DType) -> np.ndarray:
        full = np.zeros((self.groups, self.panels * self.panel), dtype.np)
        full[:, : self.n] = rows
        turned = full.reshape(self.groups, self.panels, self.panel).transpose(1, 0, 2)
        return np.ascontiguousarray(turned).view(np.uint32)

    def _rows(self, words: np.ndarray, dtype: DType) -> np.ndarray:
        columns = np.ascontiguousarray(words).view(dtype.np)
        return columns.transpose(1, 0, 2).reshape(self.groups, -1)[:, : self.n].astype(np.float32)


def scale_type(scales: np.ndarray) -> DType:
    """F16 where it holds every scale exactly, else F32."""
    with np.errstate(over="ignore"):
        return DType.F16 if np.array_equal(scales.astype(np.float16).astype(np.float32), scales) else DType.F32


def zero_type(zeros: np.ndarray) -> DType:
    """U8 where it holds every zero exactly, else F32."""
    whole = bool(((zeros >= 0) & (zeros <= 255) & (zeros == np.floor(zeros))).all())
    return DType.U8 if whole else DType.F32
