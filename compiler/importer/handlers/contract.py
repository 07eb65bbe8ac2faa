"""Handlers of MatMul, Gemm and Einsum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from ....ir import Dim, DType, Value, prod
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import HandlerTable, ImportContext


def matmul_any(b: Build, x: Value, y: Value, product: Callable[[Value, Value], Value] | None = None) -> Value:
    """NumPy matmul, vectors included, by `product` of matrices (b.matmul)."""
    left, right = x.type.rank == 1, y.type.rank == 1
    if left:
        x = b.reshape(x, (1, x.shape[0]))
    if right:
        y = b.reshape(y, (y.shape[0], 1))
    out = (product or b.matmul)(x, y)
    shape = list(out.shape)
    if left:
        del shape[-2]
    if right:
        del shape[-1]
    return b.reshape(out, shape)


def matmul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x, y = required(ctx, node, ins, 2)
    return [matmul_any(Build(ctx), x, y)]


def gemm(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """alpha·A'·B' + beta·C."""
    x, y = required(ctx, node, ins, 2)
    c, b = optional(ins, 2), Build(ctx)
    x = b.swap_last(x) if ctx.attr(node, "transA", 0) else x
    y = b.swap_last(y) if ctx.attr(node, "transB", 0) else y
    alpha, beta = float(ctx.attr(node, "alpha", 1.0)), float(ctx.attr(node, "beta", 1.0))
    out = b.matmul(x, y)
    if alpha != 1:
        out = b.mul(out, alpha)
    if c is None or beta == 0:
        return [out]
    return [b.add(out, c if beta == 1 else b.mul(c, beta))]


def fused_matmul(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """com.microsoft FusedMatMul: alpha·A'·B'. With transBatch the rows are in front of the batch: [M, …, K]."""
    x, y = required(ctx, node, ins, 2)
    b = Build(ctx)
    x, y = (
        b.transpose(v, (*range(1, v.type.rank - 1), 0, v.type.rank - 1))
        if ctx.attr(node, f"transBatch{side}", 0) and v.type.rank > 2
        else v
        for v, side in ((x, "A"), (y, "B"))
    )
    x = b.swap_last(x) if ctx.attr(node, "transA", 0) else x
    y = b.swap_last(y) if ctx.attr(node, "transB", 0) else y
    out, alpha = matmul_any(b, x, y), float(ctx.attr(node, "alpha", 1.0))
    return [out if alpha == 1 else b.mul(out, alpha)]


Labelled = tuple[Value, tuple[str, ...]]


def _terms(ctx: ImportContext, equation: str, operands: Sequence[Value]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of every operand and of the result. Axes under an ellipsis become labels "0", "1", … from the right."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ctx.unsupported(f"Einsum {equation!r} with {len(operands)} operands")
    labels, widest = [], 0
    for term, v in zip(terms, operands, strict=True):
        extra = v.type.rank - len(term.replace("...", ""))
        if extra < 0 or (extra and "..." not in term):
            raise ctx.unsupported(f"Einsum {equation!r}: term {term!r} for an operand of rank {v.type.rank}")
        labels.append(_expand(term, extra))
        widest = max(widest, extra)
    if arrow:
        return labels, _expand(right, widest)
    every = [c for c in left if c.isalpha()]
    single = sorted({c for c in every if every.count(c) == 1})
    return labels, (*_expand("..." if "..." in left else "", widest), *single)


def _expand(term: str, count: int) -> tuple[str, ...]:
    if "..." not in term:
        return tuple(term)
    before, after = term.split("...", 1)
    return (*before, *(str(i) for i in reversed(range(count))), *after)


def _diagonal(b: Build, v: Value, labels: tuple[str, ...]) -> Labelled:
    """Take diagonals until no label repeats: axes i, i of size n become one axis read with step n + 1."""
    while len(set(labels)) < len(labels):
        label = next(x for x in labels if labels.count(x) > 1)
        i, j = [k for k, x in enumerate(labels) if x == label][:2]
        rest = [k for k in range(len(labels)) if k not in (i, j)]
        n = v.shape[i]
        v = b.transpose(v, (*rest, i, j))
        lead = v.shape[:-2]
        flat = b.reshape(v, (*lead, n * n))
        v = b.slice(flat, len(lead), 0, n, n + 1) if isinstance(n, int) else _gather_diagonal(b, flat, n)
        labels = (*(labels[k] for k in rest), label)
    return v, labels


def _gather_diagonal(b: Build, flat: Value, n: Dim) -> Value:
    index = b.mul(b.iota(n), b.dim(n + 1, DType.I64))
    return b.emit(O.Gather(flat.type.rank - 1), flat, index)


def _sum_out(b: Build, v: Value, labels: tuple[str, ...], keep: set[str]) -> Labelled:
    axes = [i for i, x in enumerate(labels) if x not in keep]
    return (b.reduce("sum", v, axes, False), tuple(x for x in labels if x in keep)) if axes else (v, labels)


def _pair(b: Build, x: Labelled, y: Labelled, keep: set[str]) -> Labelled:
    """Contract two operands into one: batch labels, then those of x, then those of y."""
    (a, la), (c, lc) = x, y
    a, la = _sum_out(b, a, la, keep | set(lc))
    c, lc = _sum_out(b, c, lc, keep | set(la))
    common = [s for s in la if s in lc]
    batch, inner = [s for s in common if s in keep], [s for s in common if s not in keep]
    left, right = [s for s in la if s not in lc], [s for s in lc if s not in la]
    dim_a, dim_c = dict(zip(la, a.shape, strict=True)), dict(zip(lc, c.shape, strict=True))
    # A broadcast axis (ellipsis, size 1 on one side) among the contracted ones is expanded first.
    for s in inner:
        if dim_a[s] != dim_c[s] and 1 in (dim_a[s], dim_c[s]):
            size = dim_c[s] if dim_a[s] == 1 else dim_a[s]
            a = b.expand(a, [size if x == s else d for x, d in zip(la, a.shape, strict=True)])
            c = b.expand(c, [size if x == s else d for x, d in zip(lc, c.shape, strict=True)])
            dim_a[s] = dim_c[s] = size
    a = b.transpose(a, [la.index(s) for s in (*batch, *left, *inner)])
    c = b.transpose(c, [lc.index(s) for s in (*batch, *inner, *right)])
    ba, bc = [dim_a[s] for s in batch], [dim_c[s] for s in batch]
    outer = b.ctx.broadcast(ba, bc)
    labels = (*batch, *left, *right)
    shape = (*outer, *(dim_a[s] for s in left), *(dim_c[s] for s in right))
    if not inner:  # an outer product is a broadcast multiplication
        a = b.reshape(a, (*ba, *(dim_a[s] for s in left), *(1 for _ in right)))
        c = b.reshape(c, (*bc, *(1 for _ in left), *(dim_c[s] for s in right)))
        return b.mul(a, c), labels
    a = b.reshape(a, (*ba, prod(dim_a[s] for s in left), prod(dim_a[s] for s in inner)))
    c = b.reshape(c, (*bc, prod(dim_c[s] for s in inner), prod(dim_c[s] for s in right)))
    return b.reshape(b.matmul(a, c), shape), labels


def einsum(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Pairwise from the left: diagonals, sums of private labels, one matmul per pair, a final transpose."""
    b, operands = Build(ctx), required(ctx, node, ins, len(ins))
    equation = str(ctx.attr(node, "equation", ""))
    terms, result = _terms(ctx, equation, operands)
    if len(set(result)) < len(result):
        raise ctx.unsupported(f"Einsum {equation!r}: repeated label in the result")
    work = [_diagonal(b, v, t) for v, t in zip(operands, terms, strict=True)]
    value, labels = work[0]
    for i, other in enumerate(work[1:], 1):
        later = {s for _, t in work[i + 1 :] for s in t}
        value, labels = _pair(b, (value, labels), other, later | set(result))
    value, labels = _sum_out(b, value, labels, set(result))
    if set(labels) != set(result):
        raise ctx.unsupported(f"Einsum {equation!r}: the result has a label that no operand has")
    return [b.transpose(value, [labels.index(s) for s in result])]


CONTRACT_HANDLERS: HandlerTable = {
    ("MatMul", 1): matmul,
    ("Gemm", 7): gemm,
    ("Einsum", 12): einsum,
    ("com.microsoft::FusedMatMul", 1): fused_matmul,
}
