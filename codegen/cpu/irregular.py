"""IrregularKernel → LLVM IR: sequential loops whose control flow follows the data. A work unit is one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...ir import Dim, DType
from ..kernel import IrregularKernel
from .build import I1, I8, I64, PTR, Builder, Params, storage
from .emitted import PLACEHOLDER, Emitted, named
from .target import CpuTarget

F32 = ir.FloatType()


def emit_irregular(kernel: IrregularKernel, target: CpuTarget) -> Emitted:
    """Code of any kind of irregular kernel."""
    return _Emitter(kernel).emit()


class _Emitter:
    def __init__(self, kernel: IrregularKernel) -> None:
        self.kernel = kernel
        self.params = Params()
        sizes: dict[str, Dim] = {"size": kernel.size, "inner": kernel.inner}
        self.slots = {name: self.params.add(dim) for name, dim in sizes.items()}

    def emit(self) -> Emitted:
        k = self.kernel
        module = ir.Module(name="kernel")
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        b = self.b = Builder(fn)
        bufs, dims, begin, end = fn.args
        self.n, self.inner = (b.param(dims, at) for at in self.slots.values())
        self.buffers = [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(k.operands))]
        self._cells: dict[str, Any] = {name: b.alloca(I64, b.i64(1), 8) for name in _CELLS[k.kind]}
        unit = {"positions": self._positions, "sort": self._sort, "suppress": self._suppress}[k.kind]

        def body(row: Any, _: list[Any]) -> list[Any]:
            unit(row)
            return []

        b.loop(begin, end, b.i64(1), [], body)
        b.ir.ret_void()
        text, symbol = named(str(module))
        size: Dim = sum((o.numel * o.dtype.itemsize for o in k.operands), 0)
        cost = k.size * {"positions": 2, "sort": 60, "suppress": 80}[k.kind]
        return Emitted(text, symbol, tuple(self.params.dims), k.rows, cost, k.rows * cost, size)

    # --- small things --------------------------------------------------------------------------------------------------

    def get(self, cell: str) -> Any:
        return self.b.load(I64, self._cells[cell], 8)

    def set(self, cell: str, value: Any) -> None:
        self.b.ir.store(value, self._cells[cell], align=8)

    def element(self, base: Any, index: Any, t: Any = I64) -> Any:
        return self.b.load(t, self.b.at(base, index, t))

    def put(self, base: Any, index: Any, value: Any) -> None:
        self.b.ir.store(value, self.b.at(base, index, value.type), align=1)

    def each(self, start: Any, stop: Any, body: Callable[[Any], None], step: Any = None) -> None:
        def inside(i: Any, _: list[Any]) -> list[Any]:
            body(i)
            return []

        self.b.loop(start, stop, self.b.i64(1) if step is None else step, [], inside)

    def during(self, condition: Callable[[], Any], body: Callable[[], None]) -> None:
        i = self.b.ir
        head, inside, after = (i.append_basic_block(n) for n in ("while", "do", "done"))
        i.branch(head)
        i.position_at_end(head)
        i.cbranch(condition(), inside, after)
        i.position_at_end(inside)
        body()
        i.branch(head)
        i.position_at_end(after)

    # --- kinds ---------------------------------------------------------------------------------------------------------

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
        self._merge_sort(order, spare, self.n, keys, dtype, "descending" in self.kernel.flags)

    def _merge_sort(self, order: Any, spare: Any, n: Any, keys: Any, dtype: DType, descending: bool) -> None:
        """Bottom-up and stable: runs of `width` indices, merged from `order` to `spare` and back."""
        b, i = self.b, self.b.ir
        one = b.i64(1)
        self.set("width", one)
        self.set("flips", b.i64(0))

        def merge_all() -> None:
            width = self.get("width")
            flipped = i.trunc(self.get("flips"), I1)
            source, target = i.select(flipped, spare, order), i.select(flipped, order, spare)

            def merge(low: Any) -> None:
                middle = b.smin(i.add(low, width), n)
                high = b.smin(i.add(middle, width), n)

                def step(at: Any, carried: list[Any]) -> list[Any]:
                    left, right = carried
                    a = self.element(source, b.smin(left, i.sub(n, one)))
                    c = self.element(source, b.smin(right, i.sub(n, one)))
                    first = self._before(self.element(keys, c, storage(dtype)), self.element(keys, a, storage(dtype)), dtype, descending)
                    more_left, more_right = i.icmp_signed("<", left, middle), i.icmp_signed("<", right, high)
                    from_right = i.and_(more_right, i.or_(i.not_(more_left), first))
                    self.put(target, at, i.select(from_right, c, a))
                    took = i.zext(from_right, I64)
                    return [i.add(left, i.sub(one, took)), i.add(right, took)]

                b.loop(low, high, one, [low, middle], step)

            self.each(b.i64(0), n, merge, i.shl(width, one))
            self.set("width", i.shl(width, one))
            self.set("flips", i.add(self.get("flips"), one))

        self.during(lambda: i.icmp_signed("<", self.get("width"), n), merge_all)
        with i.if_then(i.trunc(self.get("flips"), I1)):
            self.each(b.i64(0), n, lambda j: self.put(order, j, self.element(spare, j)))

    def _before(self, x: Any, y: Any, dtype: DType, descending: bool) -> Any:
        """Whether x has to come before y; NaN is above all numbers."""
        i = self.b.ir
        if not dtype.is_float:
            compare = i.icmp_signed if dtype.is_signed else i.icmp_unsigned
            return compare(">" if descending else "<", x, y)
        if descending:
            x, y = y, x
        below = i.fcmp_ordered("<", x, y)
        nan_last = i.and_(i.fcmp_ordered("ord", x, x), i.fcmp_unordered("uno", y, y))
        return i.or_(below, nan_last)

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
        self._merge_sort(taken, spare, found, scores, DType.F32, True)
        self.set("taken", zero)
        self.set("at", zero)

        def more() -> Any:
            return i.and_(i.icmp_signed("<", self.get("at"), found), i.icmp_signed("<", self.get("taken"), limit))

        def consider() -> None:
            index = self.element(taken, self.get("at"))
            mine = self._box(boxes, index)
            self.set("at", i.add(self.get("at"), one))
            self.set("other", zero)

            def clear() -> Any:
                return i.icmp_signed("<", self.get("other"), self.get("taken"))

            def compare() -> None:
                theirs = self._box(boxes, self.element(taken, self.get("other")))
                hit = self._overlaps(mine, theirs, threshold)
                # a hit ends the walk beyond the last one taken
                self.set("other", i.select(hit, b.i64(2**62), i.add(self.get("other"), one)))

            self.during(clear, compare)
            with i.if_then(i.icmp_signed("==", self.get("other"), self.get("taken"))):
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
_CELLS = {"positions": (), "sort": ("width", "flips"), "suppress": ("width", "flips", "taken", "at", "other")}
