"""Handlers of ai.onnx.ml tree ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from .forest import Forest, ensemble_forest, first_weights, legacy_forest, numbers
from .scores import class_labels, one_score, one_target, post_transform, rows_of, two_labels
from .tree_sums import LeafSums

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


def _aggregate(ctx: ImportContext, node: NodeProto, x: Value, forest: Forest, by: str, dtype: DType) -> Value:
    """[N, targets] of `dtype`, by an aggregate function. Raises OnnxImportError for one that there is not, or no trees."""
    trees = len(forest.nodes.roots)
    if by not in _AGGREGATES or not trees:
        raise ctx.unsupported(f"{node.op_type} of {trees} trees by aggregate function {by}")
    total = LeafSums(ctx, node, x, forest, int(ctx.attr(node, "n_targets", 1)), dtype).totals("sum" if by == "AVERAGE" else by.lower())
    return Build(ctx).div(total, float(trees)) if by == "AVERAGE" else total


def _with_base(b: Build, total: Value, base: np.ndarray) -> Value:
    return b.add(total, b.const(base, total.dtype)) if base.size else total


def regressor(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, forest = Build(ctx), legacy_forest(ctx, node, "target")
    if int(ctx.attr(node, "n_targets", 1)) == 1:  # onnxruntime takes the first weight of a leaf then
        forest = first_weights(forest)
    total = _aggregate(ctx, node, x, forest, str(ctx.attr(node, "aggregate_function", "SUM")), DType.F32)
    total = _with_base(b, total, numbers(ctx, node, "base_values"))
    return [one_target(ctx, b, str(ctx.attr(node, "post_transform", "NONE")), total)]


def classifier(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The label of the best class, and scores of every class."""
    x = rows_of(ctx, required(ctx, node, ins, 1)[0])
    b, labels = Build(ctx), class_labels(ctx, node)
    count, forest, base = len(labels), legacy_forest(ctx, node, "class"), numbers(ctx, node, "base_values")
    transform = str(ctx.attr(node, "post_transform", "NONE"))
    if not forest.nodes.roots.size or base.size not in (0, 1, count):
        raise ctx.unsupported(f"{node.op_type} of {len(forest.nodes.roots)} trees with {base.size} base values for {count} classes")
    ids = {int(i) for i in ctx.attr(node, "class_ids", ())}
    if count == 2:
        positive = bool((numbers(ctx, node, "class_weights") >= 0).all())
        return _two_classes(ctx, node, x, forest, labels, ids, base, transform, positive)
    total = _with_base(b, LeafSums(ctx, node, x, forest, count, DType.F32).totals("sum"), base)
    scored, scores = labels, total
    if ids and len(ids) < count and not base.size:  # a class without any weights is never the best
        scored = labels[sorted(ids)]
        scores = b.emit(O.Gather(1), total, ctx.const(np.array(sorted(ids))))
    best = b.emit(O.ArgReduce("argmax", 1, False), scores)
    return [b.emit(O.Gather(0), ctx.const(scored), best), post_transform(ctx, b, transform, total)]


def _two_classes(ctx: ImportContext, node: NodeProto, x: Value, forest: Forest, labels: np.ndarray, ids: set[int],
                 base: np.ndarray, transform: str, positive: bool) -> list[Value]:  # fmt: skip
    """onnxruntime's rules for two classes, by which of them leaves have weights of: a class without any scores 0.

    With weights of the first class only (and not two base values), they count for the second: its score is a probability
    where no weight is negative, and else one of the two signs.
    """
    b, n = Build(ctx), x.shape[0]
    if len(ids) == 1:
        forest = replace(forest, target=np.zeros_like(forest.target))  # weights of the only class
    total = LeafSums(ctx, node, x, forest, len(ids), DType.F32).totals("sum")
    zero = b.expand(b.const(0, total.dtype), (n, 1))
    first = b.slice(total, 1, 0, 1) if 0 in ids else None
    second = b.slice(total, 1, len(ids) - 1, 1) if 1 in ids else None
    if base.size == 2 and second is not None:
        second = b.add(zero if first is None else first, float(base[1]))
        first = None if first is None else b.emit(O.Neg(), second)
    elif base.size and first is not None:
        first = b.add(first, float(base[0]))
    deciding = second if second is not None else first
    assert deciding is not None
    label = two_labels(ctx, b, deciding, labels, 0.5 if positive and len(ids) == 1 else 0.0, known=len(ids) == 1)
    if second is None and base.size < 2:
        return [label, one_score(b, deciding, transform, positive)]
    both = b.concat(1, zero if first is None else first, zero if second is None else second)
    return [label, post_transform(ctx, b, transform, both)]


def ensemble(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Scores of TreeEnsemble. float16 is compared and summed as float32."""
    given = required(ctx, node, ins, 1)[0]
    b = Build(ctx)
    x = b.cast(given, DType.F32) if given.dtype is DType.F16 else given
    if not x.dtype.is_float:
        raise ctx.unsupported(f"TreeEnsemble of {given.type}")
    number = int(ctx.attr(node, "aggregate_function", 1))
    by = _AGGREGATES[number] if 0 <= number < len(_AGGREGATES) else str(number)
    total = _aggregate(ctx, node, x, ensemble_forest(ctx, node), by, x.dtype)
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return [b.cast(one_target(ctx, b, names[int(ctx.attr(node, "post_transform", 0))], total), given.dtype)]


ML_TREE_HANDLERS: HandlerTable = {
    ("ai.onnx.ml::TreeEnsembleRegressor", 1): regressor,
    ("ai.onnx.ml::TreeEnsembleClassifier", 1): classifier,
    ("ai.onnx.ml::TreeEnsemble", 5): ensemble,
}
