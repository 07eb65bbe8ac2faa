"""Reductions, rows and windows: ops that become one loop kernel with reduce axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...errors import CodegenError
from ...ir import Dim, DType, Node, Shape, TensorType, Value, prod
from ...ir.ops import LRN, ArgReduce, CumSum, LayerNorm, Pool, Reduce, RMSNorm, Softmax, TopK
from ..expr import Axis, Call, Cast, E, Load, Num, Reduced
from ..kernel import Reduction, Store
from .core import Index, Lowering, Pending, Stored, Virtual
from .index import add, both, clamp, div, inside, linear, mul, num, sub
from .moves import NARROW, SCALARS, project, widen


def _cast(x: E, dtype: DType) -> E:
    return x if x.dtype is dtype else Cast(x, dtype=dtype)


def _float_of(dtype: DType) -> DType:
    return DType.F32 if dtype in NARROW else dtype


def pending_rows(
    lo: Lowering, t: TensorType, reduce_axes: Shape, stages: Sequence[Reduction], value: Callable[[Index], E],
    split: tuple[int, ...], loc: tuple[str, ...], kept: Sequence[int] | None = None,
) -> Pending:  # fmt: skip
    """A row kernel awaiting elementwise consumers. `split`: result dims that are reduce axes (rows), () for reductions."""
    outer = [i for i in range(t.rank) if i not in split] if kept is None else list(kept)
    index: list[E] = [Num(0)] * t.rank
    for k, i in enumerate(outer):
        index[i] = Axis(k)
    for k, i in enumerate(split):
        index[i] = Axis(len(outer) + k)
    place = tuple(index)

    def finish(out: int, final: E, where: tuple[str, ...]) -> None:
        store = Store(out, linear(place, t.shape), _cast(final, lo.buffers[out].dtype), per_element=bool(split))
        if 0 in reduce_axes and split:
            return
        lo.loop(tuple(t.shape[i] for i in outer), reduce_axes, stages, (store,), where)

    def read(other: Value) -> E:
        v = lo.virtual(other)
        return v.at(project(place, v.type.shape))

    return Pending(t, _cast(value(place), t.dtype), read, finish, 4, loc)


def reduce(lo: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Reduce)
    source, value = node.inputs[0], node.out
    x = lo.virtual(source)
    acc = _float_of(x.type.dtype)
    kept = [i for i in range(x.type.rank) if i not in op.axes]
    index: list[E] = [Num(0)] * x.type.rank
    for k, i in enumerate(kept):
        index[i] = Axis(k)
    for k, i in enumerate(op.axes):
        index[i] = Axis(len(kept) + k)
    element = _cast(x.at(tuple(index)), acc)
    fn = "sum" if op.kind == "mean" else op.kind
    count = prod(x.type.shape[i] for i in op.axes)

    def result(_: Index) -> E:
        r: E = Reduced(0, dtype=acc)
        if op.kind == "mean":
            n = Num(count, dtype=acc) if isinstance(count, int) else Cast(num(count), dtype=acc)
            if isinstance(count, int) and acc.is_float:
                return Call("mul", (r, Num(1 / count if count else math.nan, dtype=acc)), dtype=acc)
            return Call("div", (r, n), dtype=acc)
        return r

    loc = x.loc + node.loc
    stages = (Reduction(fn, element),)
    axes = tuple(x.type.shape[i] for i in op.axes)
    outer = kept if op.keepdims else range(len(kept))
    lo.forms[value] = pending_rows(lo, value.type, axes, stages, result, (), loc, outer)


def arg_reduce(lo: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, ArgReduce)
    x, value = lo.virtual(node.inputs[0]), node.out
    size = x.type.shape[op.axis]
    kept = [i for i in range(x.type.rank) if i != op.axis]
    index: list[E] = [Num(0)] * x.type.rank
    for k, i in enumerate(kept):
        index[i] = Axis(k)
    r: E = Axis(len(kept))
    index[op.axis] = sub(num(size - 1), r) if op.select_last else r
    stage = Reduction(op.kind, widen(x.at(tuple(index))))
    found: E = Reduced(0, dtype=DType.I64)
    out = lo.destination(value)
    place = tuple(Axis(k) for k in range(len(kept)))
    shape = tuple(x.type.shape[i] for i in kept)
    final = sub(num(size - 1), found) if op.select_last else found
    lo.loop(shape, (size,), (stage,), (Store(out, linear(place, shape), final),), x.loc + node.loc)
    lo.forms[value] = Stored(value.type, out)


def _row(lo: Lowering, x: Virtual, axes: Sequence[int]) -> tuple[E, Shape]:
    """The element of x at the point of a row kernel whose reduce axes are `axes` of x."""
    outer = [i for i in range(x.type.rank) if i not in axes]
    index: list[E] = [Num(0)] * x.type.rank
    for k, i in enumerate(outer):
        index[i] = Axis(k)
    for k, i in enumerate(axes):
        index[i] = Axis(len(outer) + k)
    e = widen(x.at(tuple(index)))
    return e, tuple(x.type.shape[i] for i in axes)


def _cheap(lo: Lowering, value: Value) -> Virtual:
    """A row reads its elements several times: anything but a cheap expression is stored first."""
    form = lo.forms[value]
    if isinstance(form, Virtual) and (form.heavy or form.nodes > 10):
        lo.stored(value)
    return lo.virtual(value)


def softmax(lo: Lowering, node: Node) -> None:
    op, value = node.op, node.out
    assert isinstance(op, Softmax)
    x = _cheap(lo, node.inputs[0])
    e, axes = _row(lo, x, (op.axis,))
    top = Reduced(0, dtype=e.dtype)
    shifted = Call("sub", (e, top), dtype=e.dtype)
    exp = Call("exp", (shifted,), dtype=e.dtype)
    total = Reduced(1, dtype=e.dtype)
    stages = (Reduction("max", e), Reduction("sum", exp))
    if op.log:
        result: E = Call("sub", (shifted, Call("log", (total,), dtype=e.dtype)), dtype=e.dtype)
    else:
        inverse = Call("div", (Num(1, dtype=e.dtype), total), dtype=e.dtype)
        result = Call("mul", (exp, inverse), dtype=e.dtype)
    lo.forms[value] = pending_rows(lo, value.type, axes, stages, lambda _: result, (op.axis,), x.loc + node.loc)


def norm(lo: Lowering, node: Node) -> None:
    op, value = node.op, node.out
    assert isinstance(op, (LayerNorm, RMSNorm))
    x = _cheap(lo, node.inputs[0])
    axes = tuple(range(op.axis, x.type.rank))
    e, sizes = _row(lo, x, axes)
    dt = e.dtype
    count = prod(sizes)
    inv: E = Num(1 / count, dtype=dt) if isinstance(count, int) and count else Call("div", (Num(1, dtype=dt), Cast(num(count), dtype=dt)), dtype=dt)
    centered: E = e
    stages: list[Reduction] = []
    if isinstance(op, LayerNorm):
        stages.append(Reduction("sum", e))
        mean = Call("mul", (Reduced(0, dtype=dt), inv), dtype=dt)
        centered = Call("sub", (e, mean), dtype=dt)
    stages.append(Reduction("sum", Call("mul", (centered, centered), dtype=dt)))
    var = Call("mul", (Reduced(len(stages) - 1, dtype=dt), inv), dtype=dt)
    root = Call("sqrt", (Call("add", (var, Num(op.epsilon, dtype=dt)), dtype=dt),), dtype=dt)
    factor = Call("div", (Num(1, dtype=dt), root), dtype=dt)
    scale = lo.virtual(node.inputs[1])
    bias = lo.virtual(node.inputs[2]) if len(node.inputs) > 2 else None

    def result(index: Index) -> E:
        y: E = Call("mul", (centered, factor), dtype=dt)
        y = Call("mul", (y, _cast(scale.at(project(index, scale.type.shape)), dt)), dtype=dt)
        if bias:
            y = Call("add", (y, _cast(bias.at(project(index, bias.type.shape)), dt)), dtype=dt)
        return _cast(y, value.dtype)

    lo.forms[value] = pending_rows(lo, value.type, sizes, stages, result, axes, x.loc + node.loc)


def pool(lo: Lowering, node: Node) -> None:
    op, value = node.op, node.out
    assert isinstance(op, Pool)
    x = lo.load(lo.stored(node.inputs[0]), node.inputs[0].type)
    nd = len(op.kernel)
    rank = nd + 2
    inner: list[E] = [Axis(0)]
    guard: E | None = None
    extents: list[int] = []
    count: E = Num(1)  # taps that take part in an average
    for i in range(nd):
        size, out, k, s, d, low = x.type.shape[1 + i], value.shape[1 + i], op.kernel[i], op.strides[i], op.dilations[i], op.pads_lo[i]
        static = isinstance(size, int) and isinstance(out, int) and isinstance(low, int)
        if out == 1 and low == 0 and isinstance(size, int):
            k = min(k, -(-size // d))  # one window, cut off at the end of the input: what is beyond never counts
        exact = low == 0 and static and (out - 1) * s + (k - 1) * d < size  # type: ignore[operator]
        start = sub(mul(Axis(1 + i), num(s)), num(low))
        p = add(start, mul(Axis(rank + i), num(d)))
        if not exact:
            guard = both(guard, inside(p, size))
        include = op.count_include_pad
        first, last = (-1 * low, size + op.pads_hi[i] - 1) if include else (0, size - 1)
        count = mul(count, num(k) if exact else _taps_between(start, first, last, op.kernel[i], d))
        inner.append(p if exact else clamp(p, size))
        extents.append(k)
    inner.append(Axis(rank - 1))
    e = widen(x.at(tuple(inner)))
    dt = e.dtype
    if op.kind == "max":
        lowest: float | int = -math.inf if dt.is_float else (0 if not dt.is_signed else -(2 ** (8 * dt.itemsize - 1)))
        stage = Reduction("max", e if guard is None else Call("select", (guard, e, Num(lowest, dtype=dt)), dtype=dt))
        result: E = Reduced(0, dtype=dt)
    else:
        if op.kind == "lp":
            e = Call("abs", (e,), dtype=dt)
            e = e if op.p == 1 else Call("pow", (e, Num(float(op.p), dtype=dt)), dtype=dt)
        stage = Reduction("sum", e if guard is None else Call("select", (guard, e, Num(0, dtype=dt)), dtype=dt))
        result = Reduced(0, dtype=dt)
        if op.kind == "lp":
            result = result if op.p == 1 else Call("pow", (result, Num(1 / op.p, dtype=dt)), dtype=dt)
        elif isinstance(count, Num):
            result = Call("mul", (result, Num(1 / count.value, dtype=dt)), dtype=dt)
        else:
            result = Call("div", (result, Cast(count, dtype=dt)), dtype=dt)
    final = _cast(result, value.dtype)
    lo.forms[value] = pending_rows(lo, value.type, tuple(extents), (stage,), lambda _: final, (), node.loc)


def _taps_between(start: E, first: Dim, last: Dim, k: int, d: int) -> E:
    """How many of the taps start, start + d, … (k of them) lie in [first, last]."""
    skipped = div(add(Call("max", (sub(num(first), start), Num(0))), Num(d - 1)), Num(d))
    end = Call("min", (add(start, Num((k - 1) * d)), num(last)))
    reached = add(div(Call("max", (Call("sub", (end, start)), Num(-1))), Num(d)), Num(1))
    if d == 1:
        reached = add(Call("max", (Call("sub", (end, start)), Num(-1))), Num(1))
    return Call("max", (Call("sub", (reached, skipped)), Num(1)))


def lrn(lo: Lowering, node: Node) -> None:
    op, value = node.op, node.out
    assert isinstance(op, LRN)
    x = lo.load(lo.stored(node.inputs[0]), node.inputs[0].type)
    rank, channels = x.type.rank, x.type.shape[-1]
    axes = tuple(Axis(i) for i in range(rank))
    c = add(axes[-1], sub(Axis(rank), num((op.size - 1) // 2)))
    e = widen(x.at((*axes[:-1], clamp(c, channels))))
    dt = e.dtype
    square = Call("select", (inside(c, channels), Call("mul", (e, e), dtype=dt), Num(0, dtype=dt)), dtype=dt)
    scaled = Call("fma", (Reduced(0, dtype=dt), Num(op.alpha / op.size, dtype=dt), Num(op.bias, dtype=dt)), dtype=dt)

    def result(index: Index) -> E:
        return _cast(Call("mul", (widen(x.at(index)), Call("pow", (scaled, Num(-op.beta, dtype=dt)), dtype=dt)), dtype=dt), value.dtype)

    lo.forms[value] = pending_rows(lo, value.type, (op.size,), (Reduction("sum", square),), result, (), node.loc)


def cum_sum(lo: Lowering, node: Node) -> None:
    """Each element sums its own prefix: quadratic, but parallel and short in practice."""
    op, value = node.op, node.out
    assert isinstance(op, CumSum)
    x = lo.load(lo.stored(node.inputs[0]), node.inputs[0].type)
    rank = x.type.rank
    axes: list[E] = [Axis(i) for i in range(rank)]
    own, r = axes[op.axis], Axis(rank)
    fn = {(False, False): "le", (True, False): "lt", (False, True): "ge", (True, True): "gt"}[op.exclusive, op.reverse]
    e = widen(x.at((*axes[: op.axis], r, *axes[op.axis + 1 :])))
    taken = Call("select", (Call(fn, (r, own), dtype=DType.BOOL), e, Num(0, dtype=e.dtype)), dtype=e.dtype)
    out = lo.destination(value)
    store = Store(out, linear(axes, value.shape), _cast(Reduced(0, dtype=e.dtype), value.dtype))
    lo.loop(value.shape, (x.type.shape[op.axis],), (Reduction("sum", taken),), (store,), node.loc)
    lo.forms[value] = Stored(value.type, out)


def top_k(lo: Lowering, node: Node) -> None:
    """Each element counts those that come before it in order; that rank is its place in the result."""
    op = node.op
    assert isinstance(op, TopK)
    x = lo.load(lo.stored(node.inputs[0]), node.inputs[0].type)
    rank, size = x.type.rank, x.type.shape[op.axis]
    axes: list[E] = [Axis(i) for i in range(rank)]
    own, r = axes[op.axis], Axis(rank)
    mine = x.at(tuple(axes))
    other = x.at((*axes[: op.axis], r, *axes[op.axis + 1 :]))
    better = Call("gt" if op.largest else "lt", (other, mine), dtype=DType.BOOL)
    tie = both(Call("eq", (other, mine), dtype=DType.BOOL), Call("lt", (r, own), dtype=DType.BOOL))
    before = Call("or_", (better, tie), dtype=DType.BOOL)
    stage = Reduction("sum", Call("select", (before, Num(1), Num(0))))
    place: E = Reduced(0)
    values, indices = node.outputs
    outs = lo.destination(values), lo.destination(indices)
    guard = Call("lt", (place, num(op.k)), dtype=DType.BOOL)
    where = linear((*axes[: op.axis], Call("min", (place, num(op.k - 1))), *axes[op.axis + 1 :]), values.shape)
    if op.k != 0:
        stores = (Store(outs[0], where, mine, guard=guard), Store(outs[1], where, own, guard=guard))
        lo.loop(x.type.shape, (size,), (stage,), stores, node.loc)
    lo.forms[values], lo.forms[indices] = Stored(values.type, outs[0]), Stored(indices.type, outs[1])
