"""Scalar expressions of kernels: index arithmetic and element computation are one language.

Integer index expressions have dtype I64. `Axis(i)` is loop variable i of the kernel, `DimParam(d)` a dimension
known at run time. Expressions are immutable and shared; emitters must memoise by identity (they form a DAG).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from ..ir import COMPARISONS, Dim, DType


@dataclass(frozen=True, slots=True, eq=False)
class E:
    """Base; `dtype` is the element type of the result."""

    dtype: DType = field(default=DType.I64, kw_only=True)


@dataclass(frozen=True, slots=True, eq=False)
class Axis(E):
    """Loop variable: parallel axes first, then reduce axes, numbered through."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class DimParam(E):
    """A (possibly symbolic) dimension as an I64 number."""

    dim: Dim


@dataclass(frozen=True, slots=True, eq=False)
class Ticks(E):
    """A counter of the processor, I64: another number every time."""


@dataclass(frozen=True, slots=True, eq=False)
class Num(E):
    value: float | int | bool


@dataclass(frozen=True, slots=True, eq=False)
class Param(E):
    """A constant that the kernel reads from its table of sizes: float32, or an integer of at most 4 bytes. Emitters make these."""

    value: float | int


@dataclass(frozen=True, slots=True, eq=False)
class Load(E):
    """Element `offset` (an I64 expression, in elements from the start) of kernel operand `operand`."""

    operand: int
    offset: E


