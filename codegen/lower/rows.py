"""Reductions, softmax, norms and products of few elements: kernels with reduce axes. Consumers behind them become the stored value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import CodegenError
from ...ir import Dim, DType, Node, Value, prod
from ...ir.ops import ArgReduce, LayerNorm, MatMul, Reduce, RMSNorm, Softmax
from ..expr import E, Reduced
from ..kernel import Reduction
from ..simplify import Affine, as_affine, ravel, unravel
from .attention_op import SafeSoftmax
from .builder import KernelBuilder, computed, convert, fn, index_expr, number
from .moves import broadcast_index
from .state import Lowering

Index = tuple[Affine, ...]
_EXTREMES = ("max", "min")


def emit_rows(lw: Lowering, node: Node, root: Value) -> None:
    """Store `root`, computed from the result of `node` in the same kernel."""
    match node.op:
        case Reduce():
            _reduce(lw, node, node.op, root)
        case ArgReduce():
            _arg(lw, node, node.op, root)
        case Softmax():
            _softmax(lw, node, node.op, root)
        case LayerNorm() | RMSNorm():
            _norm(lw, node, node.op, root)
        case MatMul():
            _dot(lw, node, root)
        case _:
            raise CodegenError(f"{node.op.name} has no kernel", loc=" + ".join(node.loc))


def finish_rows(lw: Lowering, k: KernelBuilder, node: Node, root: Value, stages: Sequence[Reduction], index: Index,
                value: Callable[[], E], *, per_element: bool = False) -> None:  # fmt: skip
    """The store of `root` at the points where the anchor's result has `index`."""

    def result(at: Index) -> E:
        if ravel(at, node.out.shape) != ravel(index, node.out.shape):
            raise CodegenError(f"{node.op.name} fused with a consumer that reads other elements", loc=" + ".join(node.loc))
        return convert(value(), computed(node.out.dtype))

    k.override[node.out] = result
    at = index if root.shape == node.out.shape else unravel(ravel(index, node.out.shape), root.shape)
    e = lw.read(k, root, at)
    to, moved, placed = lw.destination(root, at)
    lw.loop(k, stages, [k.store(to, moved, e, per_element=per_element)], lw.fusion.locations(root))
    lw.views[placed] = to


def reduced(stage: int, dtype: DType) -> E:
    return Reduced(stage, dtype=dtype)


def size_of(d: Dim, dtype: DType) -> E:
    return number(d, dtype) if isinstance(d, int) else convert(index_expr(as_affine(d)), dtype)


def _split(k: KernelBuilder, rank: int, axes: Sequence[int]) -> Index:
    """Full index from parallel variables for kept axes and reduce variables for `axes`."""
    outer, inner = iter(k.parallel), iter(k.reduced)
    return tuple(next(inner) if a in axes else next(outer) for a in range(rank))


def _reduce(lw: Lowering, node: Node, op: Reduce, root: Value) -> None:
    x = node.inputs[0]
    rank = len(x.shape)
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a not in op.axes), tuple(x.shape[a] for a in op.axes))
    index = _split(k, rank, op.axes)
    e = lw.read(k, x, index)
    dtype = e.dtype
    kind = {"sum": "sum", "mean": "sum", "prod": "prod", "max": "max", "min": "min"}[op.kind]
    if dtype is DType.BOOL:
        kind = {"max": "or", "min": "and"}.get(kind, kind)
    count = prod(x.shape[a] for a in op.axes)
    if not op.axes:
        k = KernelBuilder(x.shape, (1,))
        e = lw.read(k, x, k.parallel)
    if op.kind == "mean" and dtype.is_int:
        dtype, e = DType.I64, convert(e, DType.I64)

    def value() -> E:
        r = reduced(0, dtype)
        if op.kind != "mean":
            return r
        return convert(fn("div", r, size_of(count, dtype)), x.dtype if x.dtype.is_int else dtype)

    kept = iter(k.parallel)
    out = tuple(Affine({}) if a in op.axes else next(kept) for a in range(rank) if op.keepdims or a not in op.axes)
    twin = _twin(lw, node, op) if root == node.out and op.kind in _EXTREMES else None
    if twin is None:
        finish_rows(lw, k, node, root, [Reduction(kind, e)], out, value)
        return
    stages, stores, places = [], [], []
    for number_of, n in enumerate((node, twin)):
        assert isinstance(n.op, Reduce)
        stages.append(Reduction(n.op.kind, e))
        to, moved, placed = lw.destination(n.out, out)
        stores.append(k.store(to, moved, reduced(number_of, dtype)))
        places.append((placed, to))
    lw.loop(k, stages, stores, tuple(dict.fromkeys((*node.loc, *twin.loc))))
    lw.views.update(places)


