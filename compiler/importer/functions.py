"""Bodies of functions: those that schemas carry, attributes that refer to the caller's, absent inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto


def schema_function(node: NodeProto, domain: str, opset: int, types: Callable[[], Sequence[bytes]]) -> FunctionProto | None:
    """The body that the schema of the node's operator carries, if any.

    Args:
        types: the serialized TypeProto of each input, empty for an absent one; asked for only where the body depends on them.
    """
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, domain)  # the onnx stubs lack what concerns functions
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(max(versions)) if versions else None
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        given = types()
        data = (
            schema.get_context_dependent_function_with_opset_version(max(versions), node.SerializeToString(), given) if versions else None
        )
    else:
        return None
    if not data:
        return None
    body = FunctionProto()
    body.ParseFromString(data)
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name in body.attribute and all(a.name != name for a in node.attribute):
            body.attribute_proto.add().CopyFrom(attribute.default_value)
    return body


def resolved(node: NodeProto, bindings: Mapping[str, AttributeProto]) -> NodeProto:
    """The node with attributes that refer to those of the function being expanded replaced by their values."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for a in node.attribute:
        value = bindings.get(a.ref_attr_name) if a.ref_attr_name else a
        if value is not None:
            copy.attribute.add().CopyFrom(value)
            copy.attribute[-1].name = a.name
    return copy


def without_absent(body: FunctionProto, given: Collection[str]) -> list[NodeProto]:
    """The nodes of the body, with inputs that name absent optional inputs of the function blanked."""
    absent = {name for name in body.input if name not in given}
    if not absent:
        return list(body.node)
    nodes = []
    for node in body.node:
        if absent & set(node.input):
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = ["" if name in absent else name for name in node.input]
            node = copy
        nodes.append(node)
    return nodes
