"""Handlers of ai.onnx.ml encoders: numbers and strings for others, indicators of categories, and maps of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from .....errors import OnnxImportError
from .....ir import DType, TensorType, Value
from .....ir import ops as O
from .....ir.ops.host import OBJECT
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from ...held import Element, Held
from .scores import class_labels

Ins = list[Value | None]
_KINDS = {"strings": object, "int64s": np.int64, "floats": np.float32}


def _listed(ctx: ImportContext, node: NodeProto, name: str) -> np.ndarray | None:
    """An attribute given as strings, int64s, floats, or a tensor."""
    tensor = ctx.attr(node, f"{name}_tensor", None)
    if tensor is not None:
        return np.asarray(tensor).reshape(-1)
    for kind, dtype in _KINDS.items():
        found = ctx.attr(node, f"{name}_{kind}", None)
        if found:
            return np.asarray(found, dtype)
    return None


def _same(b: Build, x: Value, keys: np.ndarray) -> Value:
    """x[...] == keys[K] as [..., K]; from version 4 of ai.onnx.ml on, a NaN equals a NaN."""
    wide = b.reshape(x, (*x.shape, 1))
    got = b.emit(O.Equal(), wide, b.ctx.const(keys.astype(x.dtype.np) if x.dtype is not DType.STRING else keys))
    if x.dtype.is_float and b.ctx.opset("ai.onnx.ml") >= 4 and np.isnan(keys.astype(np.float64)).any():
        both = b.emit(O.And(), b.emit(O.IsNaN(), wide), b.ctx.const(np.isnan(keys.astype(np.float64))))
        got = b.emit(O.Or(), got, both)
    return got


def _position(b: Build, x: Value, keys: np.ndarray) -> Value:
    """Of the first key that x equals, or else their number."""
    position = b.ctx.const(np.arange(len(keys), dtype=np.int64))
    found = b.where(_same(b, x, keys), position, b.const(len(keys), DType.I64))
    return b.min(b.reduce("min", found, [x.type.rank], False), len(keys))


def _look_up(b: Build, x: Value, keys: np.ndarray, values: np.ndarray, default: Any) -> Value:
    """The value of the first key that x equals, else the default: an entry behind the last."""
    table = np.append(values, np.asarray([default], values.dtype))
    return b.emit(O.Gather(0), b.ctx.const(table), _position(b, x, keys))


def label_encoder(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    classes = ctx.attr(node, "classes_strings", None)
    if classes:  # version 1: strings to their positions, or back
        names = np.asarray(classes, object)
        if x.dtype is DType.STRING:
            return [_look_up(b, x, names, np.arange(len(names), dtype=np.int64), int(ctx.attr(node, "default_int64", -1)))]
        return [_look_up(b, x, np.arange(len(names)), names, str(ctx.attr(node, "default_string", "_Unused")))]
    keys, values = _listed(ctx, node, "keys"), _listed(ctx, node, "values")
    if keys is None or values is None or len(keys) != len(values):
        raise OnnxImportError("LabelEncoder without keys and as many values", expected="one value a key", loc=", ".join(ctx.loc))
    default = ctx.attr(node, "default_tensor", None)
    if default is not None:
        default = np.asarray(default).reshape(-1)[0]
    elif values.dtype.kind == "O":
        default = str(ctx.attr(node, "default_string", "_Unused"))
    elif values.dtype.kind == "f":
        default = float(ctx.attr(node, "default_float", -0.0))
    else:
        default = int(ctx.attr(node, "default_int64", -1))
    return [_look_up(b, x, keys, values, default)]


def category_mapper(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Strings to integers, or integers to strings."""
    (x,) = required(ctx, node, ins, 1)
    names, numbers = np.asarray(ctx.attr(node, "cats_strings", ()), object), np.asarray(ctx.attr(node, "cats_int64s", ()), np.int64)
    if len(names) != len(numbers):
        raise OnnxImportError(
            f"CategoryMapper of {len(names)} names and {len(numbers)} numbers", expected="as many", loc=", ".join(ctx.loc)
        )
    b = Build(ctx)
    if x.dtype is DType.STRING:
        return [_look_up(b, x, names, numbers, int(ctx.attr(node, "default_int64", -1)))]
    return [_look_up(b, x, numbers, names, str(ctx.attr(node, "default_string", "_Unused")))]


