"""Epilogues of contractions: the scalar body, evaluated on accumulator vectors while they are still in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import CodegenError
from ...ir import DType
from ..affine import axes_of
from ..expr import Acc, Axis, Bits, Call, Cast, DimParam, E, Load, Num, Param, Table, children, clamped, postorder, quantizing
from ..kernel import ContractKernel, GroupedKernel, WinogradKernel
from . import llvm_ir as ir
from .build import I64, Builder, Params, storage, vec
from .derived_numbers import DerivedNumbers, divides
from .math.functions import Functions
from .tabulated import add_table, looked_up, tabulated_epilogue
from .target import CpuTarget

BATCH, ROW, COLUMN = 0, 1, 2
_LINE = 64  # bytes
_HELD = 4  # operands of a strip that stay in registers
_LONG = frozenset({"exp", "tanh", "erf", "normcdf", "log", "pow", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
                   "acosh", "atanh", "mod", "fmod"})  # fmt: skip
_MANY = 10  # operations of an epilogue that is long without them: to quantize and dequantize again takes 12


def stride_along(offset: E, axis: int) -> int | None:
    """How much the offset grows with an axis, when that is a constant; None otherwise."""
    known: dict[int, int | None] = {}
    for e in postorder([offset]):
        args = [known[id(c)] for c in children(e)]
        stride: int | None = 0
        if isinstance(e, Axis):
            stride = int(e.index == axis)
        elif isinstance(e, Load) or None in args:
            stride = None
        elif isinstance(e, Call) and any(args):
            match e.fn, args, e.args:
                case "add", [int(x), int(y)], _:
                    stride = x + y
                case "sub", [int(x), int(y)], _:
                    stride = x - y
                case "mul", [int(x), 0], (_, Num(value=c)):
                    stride = x * int(c)
                case "mul", [0, int(y)], (Num(value=c), _):
                    stride = y * int(c)
                case _:
                    stride = None
        known[id(e)] = stride
    return known[id(offset)]


def unrounded(e: E) -> E:
    """What is stored, without a rounding to 16 bits that storing does anyway."""
    if isinstance(e, Cast) and e.dtype in (DType.BF16, DType.F16) and e.arg.dtype is DType.F32:
        return e.arg
    return e


class Epilogue:
    """Checked once per kernel; `begin` starts it in a function, `row` finishes one row of a tile."""

    def __init__(self, kernel: ContractKernel | GroupedKernel | WinogradKernel, params: Params, target: CpuTarget, lanes: int) -> None:
        self.kernel, self.target, self.lanes = kernel, target, lanes
        self.flush = kernel.operands[0].dtype is DType.BF16  # as the product itself does
        self.root = tabulated_epilogue(unrounded(kernel.epilogue), target)
        self.order = postorder([self.root], lambda e: () if isinstance(e, Load) else children(e))
        self.tables = {id(e): add_table(params, e) for e in self.order if isinstance(e, Table)}
        self.strides: dict[int, int] = {}
        self.slots: dict[int, int] = {}  # sizes go to the params table, so that they do not tell kernels apart
        self.numbers: dict[int, tuple[int, DType]] = {}
        self.derived = DerivedNumbers()
        for e in self.order:
            if isinstance(e, DimParam):
                self.slots[id(e)] = params.add(e.dim)
            for number in self._in_table(e):
                if id(number) not in self.numbers:
                    self.numbers[id(number)] = params.add_number(number), number.dtype
            if not isinstance(e, Load):
                continue
            stride = stride_along(e.offset, COLUMN)
            if stride not in (0, 1):
                raise CodegenError("epilogue operand is not read along columns", expected="column stride 0 or 1")
            self.strides[id(e)] = stride
            for x in postorder([e.offset]):
                if isinstance(x, DimParam):
                    self.slots[id(x)] = params.add(x.dim)
                elif isinstance(x, Num) and int(x.value) not in (0, 1):
                    self.slots[id(x)] = params.add(int(x.value))

    def _in_table(self, e: E) -> tuple[Param, ...]:
        """Numbers that evaluating e reads there."""
        if isinstance(e, Param):
            return (e,)
        if isinstance(by := divides(e), Param):
            return (self.derived.inverse(by),)
        return () if (q := quantizing(e)) is None else self.derived.ends_of(e, q) or ()

    @property
    def long(self) -> bool:
        operations = [e for e in self.order if isinstance(e, (Call, Cast))]
        return len(operations) > _MANY or any(isinstance(e, Call) and e.fn in _LONG for e in operations)

    def fingerprint(self) -> tuple[object, ...]:
        """The structure, with sizes and index constants left out: those are in the params table."""
        nodes = postorder([self.root])
        at = {id(e): x for x, e in enumerate(nodes)}

        def own(e: E) -> object:
            match e:
                case Call():
                    return e.fn
                case Load():
                    return e.operand
                case Axis():
                    return e.index
                case Num() if id(e) not in self.slots:
                    return repr(e.value)
            return self.slots.get(id(e), self.tables.get(id(e), self.numbers.get(id(e))))

        return tuple((type(e).__name__, e.dtype, own(e), tuple(at[id(c)] for c in children(e))) for e in nodes)

    def begin(
        self, b: Builder, dims: Any, pointers: list[Any], batch: Any, column: Any, masks: Sequence[Any], hold: bool = False
    ) -> ActiveEpilogue:
        """`hold`: operands that are the same for every row are read here, into registers."""
        active = ActiveEpilogue(self, b, dims, pointers, batch, column, masks)
        if hold:
            active.hold()
        return active


class ActiveEpilogue:
    def __init__(self, e: Epilogue, b: Builder, dims: Any, pointers: list[Any], batch: Any, column: Any, masks: Sequence[Any]) -> None:
        self.e, self.b, self.dims, self.pointers, self.column, self.masks = e, b, dims, pointers, column, masks
        self.axes = {BATCH: batch, COLUMN: column}
        self.sizes = {key: b.param(dims, slot) for key, slot in e.slots.items()}
        self.numbers = {key: b.number(dims, *number, e.lanes) for key, number in e.numbers.items()}
        self.math = Functions(b, e.lanes, e.target, e.flush)
        self.out = e.kernel.operands[-1].dtype
        self.held: dict[tuple[int, int], Any] = {}

    def hold(self) -> None:
        """Read the operands that do not depend on the row, up to a few registers of them."""
        loads = [e for e in self.e.order if isinstance(e, Load) and not self._by_row(e)]
        for load in loads[:_HELD]:
            at = self.b.at(self.pointers[load.operand], self._scalar(load.offset), storage(self._stored(load)))
            splats: dict[int, Any] = {}
            for v in range(len(self.masks)):
                self.held[id(load), v] = self._load(load, v, {id(load): at}, splats)

    def prefetch(self, m: Any) -> None:
        """Ask memory for what row m reads and no other row does."""
        for load in self.e.order:
            if isinstance(load, Load) and self.e.strides[id(load)] == 1 and self._by_row(load):
                dtype = self._stored(load)
                at = self.b.at(self.pointers[load.operand], self._scalar(load.offset, m), storage(dtype))
                ends = range(_LINE, len(self.masks) * self.e.lanes * dtype.itemsize + _LINE, _LINE)
                for end in ends:  # as rows that begin within a line share it with the columns before, which have read it
                    self.b.prefetch(self.b.at(at, self.b.i64(end // dtype.itemsize - 1), storage(dtype)))

    def row(self, m: Any, acc: Sequence[Any], out: Any) -> None:
        """Store epilogue(acc) of row m at `out` (its first column of this strip)."""
        self.axes[ROW] = m
        addresses: dict[int, Any] = {}
        for load in self.e.order:
            if isinstance(load, Load) and (id(load), 0) not in self.held:
                base = self.pointers[load.operand]
                addresses[id(load)] = self.b.at(base, self._scalar(load.offset), storage(self._stored(load)))
        splats: dict[int, Any] = {}
        t = storage(self.out)
        for v, x in enumerate(acc):
            value = self.math.to_storage(self._evaluate(v, x, addresses, splats), self.out)
            at = self.b.at(out, self.b.i64(v * self.e.lanes), t)
            align = self.out.itemsize
            if self.masks[v] is None:
                self.b.ir.store(value, at, align=align)
            else:
                self.b.masked_store(value, at, self.masks[v], align)

    @staticmethod
    def _by_row(load: Load) -> bool:
        return ROW in axes_of([load.offset])[id(load.offset)]

    def _stored(self, load: Load) -> DType:
        return self.e.kernel.operands[load.operand].dtype

    def _evaluate(self, v: int, acc: Any, addresses: dict[int, Any], splats: dict[int, Any]) -> Any:
        b, lanes = self.b, self.e.lanes
        value: dict[int, Any] = {}
        levels: dict[int, Any] = {}  # quantized numbers as I32
        for e in self.e.order:
            match e:
                case Acc():
                    x = acc
                case Num():
                    x = self.math.const(e.value, e.dtype)
                case Param():
                    x = self.numbers[id(e)]
                case Load():
                    x = self._load(e, v, addresses, splats)
                case Axis(index=2):
                    x = b.ir.add(b.splat(self.column, lanes), b.iota(lanes, v * lanes))
                case Axis():
                    x = b.splat(self.axes[e.index], lanes)
                case DimParam():
                    x = b.splat(self.sizes[id(e)], lanes)
                case Table():
                    x = looked_up(b, self.dims, self.e.tables[id(e)], value[id(e.arg)])
                case Bits():
                    x = self.math.bits(value[id(e.arg)], e.source, e.dtype)
                case Cast() if (q := quantizing(e)) is not None:
                    if (ends := self.e.derived.ends_of(e, q)) is not None:
                        levels[id(e)] = self.math.quantize_within(value[id(q.x)], *(self.numbers[id(n)] for n in ends))
                    else:
                        zero = q.zero if isinstance(q.zero, int) else self.math.cast(value[id(q.zero)], q.zero.dtype, DType.I32)
                        levels[id(e)] = self.math.quantize(value[id(q.x)], zero, q.low, q.high)
                    x = b.ir.trunc(levels[id(e)], self.math.type(e.dtype))
                case Cast(arg=a, dtype=DType.I32) if id(a) in levels:
                    x = levels[id(a)]  # not by way of the narrow type
                case Cast(arg=a) if clamped(a, e.dtype):
                    x = self.math.convert(value[id(a)], e.dtype)
                case Cast():
                    x = self.math.cast(value[id(e.arg)], e.arg.dtype, e.dtype)
                case Call(args=(top, _)) if self.e.target.fma and (by := divides(e)) is not None:
                    inverse = self.numbers[id(self.e.derived.inverse(by))] if isinstance(by, Param) else None
                    one = Functions(b, 1, self.e.target).const(by.value, DType.F32) if isinstance(by, Num) else value[id(by)]
                    x = self.math.divide(value[id(top)], one, inverse)
                case Call():
                    x = self.math.call(e.fn, [value[id(a)] for a in e.args], [a.dtype for a in e.args])
                case _:
                    raise CodegenError(f"{type(e).__name__} in the epilogue of a contraction")
            value[id(e)] = x
        return value[id(self.e.order[-1])]

    def _load(self, e: Load, v: int, addresses: dict[int, Any], splats: dict[int, Any]) -> Any:
        if (id(e), v) in self.held:
            return self.held[id(e), v]
        b, dtype = self.b, self._stored(e)
        t, at = storage(dtype), addresses[id(e)]
        if self.e.strides[id(e)] == 0:
            if id(e) not in splats:
                splats[id(e)] = self.math.from_storage(b.splat(b.load(t, at, dtype.itemsize), self.e.lanes), dtype)
            return splats[id(e)]
        at = b.at(at, b.i64(v * self.e.lanes), t)
        wide = vec(t, self.e.lanes)
        if self.masks[v] is None:
            return self.math.from_storage(b.load(wide, at, dtype.itemsize), dtype)
        return self.math.from_storage(b.masked_load(wide, at, self.masks[v], dtype.itemsize), dtype)

    def _scalar(self, offset: E, m: Any = None) -> Any:
        """An index expression at the first column of the strip, of row m or the one that is being finished. Operands are never
        negative, so `div` is unsigned."""
        i = self.b.ir
        axes = self.axes if m is None else {**self.axes, ROW: m}
        value: dict[int, Any] = {}
        ops = {"add": i.add, "sub": i.sub, "mul": i.mul, "div": i.udiv, "mod": i.urem, "fmod": i.urem,
               "min": self.b.smin, "max": self.b.smax}  # fmt: skip
        for e in postorder([offset]):
            match e:
                case Axis():
                    x = axes[e.index]
                case Num() | DimParam() if id(e) in self.sizes:
                    x = self.sizes[id(e)]
                case Num():
                    x = ir.Constant(I64, int(e.value))
                case Cast():
                    x = value[id(e.arg)]
                case Call(fn=fn) if fn in ops:
                    x = ops[fn](*(value[id(a)] for a in e.args))
                case _:
                    raise CodegenError(f"{type(e).__name__} in an index of an epilogue")
            value[id(e)] = x
        return value[id(offset)]
