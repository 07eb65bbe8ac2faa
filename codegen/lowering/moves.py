"""Elementwise ops and data movement, as functions of the index."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CodegenError
from ...ir import DType, Elementwise, Node, S, Shape, TensorType, Value
from ...ir.ops import Concat, DimTensor, Expand, Gather, GatherElements, GatherND, Iota, OneHot, Pad, Reshape, Slice, Transpose
from ..expr import Axis, Call, Cast, E, ExprScalars, Num
from ..kernel import Store
from .core import HEAVY, Index, Lowering, Stored, Virtual
from .index import add, clamp, both, inside, linear, mul, num, rem, sub

SCALARS = S(ExprScalars())
NARROW = frozenset({DType.F16, DType.BF16})


def widen(x: E) -> E:
    """float16 and bfloat16 compute in float32."""
    return Cast(x, dtype=DType.F32) if x.dtype in NARROW else x


def to_index(x: E, size: object) -> E:
    """A loaded index as I64, negatives counted from the end, and kept in bounds (hostile data must not escape)."""
    i = x if x.dtype is DType.I64 else Cast(x, dtype=DType.I64)
    wrapped = Call("select", (Call("lt", (i, Num(0)), dtype=DType.BOOL), add(i, num(size)), i))  # type: ignore[arg-type]
    return clamp(wrapped, size)  # type: ignore[arg-type]


def project(index: Index, shape: Shape) -> Index:
    """The part of a result index that an operand of `shape` sees under broadcasting."""
    tail = index[len(index) - len(shape) :]
    return tuple(Num(0) if d == 1 else i for i, d in zip(tail, shape, strict=True))


def body_of(op: Elementwise, result: DType, args: Sequence[E]) -> E:
    """The scalar expression of an elementwise op; narrow floats pass through float32."""
    if any(a.dtype in NARROW for a in args) or result in NARROW:
        out: E = op.body(SCALARS, *(widen(a) for a in args))
        return out if out.dtype is result else Cast(out, dtype=result)
    out = op.body(SCALARS, *args)
    return out if out.dtype is result else Cast(out, dtype=result)


def weight(op: Elementwise, types: Sequence[TensorType]) -> tuple[int, bool]:
    """Number of expression nodes of an op's body, and whether it has an expensive function."""
    probe = [Num(1, dtype=DType.F32 if t.dtype in NARROW else t.dtype) for t in types]
    seen: set[int] = set()
    stack: list[E] = [op.body(SCALARS, *probe)]
    keep = list(stack)
    heavy = False
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Call):
            heavy |= x.fn in HEAVY
            stack.extend(x.args)
            keep.extend(x.args)
        elif isinstance(x, Cast):
            stack.append(x.arg)
    return len(seen), heavy


def elementwise(node: Node, operands: Sequence[Virtual], count: tuple[int, bool]) -> Virtual:
    op = node.op
    assert isinstance(op, Elementwise)
    t = node.types[0]

    def at(index: Index) -> E:
        return body_of(op, t.dtype, [v.at(project(index, v.type.shape)) for v in operands])

    loc = tuple(dict.fromkeys(name for v in operands for name in v.loc)) + node.loc
    return Virtual(t, at, count[0] + sum(v.nodes for v in operands), count[1] or any(v.heavy for v in operands), loc)


