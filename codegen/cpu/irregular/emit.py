"""IrregularKernel → LLVM IR: sequential loops whose control flow follows the data. A work unit is one row."""

from __future__ import annotations

from typing import Any

from ....ir import Dim, DType
from ...kernel import IrregularKernel
from .. import llvm_ir as ir
from ..build import I8, I64, storage
from ..emitted import Emitted, named
from ..target import CpuTarget
from .first_k import FirstK
from .radix import RADIX_CELLS, SELECT_CELLS

F32 = ir.FloatType()


def emit_irregular(kernel: IrregularKernel, target: CpuTarget) -> Emitted:
    """Code of any kind of irregular kernel."""
    return _Emitter(kernel, _CELLS[kernel.kind]).emit()


class _Emitter(FirstK):
    def emit(self) -> Emitted:
        b, k = self.b, self.kernel
        unit = {"positions": self._positions, "sort": self._sort, "suppress": self._suppress, "top": self._top}[k.kind]

        def body(row: Any, _: list[Any]) -> list[Any]:
            unit(row)
            return []

        b.loop(self.begin, self.end, b.i64(1), [], body)
        b.ir.ret_void()
        text, symbol = named(str(self.module))
        size: Dim = sum((o.numel * o.dtype.itemsize for o in k.operands), 0)
        cost = k.size * {"positions": 2, "sort": 20, "suppress": 40, "top": 4}[k.kind]
        return Emitted(text, symbol, tuple(self.params.dims), k.rows, cost, k.rows * cost, size)

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
        boxes, scores, most, overlap, least, taken, count, spare = self.buffers
        zero, one = b.i64(0), b.i64(1)
        first = i.mul(row, self.n)
        scores, taken, spare = b.at(scores, first, F32), b.at(taken, first, I64), b.at(spare, first, I64)
        boxes = b.at(boxes, i.mul(i.mul(i.udiv(row, self.inner), self.n), b.i64(4)), F32)
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

            def hit(other: Any) -> Any:
                return self._overlaps(mine, self._box(boxes, self.element(taken, other)), threshold)

            with self.unless_any(self.get("taken"), hit):
                self.put(taken, self.get("taken"), index)  # never beyond the candidate being looked at
                self.set("taken", i.add(self.get("taken"), one))

        self.during(more, consider)
        self.put(count, row, self.get("taken"))

    def _box(self, boxes: Any, index: Any) -> tuple[list[Any], Any]:
        """Low and high corners, and the area."""
        b, i = self.b, self.b.ir
        at = i.mul(index, b.i64(4))
        v = [self.element(boxes, i.add(at, b.i64(j)), F32) for j in range(4)]
        if "center" in self.kernel.flags:
            half = [i.fmul(x, ir.Constant(F32, 0.5)) for x in v[2:]]
            corners = [i.fsub(v[0], half[0]), i.fsub(v[1], half[1]), i.fadd(v[0], half[0]), i.fadd(v[1], half[1])]
        else:
            corners = [self._least(v[0], v[2]), self._least(v[1], v[3]), self._most(v[0], v[2]), self._most(v[1], v[3])]
        area = i.fmul(i.fsub(corners[2], corners[0]), i.fsub(corners[3], corners[1]))
        return corners, area

    def _overlaps(self, a: tuple[list[Any], Any], c: tuple[list[Any], Any], threshold: Any) -> Any:
        i, nil = self.b.ir, ir.Constant(F32, 0.0)
        sides = []
        for axis in (0, 1):
            low, high = self._most(a[0][axis], c[0][axis]), self._least(a[0][axis + 2], c[0][axis + 2])
            sides.append(self._most(i.fsub(high, low), nil))
        inter = i.fmul(sides[0], sides[1])
        union = i.fsub(i.fadd(a[1], c[1]), inter)
        real = [i.fcmp_ordered(">", x, nil) for x in (inter, a[1], c[1], union)]
        valid = i.and_(i.and_(real[0], real[1]), i.and_(real[2], real[3]))
        return i.and_(valid, i.fcmp_ordered(">", i.fdiv(inter, union), threshold))

    def _least(self, x: Any, y: Any) -> Any:
        return self.b.ir.select(self.b.ir.fcmp_ordered("<", x, y), x, y)

    def _most(self, x: Any, y: Any) -> Any:
        return self.b.ir.select(self.b.ir.fcmp_ordered(">", x, y), x, y)


# Stack words of each kind, for loops that do not just count.
_CELLS = {"positions": {}, "top": {"hits": 1, **RADIX_CELLS, **SELECT_CELLS}, "sort": RADIX_CELLS,
          "suppress": {**RADIX_CELLS, "taken": 1, "at": 1}}  # fmt: skip
