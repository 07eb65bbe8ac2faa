"""From a path, bytes or ModelProto to a checked ModelProto."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from ...errors import OnnxImportError
from .file_kinds import HEAD, other_kind
from .order import graphs_of, ordered, subgraphs
from .tensors import TensorReader
from .wire import without_weights

OLDEST_OPSET = 1
# The newest operator set that the handler tables were written for.
REVIEWED_OPSET = 28
# Domains that a model may use without importing them, and the versions that they then have, as in onnxruntime.
_IMPLIED = {"ai.onnx.ml": 5, "com.microsoft": 1, "com.microsoft.nchwc": 1}
_UNCHECKED = "mlc.unchecked"
_MOST = (1 << 31) - 1  # bytes of a protobuf, without the weights that are left where they are
_LONG = 4096  # elements of an attribute of which the checker is shown the first only


def load(model: str | os.PathLike[str] | bytes | ModelProto) -> tuple[ModelProto, TensorReader]:
    """The model, its nodes in order, and what reads its tensors: from the model's bytes, and from files in its folder if it is a path.

    Raises OnnxImportError when it cannot be read, is not ONNX, is cyclic, fails the ONNX checker or is too old or new.
    """
    if isinstance(model, ModelProto):
        data, folder, name, proto = memoryview(b""), None, "the model", model
    elif isinstance(model, (bytes, bytearray, memoryview)):
        data, folder, name = memoryview(bytes(model)), None, "the model"
        proto = _parse(data, name)
    elif not isinstance(model, (str, os.PathLike)):
        raise OnnxImportError(f"a {type(model).__name__}", expected="a path, the bytes of a model, or an onnx.ModelProto", loc="the model")
    else:
        path = Path(model)
        try:
            data = _map(path)
        except (OSError, ValueError) as e:  # ValueError: a NUL in the name
            reason = e.strerror if isinstance(e, OSError) else e
            raise OnnxImportError(f"cannot be read: {reason or e}", expected="an ONNX file", loc=str(path)) from e
        folder, name = path.absolute().parent, str(path)
        proto = _parse(data, name)
    try:
        check_text(proto)
        proto = ordered(proto, name)
        check(proto, name)
    except (ValueError, TypeError, DecodeError) as e:  # what protobuf and the checker raise for malformed messages
        raise OnnxImportError(f"is malformed: {e}", expected="a serialised onnx.ModelProto", loc=name) from e
    return proto, TensorReader(folder, data)


def _map(path: Path) -> memoryview:
    if path.is_char_device():
        raise OnnxImportError("is a device", expected="an ONNX file", loc=str(path))
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        return memoryview(mmap.mmap(f.fileno(), size, access=mmap.ACCESS_READ)) if size else memoryview(f.read(_MOST + 1))


def _parse(data: memoryview, loc: str) -> ModelProto:
    if kind := other_kind(bytes(data[:HEAD])):
        raise OnnxImportError(kind[0], expected="an ONNX model", remedy=kind[1], loc=loc)
    proto = ModelProto()
    try:
        small = without_weights(data)
        if small is None and len(data) > _MOST:
            raise DecodeError
        proto.ParseFromString(bytes(data) if small is None else small)
    except (DecodeError, RuntimeError) as e:
        raise OnnxImportError(
            "is not a protobuf, or is truncated" if data else "is empty",
            expected="a serialised onnx.ModelProto", remedy="Fetch or export the file again.", loc=loc,
        ) from e  # fmt: skip
    if not proto.HasField("graph") or not proto.ir_version:
        raise OnnxImportError("has no ONNX graph", expected="a serialised onnx.ModelProto", loc=loc)
    return proto


def imported_opsets(model: ModelProto) -> dict[str, int]:
    """The version of each domain's operators in the main graph; the default domain is \"\"."""
    return _IMPLIED | {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}


def check(model: ModelProto, loc: str) -> None:
    """Operator sets, and the ONNX checker (without the weights, which `TensorReader` checks)."""
    newest = min(onnx.defs.onnx_opset_version(), REVIEWED_OPSET)
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions and not model.functions and any(n.domain in ("", "ai.onnx") for n in model.graph.node):
        raise OnnxImportError("imports no operator set", expected=f"ai.onnx {OLDEST_OPSET} to {newest}", loc=loc)
    for version in versions:
        if not OLDEST_OPSET <= version <= newest:
            known = newest < version <= REVIEWED_OPSET
            remedy = "Upgrade the onnx package, which is what ends there" if known else "Convert it with onnx.version_converter"
            raise OnnxImportError(
                f"uses opset {version}", expected=f"{OLDEST_OPSET} to {newest}", remedy=f"{remedy}, or export it again.", loc=loc
            )
    try:
        onnx.checker.check_model(_without_weights(model, versions[0] if versions else newest))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise OnnxImportError(f"fails the ONNX checker: {_line(str(e))}", remedy="Export the model again.", loc=loc) from e


