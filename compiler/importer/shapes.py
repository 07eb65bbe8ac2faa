"""Shape arithmetic at compile time: what integer operators do to tensors whose elements are known dims.

The content of a tensor is an object array of `int | Expr | bool | Fraction | Ratio`; in a BOOL tensor, an
Expr is 0 or 1. Operators that only move elements
are evaluated by their ordinary handlers on element numbers; arithmetic is evaluated here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import NodeProto

from ...ir import Dim, DType, Expr, Value, ceildiv, dim_max, dim_min, floordiv, lower, upper
from ...ir.dims import Atom
from .compose import required
from .context import CONTENT_LIMIT, Handler, ImportContext, whole


class UnknownError(Exception):
    """The result is not expressible as dims."""


@dataclass(frozen=True)
class Ratio:
    """num / den, num symbolic, den > 1: a dim in floating point on its way through a division."""

    num: Expr
    den: int


Element = Any  # int | Expr | bool | Fraction | Ratio

# Floating-point constants with larger denominators stand for numbers like 0.7, whose products are rounded.
_MAX_DENOMINATOR = 4096


def _split(x: Element) -> tuple[Dim, int]:
    if isinstance(x, Ratio):
        return x.num, x.den
    if isinstance(x, Fraction):
        if x.denominator > _MAX_DENOMINATOR:
            raise UnknownError
        return x.numerator, x.denominator
    return (int(x) if isinstance(x, bool) else x), 1


def _join(num: Dim, den: int) -> Element:
    if isinstance(num, int):
        return whole(Fraction(num, den))
    g = math.gcd(den, *(c for _, c in num.terms))
    num, den = floordiv(num, g), den // g
    return num if den == 1 or isinstance(num, int) else Ratio(num, den)


def _add(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    return _join(an * bd + bn * ad, ad * bd)


def _mul(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    return _join(an * bn, ad * bd)


def _neg(a: Element) -> Element:
    n, d = _split(a)
    return _join(n * -1, d)


def _int_div(a: Element, b: Element) -> Element:
    """Integer division truncates; it is a floor where neither side can be negative."""
    if isinstance(a, int) and isinstance(b, int):
        return 0 if b == 0 else math.trunc(Fraction(a, b))
    if isinstance(b, int) and b < 0:
        a, b = _neg(a), -b
    if b == 0 or lower(b) < 0:
        raise UnknownError
    if lower(a) >= 0:
        return floordiv(a, b)
    return _exact(a, b)


def _exact(a: Dim, b: Dim) -> Dim:
    q = floordiv(a, b)
    if q * b != a:
        raise UnknownError
    return q


def _true_div(a: Element, b: Element) -> Element:
    (an, ad), (bn, bd) = _split(a), _split(b)
    if bn == 0:
        raise UnknownError
    if isinstance(bn, int):
        return _join(an * bd * (1 if bn > 0 else -1), ad * abs(bn))
    return _join(_exact(an * bd, bn), ad)


def _mod(a: Element, b: Element) -> Element:
    if not isinstance(b, int) or b <= 0 or (not isinstance(a, int) and lower(a) < 0):
        raise UnknownError
    return a - b * floordiv(a, b)


def _floor(a: Element) -> Element:
    n, d = _split(a)
    return floordiv(n, d)


def _ceil(a: Element) -> Element:
    n, d = _split(a)
    return ceildiv(n, d)


def _trunc(a: Element) -> Element:
    n, d = _split(a)
    if d == 1:
        return n
    if isinstance(n, int):
        return math.trunc(Fraction(n, d))
    if lower(n) < 0:
        raise UnknownError
    return floordiv(n, d)


def _gap(a: Element, b: Element) -> Dim:
    """A dim with the sign of a − b."""
    (an, ad), (bn, bd) = _split(a), _split(b)
    return an * bd - bn * ad


# Truth values that are not decided at compile time are dims that are 0 or 1.


def _truth(x: Dim) -> Element:
    return bool(x) if isinstance(x, int) else x


def _equal(a: Element, b: Element) -> Element:
    gap = _gap(a, b)
    if gap == 0:
        return True
    if lower(gap) > 0 or upper(gap) < 0:
        return False
    return 1 - dim_min(1, dim_max(0, dim_max(gap, gap * -1)))


def equality_of(truth: Dim) -> tuple[Dim, Dim] | None:
    """The two dims whose equality a truth value made by `_equal` states."""
    if not isinstance(truth, Expr):
        return None
    for mono, c in truth.terms:
        if len(mono) == 1 and c == -1 and isinstance(mono[0], Atom) and mono[0].fn == "min":
            inner = next((x for x in mono[0].args if isinstance(x, Expr)), None)
            for _ in range(2):  # max(0, max(gap, −gap)), the arguments in either order
                found = inner.terms[0][0][0] if inner is not None and len(inner.terms) == 1 and inner.terms[0][0] else None
                if not isinstance(found, Atom) or found.fn != "max":
                    return None
                gap, inner = found.args[0], next((x for x in found.args if isinstance(x, Expr)), None)
            if isinstance(gap, Expr) and truth == _equal(gap, 0):
                constant = next((k for m, k in gap.terms if not m), 0)
                return (gap - constant, -constant) if constant <= 0 else (gap * -1 + constant, constant)
    return None


def _less(a: Element, b: Element) -> Element:
    gap = _gap(a, b)
    if upper(gap) < 0:
        return True
    if lower(gap) >= 0:
        return False
    return dim_min(1, dim_max(0, gap * -1))


def _not(a: Element) -> Element:
    return _truth(1 - _split(a)[0])


def _and(a: Element, b: Element) -> Element:
    return _truth(_split(a)[0] * _split(b)[0])


def _xor(a: Element, b: Element) -> Element:
    return _truth(_gap(a, b) * _gap(a, b))


def _select(c: Element, a: Element, b: Element) -> Element:
    if isinstance(c, bool):
        return a if c else b
    return _add(_mul(c, a), _mul(1 - c, b))


def _dims(fn: Callable[[Dim, Dim], Dim]) -> Callable[[Element, Element], Element]:
    def pick(a: Element, b: Element) -> Element:
        (an, ad), (bn, bd) = _split(a), _split(b)
        if ad != 1 or bd != 1:
            raise UnknownError
        return fn(an, bn)

    return pick


def _abs(a: Element) -> Element:
    n, d = _split(a)
    return a if lower(n) >= 0 else _join(dim_max(n, n * -1), d)


_UNARY: dict[str, Callable[[Element], Element]] = {
    "Neg": _neg, "Abs": _abs, "Floor": _floor, "Ceil": _ceil, "Not": _not,
}  # fmt: skip
_BINARY: dict[str, Callable[[Element, Element], Element]] = {
    "Add": _add, "Sub": lambda a, b: _add(a, _neg(b)), "Mul": _mul, "Mod": _mod, "Sum": _add,
    "Min": _dims(dim_min), "Max": _dims(dim_max), "Equal": _equal, "Less": _less, "Greater": lambda a, b: _less(b, a),
    "LessOrEqual": lambda a, b: _not(_less(b, a)), "GreaterOrEqual": lambda a, b: _not(_less(a, b)),
    "And": _and, "Or": lambda a, b: _not(_and(_not(a), _not(b))), "Xor": _xor,
}  # fmt: skip
_REDUCE: dict[str, Callable[[Element, Element], Element]] = {
    "ReduceSum": _add, "ReduceProd": _mul, "ReduceMin": _dims(dim_min), "ReduceMax": _dims(dim_max),
}  # fmt: skip
_COMPARISONS = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor"})
# Operators that only move elements, and which of their inputs hold the elements (-1: all).
_STRUCTURAL: dict[str, tuple[int, ...]] = {
    "Gather": (0,), "Concat": (-1,), "Slice": (0,), "Unsqueeze": (0,), "Squeeze": (0,), "Reshape": (0,), "Identity": (0,),
    "Flatten": (0,), "Expand": (0,), "Tile": (0,), "Transpose": (0,), "Split": (0,), "GatherND": (0,), "GatherElements": (0,),
    "ScatterND": (0, 2), "ScatterElements": (0, 2), "Where": (1, 2), "Dropout": (0,), "Pad": (0, 2),
}  # fmt: skip


def evaluate_shapes(ctx: ImportContext, node: NodeProto, ins: list[Value | None], handler: Handler) -> Sequence[Value] | None:
    """The outputs, where every input is known and one of them symbolic; None where ordinary import has to do it."""
    op = node.op_type
    if node.domain not in ("", "ai.onnx") or not any(v is not None and ctx.is_symbolic(v) for v in ins):
        return None
    present = [v for v in ins if v is not None]
    try:
        if op in _STRUCTURAL and (op != "Where" or ctx.known(ins[0]) is not None):
            return _structural(ctx, node, ins, handler)
        contents = [c for v in present if (c := ctx.content(v)) is not None]
        if len(contents) < len(present):
            return None
        got = _arithmetic(ctx, node, ins, contents)
    except UnknownError:
        return None
    if got is None:
        return None
    content, dtype = got
    return [_materialise(ctx, node, ins, handler, content, dtype)]


def _materialise(
    ctx: ImportContext, node: NodeProto, ins: list[Value | None], handler: Handler, content: np.ndarray, dtype: DType
) -> Value:
    if any(isinstance(x, Ratio) for x in content.ravel()):
        (value, *_) = handler(ctx, node, ins)
        ctx.set_content(value, content)
        return value
    return ctx.dim_tensor(content, dtype)


def _objects(result: Any) -> np.ndarray:
    if isinstance(result, np.ndarray) and result.dtype == object:
        return result
    out = np.empty((), object)
    out[()] = result
    return out


def _arithmetic(
    ctx: ImportContext, node: NodeProto, ins: list[Value | None], contents: list[np.ndarray]
) -> tuple[np.ndarray, DType] | None:
    op = node.op_type
    first = next(v for v in ins if v is not None)
    dtype = first.dtype
    if op in _UNARY:
        return _objects(np.frompyfunc(_UNARY[op], 1, 1)(contents[0])), DType.BOOL if op in _COMPARISONS else dtype
    if op in _BINARY or op == "Div":
        fn = _BINARY[op] if op != "Div" else (_int_div if dtype.is_int else _true_div)
        if op == "Mod" and dtype.is_float:
            return None
        ufunc = np.frompyfunc(fn, 2, 1)
        out = contents[0]
        for c in contents[1:]:
            out = _objects(ufunc(out, c))
        return out, DType.BOOL if op in _COMPARISONS else dtype
    if op == "Where":
        _, taken, _ = required(ctx, node, ins, 3)
        return _objects(np.frompyfunc(_select, 3, 1)(*contents)), taken.dtype
    if op == "Cast":
        to = DType.from_onnx(ctx.attr(node, "to"))
        if to is DType.BOOL:
            return _objects(np.frompyfunc(lambda a: _not(_equal(a, 0)), 1, 1)(contents[0])), to
        if to.is_int and dtype.is_float:
            return _objects(np.frompyfunc(_trunc, 1, 1)(contents[0])), to
        if to.is_int or to.is_float:
            return _objects(np.frompyfunc(lambda a: int(a) if isinstance(a, bool) else a, 1, 1)(contents[0])), to
        return None
    if op in _REDUCE:
        return _reduce(ctx, node, ins, contents[0]), dtype
    if op == "Pow" and len(contents) == 2 and contents[1].size == 1:
        exponent = contents[1].ravel()[0]
        if isinstance(exponent, int) and 0 <= exponent <= 4:
            return _objects(np.frompyfunc(lambda a: _power(a, exponent), 1, 1)(contents[0])), dtype
    return None


def _power(a: Element, n: int) -> Element:
    out: Element = 1
    for _ in range(n):
        out = _mul(out, a)
    return out


def _reduce(ctx: ImportContext, node: NodeProto, ins: list[Value | None], content: np.ndarray) -> np.ndarray:
    axes = ctx.attr(node, "axes")
    if axes is None and len(ins) > 1 and ins[1] is not None:
        axes = ctx.dims(ins[1])
        if axes is None or not all(isinstance(a, int) for a in axes):
            raise UnknownError
    if not axes and ctx.attr(node, "noop_with_empty_axes", 0):
        return content
    picked = {a % content.ndim for a in axes} if axes else set(range(content.ndim))
    ufunc = np.frompyfunc(_REDUCE[node.op_type], 2, 1)
    keep = bool(ctx.attr(node, "keepdims", 1))
    for axis in sorted(picked, reverse=True):
        if content.shape[axis] == 0:
            raise UnknownError
        content = _objects(ufunc.reduce(content, axis=axis, keepdims=keep))
    return content


def _structural(ctx: ImportContext, node: NodeProto, ins: list[Value | None], handler: Handler) -> list[Value] | None:
    """Run the handler on constants that number the elements, and look up what the results number."""
    where = _STRUCTURAL[node.op_type]
    data = range(len(ins)) if where == (-1,) else [i for i in where if i < len(ins)]
    table: list[Element] = [0]  # number 0 is the zero that Pad fills with by default
    numbered = list(ins)
    dtype = None
    for i in data:
        value = ins[i]
        if value is None:
            continue
        content = ctx.content(value)
        if content is None or len(table) + content.size > CONTENT_LIMIT:
            return None
        numbers = np.arange(len(table), len(table) + content.size).reshape(content.shape)
        table.extend(content.ravel())
        numbered[i] = ctx.const(numbers, DType.I64)
        dtype = dtype or value.dtype
    if dtype is None or ctx.attr(node, "reduction", "none") != "none":
        return None
    outs = []
    for k, value in enumerate(handler(ctx, node, numbered)):
        got = ctx.known(value)
        if got is None or got.dtype != np.int64:
            return None
        content = np.empty(got.size, object)
        for j, number in enumerate(got.ravel()):
            content[j] = table[int(number)]
        content = content.reshape(got.shape)
        if any(isinstance(x, Ratio) for x in content.ravel()):
            real = list(handler(ctx, node, ins))[k]
            ctx.set_content(real, content)
            outs.append(real)
        else:
            outs.append(ctx.dim_tensor(content, dtype))
    return outs
