"""ONNX in, typed graph out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["import_model"]


def import_model(model: str | os.PathLike[str] | bytes | ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The graph of an ONNX model: a path, the serialised bytes or a ModelProto.

    `shapes` fixes the shapes of inputs (−1 leaves a dim open); symbols that it binds are replaced everywhere.
    Raises OnnxImportError for a file that is not readable or valid, uses unsupported operators (all of them are named), or
    keeps external data outside its folder.
    """
    from .build import import_proto
    from .load import load

    proto, reader = load(model)
    return import_proto(proto, reader, shapes)
