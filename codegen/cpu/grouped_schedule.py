"""Choices of products with weights of few bits: register tile, rows of a work unit, how levels become floats."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import Dim, ceildiv
from ..kernel import GroupedKernel
from .target import CpuTarget

_EXPAND = 16  # rows: then expanding them for every tile would take longer than storing them once
_EXPANDED_BYTES = 1 << 21  # of a strip of floats, on the stack and in the second-level cache
_ROWS = 48  # of a unit: its levels come from the first-level cache after the first tile


@dataclass(frozen=True, slots=True)
class GroupedSchedule:
    """`lanes` × `vectors` columns (a strip) by each of `heights` rows at a time; `rows` rows by a strip make a unit.

    table: levels of 4 bits become floats by one permutation of 16 lanes, the zero that all share taken off; else by mask and
    conversion.
    tail: elements of K behind the last whole word of levels.
    """

    lanes: int
    vectors: int
    heights: tuple[int, ...]
    table: bool
    tail: int
    rows: Dim
    blocks: Dim
    strips: int
    masked: bool
    expand: int = 0  # rows of a unit from which on its weights become floats first; 0: never


def schedule_grouped(kernel: GroupedKernel, target: CpuTarget) -> GroupedSchedule:
    """Raises CodegenError where a group does not consist of whole words of levels."""
    each = 32 // kernel.bits
    if kernel.group % each and kernel.group < kernel.k:
        raise CodegenError(f"groups of {kernel.group} rows of {kernel.bits}-bit weights", expected=f"a multiple of {each}")
    lanes = target.vector_bits // 32
    many = target.vector_bits >= 512 or "aarch64" in target.triple  # 32 vector registers
    vectors = 4 if many else 2
    if isinstance(kernel.m, int) and kernel.m == 1:
        vectors = 4
    while kernel.panel % (lanes * vectors):
        vectors //= 2
    tall = 6 if many else 4
    heights = (tall, 1) if not isinstance(kernel.m, int) else tuple(dict.fromkeys((max(1, min(tall, kernel.m)), 1)))
    if isinstance(kernel.m, int) and kernel.m % heights[0] == 0:
        heights = heights[:1]
    strip = lanes * vectors
    rows: Dim = min(_ROWS, kernel.m) if isinstance(kernel.m, int) else _ROWS
    rows = max(1, rows) if isinstance(rows, int) else rows
    table = kernel.bits == 4 and lanes == 16 and target.is_x86
    return GroupedSchedule(
        lanes, vectors, heights, table, kernel.k % each, rows, ceildiv(kernel.m, rows), -(-kernel.n // strip), kernel.n % strip != 0,
        _EXPAND if (not isinstance(kernel.m, int) or kernel.m >= _EXPAND) and 4 * kernel.k * strip <= _EXPANDED_BYTES else 0,
    )  # fmt: skip
