"""What every function of an attention kernel knows: sizes, where its operands start, and its scratch memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I64, PTR, Builder, subroutine, vec
from ..math.functions import Functions
from ..target import CpuTarget
from .schedule import AttentionSchedule

_F32 = ir.FloatType()
_LOG2_E = math.log2(math.e)
SIZES = ("heads", "group", "rows", "keys", "q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row", "v_batch", "v_head",
         "v_row", "o_batch", "o_head", "o_row", "strips", "groups", "together", "block", "m_batch", "m_head", "m_key", "m_row",
         "seen", "parts", "part", "results", "totals")  # fmt: skip


class Mask(Enum):
    """How a mask lies: one number of a key for all queries; queries next to each other; keys next to each other."""

    KEYS = auto()
    QUERIES = auto()
    ROWS = auto()


@dataclass(frozen=True)
class Spec:
    """Everything that the text depends on; other sizes are in the params table.
    `copied`, `copied_keys`: blocks of v, of k are copied together, for all strips of a group. `keys_apart`, `values_apart`: there is
    something between their rows. `parts`: see `AttentionKernel`. `later`: there may be more blocks of keys than one."""

    schedule: AttentionSchedule
    size: int
    value_size: int
    scale: float
    causal: bool
    mask: Mask | None
    copied: bool
    copied_keys: bool
    keys_apart: bool
    values_apart: bool
    parts: bool
    later: bool
    target: CpuTarget

    @property
    def value_columns(self) -> int:
        """Elements of a row of sums, in whole vectors."""
        return sum(tile.vectors for tile in self.schedule.values) * self.schedule.lanes


def function(module: ir.Module, name: str, more: Sequence[Any] = ()) -> Builder:
    """void name(bufs, dims, batch, head, first query, number of queries, …); `more`: types of further arguments."""
    return subroutine(module, name, [PTR, PTR, *[I64] * 4, *more])


def load_sizes(b: Builder, dims: Any) -> dict[str, Any]:
    return {name: b.param(dims, at) for at, name in enumerate(SIZES)}


class Frame:
    """Some queries of one head. q, k, v and out point to that head; out and the mask to its first query."""

    def __init__(self, b: Builder, spec: Spec) -> None:
        self.b, self.spec, self.lanes = b, spec, spec.schedule.lanes
        self.vector, self.value_columns = vec(_F32, self.lanes), spec.value_columns
        self.bufs, self.dims, self.batch, self.head, self.first, self.count = b.fn.args[:6]
        self.p = load_sizes(b, self.dims)
        self.math = Functions(b, self.lanes, spec.target)
        i, masked = b.ir, spec.mask is not None
        pointers = b.operands(self.bufs, 4 + masked + spec.parts)
        shared = i.udiv(self.head, self.p["group"])
        self.q = self._start(pointers[0], "q", self.head)
        self.k = self._start(pointers[1], "k", shared)
        self.v = self._start(pointers[2], "v", shared)
        self.out = b.at(self._start(pointers[-1], "o", self.head), i.mul(self.first, self.p["o_row"]), _F32)
        self.mask = self._start(pointers[3], "m", self.head) if masked else None
        if spec.mask is Mask.QUERIES:
            self.mask = b.at(self.mask, self.first, _F32)
        elif spec.mask is Mask.ROWS:
            self.mask = b.at(self.mask, i.mul(self.first, self.p["m_row"]), _F32)
        self.tops = b.at(pointers[-2], self.first, _F32) if spec.parts else None

    @property
    def score_scale(self) -> float:
        """Factor of scores: their weights are then powers of 2, unless a mask is added to them as it is."""
        return self.spec.scale * (_LOG2_E if self.spec.mask is None else 1.0)

    def weight(self, difference: Any) -> Any:
        """Weight of a score by what it lacks to the maximum (≤ 0)."""
        if self.spec.mask is not None:
            difference = self.b.ir.fmul(difference, self.b.splat(ir.Constant(_F32, _LOG2_E), self.lanes))
        return self.math.exp2_of_difference(difference)

    def natural(self, top: Any) -> Any:
        """A maximum of scores times `scale`, whatever else they were multiplied by."""
        if self.spec.mask is not None:
            return top
        ln2 = ir.Constant(_F32, math.log(2.0))
        return self.b.ir.fmul(top, ln2 if top.type == _F32 else self.b.splat(ln2, self.lanes))

    def _start(self, pointer: Any, name: str, head: Any) -> Any:
        i, p = self.b.ir, self.p
        return self.b.at(pointer, i.add(i.mul(self.batch, p[f"{name}_batch"]), i.mul(head, p[f"{name}_head"])), _F32)

    def room(self, elements: int) -> Any:
        """Scratch memory on the stack; only in the entry block."""
        return self.b.alloca(_F32, self.b.i64(elements))

    def of(self, array: Any, x: int) -> Any:
        """Address of vector x."""
        return self.b.at(array, self.b.i64(x * self.lanes), _F32)

    def tail(self, size: int) -> Any:
        """Mask of the last vector of a row of `size` elements."""
        return ir.Constant(vec(I1, self.lanes), [lane < size % self.lanes for lane in range(self.lanes)])

    def limit(self) -> Any:
        """Keys to look at: with `causal`, those that the last of these queries sees."""
        return self.limit_of(self.first, self.count)

    def limit_of(self, first: Any, count: Any) -> Any:
        """The same of `count` queries from `first` on."""
        i, p = self.b.ir, self.p
        if not self.spec.causal:
            return p["keys"]
        last = i.add(i.add(first, count), p["seen"])
        return self.b.smin(p["keys"], self.b.smax(last, self.b.i64(0)))
