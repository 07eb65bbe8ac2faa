"""ONNX in, typed graph out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir import Graph

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

__all__ = ["import_model"]


def import_model(
    model: str | os.PathLike[str] | bytes | ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The graph of an ONNX model: a path, the serialised bytes or a ModelProto.

    `shapes` fixes the shapes of inputs (−1 leaves a dim open); symbols that it binds are replaced everywhere.
    `constants` gives inputs their values once and for all; they are no inputs any more.
    Raises OnnxImportError for a file that is not readable or valid, uses unsupported operators (all of them are named), or
    keeps external data outside its folder.
    """
    from .build import import_proto
    from .load import load

    proto, reader = load(model)
    return import_proto(proto, reader, shapes, constants)
