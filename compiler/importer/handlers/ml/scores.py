"""What the classifiers and regressors of ai.onnx.ml share: rows of features, class labels, transforms of scores."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build
from ...context import ImportContext


def rows_of(ctx: ImportContext, x: Value) -> Value:
    """[N, F] in floats; a vector is one row."""
    b = Build(ctx)
    x = b.reshape(x, (1, x.shape[0])) if x.type.rank == 1 else x
    if x.type.rank != 2:
        raise ctx.unsupported(f"features of {x.type}")
    return x if x.dtype is DType.F64 else b.cast(x, DType.F32)


def class_labels(ctx: ImportContext, node: NodeProto) -> np.ndarray:
    """Labels of the classes, strings or int64."""
    for name, dtype in (("classlabels_strings", object), ("classlabels_int64s", np.int64), ("classlabels_ints", np.int64)):
        found = ctx.attr(node, name, None)
        if found:
            return np.asarray(found, dtype)
    raise ctx.unsupported(f"{node.op_type} without class labels")


def logistic(b: Build, x: Value) -> Value:
    return b.emit(O.Sigmoid(), x)


def probit(b: Build, x: Value) -> Value:
    """√2·erf⁻¹(2x − 1), by S. Winitzki's approximation of erf⁻¹ with a = 0.147, as onnxruntime."""
    y = b.sub(b.mul(x, 2.0), 1.0)
    log = b.emit(O.Log(), b.mul(b.sub(b.const(1, y.dtype), y), b.add(y, 1.0)))
    v = b.add(b.mul(log, 0.5), 2 / (3.14159 * 0.147))
    root = b.sqrt(b.sub(b.sqrt(b.sub(b.mul(v, v), b.mul(log, 1 / 0.147))), v))
    negative = b.emit(O.Less(), y, b.const(0, y.dtype))
    return b.mul(b.where(negative, b.emit(O.Neg(), root), root), math.sqrt(2.0))


def post_transform(ctx: ImportContext, b: Build, name: str, scores: Value) -> Value:
    """Scores [N, K] as probabilities; softmaxes go along the classes."""
    match name:
        case "NONE" | "":
            return scores
        case "LOGISTIC":
            return logistic(b, scores)
        case "SOFTMAX":
            return b.emit(O.Softmax(1), scores)
        case "SOFTMAX_ZERO":
            return _softmax_zero(b, scores)
        case "PROBIT":
            return probit(b, scores)
    raise ctx.unsupported(f"post_transform {name!r}")


def one_target(ctx: ImportContext, b: Build, name: str, scores: Value) -> Value:
    """What regressors make of scores [N, targets]: onnxruntime knows PROBIT alone of a single one."""
    return post_transform(ctx, b, name if scores.shape[1] != 1 or name == "PROBIT" else "NONE", scores)


def _softmax_zero(b: Build, x: Value) -> Value:
    """A softmax whose zeros stay as they are (times exp(−max)) and do not take part in the sum."""
    top = b.reduce("max", x, [1])
    live = b.emit(O.Greater(), b.emit(O.Abs(), x), b.const(1e-7, x.dtype))
    power = b.emit(O.Exp(), b.sub(x, top))
    total = b.reduce("sum", b.where(live, power, b.const(0, x.dtype)), [1])
    return b.div(b.where(live, power, b.mul(x, b.emit(O.Exp(), b.emit(O.Neg(), top)))), total)


def two_labels(ctx: ImportContext, b: Build, score: Value, labels: np.ndarray, limit: float, *, known: bool) -> Value:
    """The second label where score[N, 1] > limit, else the first. Where not `known`, onnxruntime says 1 and 0 for any integers."""
    chosen = b.emit(O.Greater(), b.reshape(score, (score.shape[0],)), b.const(limit, score.dtype))
    names = labels if known or labels.dtype.kind == "O" else np.asarray([0, 1], np.int64)
    return b.emit(O.Gather(0), ctx.const(names), b.cast(chosen, DType.I64))


def one_score(b: Build, score: Value, transform: str, positive: bool) -> Value:
    """Scores of both classes from that of the second, [N, 1]: complements where it is a probability, else opposite in sign."""
    minus = b.emit(O.Neg(), score)
    match transform:
        case "PROBIT":
            return b.concat(1, probit(b, score), b.mul(score, 0.0))
        case "LOGISTIC":
            return b.concat(1, logistic(b, minus), logistic(b, score))
    return b.concat(1, b.sub(b.const(1, score.dtype), score) if positive else minus, score)
