"""Scatters with all updates at once: combined by atomics where the order does not matter, else by a vote on which is the last."""

from __future__ import annotations

from ...ir import Dim, DType, prod, upper
from ..expr import Axis, Call, Cast, DimParam, E, Load, Num
from ..kernel import LoopKernel, Operand, Store
from .loop_schedule import reads_own_result
from .parts import Part, Parts, replaced

FEW_UPDATES = 8  # a place that one thread runs through in order
# Integers: sums wrap alike in any order, and the least or greatest is what it is.
_ATOMIC = {"add": "atomic_add", "max": "atomic_max", "min": "atomic_min"}
_TYPES = (DType.I32, DType.U32, DType.I64, DType.U64)


def scattered(kernel: LoopKernel) -> Parts | None:
    """Kernels whose points are all updates, for one whose updates of a place follow each other; None where that is as well."""
    if kernel.stages or not kernel.reduce_axes or len(kernel.stores) != 1 or upper(prod(kernel.reduce_axes)) <= FEW_UPDATES:
        return None
    (store,) = kernel.stores
    if not store.per_element:
        return None
    if not reads_own_result(kernel):
        return _last_wins(kernel, store)
    update = _combined(kernel, store)
    return None if update is None else Parts((_points(kernel, kernel.operands, update[1], {store.operand: update[0]}),))


def _combined(kernel: LoopKernel, store: Store) -> tuple[str, Store] | None:
    """The atomic function, and the store of what it combines with, if the value is fn(what is there, update)."""
    dtype = kernel.operands[store.operand].dtype
    value = store.value
    if not isinstance(value, Call) or value.fn not in _ATOMIC or dtype not in _TYPES or value.dtype is not dtype:
        return None
    there, update = value.args
    if not isinstance(there, Load) or there.operand != store.operand:
        return None
    plain = Store(store.operand, store.offset, update, True, store.guard)
    if reads_own_result(LoopKernel(kernel.axes, kernel.reduce_axes, kernel.operands, (), (plain,))):
        return None
    return _ATOMIC[value.fn], plain


def _last_wins(kernel: LoopKernel, store: Store) -> Parts:
    """Every place that is written gets no number, then the greatest number of its updates; that update is stored."""
    length = prod(kernel.reduce_axes)
    dtype = DType.I32 if upper(length) < 2**31 else DType.I64
    votes = len(kernel.operands)
    numel = kernel.operands[store.operand].numel
    number: E = Num(0)
    for j, d in enumerate(kernel.reduce_axes):
        number = Call("add", (Call("mul", (number, _number(d))), Axis(len(kernel.axes) + j)))
    mine = number if dtype is DType.I64 else Cast(number, dtype=dtype)
    won: E = Call("eq", (Load(votes, store.offset, dtype=dtype), mine), dtype=DType.BOOL)
    if store.guard is not None:
        won = Call("and_", (won, store.guard), dtype=DType.BOOL)
    written, read = (*kernel.operands, Operand(dtype, numel, True, True)), (*kernel.operands, Operand(dtype, numel))
    return Parts(
        (_points(kernel, written, Store(votes, store.offset, Num(-1, dtype=dtype), True, store.guard)),
         _points(kernel, written, Store(votes, store.offset, mine, True, store.guard), {votes: "atomic_max"}),
         _points(kernel, read, Store(store.operand, store.offset, store.value, True, won))),
        (numel * dtype.itemsize,),
    )  # fmt: skip


def _points(kernel: LoopKernel, operands: tuple[Operand, ...], store: Store, atomics: dict[int, str] | None = None) -> Part:
    """A map over all updates; what were parallel axes stay the inner ones."""
    n, updates = len(kernel.axes), len(kernel.reduce_axes)
    axes: dict[int, E] = {a: Axis(updates + a if a < n else a - n) for a in range(n + updates)}
    roots = replaced([store.offset, store.value, *([] if store.guard is None else [store.guard])], axes, {})
    moved = Store(store.operand, roots[0], roots[1], False, roots[2] if store.guard is not None else None)
    return Part(LoopKernel((*kernel.reduce_axes, *kernel.axes), (), operands, (), (moved,)), atomics or {})


def _number(d: Dim) -> E:
    return Num(d) if isinstance(d, int) else DimParam(d)
