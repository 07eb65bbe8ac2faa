"""IrregularKernel → LLVM IR: sequential loops whose control flow follows the data. A work unit is one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...ir import Dim, DType
from ..kernel import KEPT, IrregularKernel
from .build import I1, I8, I64, PTR, Builder, Params, storage, vec
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
        self._cells: dict[str, Any] = {name: b.alloca(I64, b.i64(count), 8) for name, count in _CELLS[k.kind].items()}
        unit = {"positions": self._positions, "sort": self._sort, "suppress": self._suppress, "top": self._top}[k.kind]

        def body(row: Any, _: list[Any]) -> list[Any]:
            unit(row)
            return []

        b.loop(begin, end, b.i64(1), [], body)
        b.ir.ret_void()
        text, symbol = named(str(module))
        size: Dim = sum((o.numel * o.dtype.itemsize for o in k.operands), 0)
        cost = k.size * {"positions": 2, "sort": 20, "suppress": 40, "top": 4}[k.kind]
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
        self._radix_sort(order, spare, self.n, keys, dtype, "descending" in self.kernel.flags)

    def _radix_sort(self, order: Any, spare: Any, n: Any, keys: Any, dtype: DType, descending: bool) -> None:
        """Stable, byte by byte from the lowest: words of 32 bits of key over 32 bits of index go from `order` to `spare` and back.

        Rows have less than 2³² elements. Keys of 64 bits take two rounds.
        """
        b, i = self.b, self.b.ir
        low = b.i64(2**32 - 1)
        bits = max(32, 8 * dtype.itemsize)
        for start in range(0, bits, 32):

            def pack(j: Any, start: int = start) -> None:
                index = self.element(order, j)
                key = self._ordinal(self.element(keys, index, storage(dtype)), dtype, descending)
                part = i.and_(i.lshr(key, b.i64(start)), low)
                self.put(order, j, i.or_(i.shl(part, b.i64(32)), index))

            self.each(b.i64(0), n, pack)
            self.set("flips", b.i64(0))
            self.each(b.i64(32), b.i64(32 + min(32, 8 * dtype.itemsize)), lambda shift: self._pass(order, spare, n, shift), b.i64(8))
            flipped = i.trunc(self.get("flips"), I1)
            source = i.select(flipped, spare, order)

            def unpack(j: Any, source: Any = source) -> None:
                self.put(order, j, i.and_(self.element(source, j), low))

            self.each(b.i64(0), n, unpack)

    def _pass(self, order: Any, spare: Any, n: Any, shift: Any) -> None:
        """Distribute words by one byte; nothing to do where all have the same."""
        b, i = self.b, self.b.ir
        zero, one, places = b.i64(0), b.i64(1), self._cells["places"]
        flipped = i.trunc(self.get("flips"), I1)
        source, target = i.select(flipped, spare, order), i.select(flipped, order, spare)

        def digit(word: Any) -> Any:
            return i.and_(i.lshr(word, shift), b.i64(255))

        def count(j: Any) -> None:
            d = digit(self.element(source, j))
            self.put(places, d, i.add(self.element(places, d), one))

        self.each(zero, b.i64(256), lambda d: self.put(places, d, zero))
        self.each(zero, n, count)
        with i.if_then(i.icmp_signed(">", n, zero)):
            alike = i.icmp_signed("==", self.element(places, digit(self.element(source, zero))), n)
            with i.if_then(i.not_(alike)):

                def begin(d: Any, carried: list[Any]) -> list[Any]:
                    size = self.element(places, d)
                    self.put(places, d, carried[0])
                    return [i.add(carried[0], size)]

                def move(j: Any) -> None:
                    word = self.element(source, j)
                    d = digit(word)
                    at = self.element(places, d)
                    self.put(target, at, word)
                    self.put(places, d, i.add(at, one))

                b.loop(zero, b.i64(256), one, [zero], begin)
                self.each(zero, n, move)
                self.set("flips", i.add(self.get("flips"), one))

    def _ordinal(self, x: Any, dtype: DType, descending: bool) -> Any:
        """An unsigned 64-bit number that orders as x does (32 bits for smaller types); one for all NaN, above the others."""
        i = self.b.ir
        width = 8 * dtype.itemsize
        t = ir.IntType(width)
        sign = ir.Constant(t, 1 << (width - 1))
        if dtype.is_float:
            bits = i.bitcast(i.fadd(x, ir.Constant(x.type, 0.0)), t)  # −0 becomes 0
            negative = i.icmp_signed("<", bits, ir.Constant(t, 0))
            bits = i.select(negative, i.not_(bits), i.or_(bits, sign))
            bits = i.select(i.fcmp_unordered("uno", x, x), ir.Constant(t, -1), bits)
        else:
            bits = i.xor(x, sign) if dtype.is_signed else x
        bits = i.not_(bits) if descending else bits
        return bits if width == 64 else i.zext(bits, I64)

    def _top(self, row: Any) -> None:
        """The first k in order: kept so while the row is read where they are few, else from the whole row in order."""
        b, i, k = self.b, self.b.ir, self.inner
        dtype = self.kernel.operands[0].dtype
        first = i.mul(row, self.n)
        keys, best = b.at(self.buffers[0], first, storage(dtype)), b.at(self.buffers[1], i.mul(row, k), I64)
        if len(self.buffers) == 2:
            self._keep_best(keys, best)
            return
        with i.if_else(i.icmp_signed("<=", k, b.i64(KEPT))) as (few, many):
            with few:
                self._keep_best(keys, best)
            with many:
                order, spare = (b.at(buffer, first, I64) for buffer in self.buffers[2:])
                self.each(b.i64(0), self.n, lambda j: self.put(order, j, j))
                self._radix_sort(order, spare, self.n, keys, dtype, "descending" in self.kernel.flags)
                self.each(b.i64(0), k, lambda j: self.put(best, j, self.element(order, j)))

    def _keep_best(self, keys: Any, best: Any) -> None:
        """Most elements are not before the last of the k kept so far, which is seen a vector at a time."""
        b, i = self.b, self.b.ir
        dtype, descending = self.kernel.operands[0].dtype, "descending" in self.kernel.flags
        zero, one, k = b.i64(0), b.i64(1), self.inner
        t = storage(dtype)

        def insert(index: Any, free: Any) -> None:
            """At its place among the `free` ones before it, which is one behind if there is room."""
            key = self.element(keys, index, t)
            self.set("at", free)

            def later() -> Any:
                at = self.get("at")
                before = i.sub(b.smax(at, one), one)
                first = self._before(key, self.element(keys, self.element(best, before), t), dtype, descending)
                return i.and_(i.icmp_signed(">", at, zero), first)

            def shift() -> None:
                at = i.sub(self.get("at"), one)
                with i.if_then(i.icmp_signed("<", i.add(at, one), k)):
                    self.put(best, i.add(at, one), self.element(best, at))
                self.set("at", at)

            self.during(later, shift)
            with i.if_then(i.icmp_signed("<", self.get("at"), k)):
                self.put(best, self.get("at"), index)

        filled = b.smin(k, self.n)
        with i.if_then(i.icmp_signed(">", filled, zero)):
            self.put(best, zero, zero)  # `later` reads the first place even where it is not taken
        self.each(one, filled, lambda j: insert(j, j))
        lanes = max(1, 64 // dtype.itemsize)

        def consider(j: Any) -> None:
            last = self.element(keys, self.element(best, i.sub(k, one)), t)
            with i.if_then(self._before(self.element(keys, j, t), last, dtype, descending)):
                insert(j, k)

        def chunk(j: Any) -> None:
            last = b.splat(self.element(keys, self.element(best, i.sub(k, one)), t), lanes)
            some = self._maybe_before(b.load(vec(t, lanes), b.at(keys, j, t)), last, dtype, descending)
            any_ = b.call(f"llvm.vector.reduce.or.v{lanes}i1", I1, some)
            with i.if_then(any_):
                self.each(j, i.add(j, b.i64(lanes)), consider)

        whole = i.add(filled, i.mul(i.sdiv(i.sub(self.n, filled), b.i64(lanes)), b.i64(lanes)))
        with i.if_then(i.icmp_signed(">", k, zero)):
            self.each(filled, whole, chunk, b.i64(lanes))
            self.each(whole, self.n, consider)

    def _maybe_before(self, x: Any, y: Any, dtype: DType, descending: bool) -> Any:
        """True wherever `_before` is, and where NaN is involved."""
        i, sign = self.b.ir, ">" if descending else "<"
        if dtype.is_float:
            return i.fcmp_unordered(sign, x, y)
        return (i.icmp_signed if dtype.is_signed else i.icmp_unsigned)(sign, x, y)

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
        self._radix_sort(taken, spare, found, scores, DType.F32, True)
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
_CELLS = {"positions": {}, "top": {"at": 1, "flips": 1, "places": 256}, "sort": {"flips": 1, "places": 256},
          "suppress": {"flips": 1, "places": 256, "taken": 1, "at": 1, "other": 1}}  # fmt: skip