def _twin(lw: Lowering, node: Node, op: Reduce) -> Node | None:
    """The other extreme of the same elements, if it is stored as it is and not yet: both are found while the elements are in cache."""
    if op.axes and node.out.dtype.is_float:
        for n in lw.graph.uses.get(node.inputs[0], ()):
            same = isinstance(n.op, Reduce) and n.op.kind in _EXTREMES and (n.op.axes, n.op.keepdims) == (op.axes, op.keepdims)
            if n is not node and same and lw.fusion.stored(n.out) and n.out not in lw.views:
                return n
    return None


def _dot(lw: Lowering, node: Node, root: Value) -> None:
    """A matrix product as a sum over k for each element."""
    a, b = node.inputs
    k = KernelBuilder(node.out.shape, (a.shape[-1],))
    *lead, m, n = k.parallel
    (t,) = k.reduced
    left = lw.read(k, a, (*lead[len(lead) - len(a.shape) + 2 :], m, t))
    right = lw.read(k, b, (*lead[len(lead) - len(b.shape) + 2 :], t, n))
    finish_rows(lw, k, node, root, [Reduction("sum", fn("mul", left, right))], k.parallel, lambda: reduced(0, left.dtype))


def _arg(lw: Lowering, node: Node, op: ArgReduce, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a != op.axis), (x.shape[op.axis],))
    index = list(_split(k, len(x.shape), (op.axis,)))
    last = as_affine(x.shape[op.axis]) - 1
    if op.select_last:
        index[op.axis] = last - index[op.axis]
    e = lw.read(k, x, tuple(index))

    def value() -> E:
        r = reduced(0, DType.I64)
        return fn("sub", index_expr(last), r) if op.select_last else r

    kept = iter(k.parallel)
    out = tuple(Affine({}) if a == op.axis else next(kept) for a in range(len(x.shape)) if op.keepdims or a != op.axis)
    finish_rows(lw, k, node, root, [Reduction(op.kind, e)], out, value)


def _softmax(lw: Lowering, node: Node, op: Softmax, root: Value) -> None:
    x = node.inputs[0]
    k = KernelBuilder(tuple(d for a, d in enumerate(x.shape) if a != op.axis), (x.shape[op.axis],))
    index = _split(k, len(x.shape), (op.axis,))
    e = lw.read(k, x, index)
    dtype = e.dtype
    top, total = reduced(0, dtype), reduced(1, dtype)
    if isinstance(op, SafeSoftmax):
        top = fn("select", fn("eq", top, number(float("-inf"), dtype)), number(0.0, dtype), top)
        total = fn("select", fn("eq", total, number(0.0, dtype)), number(1.0, dtype), total)
    shifted = fn("sub", e, top)
    power = fn("exp", shifted)
    stages = [Reduction("max", e), Reduction("sum", power)]
    result = fn("sub", shifted, fn("log", total)) if op.log else fn("div", power, total)
    finish_rows(lw, k, node, root, stages, index, lambda: result, per_element=True)


def _norm(lw: Lowering, node: Node, op: LayerNorm | RMSNorm, root: Value) -> None:
    x, *params = node.inputs
    axes = tuple(range(op.axis, len(x.shape)))
    k = KernelBuilder(x.shape[: op.axis], x.shape[op.axis :])
    index = _split(k, len(x.shape), axes)
    e = lw.read(k, x, index)
    dtype = e.dtype
    count = size_of(prod(x.shape[op.axis :]), dtype)
    stages = []
    if isinstance(op, LayerNorm):
        stages.append(Reduction("sum", e))
        e = fn("sub", e, fn("div", reduced(0, dtype), count))
    stages.append(Reduction("sum", fn("mul", e, e)))
    variance = fn("div", reduced(len(stages) - 1, dtype), count)
    scale = fn("div", number(1.0, dtype), fn("sqrt", fn("add", variance, number(op.epsilon, dtype))))
    y = fn("mul", e, scale)
    y = fn("mul", y, lw.read(k, params[0], broadcast_index(index, params[0].shape)))
    if len(params) > 1:
        y = fn("add", y, lw.read(k, params[1], broadcast_index(index, params[1].shape)))
    finish_rows(lw, k, node, root, stages, index, lambda: y, per_element=True)
