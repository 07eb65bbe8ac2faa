"""The state of one lowering: buffers, steps, and values that are not in memory yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import CodegenError
from ...ir import Const, Dim, DType, Expr, Graph, Input, Node, Shape, TensorType, Value, is_static, prod
from ..expr import Acc, Axis, Call, Cast, DimParam, E, Load, Num, Reduced
from ..kernel import Buffer, ContractKernel, Kernel, LoopKernel, Operand, PlanStep, Reduction, Step, Store
from .index import add, linear, mul, num

Index = tuple[E, ...]
# Functions that cost about ten times an addition: never computed twice.
HEAVY = frozenset({"exp", "log", "erf", "tanh", "pow", "sin", "cos", "tan", "div", "sqrt", "rsqrt", "sinh", "cosh",
                   "asin", "acos", "atan", "asinh", "acosh", "atanh"})  # fmt: skip
MAX_NODES = 60


@dataclass(frozen=True)
class Virtual:
    """A value as a function of its index: computed where it is used, never stored."""

    type: TensorType
    at: Callable[[Index], E]
    nodes: int = 1
    heavy: bool = False
    loc: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pending:
    """A contraction or reduction whose result is not stored yet, so that elementwise consumers can join it.

    `value` is the element to store, over Acc or Reduced. `read` gives another value's element at the same place, or None
    where the kernel cannot read it there. `finish(buffer, value, loc)` appends the step.
    """

    type: TensorType
    value: E
    read: Callable[[Value], E | None]
    finish: Callable[[int, E, tuple[str, ...]], None]
    nodes: int = 1
    loc: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """A value in a buffer, row-major."""

    type: TensorType
    buffer: int


Form = Virtual | Pending | Stored


class Lowering:
    """Collects buffers and steps. `forms` says where each value is."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.steps: list[PlanStep] = []
        self.constants: dict[int, object] = {}
        self.forms: dict[Value, Form] = {}
        self.uses: dict[Value, int] = {}
        self.packed: dict[tuple[int, int, int], int] = {}  # (constant array, K, N) -> its packed form
        self.targets: dict[Value, int] = {}  # values to be stored in a given buffer (graph outputs)

    # buffers -----------------------------------------------------------------------------------------------------
    def buffer(self, kind: str, t: TensorType, **more: object) -> int:
        self.buffers.append(Buffer(kind, t.dtype, t.shape, **more))  # type: ignore[arg-type]
        return len(self.buffers) - 1

    def constant(self, array: np.ndarray) -> int:
        array = np.ascontiguousarray(array)
        b = self.buffer("const", TensorType(DType.from_numpy(array.dtype), tuple(array.shape)))
        self.constants[b] = array
        return b

    def alias(self, of: int, t: TensorType, shift: Dim = 0) -> int:
        return self.buffer("alias", t, of=of, shift=shift)

    def destination(self, value: Value) -> int:
        """Where to store a value: its output buffer, or a new one in the arena."""
        return self.targets[value] if value in self.targets else self.buffer("arena", value.type)

    # forms -------------------------------------------------------------------------------------------------------
    def virtual(self, value: Value) -> Virtual:
        """The value as a function of its index; stored first if it is pending."""
        form = self.forms[value]
        if isinstance(form, Virtual):
            return form
        return self.load(self.stored(value), value.type)

    def load(self, buffer: int, t: TensorType) -> Virtual:
        array = self.constants.get(buffer)
        if isinstance(array, np.ndarray) and array.size == 1 and array.dtype.kind in "fiub" and t.dtype is not DType.BF16:
            scalar = array.reshape(-1)[0].item()
            if np.isfinite(scalar):
                return Virtual(t, lambda index: Num(scalar, dtype=t.dtype), 0)
        return Virtual(t, lambda index: Load(buffer, linear(index, t.shape), dtype=t.dtype))

    def stored(self, value: Value) -> int:
        """The buffer that holds a value, stored now if need be."""
        form = self.forms[value]
        if isinstance(form, Stored):
            return form.buffer
        out = self.destination(value)
        if isinstance(form, Pending):
            form.finish(out, form.value, form.loc)
        else:
            self.store_virtual(form, out)
        self.forms[value] = Stored(value.type, out)
        return out

    def store_virtual(self, v: Virtual, out: int, offset: Callable[[Index], E] | None = None) -> None:
        """A map kernel: out[offset(i)] = v[i] for every i."""
        shape = v.type.shape
        axes = tuple(Axis(i) for i in range(len(shape)))
        where = offset(axes) if offset else linear(axes, shape)
        self.loop(shape, (), (), (Store(out, where, v.at(axes)),), v.loc)

    # kernels -----------------------------------------------------------------------------------------------------
    def loop(self, axes: Shape, reduce_axes: Shape, stages: Sequence[Reduction], stores: Sequence[Store], loc: tuple[str, ...]) -> None:
        """Append a loop kernel whose Loads and Stores name plan buffers; they become operand numbers here."""
        if any(d == 0 for d in axes):
            return
        written = [s.operand for s in stores]
        bind = Binder(self, written)
        new_stages = tuple(Reduction(r.fn, bind(r.value)) for r in stages)
        new_stores = tuple(
            replace(s, operand=bind.operand(s.operand), offset=bind(s.offset), value=bind(s.value),
                    guard=None if s.guard is None else bind(s.guard))
            for s in stores
        )  # fmt: skip
        kernel = LoopKernel(axes, reduce_axes, bind.operands(), new_stages, new_stores)
        self.steps.append(Step(kernel, tuple(bind.order), loc))


class Binder:
    """Renumbers plan buffers to kernel operands, through a shared expression DAG."""

    def __init__(self, lowering: Lowering, written: Sequence[int], first: Sequence[int] = ()) -> None:
        self.lowering, self.written = lowering, set(written)
        self.order: list[int] = list(first)
        self._memo: dict[int, tuple[E, E]] = {}

    def operand(self, buffer: int) -> int:
        if buffer not in self.order:
            self.order.append(buffer)
        return self.order.index(buffer)

    def operands(self) -> tuple[Operand, ...]:
        bs = self.lowering.buffers
        return tuple(Operand(bs[b].dtype, prod(bs[b].shape), b in self.written) for b in self.order)

    def __call__(self, x: E) -> E:
        hit = self._memo.get(id(x))
        if hit is not None:
            return hit[1]
        out: E = x
        match x:
            case Load(operand=b, offset=o):
                out = Load(self.operand(b), self(o), dtype=x.dtype)
            case Call(fn=fn, args=args):
                out = Call(fn, tuple(self(a) for a in args), dtype=x.dtype)
            case Cast(arg=a):
                out = Cast(self(a), dtype=x.dtype)
        self._memo[id(x)] = (x, out)  # keeps x alive, so that its id stays its own
        return out
