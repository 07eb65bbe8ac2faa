"""Initializers that are inputs, too: of which a caller may give another value than the file's.

From IR version 4 on they are those that the graph lists as inputs. Before, all had to be listed, and exporters kept doing so: a
listed weight is a constant unless somebody feeds it. So the module's first program has constants, and a second one has inputs; the
names that a run is given say which one runs, and the second takes the values of the file where there are no others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, TensorProto

from ...errors import MlcError, OnnxImportError
from ...ir import Graph
from .attempts import import_others, import_proto
from .tensors import TensorReader

Shapes = Mapping[str, Sequence[int]] | None

_SINCE_IR = 4
_MOST = 1 << 20  # bytes that make a second program by themselves: a small model, or a few settings of a large one
_WHOLE = (TensorProto.INT64, TensorProto.INT32)  # axes and shapes


@dataclass(frozen=True)
class Variants:
    """All graphs of a model.

    Attributes:
        graphs: the first, and those for sizes that it does not serve.
        overridden: the same, with initializers as inputs; none where none may be overridden.
        defaults: what these have in the file.
        kept: names of initializers that are listed as inputs, too, and cannot be overridden in these graphs.
    """

    graphs: list[Graph] = field(default_factory=list)
    overridden: list[Graph] = field(default_factory=list)
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


def import_overridden(
    model: ModelProto, reader: TensorReader, shapes: Shapes, constants: Mapping[str, np.ndarray] | None, asked: str | Collection[str]
) -> Variants:
    """The variants with initializers as inputs; no others.

    `asked`: their names; "all" that the file lists, from IR version 4 on; "auto", as long as they are small; "none".
    Raises OnnxImportError for a name that is no listed initializer, or one whose value the model needs to be known.
    """
    held = {t.name: t for t in model.graph.initializer}
    listed = [
        i.name
        for i in model.graph.input
        if i.name in held and i.name not in (constants or ()) and held[i.name].data_type != TensorProto.STRING
    ]
    if not isinstance(asked, str):
        if unknown := [name for name in asked if name not in listed]:
            raise OnnxImportError(
                f"no initializer {unknown[0]!r} among the inputs", expected=", ".join(listed) or "none", loc="overridable"
            )
        return _variants(model, reader, shapes, constants, list(asked), ())
    if model.ir_version < _SINCE_IR or not listed:
        return Variants()
    tensors = [reader(held[name]) for name in listed] if asked != "none" else []
    if asked == "none" or (asked == "auto" and sum(a.nbytes for a in tensors) > _MOST):
        return Variants(kept=tuple(listed))
    for names in (listed, [name for name in listed if held[name].data_type not in _WHOLE]):
        try:
            return _variants(model, reader, shapes, constants, names, tuple(name for name in listed if name not in names))
        except MlcError:
            continue  # with a shape or axes that are not known, there may be no graph
    return Variants(kept=tuple(listed))


def _variants(
    model: ModelProto, reader: TensorReader, shapes: Shapes, constants: Mapping[str, np.ndarray] | None, names: list[str],
    kept: tuple[str, ...],
) -> Variants:  # fmt: skip
    held = {t.name: t for t in model.graph.initializer}
    defaults = {name: reader(held[name]) for name in names}
    if not defaults:
        return Variants(kept=kept)
    undeclared = {i.name for i in model.graph.input if not i.type.tensor_type.HasField("shape")}
    shapes = {**{name: a.shape for name, a in defaults.items() if name in undeclared}, **(shapes or {})}
    first = next(import_proto(model, reader, shapes, constants, variable=defaults))
    graphs = [first.graph]
    with suppress(MlcError):
        graphs += import_others(model, reader, shapes, constants, first, defaults)
    return Variants(overridden=graphs, defaults=defaults, kept=kept)
