"""Choices of CPU attention: queries in lanes of a strip, register tiles of both products, keys per block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv, dim_max, dim_min, floordiv
from ...kernel import AttentionKernel
from ..target import CpuTarget

_BLOCK_BYTES = 3 << 13  # of scores: with a block of v and the queries of a strip in the first-level cache, nearly
_UNITS = 16  # enough for a few threads to share evenly
_STATE_BYTES = 1 << 19  # queries and sums of the strips of a group
_SAME_SETS = 1 << 12  # bytes between rows of k of which a tile and the next one share few sets of the first-level cache
_ROUNDED_KEYS = 256  # scores of a strip of 32 queries then fill most of the first-level cache (dots: 128 are no faster)
_ROUNDED_SIZE = 256  # elements of a row, for which code is unrolled
_FEW = 8  # queries: a tile register has 16, and keys are packed for them
_NARROW = 2  # queries: a vector of 16 lanes costs about as much as 3 of them alone,
_NARROW_HALVES = 4  # and as much as 5 where one vector is multiplied in a cycle
_FULLER = 0.8  # lanes in strips of half vectors by those of whole ones, from which on multiply-adds of fewer lanes gain more than they cost
_TALL = {4: 6, 3: 8, 2: 12, 1: 14}  # rows of a register tile by its vectors, in 32 registers
_TALL_16 = {2: 6, 1: 8}  # the same in 16 registers
_TALL_128 = {2: 4, 1: 8}


class Products(Enum):
    """What multiplies: float32 on vectors; bfloat16 on tile registers; dot products of bfloat16 on vectors."""

    FLOATS = auto()
    TILES = auto()
    DOTS = auto()


@dataclass(frozen=True, slots=True)
class ValueTile:
    """`count` products of `rows` queries by `vectors` vectors of v; `masked`: the last vector is partly outside."""

    rows: int
    vectors: int
    masked: bool


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """Strips of `lanes` × width queries. T = ⌈rows/lanes⌉ vectors are dealt to as few strips as can be, evenly, so that
    widths differ by at most 1; `widths` are those that occur, ascending.

    tall[width]: keys per register tile of k·qᵀ. block: keys of a block, whose scores
    are kept in cache, at most `most_keys`. values: chunks of v's columns.
    together: strips of a group, which share what is read of k and v. copied_keys: blocks of k are copied together for it.
    products: of bfloat16, strips have two vectors.
    narrow: so many queries are taken one by one instead, lanes along their elements (0: there are always more).
    """

    lanes: int
    most: int
    widths: tuple[int, ...]
    tall: tuple[int, ...]
    most_keys: int
    block: int
    values: tuple[ValueTile, ...]
    strips: Dim
    together: Dim
    groups: Dim
    copied_keys: bool
    narrow: int
    products: Products = Products.FLOATS


@dataclass(frozen=True, slots=True)
class AttentionHints:
    """Choices that replace those of the rules; 0: none does.

    together: strips of a group. keys: most keys of a block. copied: 1 copies blocks of k together, −1 reads them where they are.
    """

    together: int = 0
    keys: int = 0
    copied: int = 0


NO_HINTS = AttentionHints()


def schedule_attention(kernel: AttentionKernel, target: CpuTarget, hints: AttentionHints = NO_HINTS) -> AttentionSchedule:
    """Raises CodegenError for element types other than float32, ScheduleError for hints that the kernel cannot have."""
    s = _by_rules(kernel, target)
    if hints == NO_HINTS:
        return s
    if s.products is not Products.FLOATS or not s.widths or not isinstance(s.strips, int):
        raise ScheduleError(f"{hints} for attention in bfloat16, of few queries, or of unknown sizes", expected="no choice")
    if hints.together:
        if not 1 <= hints.together <= min(s.strips, 4 * _most_together(kernel, s.most * s.lanes)):
            raise ScheduleError(f"groups of {hints.together} strips", expected=f"1 to {s.strips}, as far as their state is small")
        s = replace(s, together=hints.together, groups=ceildiv(s.strips, hints.together))
    if hints.keys:
        if not 8 <= hints.keys <= 4 * s.most_keys:
            raise ScheduleError(f"blocks of {hints.keys} keys", expected=f"8 to {4 * s.most_keys}")
        s = replace(s, most_keys=hints.keys, block=block_of(kernel.keys, hints.keys, s.tall[-1]))
    return replace(s, copied_keys=hints.copied > 0) if hints.copied else s


def _by_rules(kernel: AttentionKernel, target: CpuTarget) -> AttentionSchedule:
    if any(o.dtype is not DType.F32 for o in kernel.operands):
        raise CodegenError("attention of " + ", ".join(o.dtype.value for o in kernel.operands), expected="f32")
    lanes = target.lanes(4)
    tall = _TALL if target.vector_bits >= 512 or not target.is_x86 else _TALL_16 if target.vector_bits >= 256 else _TALL_128
    few = _NARROW_HALVES if target.halves else _NARROW
    products = _products(kernel, target)
    if products is Products.FLOATS and target.halves and isinstance(kernel.rows, int) and kernel.rows > few:
        in_halves, in_whole = (-(-kernel.rows // x) * x for x in (lanes // 2, lanes))
        lanes = lanes // 2 if in_halves <= _FULLER * in_whole else lanes
    narrow = few if not isinstance(kernel.rows, int) or kernel.rows <= few else 0
    one_by_one = bool(narrow) and isinstance(kernel.rows, int)
    widths = _widths(kernel.rows, lanes, max(tall))
    values = _value_tiles(kernel, lanes, widths, tall)
    if products is not Products.FLOATS and not one_by_one:
        return _rounded(kernel, products, lanes, tall, values, narrow)
    return _on_vectors(kernel, lanes, tall, widths, values, narrow, one_by_one)


def _widths(rows: Dim, lanes: int, most: int) -> tuple[int, ...]:
    """Vectors of queries of a strip, as they occur."""
    if not isinstance(rows, int):
        return tuple(range(1, most + 1))
    vectors = max(1, -(-rows // lanes))
    least = -(-vectors // most)
    return tuple(sorted({vectors // least, -(-vectors // least)}))


def _value_tiles(kernel: AttentionKernel, lanes: int, widths: tuple[int, ...], tall: dict[int, int]) -> tuple[ValueTile, ...]:
    """Chunks of v's columns, as even as can be."""
    columns = -(-kernel.value_size // lanes)
    chunks = -(-columns // max(tall))
    tail = kernel.value_size % lanes != 0
    sizes = [columns // chunks + (c < columns % chunks) for c in range(chunks)]
    return tuple(ValueTile(_rows(kernel.rows, lanes, widths, tall[n]), n, tail and c == chunks - 1) for c, n in enumerate(sizes))


def _rounded(
    kernel: AttentionKernel, products: Products, lanes: int, tall: dict[int, int], values: tuple[ValueTile, ...], narrow: int
) -> AttentionSchedule:
    strips = ceildiv(kernel.rows, 2 * lanes)
    together, groups = _groups(kernel, strips, 2 * lanes)
    block = -(-block_of(kernel.keys, _ROUNDED_KEYS) // 32) * 32
    return AttentionSchedule(
        lanes=lanes,
        most=2,
        widths=(2,),
        tall=(tall[2],),
        most_keys=min(_ROUNDED_KEYS, block) if isinstance(kernel.keys, int) else _ROUNDED_KEYS,
        block=block,
        values=values,
        strips=strips,
        together=together,
        groups=groups,
        copied_keys=False,
        narrow=narrow,
        products=products,
    )


def _on_vectors(
    kernel: AttentionKernel, lanes: int, tall: dict[int, int], widths: tuple[int, ...], values: tuple[ValueTile, ...], narrow: int,
    one_by_one: bool,
) -> AttentionSchedule:  # fmt: skip
    """`one_by_one`: all queries are, so that there are no strips at all."""
    most = max(tall)
    most_keys = _BLOCK_BYTES // (4 * lanes * widths[-1])
    strips = ceildiv(kernel.rows, lanes * most)
    together, groups = _groups(kernel, strips, most * lanes)
    row = kernel.k_strides[2]
    of_strips = () if one_by_one else widths
    return AttentionSchedule(
        lanes=lanes,
        most=most,
        widths=of_strips,
        tall=tuple(tall[w] for w in of_strips),
        most_keys=most_keys,
        block=block_of(kernel.keys, most_keys, tall[widths[-1]]),
        values=values,
        strips=strips,
        together=together,
        groups=groups,
        copied_keys=together != 1 and isinstance(row, int) and row > kernel.size and 4 * row % _SAME_SETS == 0,
        narrow=narrow,
    )


def block_of(keys: Dim, most: int, tall: int = 1) -> int:
    """Keys of a block: blocks of at most `most`, evenly, but in whole register tiles of `tall` keys where there are several blocks."""
    if not isinstance(keys, int):
        return most
    blocks = max(1, -(-keys // most))
    even = max(1, -(-keys // blocks))
    whole = -(-even // tall) * tall
    return whole if blocks > 1 and whole <= most else even


def _products(kernel: AttentionKernel, target: CpuTarget) -> Products:
    """Of bfloat16 where that is allowed and faster than float32, and queries fill some of a square."""
    few = isinstance(kernel.rows, int) and kernel.rows < _FEW
    small = max(kernel.size, kernel.value_size) <= _ROUNDED_SIZE
    by_rows = kernel.mask_strides is not None and kernel.mask_strides[3] not in (0, 1)
    native = "avx512bf16" in target.features and target.vector_bits == 512
    if not (kernel.rounded and kernel.parts is None and native and small) or few or by_rows:
        return Products.FLOATS
    if {"amx-tile", "amx-bf16"} <= target.features:
        return Products.TILES
    return Products.DOTS if target.multiply_adds < target.paired_multiply_adds else Products.FLOATS


def _most_together(kernel: AttentionKernel, columns: int) -> int:
    return max(1, _STATE_BYTES // (4 * columns * (kernel.size + kernel.value_size)))


def _groups(kernel: AttentionKernel, strips: Dim, columns: int) -> tuple[Dim, Dim]:
    """(strips of a group, groups of a head): as few as leave units for threads, and whose state stays in the second-level cache."""
    together = dim_min(_most_together(kernel, columns), dim_max(1, floordiv(kernel.batch * kernel.heads * strips, _UNITS)))
    groups = ceildiv(strips, together)
    return ceildiv(strips, dim_max(1, groups)), groups


def _rows(rows: Dim, lanes: int, widths: tuple[int, ...], tall: int) -> int:
    """The height that wastes least of the strips; of equal ones the tallest."""
    strips = [min(rows, lanes * w) if isinstance(rows, int) and len(widths) == 1 and rows <= lanes * w else lanes * w for w in widths]
    return min(range(max(1, tall // 2), tall + 1), key=lambda h: (sum(-(-n // h) * h for n in strips) / sum(strips), -h))
