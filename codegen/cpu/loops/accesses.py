"""What a loop nest reads and writes at a point: sizes, addresses, elements for all lanes of a vector or for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir import Dim, DType, lower
from ...affine import Affine, affine, axes_of, stride_along
from ...expr import E, Load, Param
from ...kernel import LoopKernel, Store
from .. import llvm_ir as ir
from ..build import I1, I32, I64, PTR, Params, kernel_function, mangle, storage, vec
from ..derived_numbers import DerivedNumbers
from ..math.functions import Functions
from ..shuffles import every, shuffle
from ..target import CpuTarget
from .ahead import LINE
from .schedule import MOST_APART, LoopSchedule

_MASKED_APART = 4  # a stride up to which lines of which only some lanes may be read are, too


@dataclass
class Scope:
    """Values of axes at a point of the loop nest, and what was computed there."""

    axes: dict[int, Any]  # axis -> I64 (for the vector axis: its first lane)
    lanes: int
    mask: Any  # <lanes x i1>, or None
    reduced: list[Any]
    memo: dict[tuple[int, bool], Any]
    shift: int = 0  # added to the vector axis
    ahead: int = 0  # added to the axis of columns


class Accesses:
    """Loads and stores of one kernel, in one function."""

    def __init__(self, k: LoopKernel, plan: LoopSchedule, target: CpuTarget) -> None:
        self.k, self.plan, self.target = k, plan, target
        self.params = Params()
        self.module = ir.Module()
        self.b = kernel_function(self.module)
        self.bufs, self.dims, self.begin, self.end = self.b.fn.args
        self.parallel = 0 <= plan.axis < len(k.axes)  # the vector axis is a parallel one
        self.sizes: dict[Dim, Any] = {}
        self.depends = self.dependence(k)
        self.column_axis = -1  # the axis along which several points are computed together
        self.pointers: list[Any] = []
        self.forms: dict[int, Affine | None] = {}
        self.strides: dict[int, Dim | None] = {}
        self.sums: dict[Any, Any] = {}
        self.slots: dict[int, int] = {}  # of numbers, by id() of a `Param`
        self.numbers: dict[tuple[int, int], Any] = {}  # by that and lanes
        self.derived = DerivedNumbers()
        self.fixed: dict[tuple[int, int], Any] = {}  # elements that were loaded on entry
        self.ahead: dict[int, int] = {}  # operand -> elements from a vector stored to the line to ask for

    def dependence(self, k: LoopKernel) -> dict[int, frozenset[int]]:
        """id(node) -> axes it depends on; a result of a reduction differs between lanes along a parallel axis."""
        return self.dependence_of(k.roots)

    def dependence_of(self, roots: list[E]) -> dict[int, frozenset[int]]:
        return axes_of(roots, frozenset({self.plan.axis}) if self.parallel else frozenset())

    def dim(self, d: Dim) -> Any:
        """A dim as an I64: a literal, or read from the table in the entry block."""
        if isinstance(d, int):
            return self.b.i64(d)
        if d not in self.sizes:
            with self.b.ir.goto_block(self.b.entry):
                self.sizes[d] = self.b.param(self.dims, self.params.add(d))
        return self.sizes[d]

    def number(self, e: Param, lanes: int = 1) -> Any:
        """Read from the table of sizes in the entry block: registers hold it through loops, as they do constants."""
        if id(e) not in self.slots:
            self.slots[id(e)] = self.params.add_number(e)
        if (id(e), lanes) not in self.numbers:
            with self.b.ir.goto_block(self.b.entry):
                self.numbers[id(e), lanes] = self.b.number(self.dims, self.slots[id(e)], e.dtype, lanes)
        return self.numbers[id(e), lanes]

    def value(self, root: E, s: Scope, wide: bool = False) -> Any:
        """root at a point: one lane if it does not vary along the vector axis (unless `wide`), else s.lanes lanes."""
        raise NotImplementedError

    def varies(self, e: E, s: Scope) -> bool:
        return s.lanes > 1 and self.plan.axis in self.depends[id(e)]

    def _widen(self, x: Any, lanes: int) -> Any:
        if x.type.count == lanes:
            return x
        if isinstance(x, ir.Constant):
            return ir.Constant(vec(x.type.element, lanes), x.constant[0] if isinstance(x.constant, list) else x.constant)
        return self.b.splat(self.b.ir.extract_element(x, ir.Constant(I32, 0)), lanes)

    def form(self, offset: E) -> Affine | None:
        if id(offset) not in self.forms:
            self.forms[id(offset)] = affine(offset)
        return self.forms[id(offset)]

    def _stride(self, offset: E, s: Scope) -> int | None:
        """Elements per lane when constant: 0, or known; None for a gather."""
        if not self.varies(offset, s):
            return 0
        if id(offset) not in self.strides:
            self.strides[id(offset)] = stride_along(offset, self.plan.axis, None if self.parallel else 0)
        k = self.strides[id(offset)]
        return k if isinstance(k, int) else None

    def scalar(self, e: E, s: Scope) -> Any:
        """An I64 at the first lane: every axis is taken at its (first) value."""
        first = Scope(s.axes, 1, None, s.reduced, s.memo if s.lanes == 1 else {}, s.shift, s.ahead)
        x = self.value(e, first)
        return self.b.ir.extract_element(x, ir.Constant(I32, 0))

    def linear(self, form: Affine, axes: dict[int, Any], shift: int = 0, ahead: int = 0) -> tuple[Any, int]:
        """An affine form as (I64 value, constant to add). Values are shared within a block."""
        b = self.b
        rest: tuple[Dim, ...] = () if isinstance(form[0], int) else (form[0],)
        constant = form[0] if isinstance(form[0], int) else 0
        terms: list[tuple[Any, Dim]] = []
        for axis, c in form[1].items():
            further = shift if axis == self.plan.axis else ahead if axis == self.column_axis else 0
            if further:
                if isinstance(c, int):
                    constant += c * further
                else:
                    rest += (c * further,)
            at = axes[axis]
            if isinstance(at, ir.Constant):
                if isinstance(c, int):
                    constant += c * at.constant
                elif at.constant:
                    rest += (c * at.constant,)
            elif c != 0:
                terms.append((at, c))
        key = (id(b.ir.block), rest, tuple((id(v), c) for v, c in terms))
        if key not in self.sums:
            total: Any = None
            for t in [*(self.dim(d) for d in rest), *(v if c == 1 else b.ir.mul(v, self.dim(c)) for v, c in terms)]:
                total = t if total is None else b.ir.add(total, t)
            self.sums[key] = (b.i64(0) if total is None else total, b.ir.block, terms)
        return self.sums[key][0], constant

    def address(self, operand: int, offset: E, s: Scope) -> Any:
        """Of the element at the first lane."""
        b, t, base = self.b, storage(self.k.operands[operand].dtype), self.pointers[operand]
        form = self.form(offset)
        if form is None:
            return b.at(base, self.scalar(offset, s), t)
        value, constant = self.linear(form, s.axes, s.shift, s.ahead)
        key = (id(b.ir.block), operand, id(value))
        if key not in self.sums:
            self.sums[key] = (b.at(base, value, t), value)
        at = self.sums[key][0]
        return b.at(at, b.i64(constant), t) if constant else at

    def _load(self, e: Load, s: Scope, lanes: int, math: Functions) -> Any:
        b = self.b
        dtype = self.k.operands[e.operand].dtype
        t, base = storage(dtype), self.pointers[e.operand]
        align = dtype.itemsize
        stride = self._stride(e.offset, s)
        if stride == 0 or lanes == 1:
            one = Functions(b, 1, self.target)
            if self._fixed(e):
                return self._once(e, t, one, dtype)
            return one.from_storage(b.splat(b.load(t, self.address(e.operand, e.offset, s), align, self._of_row(e)), 1), dtype)
        wide = vec(t, lanes)
        if stride == 1:
            at = self.address(e.operand, e.offset, s)
            raw = b.load(wide, at, align) if s.mask is None else b.masked_load(wide, at, s.mask, align)
            return math.from_storage(raw, dtype)
        if stride is not None and dtype.itemsize <= 8 and self._near(stride, s.mask is not None):
            return math.from_storage(self._strided(wide, self.address(e.operand, e.offset, s), stride, align, s.mask), dtype)
        if self.target.masked and dtype.itemsize in (4, 8):  # a gather instruction
            pointers = self._lane_pointers(e.operand, e.offset, s, lanes)
            name = f"llvm.masked.gather.{mangle(wide)}.{mangle(pointers.type)}"
            mask = s.mask if s.mask is not None else ir.Constant(vec(I1, lanes), [1] * lanes)
            raw = b.call(name, wide, pointers, ir.Constant(I32, align), mask, ir.Constant(wide, None))
            return math.from_storage(raw, dtype)
        if self.target.masked and dtype.itemsize < 4 and stride is None:
            return math.from_storage(self._gathered_narrow(e, s, lanes, t), dtype)
        index = self._lane_offsets(e.offset, s, lanes)
        raw = ir.Constant(wide, ir.Undefined)
        for lane in range(lanes):
            at = ir.Constant(I32, lane)
            raw = b.ir.insert_element(raw, b.load(t, b.at(base, b.ir.extract_element(index, at), t), align), at)
        return math.from_storage(raw, dtype)

    def _gathered_narrow(self, e: Load, s: Scope, lanes: int, t: Any) -> Any:
        """Elements of 8 or 16 bits, which no instruction gathers: the aligned words that they are in, which are on the same page."""
        b, i, size = self.b, self.b.ir, self.k.operands[e.operand].dtype.itemsize
        words, places = vec(I32, lanes), vec(I64, lanes)
        offsets = i.mul(self._widen(self.value(e.offset, s), lanes), ir.Constant(places, size))
        addresses = i.add(b.splat(i.ptrtoint(self.pointers[e.operand], I64), lanes), offsets)
        pointers = i.inttoptr(i.and_(addresses, ir.Constant(places, -4)), vec(PTR, lanes))
        mask = s.mask if s.mask is not None else ir.Constant(vec(I1, lanes), [1] * lanes)
        name = f"llvm.masked.gather.{mangle(words)}.{mangle(pointers.type)}"
        found = b.call(name, words, pointers, ir.Constant(I32, 4), mask, ir.Constant(words, None))
        within = i.shl(i.and_(i.trunc(addresses, words), ir.Constant(words, 3)), ir.Constant(words, 3))
        narrow = i.trunc(i.lshr(found, within), vec(ir.IntType(8 * size), lanes))
        return narrow if t == ir.IntType(8 * size) else i.bitcast(narrow, vec(t, lanes))

    def _fixed(self, e: Load) -> bool:
        """Whether it loads one element that is there in any case, and the kernel writes nothing to its operand."""
        form, operand = self.form(e.offset), self.k.operands[e.operand]
        known = form is not None and isinstance(form[0], int) and not form[1] and 0 <= form[0] < lower(operand.numel)
        return known and not operand.written

    def _of_row(self, e: Load) -> bool:
        """Whether it is the same all along a row and the kernel writes nothing to its operand: what follows from it may then be computed
        before the row. Taps of windows are too many for registers."""
        depends = self.depends.get(id(e.offset), frozenset())
        inner = self.plan.axis in depends or any(a >= len(self.k.axes) for a in depends)
        return self.plan.width > 1 and not inner and not self.k.operands[e.operand].written

    def _once(self, e: Load, t: Any, one: Functions, dtype: DType) -> Any:
        """Loaded on entry: LLVM cannot know that stores leave it alone, and what follows from it would stay in loops."""
        form = self.form(e.offset)
        assert form is not None and isinstance(form[0], int)
        key = e.operand, form[0]
        if key not in self.fixed:
            b = self.b
            with b.ir.goto_block(b.entry):
                self.fixed[key] = b.splat(b.load(t, b.at(self.pointers[e.operand], b.i64(form[0]), t), dtype.itemsize), 1)
        return one.from_storage(self.fixed[key], dtype)

    def _near(self, stride: int, masked: bool) -> bool:
        """Whether lanes so far apart are taken from vectors of all there is between them."""
        return 2 <= stride <= _MASKED_APART and self.target.masked if masked else stride == -1 or 2 <= stride <= MOST_APART

    def _strided(self, wide: Any, at: Any, stride: int, align: int, mask: Any = None) -> Any:
        """Lanes `stride` elements apart, from vectors of all there is between the first and the last one."""
        b, n, t = self.b, wide.count, wide.element
        if stride == -1:
            x = b.load(wide, b.at(at, b.i64(1 - n), t), align)
            return shuffle(b, x, x, range(n - 1, -1, -1))
        last = (n - 1) * stride + 1 - n  # where a vector that ends with the last lane starts
        starts = [min(j * n, last) for j in range(stride)]
        if mask is None:
            return every(b, [b.load(wide, b.at(at, b.i64(j), t), align) for j in starts], starts, stride)
        pieces = []
        for j in starts:
            owners = [divmod(j + p, stride) for p in range(n)]  # the lane that wants an element, if the rest is 0
            wanted = shuffle(b, mask, ir.Constant(mask.type, None), [lane if rest == 0 else n for lane, rest in owners])
            pieces.append(b.masked_load(wide, b.at(at, b.i64(j), t), wanted, align))
        return every(b, pieces, starts, stride)

    def _lane_offsets(self, offset: E, s: Scope, lanes: int) -> Any:
        """An offset per lane; masked lanes point at element 0, which exists."""
        index = self._widen(self.value(offset, s), lanes)
        return index if s.mask is None else self.b.ir.select(s.mask, index, ir.Constant(index.type, None))

    def _lane_pointers(self, operand: int, offset: E, s: Scope, lanes: int) -> Any:
        """A pointer per lane: a constant stride from the first lane, or an offset each."""
        b, t = self.b, storage(self.k.operands[operand].dtype)
        stride = self._stride(offset, s)
        if stride is None:
            out = b.at(self.pointers[operand], self._widen(self.value(offset, s), lanes), t)
        else:
            steps = ir.Constant(vec(I64, lanes), [stride * lane for lane in range(lanes)])
            out = b.at(self.address(operand, offset, s), steps, t)
        out.type = vec(PTR, lanes)  # llvmlite types every getelementptr as one pointer
        return out

    def _store(self, store: Store, s: Scope, value: Any = None) -> None:
        b, dtype = self.b, self.k.operands[store.operand].dtype
        lanes = s.lanes
        math = Functions(b, lanes, self.target)
        x = math.to_storage(self._widen(self.value(store.value, s) if value is None else value, lanes), dtype)
        guard = None if store.guard is None else self._widen(self.value(store.guard, s), lanes)
        if lanes == 1:
            at = self.address(store.operand, store.offset, s)
            single = b.ir.extract_element(x, ir.Constant(I32, 0))
            if guard is None:
                b.ir.store(single, at, align=dtype.itemsize)
                return
            with b.ir.if_then(b.ir.extract_element(guard, ir.Constant(I32, 0))):
                b.ir.store(single, at, align=dtype.itemsize)
            return
        mask = s.mask if guard is None else guard if s.mask is None else b.ir.and_(guard, s.mask)
        if self._stride(store.offset, s) != 1:
            pointers = self._lane_pointers(store.operand, store.offset, s, lanes)
            if mask is None:
                mask = ir.Constant(vec(I1, lanes), [1] * lanes)
            name = f"llvm.masked.scatter.{mangle(x.type)}.{mangle(pointers.type)}"
            b.call(name, ir.VoidType(), x, pointers, ir.Constant(I32, dtype.itemsize), mask)
            return
        at = self.address(store.operand, store.offset, s)
        if mask is None:
            b.ir.store(x, at, align=dtype.itemsize)
            self._ask(store.operand, s.shift, at)
        else:
            b.masked_store(x, at, mask, dtype.itemsize)

    def _ask(self, operand: int, shift: int, at: Any) -> None:
        """For a line ahead of `at`, where a vector was stored; once for vectors that share a line, as far as `shift` says."""
        dtype = self.k.operands[operand].dtype
        if operand in self.ahead and shift * dtype.itemsize % LINE == 0:
            self.b.prefetch(self.b.at(at, self.b.i64(self.ahead[operand]), storage(dtype)), write=True)
