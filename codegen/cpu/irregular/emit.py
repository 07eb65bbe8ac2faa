"""IrregularKernel → LLVM IR: sequential loops whose control flow follows the data. A work unit is one row."""

from __future__ import annotations

from typing import Any

from ....ir import DType, ceildiv
from ...kernel import BOX_LANES, IrregularKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I1, I8, I64, storage, vec
from ..emitted import REPEATS, Emitted, named
from ..target import CpuTarget
from .abreast import Abreast
from .candidates import CELLS as CANDIDATE_CELLS
from .first_k import FirstK
from .radix import RADIX_CELLS, lanes_of

F32 = ir.FloatType()
F32_LANES = vec(F32, BOX_LANES)


def emit_irregular(kernel: IrregularKernel, target: CpuTarget) -> Emitted:
    """Code of any kind of irregular kernel."""
    return _Emitter(kernel, _CELLS[kernel.kind]).emit()


class _Emitter(FirstK, Abreast):
    def emit(self) -> Emitted:
        b, k = self.b, self.kernel
        abreast = k.columns != 1
        top = self._abreast if abreast else self._top
        unit = {"positions": self._positions, "sort": self._sort, "suppress": self._suppress, "top": top}[k.kind]

        def body(row: Any, _: list[Any]) -> list[Any]:
            unit(row)
            return []

        b.loop(self.begin, self.end, b.i64(1), [], body)
        b.ir.ret_void()
        text, symbol = named(str(self.module), REPEATS)
        cost = k.size * (k.inner if abreast else {"positions": 2, "sort": 20, "suppress": 40, "top": 4}[k.kind])
        units = k.rows * ceildiv(k.columns, lanes_of(k.operands[0].dtype)) if abreast else k.rows
        return Emitted(text, symbol, tuple(self.params.dims), units, cost, units * cost, bytes_of(k.operands))

    def _positions(self, row: Any) -> None:
        """Store every index, and go on to the next place only where the mask is true: no branch."""
        b, i = self.b, self.b.ir
        mask, found, count = self.buffers

        def one(at: Any, carried: list[Any]) -> list[Any]:
            self.put(found, carried[0], at)
            true = i.icmp_unsigned("!=", self.element(mask, at, I8), ir.Constant(I8, 0))
            return [i.add(carried[0], i.zext(true, I64))]

        (total,) = b.loop(b.i64(0), self.n, b.i64(1), [b.i64(0)], one)
        self.put(count, row, total)

    def _sort(self, row: Any) -> None:
        b, i = self.b, self.b.ir
        dtype = self.kernel.operands[0].dtype
        first = i.mul(row, self.n)
        keys = b.at(self.buffers[0], first, storage(dtype))
        order, spare = (b.at(buffer, first, I64) for buffer in self.buffers[1:3])
        self.each(b.i64(0), self.n, lambda j: self.put(order, j, j))
        self._radix_sort(order, spare, self.n, keys, dtype, "descending" in self.kernel.flags)

    def _suppress(self, row: Any) -> None:
        b, i = self.b, self.b.ir
        boxes, scores, most, overlap, least, taken, count, spare, corners = self.buffers
        zero, one = b.i64(0), b.i64(1)
        first = i.mul(row, self.n)
        scores, taken, spare = b.at(scores, first, F32), b.at(taken, first, I64), b.at(spare, first, I64)
        boxes = b.at(boxes, i.mul(i.mul(i.udiv(row, self.inner), self.n), b.i64(4)), F32)
        room = i.add(self.n, b.i64(BOX_LANES))
        corners = b.at(corners, i.mul(i.mul(row, b.i64(4)), room), F32)
        planes = [b.at(corners, i.mul(b.i64(j), room), F32) for j in range(4)]
        limit, threshold, floor = self.element(most, zero), self.element(overlap, zero, F32), self.element(least, zero, F32)

        def candidate(at: Any, carried: list[Any]) -> list[Any]:
            self.put(taken, carried[0], at)
            above = i.fcmp_ordered(">", self.element(scores, at, F32), floor)
            return [i.add(carried[0], i.zext(above, I64))]

        (found,) = b.loop(zero, self.n, one, [zero], candidate)
        self._radix_sort(taken, spare, found, scores, DType.F32, True)
        self.set("taken", zero)
        self.set("at", zero)

        def more() -> Any:
            return i.and_(i.icmp_signed("<", self.get("at"), found), i.icmp_signed("<", self.get("taken"), limit))

        def consider() -> None:
            index = self.element(taken, self.get("at"))
            mine = self._box(boxes, index)
            self.set("at", i.add(self.get("at"), one))
            wide = [b.splat(x, BOX_LANES) for x in (*mine, threshold)]

            def hit(first: Any) -> Any:
                others = [b.load(F32_LANES, b.at(plane, first, F32), 4) for plane in planes]
                return self._overlap(wide[:4], others, wide[4], b.below(i.sub(self.get("taken"), first), BOX_LANES))

            with self.unless_any(self.get("taken"), hit, BOX_LANES):
                for plane, x in zip(planes, mine, strict=True):
                    self.put(plane, self.get("taken"), x)
                self.put(taken, self.get("taken"), index)  # never beyond the candidate being looked at
                self.set("taken", i.add(self.get("taken"), one))

        self.during(more, consider)
        self.put(count, row, self.get("taken"))

    def _box(self, boxes: Any, index: Any) -> list[Any]:
        """Low and high corners."""
        b, i = self.b, self.b.ir
        at = i.mul(index, b.i64(4))
        v = [self.element(boxes, i.add(at, b.i64(j)), F32) for j in range(4)]
        if "center" in self.kernel.flags:
            half = [i.fmul(x, ir.Constant(F32, 0.5)) for x in v[2:]]
            return [i.fsub(v[0], half[0]), i.fsub(v[1], half[1]), i.fadd(v[0], half[0]), i.fadd(v[1], half[1])]
        return [self._least(v[0], v[2]), self._least(v[1], v[3]), self._most(v[0], v[2]), self._most(v[1], v[3])]

    def _overlap(self, a: list[Any], c: list[Any], threshold: Any, mask: Any) -> Any:
        """Whether boxes overlap by more than the threshold in some lane of the mask; most do not touch, and are not divided."""
        b, i, nil = self.b, self.b.ir, ir.Constant(F32_LANES, 0.0)
        sides = []
        for axis in (0, 1):
            low, high = self._most(a[axis], c[axis]), self._least(a[axis + 2], c[axis + 2])
            sides.append(self._most(i.fsub(high, low), nil))
        inter = i.fmul(sides[0], sides[1])
        areas = [i.fmul(i.fsub(x[2], x[0]), i.fsub(x[3], x[1])) for x in (a, c)]
        union = i.fsub(i.fadd(*areas), inter)
        touching = mask
        for x in (inter, *areas, union):
            touching = i.and_(touching, i.fcmp_ordered(">", x, nil))
        before = i.block
        with i.if_then(b.any(touching)):
            found = b.any(i.and_(touching, i.fcmp_ordered(">", i.fdiv(inter, union), threshold)))
            inside = i.block
        return b.merge((ir.Constant(I1, 0), before), (found, inside))

    def _least(self, x: Any, y: Any) -> Any:
        return self.b.ir.select(self.b.ir.fcmp_ordered("<", x, y), x, y)

    def _most(self, x: Any, y: Any) -> Any:
        return self.b.ir.select(self.b.ir.fcmp_ordered(">", x, y), x, y)


# Stack words of each kind, for loops that do not just count.
_CELLS = {"positions": {}, "top": {**RADIX_CELLS, **CANDIDATE_CELLS}, "sort": RADIX_CELLS,
          "suppress": {**RADIX_CELLS, "taken": 1, "at": 1}}  # fmt: skip
