"""Handlers of ai.onnx.ml models and preparations that are arithmetic on features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....errors import OnnxImportError
from .....ir import DType, Graph, Input, Node, TensorType, Value
from .....ir import ops as O
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from .scores import class_labels, logistic, one_score, one_target, post_transform, probit, rows_of, two_labels

Ins = list[Value | None]


def _floats(ctx: ImportContext, node: NodeProto, name: str) -> np.ndarray:
    return np.asarray(ctx.attr(node, name, ()) or (), np.float64)


def _table(ctx: ImportContext, node: NodeProto, name: str, rows: int) -> np.ndarray:
    """An attribute as [rows, …]."""
    flat = _floats(ctx, node, name)
    if rows < 1 or flat.size % rows or not flat.size:
        raise OnnxImportError(f"{node.op_type}: {name} of {flat.size} numbers", expected=f"rows of {rows}", loc=", ".join(ctx.loc))
    return flat.reshape(rows, -1)


def _f32(ctx: ImportContext, x: Value) -> Value:
    return Build(ctx).cast(rows_of(ctx, x), DType.F32)


def _linear(b: Build, x: Value, weights: np.ndarray, offsets: np.ndarray) -> Value:
    """x·wᵀ + offsets, w[targets, features]."""
    if isinstance(x.shape[1], int) and x.shape[1] != weights.shape[1]:
        raise OnnxImportError(f"{x.shape[1]} features", expected=f"{weights.shape[1]}", loc=", ".join(b.ctx.loc))
    y = b.matmul(x, b.const(np.ascontiguousarray(weights.T), DType.F32))
    return b.add(y, b.const(offsets, DType.F32)) if offsets.size else y


def linear_regressor(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    x, b = _f32(ctx, required(ctx, node, ins, 1)[0]), Build(ctx)
    targets = int(ctx.attr(node, "targets", 1))
    y = _linear(b, x, _table(ctx, node, "coefficients", targets), _floats(ctx, node, "intercepts"))
    return [one_target(ctx, b, str(ctx.attr(node, "post_transform", "NONE")), y)]


def linear_classifier(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Scores by a matrix product; the label of the greatest, or, of a single score, by its sign."""
    x, b, labels = _f32(ctx, required(ctx, node, ins, 1)[0]), Build(ctx), class_labels(ctx, node)
    offsets, transform = _floats(ctx, node, "intercepts"), str(ctx.attr(node, "post_transform", "NONE"))
    scores = _linear(b, x, _table(ctx, node, "coefficients", offsets.size or len(labels)), offsets)
    if scores.shape[1] == 1:
        label = two_labels(ctx, b, scores, labels, 0.0, known=len(labels) == 2)
        if len(labels) == 2:
            return [label, one_score(b, scores, transform, positive=True)]
        return [label, probit(b, scores) if transform == "PROBIT" else scores]
    best = b.emit(O.ArgReduce("argmax", 1, False), scores)
    return [b.emit(O.Gather(0), ctx.const(labels), best), post_transform(ctx, b, transform, scores)]


def _kernel(ctx: ImportContext, node: NodeProto, b: Build, x: Value, vectors: np.ndarray, kind: str) -> Value:
    """k(x, v) for every support vector: [N, vectors]. kernel_params are gamma, coef0 and degree."""
    params = [float(p) for p in ctx.attr(node, "kernel_params", ()) or ()] + [0.0] * 3
    gamma, offset, degree = params[:3]
    if kind == "RBF":
        squares = b.reduce("sum", b.mul(x, x), [1])
        apart = b.add(b.sub(squares, b.mul(_linear(b, x, vectors, np.zeros(0)), 2.0)), b.const((vectors**2).sum(1), DType.F32))
        return b.emit(O.Exp(), b.mul(b.max(apart, 0.0), -gamma))
    product = _linear(b, x, vectors, np.zeros(0))
    match kind:
        case "LINEAR":
            return product
        case "POLY":
            return b.emit(O.Pow(), b.add(b.mul(product, gamma), offset), b.const(degree, DType.F32))
        case "SIGMOID":
            return b.emit(O.Tanh(), b.add(b.mul(product, gamma), offset))
    raise ctx.unsupported(f"{node.op_type} with kernel {kind!r}")


