"""What follows from one byte is a table of 256: two permutations of 128 bytes in registers are a lookup for 64 lanes.

quantize(sigmoid(dequantize(x)))  →  table[x]

The byte is loaded, or what a kernel quantizes itself from sums. Tables are in the table of sizes, so that layers share a text.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import DType
from ..expr import Bits, Call, Cast, E, Load, Num, Param, Table, children, postorder, quantizing, rebuilt, structure
from ..interpret.values import Evaluator
from ..kernel import LoopKernel
from . import llvm_ir as ir
from .build import I8, I32, I64, Builder, Params, vec
from .loops.rewrite import transform
from .loops.schedule import work
from .shuffles import low, shuffle
from .target import CpuTarget

_BYTES = (DType.U8, DType.I8)
_LEAST_WORK = 16  # vector operations on 16 lanes each: a lookup takes 8 for 64


def tabulated(k: LoopKernel, target: CpuTarget) -> LoopKernel:
    """k with lookups for bytes that are computed from one byte, where the target has them and that is less work."""
    found = _bytes_of_bytes([s.value for s in k.stores], target)
    if not found:
        return k
    return transform(k, lambda e, kids: _changed(e, kids, found), k.axes, k.reduce_axes)


def tabulated_epilogue(root: E, target: CpuTarget) -> E:
    """The same of an epilogue."""
    found = _bytes_of_bytes([root], target)
    if not found:
        return root
    new: dict[int, E] = {}
    for e in postorder([root]):
        new[id(e)] = _changed(e, tuple(new[id(c)] for c in children(e)), found)
    return new[id(root)]


def add_table(params: Params, table: Table) -> int:
    """Where the first of its words of 4 bytes is among the sizes."""
    words = np.array(table.values, np.uint8).view(np.uint32)
    first, *_ = [params.add(int(word)) for word in words]
    return first


def looked_up(b: Builder, dims: Any, slot: int, x: Any) -> Any:
    """The table at that slot, of bytes: by halves in registers, or of one lane from memory."""
    i, lanes, full = b.ir, x.type.count, vec(I8, 64)
    if lanes == 1:
        at = i.zext(i.extract_element(x, ir.Constant(I32, 0)), I64)
        word = b.at(dims, i.add(i.lshr(at, b.i64(2)), b.i64(slot)), I64)
        return b.splat(b.load(I8, b.at(word, i.and_(at, b.i64(3)), I8), 1), 1)
    with i.goto_block(b.entry):
        words = [b.load(vec(I64, 16), b.at(dims, b.i64(slot + at), I64), 8) for at in range(0, 64, 16)]
        parts = [i.bitcast(i.trunc(w, vec(I32, 16)), full) for w in words]
    undefined = ir.Constant(x.type, ir.Undefined)
    wide = x if lanes == 64 else shuffle(b, x, undefined, [min(lane, lanes) for lane in range(64)])
    halves = [b.call("llvm.x86.avx512.vpermi2var.qi.512", full, first, wide, last) for first, last in (parts[:2], parts[2:])]
    below, above = (low(b, half, lanes) for half in halves)
    return i.select(i.icmp_signed("<", x, ir.Constant(x.type, None)), above, below)


def _bytes_of_bytes(roots: Sequence[E], target: CpuTarget) -> dict[int, E]:
    """By id(), which of these are looked up, and by which byte: a table for each value that is stored, not for what is on the way."""
    if "avx512vbmi" not in target.features or target.vector_bits < 512 or not any(e.dtype in _BYTES for e in roots):
        return {}
    sources = _sources(roots)
    found: dict[int, E] = {}
    for e in roots:
        source = sources.get(id(e))
        if source is not None and source is not e and e.dtype in _BYTES and work(e) - work(source) >= _LEAST_WORK:
            found[id(e)] = source
    return found


def _changed(e: E, kids: tuple[E, ...], found: Mapping[int, E]) -> E:
    if id(e) not in found:
        return rebuilt(e, kids)
    source = found[id(e)]
    return Table(source, _values(e, source), dtype=e.dtype)


def _sources(roots: Sequence[E]) -> dict[int, E | None]:
    """id(expression) -> the byte that alone decides it, or None for numbers; what is missing follows from more."""
    out: dict[int, E | None] = {}
    same: dict[Hashable, E] = {}
    for e in postorder(roots):
        match e:
            case Num() | Param():
                out[id(e)] = None
            case Load(operand=o, offset=offset) if e.dtype in _BYTES:
                out[id(e)] = same.setdefault((o, structure([offset])), e)
            case Call() | Cast() | Bits() if all(id(c) in out for c in children(e)):
                bytes_of = {id(v): v for c in children(e) if (v := out[id(c)]) is not None}
                if len(bytes_of) <= 1:
                    out[id(e)] = next(iter(bytes_of.values()), None)
        if id(e) not in out and e.dtype in _BYTES and quantizing(e) is not None:
            out[id(e)] = e
    return out


def _values(e: E, source: E) -> tuple[int, ...]:
    """e for every byte of its source, 0 … 255 (an I8's as it is in memory)."""
    evaluate = _OfByte(source)
    with np.errstate(all="ignore"):
        return tuple(np.broadcast_to(evaluate(e), 256).view(np.uint8).tolist())


class _OfByte(Evaluator):
    """Values for all bytes that a source may give."""

    def __init__(self, source: E) -> None:
        super().__init__((), {}, ())
        self._source, self._every = source, np.arange(256, dtype=np.uint8).view(source.dtype.np)

    def _value(self, e: E) -> np.ndarray:
        if isinstance(e, Load) or e is self._source:
            return self._every
        return np.asarray(e.value, e.dtype.np) if isinstance(e, Param) else super()._value(e)
