"""IrregularKernel to CUDA: launches of the functions of headers/irregular.cuh, and the memory between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...ir import Dim, DType, ceildiv, lower, upper
from ..kernel import KEPT, IrregularKernel, bytes_of
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .render import render
from .scalars import storage
from .writer import Params

# As in irregular.cuh
THREADS, WARPS, DIGITS, TILE, KEPT_ROOM, SUPPRESSION = 256, 8, 256, 4096, 2048, 2064
SORTED_ROW = 2048  # longest rows that are sorted in shared memory
PART = 8192  # elements of a row that are worth a block when the first few are wanted
BUSY = 132  # blocks that keep the device busy


@dataclass(frozen=True)
class IrregularParameters:
    """irregular.cu.j2"""

    title: str
    name: str
    threads: int
    shared: bool
    parameters: list[str]
    prologue: list[str]
    body: list[str]


@dataclass
class _Steps:
    """The launches of a kernel as they are added. Spaces are numbered behind the operands."""

    kernel: IrregularKernel
    launches: list[Launch] = field(default_factory=list)
    spaces: list[Dim] = field(default_factory=list)

    def space(self, nbytes: Dim) -> int:
        self.spaces.append(nbytes)
        return len(self.kernel.operands) + len(self.spaces) - 1

    def add(self, title: str, call: str, operands: Sequence[int], sizes: Sequence[Dim], blocks: Dim, shared: int = 0) -> None:
        """`call` is a function and its template arguments; pointers (−1: null) and `sizes` follow, and shared memory if any."""
        params, given = Params(), [o for o in operands if o >= 0]
        arguments = [f"static_cast<{self._type(o)}*>(b{given.index(o)})" if o >= 0 else "nullptr" for o in operands]
        arguments += [params.name(d) for d in sizes]
        if shared:
            arguments.append(_SHARED.get(call.partition("<")[0], "shared"))
        pointers = [f"void* b{i}" for i in range(len(given))]
        text = render("irregular.cu.j2", IrregularParameters(
            title, PLACEHOLDER, THREADS, bool(shared), pointers + params.signature(), params.prologue(),
            [f"{call}({', '.join(arguments)});"]))  # fmt: skip
        source, symbol = named(text)
        self.launches.append(Launch(source, symbol, tuple(given), tuple(params.dims), blocks, THREADS, shared))

    def _type(self, operand: int) -> str:
        return storage(self.kernel.operands[operand].dtype) if operand < len(self.kernel.operands) else "u32"


# How functions take their shared memory; others take it as it is.
_WORDS = "reinterpret_cast<u32*>(shared)"
_SHARED = {
    **dict.fromkeys(("scan_counts", "count_true", "store_true", "radix_count", "radix_move"), _WORDS),
    "suppress": "*reinterpret_cast<Suppression*>(shared)",
}  # fmt: skip


def emit_irregular(kernel: IrregularKernel) -> Emitted:
    """Emit any kind of irregular kernel."""
    steps = _Steps(kernel)
    _KINDS[kernel.kind](kernel, steps)
    return Emitted(tuple(steps.launches), kernel.rows * kernel.size, bytes_of(kernel.operands), tuple(steps.spaces))


def _positions(k: IrregularKernel, s: _Steps) -> None:
    """Each tile counts, the counts are summed up, and each tile stores behind those before it."""
    tiles = ceildiv(k.size, TILE)
    counts = s.space(tiles * 4)
    s.add("positions: count by tile", "count_true", (0, counts), (k.size,), tiles, 4 * WARPS)
    s.add("prefix sums of counts", "scan_counts", (counts, 2), (tiles,), 1, 4 * WARPS)
    s.add("positions: store by tile", "store_true", (0, counts, 1), (k.size,), tiles, 4 * WARPS)


def _sort(k: IrregularKernel, s: _Steps) -> None:
    _sorted(k, s, keys=0, order=1, spare=2, most=k.size, to=1)


def _sorted(k: IrregularKernel, s: _Steps, keys: int, order: int, spare: int, most: Dim, to: int) -> None:
    """The first `most` of each row in order, into operand `to`; `order` and `spare` have room for all."""
    dtype = k.operands[keys].dtype
    key = f"{storage(dtype)}, {'true' if _descends(k) else 'false'}"
    if upper(k.size) <= SORTED_ROW:
        size = max(2, 1 << (int(upper(k.size)) - 1).bit_length()) if upper(k.size) > 1 else 2
        s.add("sort of short rows", f"sort_rows<{key}, {size}>", (keys, to), (k.size, most), k.rows, size * _entry(dtype))
        return
    tiles = ceildiv(k.size, TILE)
    counts = s.space(k.rows * DIGITS * tiles * 4)
    passes = dtype.itemsize
    here = order  # where the words of the pass before are
    for p in range(passes):
        source = "KEYS" if p == 0 else "UPPER" if p == 4 else "WORDS"
        last = p == passes - 1
        there = to if last else spare if here == order else order
        arguments = f"{key}, {source}, {p % 4 * 8}"
        s.add(
            f"radix sort: count digit {p}", f"radix_count<{arguments}>", (keys, here, counts), (k.size, tiles), k.rows * tiles, 4 * DIGITS
        )
        s.add("prefix sums of counts", "scan_counts", (counts, -1), (tiles * DIGITS,), k.rows, 4 * WARPS)
        sink = "TO_ORDER" if last else "TO_WORDS"
        s.add(f"radix sort: move by digit {p}", f"radix_move<{arguments}, {sink}>", (keys, here, counts, there),
              (k.size, tiles, most), k.rows * tiles, 4 * WARPS * DIGITS)  # fmt: skip
        here = there


def _top(k: IrregularKernel, s: _Steps) -> None:
    """Short rows are sorted; of long ones the first few are kept, by several blocks a row if there are few rows."""
    if upper(k.size) <= SORTED_ROW:
        _sorted(k, s, 0, -1, -1, k.inner, 1)
        return
    if upper(k.inner) > KEPT:
        _sorted(k, s, 0, 2, 3, k.inner, 1)
        return
    dtype = k.operands[0].dtype
    key = f"{storage(dtype)}, {'true' if _descends(k) else 'false'}"
    shared = KEPT_ROOM * _entry(dtype) + 16
    rows = int(lower(k.rows))  # of unknown numbers the least: too many blocks cost less than too few
    parts = min(-(-BUSY // max(1, rows)), int(upper(k.size)) // PART) if isinstance(k.size, int) else 1
    if parts < 2:
        s.add("the first of rows", f"select_row<{key}>", (0, 1), (k.size, k.inner), k.rows, shared)
        return
    entries = s.space(k.rows * parts * k.inner * _entry(dtype))
    s.add("the first of parts of rows", f"select_part<{key}>", (0, entries), (k.size, parts, k.inner), k.rows * parts, shared)
    s.add("the first of those of parts", f"select_of_parts<{key}>", (entries, 1), (parts, k.inner), k.rows, shared)


def _suppress(k: IrregularKernel, s: _Steps) -> None:
    """Boxes in order of their scores, into the work space; `taken` serves as the sort's other one."""
    sort = IrregularKernel("sort", k.rows, k.size, 1, ("descending",), k.operands)
    _sorted(sort, s, keys=1, order=7, spare=5, most=k.size, to=7)
    center = "true" if "center" in k.flags else "false"
    s.add("suppression of boxes", f"suppress<{center}>", (0, 1, 2, 3, 4, 7, 5, 6), (k.size, k.inner), k.rows, SUPPRESSION)


def _descends(k: IrregularKernel) -> bool:
    return "descending" in k.flags


def _entry(dtype: DType) -> int:
    return 16 if dtype.itemsize == 8 else 8


_KINDS = {"positions": _positions, "sort": _sort, "top": _top, "suppress": _suppress}
