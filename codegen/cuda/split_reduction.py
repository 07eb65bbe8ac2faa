"""Reductions with too few results to keep the device busy: sums of parts first, then sums of those."""

from __future__ import annotations

from ...ir import Dim, DType, prod
from ..expr import Axis, Call, Cast, DimParam, E, Load, Num, Reduced, postorder
from ..kernel import LoopKernel, Operand, Reduction, Store
from .loop_schedule import by_columns, reads_own_result
from .loop_text import neutral
from .parts import Part, Parts, replaced
from .scalars import SMALL

BUSY = 8 * 132 * 256  # threads that keep the device busy
ROW_PART, COLUMN_PART = 8192, 256  # elements that a part has at least: shared by threads, or for one of them
MOST_PARTS = 1024


def split_reduction(kernel: LoopKernel) -> Parts | None:
    """Results of parts, then of those, where the sizes are known, stages do not need each other, and results are few."""
    points, length = prod(kernel.axes), prod(kernel.reduce_axes)
    if not isinstance(points, int) or not isinstance(length, int) or not kernel.stages or reads_own_result(kernel):
        return None
    # threads at a point, were it not split, and what a part is worth
    threads, least = (1, COLUMN_PART) if by_columns(kernel) else (32, ROW_PART)
    if points * threads >= BUSY or length < 2 * least or any(s.per_element for s in kernel.stores):
        return None
    if any(s.fn.startswith("arg") or any(isinstance(e, Reduced) for e in postorder([s.value])) for s in kernel.stages):
        return None
    sizes = [int(d) for d in kernel.reduce_axes if isinstance(d, int)]
    axis = max(range(len(sizes)), key=lambda j: (sizes[j], -j))
    size = sizes[axis]
    count = min(MOST_PARTS, length // least, -(-BUSY // (points * threads)), size)
    if count < 2:
        return None
    chunk = -(-size // count)
    count = -(-size // chunk)
    return _split(kernel, axis, size, count, chunk, points)


def _split(kernel: LoopKernel, axis: int, size: int, count: int, chunk: int, points: int) -> Parts:
    n = len(kernel.axes)
    # parts: axis 0 counts them, the others follow in order
    whole_place = _add(_mul(Axis(0), Num(chunk)), Axis(n + 1 + axis))
    outside = None if count * chunk == size else Call("ge", (whole_place, Num(size)), dtype=DType.BOOL)
    inside_place = whole_place if outside is None else Call("min", (whole_place, Num(size - 1)))
    places = {i: Axis(i + 1) for i in range(n + len(kernel.reduce_axes))} | {n + axis: inside_place}
    reduce_axes = tuple(chunk if j == axis else d for j, d in enumerate(kernel.reduce_axes))
    linear: E = Num(0)
    for i, d in enumerate(kernel.axes):
        linear = _add(_mul(linear, _number(d)), Axis(i))
    shifted = replaced([linear], {i: Axis(i + 1) for i in range(n)}, {})[0]
    at = _add(_mul(Axis(0), Num(points)), shifted)
    first = len(kernel.operands)
    stages, stores, partial, finals, results = [], [], [], [], {}
    for i, (s, value) in enumerate(zip(kernel.stages, replaced([s.value for s in kernel.stages], places, {}), strict=True)):
        wide = DType.F32 if value.dtype in SMALL else value.dtype  # sums of parts are not rounded
        value = value if wide is value.dtype else Cast(value, dtype=wide)
        if outside is not None:
            value = Call("select", (outside, Num(neutral(s.fn, wide), dtype=wide), value), dtype=wide)
        stages.append(Reduction(s.fn, value))
        stores.append(Store(first + i, at, Reduced(i, dtype=wide)))
        partial.append(Operand(wide, count * points, True, True))
        read = _add(_mul(Axis(n), Num(points)), linear)
        finals.append(Reduction(s.fn, Load(first + i, read, dtype=wide)))
        total: E = Reduced(i, dtype=wide)
        results[i] = total if wide is s.value.dtype else Cast(total, dtype=s.value.dtype)
    roots = replaced([e for s in kernel.stores for e in (s.offset, s.value, *([s.guard] if s.guard is not None else []))], {}, results)
    ends = iter(roots)
    finish = tuple(Store(s.operand, next(ends), next(ends), False, None if s.guard is None else next(ends)) for s in kernel.stores)
    read_back = tuple(Operand(o.dtype, o.numel) for o in partial)
    return Parts(
        (
            Part(LoopKernel((count, *kernel.axes), reduce_axes, (*kernel.operands, *partial), tuple(stages), tuple(stores))),
            Part(LoopKernel(kernel.axes, (count,), (*kernel.operands, *read_back), tuple(finals), finish)),
        ),
        tuple(o.numel * o.dtype.itemsize for o in partial),
    )


def _add(a: E, b: E) -> E:
    return Call("add", (a, b))


def _mul(a: E, b: E) -> E:
    return Call("mul", (a, b))


def _number(d: Dim) -> E:
    return Num(d) if isinstance(d, int) else DimParam(d)
