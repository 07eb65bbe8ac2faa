"""What a handler sees of the node that it imports: its attributes, and how to refuse it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from ...errors import OnnxImportError


class UnsupportedError(OnnxImportError):
    """A node uses something that mlc has no lowering for; collected over the whole model by the importer."""


class NodeView:
    """Reads attributes; `loc` is that of the node being imported."""

    def __init__(self, tensor: Callable[[TensorProto], np.ndarray]) -> None:
        self.loc: tuple[str, ...] = ()
        self._tensor = tensor

    def attr(self, node: NodeProto, name: str, default: Any = None) -> Any:
        """Attribute as int, float, str, tuple, np.ndarray or GraphProto; `default` when absent."""
        for a in node.attribute:
            if a.name == name:
                return self._attr_value(a)
        return default

    def integers(self, node: NodeProto, name: str) -> np.ndarray:
        """An attribute of integers as an int64 array, empty when absent."""
        found = next((a.ints for a in node.attribute if a.name == name), ())
        return np.fromiter(found, np.int64, len(found))

    def flag(self, node: NodeProto, name: str, default: bool) -> bool:
        """An attribute that is 0 or 1. Raises UnsupportedError for other numbers."""
        value = self.attr(node, name, int(default))
        if value not in (0, 1):
            raise self.unsupported(f"{node.op_type}: {name}={value}, expected 0 or 1")
        return bool(value)

    def _attr_value(self, a: AttributeProto) -> Any:
        if a.type == AttributeProto.TENSOR:
            return self._tensor(a.t)
        value = helper.get_attribute_value(a)
        if a.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            return tuple(value)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, (str, int, float)) or not isinstance(value, Sequence):
            return value
        if a.type == AttributeProto.STRINGS:
            return tuple(map(_Texts().__getitem__, value))
        return tuple(value)

    def unsupported(self, what: str) -> UnsupportedError:
        """The error to raise when a handler meets a variant it cannot lower."""
        return UnsupportedError(what, loc=", ".join(self.loc))


class _Texts(dict[bytes, str]):
    """Decoded texts, each once."""

    def __missing__(self, key: bytes) -> str:
        self[key] = text = key.decode("utf-8", "replace")
        return text
