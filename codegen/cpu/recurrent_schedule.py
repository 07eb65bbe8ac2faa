"""Choices of recurrent cells: columns and rows of a unit, and what threads share out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import CodegenError, ScheduleError
from ...ir import DType
from ..kernel import RecurrentKernel
from .target import CpuTarget

_CACHE = 2 << 20  # bytes of R that a core keeps from step to step
_SHARE = 4  # a cache line of each for four steps of k
_BUSY = 8  # accumulators that keep the multipliers busy,
_BUSIER = 16  # and that make the end of a unit, and what it loads, count for less,
_FEW_UNITS = 4  # unless that leaves threads without any,
_WASTE = 16  # or more than one column of so many is computed twice


@dataclass(frozen=True, slots=True)
class RecurrentSchedule:
    """A unit is `vectors` × `lanes` hidden columns of `rows` batch rows; `single`: rows left over are units of their own, else
    the last unit repeats rows. `together`: a step of several threads is one of each direction, else they run one after the other.
    `by_rows`: threads share out the batch before the columns, which saves them handing on h, but makes each read all of R.
    `share`: log2 of the units of the same columns that together prefetch R of the next ones; 0: none does, nor with `enough`
    threads, whose parts of R stay in their caches."""

    lanes: int
    vectors: int
    rows: int
    single: bool
    together: bool
    by_rows: bool
    share: int
    enough: int


@dataclass(frozen=True, slots=True)
class RecurrentHints:
    """Choices that replace those of the rules; 0: none does.

    vectors, rows: of a unit. together: 1 runs both directions at once, −1 one after the other. by_rows: 1 shares out the batch
    first, −1 the columns.
    """

    vectors: int = 0
    rows: int = 0
    together: int = 0
    by_rows: int = 0


NO_HINTS = RecurrentHints()


def schedule_recurrent(kernel: RecurrentKernel, target: CpuTarget, hints: RecurrentHints = NO_HINTS) -> RecurrentSchedule:
    """Raises CodegenError for element types that cannot be emitted, ScheduleError for hints that the kernel cannot have."""
    dtype = kernel.operands[0].dtype
    if dtype not in (DType.F32, DType.F64) or kernel.operands[1].dtype is not dtype:
        raise CodegenError(f"recurrent {kernel.cell} on {dtype.value}", expected="f32 or f64")
    lanes = target.vector_bits // 8 // dtype.itemsize
    if kernel.block % lanes:
        raise CodegenError(f"blocks of {kernel.block} columns", expected=f"a multiple of {lanes} lanes")
    gates = max(len(g) for g in kernel.gate_groups)
    wide = target.vector_bits >= 512 or not target.is_x86
    registers, limit = (24, 6) if wide else (12, 4)
    limit = min(limit, registers // gates)
    if isinstance(kernel.batch, int):
        rows = _rows(max(1, kernel.batch), limit)
    else:
        rows = min(4, limit)
    vectors = 1
    groups = -(-kernel.batch // rows) if isinstance(kernel.batch, int) else 1
    while 2 * gates * rows * vectors <= registers and 2 * vectors * lanes <= kernel.width:
        strips = -(-kernel.width // (2 * vectors * lanes))
        whole = _WASTE * (strips * 2 * vectors * lanes - kernel.width) <= kernel.width and strips * groups >= _FEW_UNITS
        if gates * rows * vectors >= (_BUSIER if rows > 1 and whole else _BUSY):
            break
        vectors *= 2
    weights = kernel.gate_count * kernel.hidden * kernel.width * dtype.itemsize
    s = RecurrentSchedule(
        lanes, vectors, rows, single=rows > 1 and not isinstance(kernel.batch, int), together=len(kernel.directions) * weights <= _CACHE,
        by_rows=2 * weights <= _CACHE, share=0, enough=-(-weights // _CACHE),
    )  # fmt: skip
    s = s if hints == NO_HINTS else _departed(s, kernel, hints, registers // gates)
    units = -(-kernel.batch // s.rows) if isinstance(kernel.batch, int) else 1
    streams = s.enough > 1 and not s.by_rows and lanes == kernel.block
    return replace(s, share=min(_SHARE, units.bit_length() - 1) if streams else 0)


def _rows(batch: int, limit: int) -> int:
    """Rows of a unit: as many as there may be, unless fewer divide the batch with less left over."""
    return min(range(min(batch, limit), max(1, limit // 2) - 1, -1) or [batch], key=lambda rows: -batch % rows)


def _departed(s: RecurrentSchedule, kernel: RecurrentKernel, hints: RecurrentHints, most: int) -> RecurrentSchedule:
    """`most`: accumulators of a gate."""
    vectors, rows = hints.vectors or s.vectors, hints.rows or s.rows
    if vectors < 1 or rows < 1 or vectors * rows > most or vectors * s.lanes > kernel.width:
        raise ScheduleError(f"units of {rows} rows by {vectors} vectors", expected=f"{most} vectors at most, in {kernel.width} columns")
    if isinstance(kernel.batch, int) and rows > max(1, kernel.batch):
        raise ScheduleError(f"units of {rows} rows", expected=f"{kernel.batch} at most, those of the batch")
    return replace(
        s, vectors=vectors, rows=rows, single=rows > 1 and not isinstance(kernel.batch, int),
        together=hints.together > 0 if hints.together else s.together,
        by_rows=hints.by_rows > 0 if hints.by_rows else s.by_rows,
    )  # fmt: skip
