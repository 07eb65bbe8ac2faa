"""Shape arithmetic at compile time: what integer operators do to tensors whose elements are known dims.

The content of a tensor is an object array of `int | Expr | bool | Fraction | Ratio`; in a BOOL tensor, an
Expr is 0 or 1. Operators that only move elements
are evaluated by their ordinary handlers on element numbers; arithmetic is evaluated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from ...ir import DType, Expr, Value
from .compose import required
from .contents import CONTENT_LIMIT
from .context import Handler, ImportContext
from .dim_arithmetic import (
    BINARY,
    COMPARISONS,
    REDUCE,
    UNARY,
    Element,
    Ratio,
    UnknownError,
    equal,
    fmod,
    int_div,
    not_,
    power,
    select,
    true_div,
    trunc,
)

# Truth values that are not decided at compile time are dims that are 0 or 1.

_WRITTEN = 64  # sizes in a tensor that kernels get as parameters, and tell apart by comparisons; others are computed by the model's nodes

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
    if _computed(content):
        (value, *_) = handler(ctx, node, ins)
        if content.size <= CONTENT_LIMIT:
            ctx.set_content(value, content)
        return value
    return ctx.dim_tensor(content, dtype)


def _computed(content: np.ndarray) -> bool:
    """Whether a run computes what is known here too."""
    many = content.size > _WRITTEN and any(isinstance(x, Expr) for x in content.ravel())
    return many or any(isinstance(x, Ratio) for x in content.ravel())


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
    if op in UNARY:
        return _objects(np.frompyfunc(UNARY[op], 1, 1)(contents[0])), DType.BOOL if op in COMPARISONS else dtype
    if op in BINARY or op == "Div":
        fn = BINARY[op] if op != "Div" else (int_div if dtype.is_int else true_div)
        if op == "Mod" and dtype.is_float:
            return None
        if op == "Mod" and ctx.attr(node, "fmod", 0):
            fn = fmod
        ufunc = np.frompyfunc(fn, 2, 1)
        out = contents[0]
        for c in contents[1:]:
            out = _objects(ufunc(out, c))
        return out, DType.BOOL if op in COMPARISONS else dtype
    if op == "Where":
        _, taken, _ = required(ctx, node, ins, 3)
        return _objects(np.frompyfunc(select, 3, 1)(*contents)), taken.dtype
    if op == "Cast":
        to = DType.from_onnx(ctx.attr(node, "to"))
        if to is DType.BOOL:
            return _objects(np.frompyfunc(lambda a: not_(equal(a, 0)), 1, 1)(contents[0])), to
        if to.is_int and dtype.is_float:
            return _objects(np.frompyfunc(trunc, 1, 1)(contents[0])), to
        if to.is_int or to.is_float:
            return _objects(np.frompyfunc(lambda a: int(a) if isinstance(a, bool) else a, 1, 1)(contents[0])), to
        return None
    if op in REDUCE:
        return _reduce(ctx, node, ins, contents[0]), dtype
    if op == "Pow" and len(contents) == 2 and contents[1].size == 1:
        exponent = contents[1].ravel()[0]
        if isinstance(exponent, int) and 0 <= exponent <= 4:
            return _objects(np.frompyfunc(lambda a: power(a, exponent), 1, 1)(contents[0])), dtype
    return None


def _reduce(ctx: ImportContext, node: NodeProto, ins: list[Value | None], content: np.ndarray) -> np.ndarray:
    axes = ctx.attr(node, "axes")
    if axes is None and len(ins) > 1 and ins[1] is not None:
        axes = ctx.dims(ins[1])
        if axes is None or not all(isinstance(a, int) for a in axes):
            raise UnknownError
    if not axes and ctx.attr(node, "noop_with_empty_axes", 0):
        return content
    picked = {a % content.ndim for a in axes} if axes else set(range(content.ndim))
    ufunc = np.frompyfunc(REDUCE[node.op_type], 2, 1)
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
    real: list[Value] = []
    for k, value in enumerate(handler(ctx, node, numbered)):
        got = ctx.known(value)
        if got is None or got.dtype != np.int64:
            return None
        content = np.empty(got.size, object)
        for j, number in enumerate(got.ravel()):
            content[j] = table[int(number)]
        content = content.reshape(got.shape)
        if _computed(content):
            real = real or list(handler(ctx, node, ins))
            if content.size <= CONTENT_LIMIT:
                ctx.set_content(real[k], content)
            outs.append(real[k])
        else:
            outs.append(ctx.dim_tensor(content, dtype))
    return outs