def _line(text: str) -> str:
    """What the checker says, which are lines of sentences, as the part of a sentence."""
    said, _, context = (" ".join(part.split()).rstrip(".") for part in text.partition("==> Context: "))
    return f"{said} ({context})" if context else said


def check_text(model: ModelProto) -> None:
    """Raise ValueError for names that are not UTF-8 (protobuf then gives bytes)."""
    for graph in graphs_of(model):
        names = [graph.name, *(t.name for t in graph.initializer), *(o.domain for o in model.opset_import)]
        for info in (*graph.input, *graph.output, *graph.value_info):
            names += [info.name, *(d.dim_param for d in info.type.tensor_type.shape.dim)]
        _check_names(names)
        _check_nodes(graph.node)
    for function in model.functions:
        _check_names([function.name, function.domain, *function.input, *function.output, *function.attribute])
        _check_nodes(function.node)


def _check_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        _check_names([node.name, node.op_type, node.domain, *node.input, *node.output])
        _check_names([text for a in node.attribute for text in (a.name, a.ref_attr_name)])


def _check_names(names: Iterable[object]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"name {name!r} is not UTF-8")


def _is_long(a: AttributeProto) -> bool:
    return max(len(a.ints), len(a.floats), len(a.strings)) > _LONG


def _without_lists(node: NodeProto) -> NodeProto:
    """A copy of a node whose long attributes have one element: trees of an ensemble are lists of millions, of which types are checked."""
    copy = NodeProto()
    for field, value in node.ListFields():
        if field.name != "attribute":
            copy.MergeFrom(NodeProto(**{field.name: value}))
    for a in node.attribute:
        short = copy.attribute.add()
        for field, value in a.ListFields():
            short.MergeFrom(
                AttributeProto(**{field.name: value[:1] if field.name in ("ints", "floats", "strings") and _is_long(a) else value})
            )
    return copy


def _without_weights(model: ModelProto, opset: int) -> ModelProto:
    """A copy for the checker: weights emptied; operators without a schema moved to a domain that it does not check.

    The importer itself judges such operators, and names all of them at once.
    """
    copy = ModelProto()
    for field, value in model.ListFields():
        if field.name not in ("graph", "training_info"):
            copy.MergeFrom(ModelProto(**{field.name: value}))
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            for t in value:
                copy.graph.initializer.add(name=t.name, data_type=t.data_type, dims=[0])
        elif field.name == "node":
            for node in value:
                copy.graph.node.append(_without_lists(node) if any(map(_is_long, node.attribute)) else node)
        else:
            copy.graph.MergeFrom(GraphProto(**{field.name: value}))
    if copy.opset_import:  # old files with what their version did not have yet: onnxruntime takes them, and so does the importer
        copy.ir_version = max(copy.ir_version, 4)
    for info in copy.graph.output:  # the importer derives types, too: who wants an intermediate value appends its name alone
        if info.name and not info.type.WhichOneof("value"):
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for info in (*copy.graph.input, *copy.graph.output):  # the importer derives shapes; absent ones need not be declared
        if info.type.HasField("tensor_type") and not info.type.tensor_type.HasField("shape"):
            info.type.tensor_type.shape.SetInParent()
    local = {(f.domain, f.name) for f in model.functions}
    renamed = False
    stack = [copy.graph]
    while stack:
        graph = stack.pop()
        for t in graph.initializer:
            _empty(t)
        for node in graph.node:
            for a in node.attribute:
                if a.HasField("t"):
                    _empty(a.t)
            if node.domain == "ai.onnx":  # the default domain by its other name, which the checker does not know
                node.domain = ""
            if node.domain == "" and ("", node.op_type) not in local and not has_schema(node.op_type, opset):
                node.domain, renamed = _UNCHECKED, True
        stack.extend(subgraphs(graph.node))
    for imported in copy.opset_import:
        if imported.domain == "ai.onnx":
            imported.domain = ""
    for domain in _IMPLIED.keys() - {o.domain for o in copy.opset_import}:
        copy.opset_import.add(domain=domain, version=_IMPLIED[domain])
    if renamed:
        copy.opset_import.add(domain=_UNCHECKED, version=1)
    return copy


def _empty(t: TensorProto) -> None:
    if t.data_location == TensorProto.EXTERNAL:
        name, dtype = t.name, t.data_type
        t.Clear()
        t.name, t.data_type = name, dtype
        t.dims.append(0)


def has_schema(op_type: str, opset: int) -> bool:
    """Whether the checker knows it; it refuses what was deprecated (GroupNormalization of opset 18), which handlers may still know."""
    try:
        return not onnx.defs.get_schema(op_type, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False
