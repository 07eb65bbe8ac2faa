"""Choices of products with weights of few bits: register tile, rows of a work unit, how levels become floats."""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv, dim_min, floordiv, lower
from ...kernel import GroupedKernel
from ..dot.instructions import dot_kind, vector_instruction
from ..target import CpuTarget

_EXPAND = 20  # rows: then expanding them for every tile would take longer than storing them once
_EXPANDED_BYTES = 1 << 21  # of a strip of floats, on the stack and in the second-level cache
_ROWS = 48  # of a unit: its levels come from the first-level cache after the first tile
_EXPAND_TILES = 12  # the same where they are multiplied on AMX tiles
_WIDE_ROWS = 240  # of a unit that expands its weights: they are worth so many
_SPLIT_ROWS = 256  # the same on AMX tiles, where rows of A are kept beside the weights,
_DEPTH = 1024  # at most so many elements of K of both, so that the second-level cache has room for them and for the sums
_MOST_ROWS = 512  # of a unit that is asked for
_TILES_OF_FEW = 4  # of up to so many, all have about one height
_FEW, _FEW_OF_LONG = 12, 20  # rows that are multiplied as integers, where there are dot products of bytes; of long groups more,
_LONG = 128  # as the sums of a group are scaled once
_TALL_INTEGERS = 8  # three sums each
_BLOCKS = ((128, 1 << 20), (64, 1 << 20), (32, 3 << 19), (16, 3 << 19))  # rows, and bytes of them at most
_STEP = 32  # elements of K that a tile instruction takes; whole words of levels
_CHUNK = 8  # strips of a unit on AMX tiles, at most
_UNITS = 8  # that a few threads share evenly
_MANY_STRIPS = 12
_TILES = frozenset({"amx-tile", "amx-bf16"})


@dataclass(frozen=True, slots=True)
class Reading:
    """How weights come from memory: `streams` in turns; tiles of at least `busy` sums a column ask for what is `ahead` 32-bit words behind,
    others leave that to hardware."""

    streams: int
    ahead: int
    busy: int = 0


_IN_TURNS = Reading(4, 512)  # a stream is short
_BY_HARDWARE = Reading(1, 512, 8)