def svm_regressor(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    x, b, count = _f32(ctx, required(ctx, node, ins, 1)[0]), Build(ctx), int(ctx.attr(node, "n_supports", 0))
    rho, kind = _floats(ctx, node, "rho"), str(ctx.attr(node, "kernel_type", "LINEAR"))
    weights = _floats(ctx, node, "coefficients")
    if count:
        x = _kernel(ctx, node, b, x, _table(ctx, node, "support_vectors", count), kind)
    y = _linear(b, x, weights.reshape(1, -1), rho[:1])
    if int(ctx.attr(node, "one_class", 0)):
        y = b.where(b.emit(O.Greater(), y, b.const(0, y.dtype)), b.const(1, y.dtype), b.const(-1, y.dtype))
    return [y]  # onnxruntime has no post_transform of it


def svm_classifier(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Votes of a classifier for every pair of classes; with prob_a and prob_b, probabilities coupled from those of the pairs."""
    x, b, labels = _f32(ctx, required(ctx, node, ins, 1)[0]), Build(ctx), class_labels(ctx, node)
    classes, transform = len(labels), str(ctx.attr(node, "post_transform", "NONE"))
    supports = [int(n) for n in ctx.attr(node, "vectors_per_class", ()) or ()]
    rho, prob_a, prob_b = (_floats(ctx, node, n) for n in ("rho", "prob_a", "prob_b"))
    if not supports:  # one row of coefficients a class
        scores = b.add(_linear(b, x, _table(ctx, node, "coefficients", classes), np.zeros(0)), float(rho[0]))
        best = b.emit(O.ArgReduce("argmax", 1, False), scores)
        if classes == 2:  # onnxruntime: the second where any score says so
            positive = bool((_floats(ctx, node, "coefficients") >= 0).all())
            top, low = b.reduce("max", scores, [1], False), b.const(0.5 if positive else 0.0, scores.dtype)
            sure = b.emit(O.GreaterEqual() if positive else O.Greater(), top, low)
            best = b.where(sure, b.const(1, best.dtype), best)
        return [b.emit(O.Gather(0), ctx.const(labels), best), post_transform(ctx, b, transform, scores)]
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    if classes < 2 or len(supports) != classes or rho.size < len(pairs) or prob_a.size != prob_b.size:
        raise OnnxImportError(
            f"SVMClassifier of {classes} classes with {rho.size} offsets", expected=f"{len(pairs)}", loc=", ".join(ctx.loc)
        )
    k = _kernel(ctx, node, b, x, _table(ctx, node, "support_vectors", sum(supports)), str(ctx.attr(node, "kernel_type", "LINEAR")))
    weights = _table(ctx, node, "coefficients", classes - 1)
    starts = np.cumsum([0, *supports])
    matrix = np.zeros((len(pairs), sum(supports)))
    for row, (i, j) in enumerate(pairs):
        matrix[row, starts[i] : starts[i + 1]] = weights[j - 1, starts[i] : starts[i + 1]]
        matrix[row, starts[j] : starts[j + 1]] = weights[i, starts[j] : starts[j + 1]]
    duels = _linear(b, k, matrix, rho[: len(pairs)])
    votes = _votes(b, duels, pairs, classes)
    best = b.emit(O.ArgReduce("argmax", 1, False), votes)
    label = b.emit(O.Gather(0), ctx.const(labels), best)
    if prob_a.size:
        likely = _coupled(b, _pair_probabilities(b, duels, prob_a, prob_b), pairs, classes)
        return [label, post_transform(ctx, b, transform, likely)]
    if classes > 2:
        return [label, post_transform(ctx, b, transform, duels)]
    if transform == "NONE":
        return [label, b.concat(1, b.emit(O.Neg(), duels), duels)]
    return [label, one_score(b, duels, transform, positive=True)]


def _votes(b: Build, duels: Value, pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """Pairs won by each class: [N, classes]."""
    won = b.cast(b.emit(O.Greater(), duels, b.const(0, duels.dtype)), DType.F32)
    first, second = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
    for row, (i, j) in enumerate(pairs):
        first[row, i] = second[row, j] = 1
    lost = b.sub(b.const(1, DType.F32), won)
    return b.add(b.matmul(won, b.const(first, DType.F32)), b.matmul(lost, b.const(second, DType.F32)))


def _pair_probabilities(b: Build, duels: Value, prob_a: np.ndarray, prob_b: np.ndarray) -> Value:
    """J. Platt's sigmoid of every duel, within 1e-7 of 0 and 1."""
    p = logistic(b, b.emit(O.Neg(), b.add(b.mul(duels, b.const(prob_a, DType.F32)), b.const(prob_b, DType.F32))))
    return b.min(b.max(p, 1e-7), 1 - 1e-7)


def _coupled(b: Build, duels: Value, pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """Probabilities of the classes from those of pairs: the second method of T.-F. Wu, C.-J. Lin and R. C. Weng (2004).

    They minimise Σ over pairs of (p_ji·p_i − p_ij·p_j)² = pᵀQp, by the fixed-point iteration of LIBSVM: a row stops when all
    of Qp are within 0.005 / classes of pᵀQp, or after 100 rounds.
    """
    columns = {pair: b.slice(duels, 1, row, 1) for row, pair in enumerate(pairs)}
    one, n = b.const(1, DType.F32), duels.shape[0]

    def r(i: int, j: int) -> Value:
        return columns[i, j] if i < j else b.sub(one, columns[j, i])

    lines = []
    for i in range(classes):
        squares = [b.mul(r(j, i), r(j, i)) for j in range(classes) if j != i]
        diagonal = b.reduce("sum", b.concat(1, *squares), [1])
        lines.append(b.concat(1, *(diagonal if j == i else b.emit(O.Neg(), b.mul(r(j, i), r(i, j))) for j in range(classes))))
    q = b.concat(1, *lines)  # [N, classes²]
    start = b.expand(b.const(1 / classes, DType.F32), (n, classes))
    types = (TensorType(DType.I64, ()), TensorType(DType.BOOL, ()), start.type, q.type)
    formals = [Node.make(Input(t), (), b.ctx.loc).out for t in types]
    p, going = _couple(b, formals[2], formals[3], classes)
    body = Graph(tuple(formals), (going, p, formals[3]), tuple("icpq"), tuple("cpq"), "coupling")
    return b.ctx.emit(O.Loop(body, 2, 0), b.const(100, DType.I64), b.const(True, DType.BOOL), start, q).outputs[0]


def _couple(b: Build, p: Value, q: Value, classes: int) -> tuple[Value, Value]:
    """One round for p[N, classes], and whether any row is still going."""
    old, one = p, b.const(1, DType.F32)
    line = [b.slice(q, 1, t * classes, classes) for t in range(classes)]
    qp = b.concat(1, *(b.reduce("sum", b.mul(line[t], p), [1]) for t in range(classes)))
    pqp = b.reduce("sum", b.mul(p, qp), [1])
    error = b.reduce("max", b.emit(O.Abs(), b.sub(qp, pqp)), [1])
    active = b.emit(O.GreaterEqual(), error, b.const(0.005 / classes, DType.F32))
    for t in range(classes):
        own, here = b.slice(line[t], 1, t, 1), b.slice(qp, 1, t, 1)
        diff = b.div(b.sub(pqp, here), own)
        more = b.add(diff, one)
        pqp = b.div(b.div(b.add(pqp, b.mul(diff, b.add(b.mul(diff, own), b.mul(here, 2.0)))), more), more)
        qp = b.div(b.add(qp, b.mul(diff, line[t])), more)
        p = b.div(b.add(p, b.mul(diff, b.const(np.eye(classes)[t], DType.F32))), more)
    return b.where(active, p, old), b.reduce("max", active, [0, 1], False)


def scaler(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """(x − offset)·scale along the last axis."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    y = b.cast(x, DType.F32)
    for name, op in (("offset", b.sub), ("scale", b.mul)):
        given = _floats(ctx, node, name)
        if given.size:
            y = op(y, b.const(given if given.size > 1 else given.reshape(()), DType.F32))
    return [y]


def normalizer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Rows over their greatest element, sum of magnitudes, or length; zero ones stay (with a minus of the maximum as it is)."""
    (x,) = required(ctx, node, ins, 1)
    b, kind = Build(ctx), str(ctx.attr(node, "norm", "MAX"))
    y = b.cast(x, DType.F32)
    axis = y.type.rank - 1
    match kind:
        case "MAX":
            size = b.reduce("max", y, [axis])
        case "L1":
            size = b.reduce("sum", b.emit(O.Abs(), y), [axis])
        case "L2":
            size = b.sqrt(b.reduce("sum", b.mul(y, y), [axis]))
        case _:
            raise ctx.unsupported(f"Normalizer by {kind!r}")
    none = b.emit(O.Equal(), size, b.const(0, DType.F32))
    return [b.div(y, b.where(none, b.const(1, DType.F32), size))]


def imputer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Elements that equal the replaced value (NaN equals NaN) become the imputed ones, one or one a feature."""
    (x,) = required(ctx, node, ins, 1)
    b, kind = Build(ctx), "float" if x.dtype.is_float else "int64"
    given = np.asarray(ctx.attr(node, f"imputed_value_{kind}s", ()) or ())
    replaced = ctx.attr(node, f"replaced_value_{kind}", 0)
    if not given.size:
        raise ctx.unsupported(f"Imputer of {x.type} without values")
    if isinstance(replaced, float) and math.isnan(replaced):
        missing = b.emit(O.IsNaN(), x)
    else:
        missing = b.emit(O.Equal(), x, b.const(replaced, x.dtype))
    return [b.where(missing, b.const(given if given.size > 1 else given.reshape(()), x.dtype), x)]


def binarizer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    return [b.cast(b.emit(O.Greater(), x, b.const(float(ctx.attr(node, "threshold", 0.0)), x.dtype)), x.dtype)]


def array_feature_extractor(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Some columns; of a vector, as one row."""
    x, index = required(ctx, node, ins, 2)
    b = Build(ctx)
    x = b.reshape(x, (1, x.shape[0])) if x.type.rank == 1 else x
    index = ctx.checked(b.reshape(index, (index.type.numel,)), (0,), (x.shape[-1] - 1,))
    return [b.emit(O.Gather(x.type.rank - 1), x, index)]


def feature_vectorizer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The inputs beside each other, each cut or filled up with zeros to its number of columns."""
    b, parts = Build(ctx), []
    widths = [int(d) for d in ctx.attr(node, "inputdimensions", ()) or ()]
    for i, x in enumerate(required(ctx, node, ins, len(ins))):
        y = rows_of(ctx, x) if x.type.rank <= 2 else b.reshape(b.cast(x, DType.F32), (x.shape[0], x.type.numel // x.shape[0]))
        y = b.cast(y, DType.F32)
        have = y.shape[1]
        want = widths[i] if i < len(widths) else have
        if not isinstance(have, int):
            raise ctx.unsupported(f"FeatureVectorizer of {x.type}")
        y = b.slice(y, 1, 0, min(have, want))
        if want > have:
            y = b.concat(1, y, b.expand(b.const(0, DType.F32), (y.shape[0], want - have)))
        parts.append(y)
    return [b.concat(1, *parts)]


ML_HANDLERS: HandlerTable = {
    (f"ai.onnx.ml::{name}", 1): handler
    for name, handler in {
        "ArrayFeatureExtractor": array_feature_extractor,
        "Binarizer": binarizer,
        "FeatureVectorizer": feature_vectorizer,
        "Imputer": imputer,
        "LinearClassifier": linear_classifier,
        "LinearRegressor": linear_regressor,
        "Normalizer": normalizer,
        "SVMClassifier": svm_classifier,
        "SVMRegressor": svm_regressor,
        "Scaler": scaler,
    }.items()
}
