"""Loop kernels: maps, reductions and guarded stores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...errors import VerifyError
from ...ir import DType, evaluate
from ..expr import Bits, Call, Cast, E, Load
from ..kernel import LoopKernel, Reduction
from .values import Arrays, Bindings, Evaluator, check_bounds, grid


def run_loop(kernel: LoopKernel, arrays: Arrays, bound: Bindings) -> None:
    axes = [evaluate(d, bound) for d in kernel.axes]
    inner = [evaluate(d, bound) for d in kernel.reduce_axes]
    if any(d <= 0 for d in axes):
        return
    if not kernel.stages and _reads_own_result(kernel):
        for point in itertools.product(*map(range, inner)):
            outer = [a.reshape(a.shape) for a in grid(axes)]
            ev = Evaluator(arrays, bound, [*outer, *(np.asarray(p, np.int64) for p in point)])
            _stores(kernel, ev, arrays, axes, [])
        return
    ev = Evaluator(arrays, bound, grid([*axes, *(max(d, 0) for d in inner)]))
    for stage in kernel.stages:
        ev.reduced.append(_reduce(stage, ev, axes, inner))
    _stores(kernel, ev, arrays, axes, inner)


def _reads_own_result(kernel: LoopKernel) -> bool:
    stack: list[E] = [e for s in kernel.stores for e in (s.value, s.offset, s.guard) if e is not None]
    seen: set[int] = set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, Load):
            if kernel.operands[e.operand].written:
                return True
            stack.append(e.offset)
        stack.extend(e.args if isinstance(e, Call) else (e.arg,) if isinstance(e, Cast | Bits) else ())
    return False


def _stores(kernel: LoopKernel, ev: Evaluator, arrays: Arrays, axes: list[int], inner: list[int]) -> None:
    for s in kernel.stores:
        if s.per_element and any(d <= 0 for d in inner):
            continue
        shape = [*axes, *(inner if s.per_element else [1] * len(inner))]
        if not kernel.operands[s.operand].written:
            raise VerifyError(f"store to operand {s.operand}, which is not written")
        if s.value.dtype is not kernel.operands[s.operand].dtype:
            raise VerifyError(f"store of {s.value.dtype.value}", expected=kernel.operands[s.operand].dtype.value)
        offset, value = (np.broadcast_to(ev(e), shape).reshape(-1) for e in (s.offset, s.value))
        if s.guard is not None:
            keep = np.broadcast_to(ev(s.guard), shape).reshape(-1)
            offset, value = offset[keep], value[keep]
        check_bounds(offset, arrays[s.operand].size, f"store to operand {s.operand}")
        arrays[s.operand][offset] = value


def _reduce(stage: Reduction, ev: Evaluator, axes: list[int], inner: list[int]) -> np.ndarray:
    """fn over the reduce axes; these stay, with size 1. Floats accumulate in float64."""
    kept = [*axes, *(1 for _ in inner)]
    dtype = stage.value.dtype
    if any(d <= 0 for d in inner):
        x = np.zeros([*axes, 0], dtype.np)
    else:
        x = np.broadcast_to(ev(stage.value), [*axes, *inner]).reshape([*axes, -1])
    match stage.fn:
        case "argmax" | "argmin":
            return getattr(np, stage.fn)(x, axis=-1).astype(np.int64).reshape(kept)
        case "sum" | "prod":
            out = getattr(np, stage.fn)(x, axis=-1, dtype=np.float64 if dtype.is_float else dtype.np)
        case "and":
            out = np.logical_and.reduce(x, axis=-1)
        case "or":
            out = np.logical_or.reduce(x, axis=-1)
        case "max" | "min":
            out = getattr(np, stage.fn)(x, axis=-1, initial=neutral(stage.fn, dtype))
        case _:
            raise VerifyError(f"unknown reduction {stage.fn!r}")
    with np.errstate(all="ignore"):
        return np.asarray(out).astype(dtype.np).reshape(kept)


def neutral(fn: str, dtype: DType) -> Any:
    """The value that a max or min of nothing has."""
    if dtype.is_float:
        return -np.inf if fn == "max" else np.inf
    if dtype is DType.BOOL:
        return fn == "min"
    info = np.iinfo(dtype.np)
    return info.min if fn == "max" else info.max