@dataclass(frozen=True, slots=True, eq=False)
class Call(E):
    """One of SCALAR_FNS."""

    fn: str
    args: tuple[E, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cast(E):
    arg: E


@dataclass(frozen=True, slots=True, eq=False)
class Bits(E):
    """The bits of an element of `source` (in which `arg` is exact), read as another dtype of the same size."""

    arg: E
    source: DType


@dataclass(frozen=True, slots=True, eq=False)
class Reduced(E):
    """Result of reduction stage `stage` of the same kernel (constant along the reduce axes)."""

    stage: int


@dataclass(frozen=True, slots=True, eq=False)
class Acc(E):
    """The accumulator of a contraction, in its epilogue."""


@dataclass(frozen=True, slots=True, eq=False)
class Table(E):
    """values[arg] of a byte; an I8 counts as it is in memory, and so do the values of one. Emitters make these."""

    arg: E
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Guarded(E):
    """`body` in the lanes in which every fact holds, `other` elsewhere. Emitters make these: loads of the body may only be
    done where the facts hold. A fact is an affine form (constant, coefficient per axis) that is not negative."""

    body: E
    other: E
    facts: tuple[tuple[Dim, dict[int, Dim]], ...]


_LEAVES = (Axis, Num, DimParam)


def children(e: E) -> tuple[E, ...]:
    """Operands of an expression, an index included."""
    if isinstance(e, Call):
        return e.args
    if isinstance(e, _LEAVES):  # most nodes are one of these two
        return ()
    match e:
        case Cast(arg=arg) | Bits(arg=arg) | Table(arg=arg):
            return (arg,)
        case Load(offset=offset):
            return (offset,)
        case Guarded(body=body, other=other):
            return (body, other)
    return ()


def rebuilt(e: E, kids: tuple[E, ...]) -> E:
    """The node with other operands."""
    match e:
        case Call(fn=fn):
            return Call(fn, kids, dtype=e.dtype)
        case Bits(source=source):
            return Bits(kids[0], source, dtype=e.dtype)
        case Cast():
            return Cast(kids[0], dtype=e.dtype)
        case Table(values=values):
            return Table(kids[0], values, dtype=e.dtype)
        case Load(operand=o):
            return Load(o, kids[0], dtype=e.dtype)
    return e


def postorder(roots: Sequence[E], into: Callable[[E], tuple[E, ...]] = children) -> list[E]:
    """Every node once, operands first. Iterative: fused chains get long."""
    seen: set[int] = set()
    order: list[E] = []
    stack: list[E | None] = list(reversed(roots))  # None: the operands of what is below it are done
    while stack:
        e = stack.pop()
        if e is None:
            done = stack.pop()
            assert done is not None
            order.append(done)
        elif id(e) not in seen:
            seen.add(id(e))
            operands = into(e)
            if operands:
                stack += (e, None, *reversed(operands))
            else:
                order.append(e)
    return order


def clamped(e: E, to: DType) -> bool:
    """Whether a float expression lies within the small integer type `to`, NaN aside: min(max(x, low), high) by constants."""
    if not e.dtype.is_float or not to.is_int or to.itemsize > 2:
        return False
    bits, signed = to.itemsize * 8, to.is_signed
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    _, found = _unclamp(e)
    # the outer bound holds whatever is inside; the inner one only if it does not exceed the outer
    return len(found) == 2 and low <= found["max"] <= found["min"] <= high


def _unclamp(e: E) -> tuple[E, dict[str, float]]:
    """What is inside of at most one min and one max by constants, in any order, and these constants."""
    found: dict[str, float] = {}
    while isinstance(e, Call) and e.fn in ("min", "max") and e.fn not in found:
        inner, other = e.args if isinstance(e.args[1], Num) else e.args[::-1]
        if not isinstance(other, Num):
            break
        found[e.fn] = float(other.value)
        e = inner
    return e, found


@dataclass(frozen=True, slots=True)
class Quantizing:
    """min(max(round(x) + zero, low), high) of a float32 x, cast to a small integer type that holds low and high. `zero` is
    a number, or an expression (a `Param` perhaps) of an integer type of 1 or 2 bytes."""

    x: E
    zero: int | E
    low: int
    high: int


def quantizing(e: E) -> Quantizing | None:
    """The parts of a cast that quantizes; None for other expressions."""
    if not isinstance(e, Cast) or e.arg.dtype is not DType.F32 or not clamped(e.arg, e.dtype):
        return None
    total, bounds = _unclamp(e.arg)
    match total:
        case Call(fn="add", args=(Call(fn="round", args=(x,)), Cast(arg=Num(value=number)) | Num(value=number))):
            zero: float | E = float(number)
        case Call(fn="add", args=(Call(fn="round", args=(x,)), Cast(arg=computed))) if (
            computed.dtype.is_int and computed.dtype.itemsize <= 2
        ):
            zero = computed
        case _:
            return None
    numbers = [bounds["max"], bounds["min"], *([] if isinstance(zero, E) else [zero])]
    if not all(abs(v) < 1 << 16 and v == int(v) for v in numbers):
        return None
    return Quantizing(x, zero if isinstance(zero, E) else int(zero), int(bounds["max"]), int(bounds["min"]))


def structure(roots: Sequence[E], blank: Collection[int] = ()) -> tuple[object, ...]:
    """A hashable value, equal for expressions that are built alike: nodes in postorder, operands by their position. What is told
    of those `blank`, by id(), is their type only."""
    at: dict[int, int] = {}
    nodes: list[object] = []
    for e in postorder(roots):
        own: object = None
        match e:
            case _ if id(e) in blank:
                pass
            case Axis(index=i) | Load(operand=i) | Reduced(stage=i):
                own = i
            case DimParam(dim=d):
                own = d
            case Num(value=v) | Param(value=v):
                own = (type(v), repr(v))  # repr: 0.0 and -0.0 differ, and a NaN equals itself
            case Call(fn=fn):
                own = fn
            case Bits(source=source):
                own = source
            case Table(values=values):
                own = values
        at[id(e)] = len(nodes)
        nodes.append((type(e), e.dtype, own, tuple(at[id(c)] for c in children(e))))
    return (*nodes, tuple(at[id(r)] for r in roots))


class ExprScalars:
    """ScalarOps that build expressions: `S(ExprScalars())` turns an op's body into kernel code."""

    def const(self, value: float | int | bool, dtype: DType) -> E:
        return Num(value, dtype=dtype)

    def cast(self, x: E, dtype: DType) -> E:
        return x if x.dtype is dtype else Cast(x, dtype=dtype)

    def bits(self, x: E, source: DType, dtype: DType) -> E:
        return Bits(x, source, dtype=dtype)

    def dtype(self, x: E) -> DType:
        return x.dtype

    def call(self, fn: str, *args: E) -> E:
        return Call(fn, args, dtype=DType.BOOL if fn in COMPARISONS else args[-1].dtype)