def one_hot_encoder(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """1 where an element equals a category; without `zeros`, others are errors."""
    (x,) = required(ctx, node, ins, 1)
    b, names = Build(ctx), ctx.attr(node, "cats_strings", None)
    categories = np.asarray(names, object) if names else np.asarray(ctx.attr(node, "cats_int64s", ()), np.int64)
    y = x if names or x.dtype is DType.I64 else b.cast(x, DType.I64)
    if not int(ctx.attr(node, "zeros", 1)):
        y = ctx.checked(_position(b, y, categories), [0], [len(categories) - 1])
        categories = np.arange(len(categories))
    return [b.cast(_same(b, y, categories), DType.F32)]


def zip_map(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """A sequence of maps from class labels to the scores of a row."""
    (x,) = required(ctx, node, ins, 1)
    labels = tuple(class_labels(ctx, node).tolist())
    return [ctx.object(O.ZipMap((OBJECT,), labels), (x,), Held("sequence", Held("map", Element(DType.F32, ()))))]


def dict_vectorizer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Values of a map in the order of a vocabulary, 0 where absent: [1, words]."""
    (x,) = required(ctx, node, ins, 1)
    held = ctx.held.get(x)
    words = tuple(ctx.attr(node, "string_vocabulary", ()) or ctx.attr(node, "int64_vocabulary", ()))
    if held is None or held.kind != "map" or not isinstance(held.element, Element) or not words:
        raise ctx.unsupported(f"DictVectorizer of {x.type} with {len(words)} words")
    dtype = held.element.dtype
    return ctx.run_host(lambda results: _vectorizer(results, words, dtype), (x,), Element(dtype, (1, len(words))))


def _vectorizer(results: tuple[TensorType, ...], words: tuple[Any, ...], dtype: DType) -> O.DictVectorizer:
    return O.DictVectorizer(results, words, dtype.value)


_CASTS = {"TO_FLOAT": DType.F32, "TO_STRING": DType.STRING, "TO_INT64": DType.I64}


def cast_map(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Values of a map in the order of its keys, [1, entries], or each at the place that its key says, [1, max_map]."""
    (x,) = required(ctx, node, ins, 1)
    held = ctx.held.get(x)
    form, to = str(ctx.attr(node, "map_form", "DENSE")), str(ctx.attr(node, "cast_to", "TO_FLOAT"))
    if held is None or held.kind != "map" or form not in ("DENSE", "SPARSE") or to not in _CASTS:
        raise ctx.unsupported(f"CastMap of {x.type} to {form!r} by {to!r}")
    dtype, size = _CASTS[to], int(ctx.attr(node, "max_map", 1)) if form == "SPARSE" else -1

    def make(results: tuple[TensorType, ...]) -> O.CastMap:
        return O.CastMap(results, dtype.value, size)

    return ctx.run_host(make, (x,), Element(dtype, (1, None if size < 0 else size)))


ML_ENCODER_HANDLERS: HandlerTable = {
    ("ai.onnx.ml::CastMap", 1): cast_map,
    ("ai.onnx.ml::LabelEncoder", 1): label_encoder,
    ("ai.onnx.ml::CategoryMapper", 1): category_mapper,
    ("ai.onnx.ml::OneHotEncoder", 1): one_hot_encoder,
    ("ai.onnx.ml::ZipMap", 1): zip_map,
    ("ai.onnx.ml::DictVectorizer", 1): dict_vectorizer,
}