@dataclass(frozen=True, slots=True)
class GroupedSchedule:
    """`lanes` × `vectors` columns (a strip) by each of `heights` rows at a time; `rows` rows by a strip make a unit.

    table: levels of 4 bits become floats by one permutation of 16 lanes, the zero that all share taken off; else by mask and
    conversion, or from a table in memory where levels stand for uneven values.
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
    wide: tuple[int, ...] = ()  # heights for expanded weights
    tiles: bool = False  # expanded weights are multiplied on AMX tiles
    chunk: Dim = 1  # strips of a unit
    chunks: Dim = 0
    depth: int = 0  # elements of K that a unit multiplies at a time where its weights become floats: whole steps of AMX tiles
    few: int = 0  # up to so many rows are multiplied as integers (`row.py`), or all of them by blocks of so many,
    every: bool = False  # if this is true,
    integers: tuple[int, ...] = ()  # by register tiles of so many,
    digits: int = 3  # in so many bytes
    reading: Reading = _IN_TURNS  # of few rows


@dataclass(frozen=True, slots=True)
class GroupedHints:
    """Choices that replace those of the rules; 0: none does.

    rows: of a unit. vectors: columns of a register tile. expand: −1 never stores weights as floats. tiles: −1 does without AMX
    tiles. chunk: strips of a unit on AMX tiles.
    """

    rows: int = 0
    vectors: int = 0
    expand: int = 0
    tiles: int = 0
    chunk: int = 0


NO_HINTS = GroupedHints()


def schedule_grouped(kernel: GroupedKernel, target: CpuTarget, hints: GroupedHints = NO_HINTS) -> GroupedSchedule:
    """Raises CodegenError where a group does not consist of whole words of levels, ScheduleError for hints that the kernel cannot
    have."""
    each = 32 // kernel.bits
    if kernel.group % each and kernel.group < kernel.k:
        raise CodegenError(f"groups of {kernel.group} rows of {kernel.bits}-bit weights", expected=f"a multiple of {each}")
    lanes = target.vector_bits // 32
    many = target.vector_bits >= 512 or "aarch64" in target.triple  # 32 vector registers
    vectors = _vectors(kernel, lanes, many, hints)
    strip = lanes * vectors
    tall = 6 if many else 4
    few = _as_integers(kernel, target)
    every = few > 0 and not target.features >= _TILES and not (hints.rows or hints.expand)
    few = _block(kernel) if every else few if lower(kernel.m) <= few else 0
    expand, tiles = (0, False) if every else _expansion(kernel, target, strip, few, hints)
    depth = -(-kernel.k // max(1, -(-kernel.k // _DEPTH) if tiles else 1))  # blocks of about one size
    depth = -(-depth // _STEP) * _STEP
    rows = kernel.m if every else _rows(kernel.m, expand, tiles, hints)
    strips = -(-kernel.n // strip)
    chunk, chunks = _chunks(kernel.m, strips, depth < kernel.k, expand) if tiles else (1, strips)
    if hints.chunk:
        most = min(strips, _EXPANDED_BYTES // (4 * strip * _MOST_ROWS))
        if not tiles or not 1 <= hints.chunk <= most:
            raise ScheduleError(f"units of {hints.chunk} strips", expected=f"1 to {most}, on AMX tiles")
        chunk, chunks = hints.chunk, -(-strips // hints.chunk)
    return GroupedSchedule(
        lanes=lanes,
        vectors=vectors,
        heights=_heights(kernel.m, tall),
        table=kernel.bits == 4 and lanes == 16 and target.is_x86,
        tail=kernel.k % each,
        rows=rows,
        blocks=1 if every else ceildiv(kernel.m, rows),
        strips=strips,
        masked=kernel.n % strip != 0,
        expand=expand,
        wide=(tall, tall - 1) if expand else (),
        tiles=tiles,
        chunk=chunk,
        chunks=chunks,
        depth=depth,
        few=few,
        every=every,
        integers=_heights_of_integers(kernel.m, few) if few else (),
        digits=_digits(kernel),
        reading=_BY_HARDWARE if target.streams else _IN_TURNS,
    )


def _vectors(kernel: GroupedKernel, lanes: int, many: bool, hints: GroupedHints) -> int:
    """Of a register tile; a single row has room for more."""
    vectors = 4 if many or kernel.m == 1 else 2
    while kernel.panel % (lanes * vectors):
        vectors //= 2
    if not hints.vectors:
        return vectors
    if kernel.panel % (lanes * hints.vectors) or hints.vectors > vectors:
        raise ScheduleError(f"strips of {hints.vectors} vectors", expected=f"a divisor of {vectors}")
    return hints.vectors


def _expansion(kernel: GroupedKernel, target: CpuTarget, strip: int, few: int, hints: GroupedHints) -> tuple[int, bool]:
    """(rows of a unit from which on its weights become floats first, or 0; whether these are multiplied on AMX tiles)."""
    tiles = target.vector_bits == 512 and target.masked and target.features >= _TILES and hints.tiles >= 0 and not hints.vectors
    expand = max(few + 1, _EXPAND_TILES if tiles else _EXPAND)
    deep = not tiles and 4 * kernel.k * strip > _EXPANDED_BYTES
    if hints.expand < 0 or (isinstance(kernel.m, int) and kernel.m < expand) or deep:
        return 0, False
    return expand, tiles


def _rows(m: Dim, expand: int, tiles: bool, hints: GroupedHints) -> int:
    """Of a unit."""
    if hints.rows:
        if not isinstance(m, int) or not 1 <= hints.rows <= _MOST_ROWS or (tiles and hints.rows % 32):
            raise ScheduleError(f"units of {hints.rows} rows", expected=f"1 to {_MOST_ROWS}, whole AMX tiles, of a known number")
        return hints.rows
    most = _SPLIT_ROWS if tiles else _WIDE_ROWS if expand else _ROWS
    if not isinstance(m, int):
        return most
    rows = max(1, -(-m // max(1, -(-m // most))))  # blocks of about one size
    return min(most, -(-rows // 32) * 32) if tiles else rows


def _heights(m: Dim, tall: int) -> tuple[int, ...]:
    """Rows of register tiles, tallest first: every tile reads all levels of its columns, so that few shall do. Rows of a known
    number are dealt out evenly."""
    if not isinstance(m, int):
        return (tall, 3, 2, 1)
    if m <= 0:
        return (1,)
    tiles = -(-m // tall)
    if tiles > _TILES_OF_FEW:
        return (tall,) if m % tall == 0 else (tall, 1)
    height = -(-m // tiles)
    return tuple(dict.fromkeys((height, m - height * (tiles - 1))))


def _as_integers(kernel: GroupedKernel, target: CpuTarget) -> int:
    """Up to how many rows are multiplied as integers on AMX tiles' machines: 0 where levels are no even steps, or their sums by bytes do
    not fit 32 bits, zeros taken off."""
    span = min(kernel.group, kernel.k)
    few = _FEW if span < _LONG else _FEW_OF_LONG
    if kernel.values or kernel.bits > 8 or vector_instruction(dot_kind(DType.U8, DType.I8), target) != "dot":
        return 0
    return few if span * ((1 << kernel.bits) - 1) * 256 < 1 << 31 else 0


def _block(kernel: GroupedKernel) -> int:
    """Rows whose digits are kept at a time: they share what is read of the weights, and lie on the stack."""
    groups = -(-kernel.k // kernel.group)
    row = _digits(kernel) * kernel.k + 32 * groups
    return next((rows for rows, most in _BLOCKS if rows * row <= most), _TALL_INTEGERS)


def _digits(kernel: GroupedKernel) -> int:
    """Bytes of an element of A."""
    return min(3, -(-kernel.row_bits // 8))


def _heights_of_integers(m: Dim, block: int) -> tuple[int, ...]:
    if not isinstance(m, int) or m <= min(block, _TALL_INTEGERS * _TILES_OF_FEW):
        return _heights(m, _TALL_INTEGERS)
    return (_TALL_INTEGERS, m % _TALL_INTEGERS) if m % _TALL_INTEGERS else (_TALL_INTEGERS,)


def _chunks(m: Dim, strips: int, deep: bool, expand: int) -> tuple[Dim, Dim]:
    """(strips of a unit, units along n): one strip each below `expand` rows, so that all threads find work. Splitting rows takes as long
    as multiplying them by a strip, and is done once for units behind one another, unless `deep`: for every unit then."""
    if deep:
        most = -(-strips // (4 if strips >= _MANY_STRIPS else 2))
    else:
        most = strips // _UNITS
    most = max(1, min(_CHUNK, most))
    many = dim_min(1, floordiv(m, expand))
    return 1 + (most - 1) * many, strips + (-(-strips // most) - strips) * many
