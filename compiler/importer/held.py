"""What is known of values that are no tensors: the types of what a sequence, optional or map holds."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

from onnx import TypeProto

from ...errors import OnnxImportError
from ...ir import Dim, DType, Value, symbols_of


@dataclass(frozen=True)
class Element:
    """Tensors of one element type; dims that are unknown, or differ, are None, and so is a shape of unknown rank."""

    dtype: DType
    shape: tuple[Dim | None, ...] | None


@dataclass(frozen=True)
class Held:
    """kind: "sequence", "optional" or "map". `element`: what it holds, None where nothing is known (it may be empty).

    `values`: the elements themselves, where the model spells them out. `stacked`: all of them as one tensor (`stacked.py`).
    """

    kind: str
    element: Element | Held | None = None
    values: tuple[Value, ...] | None = None
    stacked: Value | None = field(default=None, compare=False)

    def abroad(self, bound: Set[str]) -> Held:
        """As seen from outside a region: without its values, and without dims of the symbols that it binds."""
        return replace(self, element=_without(self.element, bound), values=None, stacked=None)


def _without(element: Element | Held | None, bound: Set[str]) -> Element | Held | None:
    if isinstance(element, Held):
        return element.abroad(bound)
    if element is None or element.shape is None:
        return element
    return Element(element.dtype, tuple(None if d is None or symbols_of((d,)) & bound else d for d in element.shape))


def join(a: Element | Held | None, b: Element | Held | None) -> Element | Held | None:
    """What is either a or b. Raises OnnxImportError for types that exclude each other."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, Held) and isinstance(b, Held):
        kind = a.kind if a.kind == b.kind else "optional"
        inner = [h.element if h.kind == kind else h for h in (a, b)]
        return Held(kind, join(*inner), a.values if a.values == b.values else None)
    if isinstance(a, Held) or isinstance(b, Held) or a.dtype is not b.dtype:
        raise OnnxImportError(f"a value is either {a} or {b}", expected="elements of one type")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return Element(a.dtype, None)
    return Element(a.dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)))


def declared(t: TypeProto) -> Element | Held | None:
    """What a type in the file says. Declared shapes of no axes are not believed: exporters leave them for unknown ones."""
    match t.WhichOneof("value"):
        case "tensor_type":
            tensor = t.tensor_type
            dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)
            return Element(DType.from_onnx(tensor.elem_type), dims or None)
        case "sequence_type":
            return Held("sequence", declared(t.sequence_type.elem_type))
        case "optional_type":
            return Held("optional", declared(t.optional_type.elem_type))
        case "map_type":
            return Held("map", declared(t.map_type.value_type))
    return None


def to_proto(element: Element | Held | None) -> TypeProto:
    """The type as ONNX writes it."""
    t = TypeProto()
    if isinstance(element, Held):
        field = t.optional_type if element.kind == "optional" else t.sequence_type
        field.elem_type.CopyFrom(to_proto(element.element))
    else:
        t.tensor_type.elem_type = DType.F32.onnx if element is None else element.dtype.onnx
        if element is not None and element.shape is not None:
            t.tensor_type.shape.SetInParent()
            for d in element.shape:
                dim = t.tensor_type.shape.dim.add()
                if isinstance(d, int):
                    dim.dim_value = d
                elif d is not None:
                    dim.dim_param = str(d)
    return t