def move(node: Node, operands: Sequence[Virtual]) -> Virtual | None:
    """The index function of a pure movement op, or None for one that needs a kernel of its own."""
    t = node.types[0]
    x = operands[0] if operands else None
    loc = tuple(dict.fromkeys(name for v in operands for name in v.loc)) + node.loc
    extra = 1

    match node.op:
        case Transpose(perm=perm):
            assert x

            def at(index: Index) -> E:
                inner: list[E] = [Num(0)] * len(perm)
                for i, p in enumerate(perm):
                    inner[p] = index[i]
                return x.at(tuple(inner))
        case Expand():
            assert x

            def at(index: Index) -> E:
                return x.at(project(index, x.type.shape))
        case Slice(starts=starts, steps=steps):
            assert x

            def at(index: Index) -> E:
                return x.at(tuple(add(num(s), mul(i, num(k))) for i, s, k in zip(index, starts, steps, strict=True)))
        case Pad() as pad:
            assert x
            extra = 4 * len(t.shape)

            def at(index: Index) -> E:
                return _pad(pad, operands, index)
        case Gather(axis=axis):
            assert x
            extra = 5

            def at(index: Index) -> E:
                n = operands[1].type.rank
                i = to_index(operands[1].at(index[axis : axis + n]), x.type.shape[axis])
                return x.at((*index[:axis], i, *index[axis + n :]))
        case GatherElements(axis=axis):
            assert x
            extra = 5

            def at(index: Index) -> E:
                i = to_index(operands[1].at(index), x.type.shape[axis])
                return x.at((*index[:axis], i, *index[axis + 1 :]))
        case GatherND(batch_dims=b):
            assert x
            depth = operands[1].type.shape[-1]
            if not isinstance(depth, int):
                raise CodegenError(f"GatherND with {depth} index columns", expected="a static number")
            extra = 5 * depth
            rank = operands[1].type.rank - 1

            def at(index: Index) -> E:
                found = [to_index(operands[1].at((*index[:rank], Num(j))), x.type.shape[b + j]) for j in range(depth)]
                return x.at((*index[:b], *found, *index[rank:]))
        case OneHot(axis=axis, depth=depth):
            assert x
            extra = 6

            def at(index: Index) -> E:
                raw = x.at((*index[:axis], *index[axis + 1 :]))
                i = raw if raw.dtype is DType.I64 else Cast(raw, dtype=DType.I64)
                i = Call("select", (Call("lt", (i, Num(0)), dtype=DType.BOOL), add(i, num(depth)), i))
                hit = Call("eq", (i, index[axis]), dtype=DType.BOOL)
                return Call("select", (hit, operands[1].at((Num(1),)), operands[1].at((Num(0),))), dtype=t.dtype)
        case Iota():

            def at(index: Index) -> E:
                return index[0] if t.dtype is DType.I64 else Cast(index[0], dtype=t.dtype)
        case DimTensor(dims=dims, shape=shape):
            if len(dims) > 8:
                return None
            extra = 2 * len(dims)

            def at(index: Index) -> E:
                where = linear(index, shape)
                out = num(dims[-1]) if dims else num(0)
                for i in reversed(range(len(dims) - 1)):
                    out = Call("select", (Call("eq", (where, Num(i)), dtype=DType.BOOL), num(dims[i]), out))
                return out if t.dtype is DType.I64 else Cast(out, dtype=t.dtype)
        case _:
            return None
    return Virtual(t, at, extra + sum(v.nodes for v in operands), any(v.heavy for v in operands), loc)


def _pad(op: Pad, operands: Sequence[Virtual], index: Index) -> E:
    x = operands[0]
    inner: list[E] = []
    guard: E | None = None
    for i, lo, hi, d in zip(index, op.lo, op.hi, x.type.shape, strict=True):
        if lo == 0 and hi == 0:
            inner.append(i)
            continue
        j = sub(i, num(lo))
        if op.mode == "constant":
            guard = both(guard, inside(j, d))
            inner.append(clamp(j, d))
        elif op.mode == "edge":
            inner.append(clamp(j, d))
        elif op.mode == "wrap":
            inner.append(rem(j, num(d)))
        else:
            # reflect: fold onto a period of 2(d − 1)
            period = num(2 * (d - 1)) if d != 1 else num(1)
            k = rem(j, period)
            inner.append(Call("min", (k, sub(period, k))) if d != 1 else Num(0))
    value = x.at(tuple(inner))
    if guard is None:
        return value
    return Call("select", (guard, value, operands[1].at(())), dtype=value.dtype)


def concat(lo: Lowering, node: Node) -> None:
    """Each operand is stored straight into its slice of the result."""
    op = node.op
    assert isinstance(op, Concat)
    value = node.out
    out = lo.destination(value)
    start: object = 0
    for v in node.inputs:
        form = lo.virtual(v)
        base = start

        def offset(index: Index, base: object = base) -> E:
            moved = add(index[op.axis], num(base))  # type: ignore[arg-type]
            return linear((*index[: op.axis], moved, *index[op.axis + 1 :]), value.shape)

        lo.store_virtual(Virtual(form.type, form.at, form.nodes, form.heavy, form.loc + node.loc), out, offset)
        start = start + v.shape[op.axis]  # type: ignore[operator]
    lo.forms[value] = Stored(value.type, out)


def reshape(lo: Lowering, node: Node) -> None:
    """The same memory under another shape; squeezing a virtual value stays virtual."""
    value, source = node.out, node.inputs[0]
    form = lo.forms[source]
    kept_in = [d for d in source.shape if d != 1]
    if isinstance(form, Virtual) and kept_in == [d for d in value.shape if d != 1]:
        positions = [i for i, d in enumerate(value.shape) if d != 1]

        def at(index: Index) -> E:
            kept = iter(positions)
            return form.at(tuple(Num(0) if d == 1 else index[next(kept)] for d in source.shape))

        lo.forms[value] = Virtual(value.type, at, form.nodes, form.heavy, form.loc)
        return
    lo.forms[value] = Stored(value.type, lo.alias(lo.stored(source), value.type))
