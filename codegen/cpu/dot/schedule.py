"""Choices of contractions by dot instructions: instruction, register tile, rows and columns of a work unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ....errors import CodegenError, ScheduleError
from ....ir import Dim, DType, ceildiv, floordiv
from ...kernel import ContractKernel
from ...packing import padded_k
from ..target import CpuTarget
from .instructions import dot_kind, instruction, vector_instruction
from .window import WindowShape, window_shape

_ROW_BYTES = 40 << 10  # of A in a unit: about the first-level cache, where every strip of B meets it
_STREAMED_BYTES = 256 << 10  # the same on vectors, where a strip of B stays in the first-level cache and rows pass
_FEW_ROWS = 48  # of A, that a unit on vectors has for the sake of more units
_COLUMN_BYTES = 1 << 20  # of B in a unit: half of a 2 MB second-level cache
_GATHERED_BYTES = 1 << 21  # the same where gathering the rows of A again would cost more than reading B again
_TILE_BYTES = 32 << 10  # rows of one tile that stay in the first-level cache while strips pass, or strips beside tiles of rows
_KEPT = 1 << 18  # elements of B that stay in a cache
_CONFLICT = 2048  # bytes between rows of A: 16 of them meet in so few sets of the cache that they push each other out
_COPIED = 128  # columns of B from which copying such rows is worth it
_STRIPS = 2  # of B, that a unit has for the sake of more units
_SCRATCH = 1 << 20  # bytes of copied rows of A at most: they lie on the stack
_SHORT_ROW = 32  # bytes of K that half fill a tile register: vectors take no longer, of integers
_PIXEL_CYCLES, _LINE_CYCLES = 150, 8  # what copying the taps of a pixel takes, and a line of 64 bytes of them (Zen 4)
_COPIES = 3  # of a pixel in bands, by their chunks of strips and the rows that they share, about
_UNIT_OPS = 8_000_000  # 4 to 20 µs of one core
_HEIGHTS = {"tiles": (32, 16), 16: (12, 4, 1), 8: (2, 1), 4: (1,)}  # rows of a register tile, by lanes of a vector


@dataclass(frozen=True, slots=True)
class DotSchedule:
    """`how`: row of the table in `instructions.py`. `rows` × `strips` (of `panel` columns) make a unit; `heights` are the row tiles.

    `gather`: rows of A are copied first ("conv": taps; "window": a band of the image, of `rows` output rows; "matmul": where
    K does not fill 64-byte rows, or rows lie so that they push each other out of the cache; "tail": only the last rows of a
    product, which do not fill a tile; "never"). On tile registers "matmul" and "tail" copy to whole tiles.
    """

    how: str
    lanes: int
    vectors: int
    heights: tuple[int, ...]
    gather: str
    segments: bool  # taps along the last axis are contiguous in memory
    rows: Dim
    blocks: Dim
    strips: Dim
    chunks: Dim
    masked: bool  # N does not fill its last strip
    window: WindowShape | None = None
    fetch: str = "b"  # what tile registers' loops ask memory for ahead of its use: the next strip, or rows "a" of the next tile
    share: int = 32  # of 32 lines of a strip, or rows of a tile, those that a turn fetches; on vectors: tiles that fetch a strip
    by_rows: bool = False  # the inner loop is over strips, else over tiles of rows
    line: bool = False  # a copied row of a convolution is no longer than 64 bytes


@dataclass(frozen=True, slots=True)
class DotHints:
    """Choices that replace those of the rules; 0: none does.

    rows, strips: of a unit (rows of the image for a window). vectors: 1 does without tile registers. inner: 1 makes the inner
    loop one over strips, −1 over tiles of rows. fetch: 1 asks for A ahead, −1 for B. gather: 1 copies rows of A first, −1 reads them
    where they are.
    """

    rows: int = 0
    strips: int = 0
    vectors: int = 0
    inner: int = 0
    fetch: int = 0
    gather: int = 0


NO_HINTS = DotHints()


def schedule_dot(kernel: ContractKernel, target: CpuTarget, hints: DotHints = NO_HINTS) -> DotSchedule:
    """Raises CodegenError for operand types without a dot product, and for panels that are not whole vectors; ScheduleError for
    hints that the kernel cannot have."""
    s = _by_rules(kernel, target, on_vectors=hints.vectors > 0)
    return s if hints == NO_HINTS else _departed(s, kernel, hints)


def _by_rules(kernel: ContractKernel, target: CpuTarget, on_vectors: bool) -> DotSchedule:
    kind = dot_kind(kernel.operands[0].dtype, kernel.operands[1].dtype)
    how = instruction(kind, target)
    short = kind.a is DType.U8 and isinstance(kernel.k, int) and kernel.k <= _SHORT_ROW
    if on_vectors or (how == "tiles" and short):
        how = vector_instruction(kind, target)
    lanes = target.vector_bits // 32
    if kernel.panel % lanes or (how == "tiles" and kernel.panel != 32):
        raise CodegenError(f"panel of {kernel.panel} columns", expected="32")
    heights = _HEIGHTS["tiles" if how == "tiles" else lanes]
    size = kind.a.itemsize
    deep = padded_k(kernel.k, kind.group)
    row_bytes = deep * size if isinstance(deep, int) else 1024
    plain = kernel.at_a_stride
    step = heights[0]
    row_limit = _ROW_BYTES if how == "tiles" else _STREAMED_BYTES
    rows = max(step, min(256, row_limit // max(1, row_bytes)) // step * step)
    total_strips = ceildiv(kernel.n, kernel.panel)
    masked = not (isinstance(kernel.n, int) and kernel.n % kernel.panel == 0)
    window = window_shape(kernel, size, 64 if how == "tiles" else 4)
    if window is not None and isinstance(total_strips, int) and (how == "tiles" or _is_worth_a_band(kernel, window, lanes, row_bytes)):
        return _windowed(kernel, window, how, lanes, row_bytes, total_strips, masked)
    limit = _COLUMN_BYTES if plain else _GATHERED_BYTES
    strips = max(1, limit // max(1, row_bytes * kernel.panel))
    if isinstance(total_strips, int):
        rows, strips = _units(kernel, how, (rows, strips), step, total_strips, row_bytes // size)
    gather = _gather(kernel, how, size) if plain else "conv"
    by_rows = (step * row_bytes if how == "tiles" else row_bytes * kernel.panel * strips) <= _TILE_BYTES
    share = _turns(how, by_rows, strips, rows // step)
    return DotSchedule(
        how=how,
        lanes=lanes,
        vectors=kernel.panel // lanes,
        heights=heights,
        gather=gather,
        segments=not plain and _segments(kernel),
        rows=rows,
        blocks=ceildiv(kernel.m, rows),
        strips=strips,
        chunks=ceildiv(total_strips, strips),
        masked=masked,
        share=share,
        by_rows=by_rows,
        fetch="a" if gather in ("never", "tail") and _tall(kernel) else "b",
        line=gather == "conv" and isinstance(kernel.k, int) and kernel.k * size <= 64,
    )


def _units(kernel: ContractKernel, how: str, most: tuple[int, int], step: int, total_strips: int, depth: int) -> tuple[int, int]:
    """(rows, strips) of a unit, as even as can be: at most those given, and fewer where a few threads would find too little to share.

    step: rows of the tallest tile; depth: of k, padded.
    """
    rows, strips = most
    strips = max(1, -(-total_strips // max(1, -(-total_strips // strips))))
    known = isinstance(kernel.m, int)
    m = kernel.m if isinstance(kernel.m, int) else rows  # sizes of every run: as if there were one block of rows
    if known:
        rows = min(rows, -(-max(1, m) // step) * step)
    wanted = min(16, 2 * m * depth * kernel.panel * total_strips // _UNIT_OPS)
    while kernel.at_a_stride and strips > _STRIPS and -(-m // rows) * -(-total_strips // strips) < wanted:
        strips = -(-strips // 2)
    while known and how != "tiles" and rows > _FEW_ROWS and -(-m // rows) * -(-total_strips // strips) < wanted // 2:
        rows = -(-rows // (2 * step)) * step
    return rows, strips


def _departed(s: DotSchedule, kernel: ContractKernel, hints: DotHints) -> DotSchedule:
    size = kernel.operands[0].dtype.itemsize
    step = s.heights[0]
    total = ceildiv(kernel.n, kernel.panel)
    rows, strips = hints.rows or s.rows, hints.strips or s.strips
    if not isinstance(rows, int) or not isinstance(strips, int) or not isinstance(kernel.k, int):
        raise ScheduleError(f"{hints} for a product of unknown depth", expected="no choice")
    if strips < 1 or (isinstance(total, int) and strips > max(1, total)):
        raise ScheduleError(f"units of {strips} strips", expected=f"1 to {total}")
    chunks = ceildiv(total, strips)
    if s.window is not None:
        if not 1 <= rows <= s.window.out[0] or s.window.bytes(rows) > _SCRATCH or hints.inner or hints.fetch or hints.gather:
            raise ScheduleError(f"{hints} for a window", expected=f"1 to {s.window.out[0]} rows, as far as their copy is small")
        images = floordiv(kernel.m, math.prod(s.window.out))
        share = _turns(s.how, s.by_rows, strips, -(-s.window.length(rows) // step))
        return replace(s, rows=rows, strips=strips, blocks=images * -(-s.window.out[0] // rows), chunks=chunks, share=share)
    if rows < step or rows % step or rows * (kernel.k * size + 64) > _SCRATCH:
        raise ScheduleError(f"units of {rows} rows", expected=f"a multiple of {step}, and {_SCRATCH} bytes at most")
    if hints.gather and (s.how != "tiles" or s.gather == "conv" or kernel.k * size % 64):
        raise ScheduleError(f"{hints}", expected="no choice of how rows are read, but for those of tile registers")
    gather = s.gather
    if hints.gather:
        in_place = "never" if isinstance(kernel.m, int) and kernel.m % 16 == 0 else "tail"
        gather = "matmul" if hints.gather > 0 else in_place
    by_rows = hints.inner > 0 if hints.inner else s.by_rows
    fetch = {1: "a", 0: s.fetch, -1: "b"}.get(hints.fetch, s.fetch)
    if fetch == "a" and gather not in ("never", "tail"):
        raise ScheduleError(f"{hints}", expected="rows of A that are read in place, to ask for them ahead")
    return replace(
        s, rows=rows, strips=strips, blocks=ceildiv(kernel.m, rows), chunks=chunks, gather=gather, by_rows=by_rows, fetch=fetch,
        share=_turns(s.how, by_rows, strips, rows // step),
    )  # fmt: skip


def _turns(how: str, by_rows: bool, strips: int, tiles: int) -> int:
    """`share`, for units of so many strips and tiles of rows."""
    if how == "tiles":
        return _share(strips if by_rows else tiles)
    return 1 if by_rows else 1 << min(3, max(1, tiles).bit_length() - 1)


def _tall(kernel: ContractKernel) -> bool:
    """Whether more bytes of A than of B come from memory, B being kept by the second-level cache."""
    m, n, k = kernel.m, kernel.n, kernel.k
    return isinstance(m, int) and isinstance(n, int) and isinstance(k, int) and m >= 4 * n and n * k <= _KEPT


def _gather(kernel: ContractKernel, how: str, size: int) -> str:
    """Of rows at a stride."""
    if not isinstance(kernel.k, int) or kernel.k * size % (64 if how == "tiles" else 4):
        return "matmul"
    if how != "tiles":
        return "never"
    if isinstance(kernel.lda, int) and kernel.lda * size % _CONFLICT == 0 and not (isinstance(kernel.n, int) and kernel.n < _COPIED):
        return "matmul"
    return "never" if isinstance(kernel.m, int) and kernel.m % 16 == 0 else "tail"


def _is_worth_a_band(kernel: ContractKernel, window: WindowShape, lanes: int, row_bytes: int) -> bool:
    """Whether, on vectors, copying the taps of every pixel takes longer than copying a band, and computing what lies between its rows."""
    if not isinstance(kernel.n, int) or row_bytes <= 64:
        return False
    taps = _PIXEL_CYCLES + _LINE_CYCLES * row_bytes / 64
    band = _COPIES * math.prod(window.strides) * _LINE_CYCLES * window.pixel / 64
    multiplied = row_bytes / 4 * -(-kernel.n // lanes)
    return band + (window.line / window.out[1] - 1) * multiplied < taps


def _windowed(
    kernel: ContractKernel, window: WindowShape, how: str, lanes: int, row_bytes: int, total_strips: int, masked: bool
) -> DotSchedule:
    pixels = math.prod(window.out)
    images = kernel.m // pixels if isinstance(kernel.m, int) else 1
    wanted = min(16, 2 * images * pixels * row_bytes * kernel.panel * total_strips // _UNIT_OPS)
    rows = window.band(images, wanted)
    bands = -(-window.out[0] // rows)
    strips = max(1, _COLUMN_BYTES // max(1, row_bytes * kernel.panel))
    enough = wanted if how == "tiles" else wanted // 2  # a few even bands do on vectors: every chunk of strips copies its own
    while strips > 1 and images * bands * -(-total_strips // strips) < enough:
        strips = -(-strips // 2)
    strips = -(-total_strips // -(-total_strips // strips))
    heights = _HEIGHTS["tiles" if how == "tiles" else lanes]
    by_rows = how != "tiles" and row_bytes * kernel.panel * strips <= _TILE_BYTES
    return DotSchedule(
        how=how,
        lanes=lanes,
        vectors=kernel.panel // lanes,
        heights=heights,
        gather="window",
        segments=False,
        rows=rows,
        blocks=floordiv(kernel.m, pixels) * bands,
        strips=strips,
        chunks=-(-total_strips // strips),
        masked=masked,
        window=window,
        share=_turns(how, by_rows, strips, -(-window.length(rows) // heights[0])),
        by_rows=by_rows,
    )


def _share(tiles: int) -> int:
    """Of 32 lines, for each of so many tiles of rows: a power of two."""
    return 32 >> min(4, tiles.bit_length() - 1)


def _segments(kernel: ContractKernel) -> bool:
    conv = kernel.conv
    assert conv is not None
    return kernel.batch == 1 and conv.dilations[-1] == 1 and kernel.k == math.prod(conv.kernel) * kernel.lda
