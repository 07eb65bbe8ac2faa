"""ONNX in, typed graph out."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import MlcError
from ...ir import Graph

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from .overridable import Variants

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
    return next(import_proto(proto, reader, shapes, constants)).graph


def import_variants(
    model: str | os.PathLike[str] | bytes | ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    overridable: str | Collection[str] = "none",
) -> Variants:
    """`import_model`, which takes symbolic dims that meet in a broadcast as equal, and those that Squeeze finds as not 1, and graphs
    for sizes that it does not serve, as far as they can be built: some are slower. `overridable` as in `compiler/options.py`."""
    from .attempts import import_others, import_proto
    from .load import load
    from .overridable import import_overridden

    proto, reader = load(model)
    first = next(import_proto(proto, reader, shapes, constants))
    graphs = [first.graph]
    with suppress(MlcError):
        graphs += import_others(proto, reader, shapes, constants, first)
    return replace(import_overridden(proto, reader, shapes, constants, overridable), graphs=graphs)
