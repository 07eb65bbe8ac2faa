"""ONNX in, typed graph out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import MlcError
from ...ir import Graph

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

__all__ = ["import_model", "import_variants"]


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
    from .attempts import import_proto
    from .load import load

    proto, reader = load(model)
    return import_proto(proto, reader, shapes, constants)[0]


def import_variants(
    model: str | os.PathLike[str] | bytes | ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> tuple[Graph, Graph | None]:
    """`import_model`, which takes symbolic dims that meet in a broadcast as equal, and a graph that also serves where one of
    them turns out to be 1, slower; None where no such dims meet, or where that graph cannot be built."""
    from .attempts import import_proto
    from .load import load

    proto, reader = load(model)
    graph, assumes = import_proto(proto, reader, shapes, constants)
    if not assumes:
        return graph, None
    try:
        return graph, import_proto(proto, reader, shapes, constants, stretch=True)[0]
    except MlcError:
        return graph, None
