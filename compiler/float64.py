"""A third opinion: the model evaluated in float64 by onnx.reference, which tells whose float32 rounding a difference is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..errors import InputError
from .compare import Difference, FromFloat64
from .importer.order import ordered

Feeds = Mapping[str, np.ndarray]
_SINGLE, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "SequenceEmpty": "dtype"}  # that choose an element type


def evaluate(source: str | os.PathLike[str] | bytes | onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs by name, every float32 weight, input and intermediate result being float64.

    Slow: a convolution takes NumPy seconds. Raises InputError when onnx.reference cannot run the model.
    """
    match source:
        case onnx.ModelProto():
            model = source
        case bytes():
            model = onnx.load_from_string(source)
        case _:
            model = onnx.load(Path(source))
    wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in feeds.items()}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = ReferenceEvaluator(widen(ordered(model))).run(None, wide)
    except Exception as e:  # it raises whatever NumPy does, and errors of its own for missing operators
        raise InputError(f"onnx.reference cannot evaluate the model: {type(e).__name__}: {str(e)[:200]}") from e
    return {o.name: np.asarray(a) for o, a in zip(model.graph.output, found, strict=True)}


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which float64 stands in the place of float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for nodes, graph in _scopes(wide):
        if graph is not None:
            del graph.value_info[:]
            for t in graph.initializer:
                _widen_tensor(t)
            for v in (*graph.input, *graph.output):
                if v.type.tensor_type.elem_type == _SINGLE:
                    v.type.tensor_type.elem_type = _DOUBLE
        for node in nodes:
            for a in node.attribute:
                if a.type == onnx.AttributeProto.TENSOR:
                    _widen_tensor(a.t)
                elif a.name == _TYPE_ATTRIBUTES.get(node.op_type) and a.i == _SINGLE:
                    a.i = _DOUBLE
    return wide


def settle(
    differences: Sequence[Difference], got: Feeds, want: Feeds, truth: Callable[[], Feeds], *, always: bool = False
) -> tuple[Difference, ...]:
    """Differences whose size alone is wrong, judged by float64: one agrees when mlc is within the limit of it and nearer
    than onnxruntime is. With `always`, all inexact results are given their distances.

    Args:
        truth: evaluates in float64; called at most once, and not at all when nothing is in question. When it raises
            InputError, onnxruntime's word stands.
    """
    asked = [d for d in differences if d.limit and np.isfinite(d.relative_l2) and (always or not d.agrees)]
    if not asked:
        return tuple(differences)
    try:
        exact = truth()
    except InputError:
        return tuple(differences)
    return tuple(_settled(d, got, want, exact) if d in asked else d for d in differences)


def _settled(d: Difference, got: Feeds, want: Feeds, exact: Feeds) -> Difference:
    x = exact.get(d.name)
    if x is None or x.shape != d.shape:
        return d
    distance = FromFloat64(_relative(got[d.name], x), _relative(want[d.name], x))
    ours = distance.mlc <= min(d.limit, distance.onnxruntime)
    return replace(d, agrees=d.agrees or ours, why="" if d.agrees or ours else d.why, from_float64=distance)


def _relative(a: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2 over the places where both are finite."""
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(exact, np.float64).ravel()
    finite = np.isfinite(x) & np.isfinite(y)
    norm = float(np.linalg.norm(y[finite]))
    error = float(np.linalg.norm(x[finite] - y[finite]))
    return error / norm if norm else error


def _scopes(model: onnx.ModelProto) -> Iterator[tuple[Sequence[onnx.NodeProto], onnx.GraphProto | None]]:
    """Nodes of every function, and of every graph (given with it), subgraphs included."""
    stack: list[tuple[Sequence[onnx.NodeProto], onnx.GraphProto | None]] = [(f.node, None) for f in model.functions]
    stack.append((model.graph.node, model.graph))
    while stack:
        nodes, graph = stack.pop()
        yield nodes, graph
        for node in nodes:
            for a in node.attribute:
                stack.extend((g.node, g) for g in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs))


def _widen_tensor(t: onnx.TensorProto) -> None:
    if t.data_type == _SINGLE:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float64), t.name))
