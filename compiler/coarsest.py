"""The types that a model computes in: what follows from halves is no more exact than these, whatever type it has in the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from onnx import ModelProto

from ..errors import MlcError
from ..ir import DType, Graph, Input, Node, Trait
from .compare import RELATIVE_L2, Difference, held_to
from .importer import import_model

_EXACT = frozenset({Trait.VIEW, Trait.MOVE})


def coarsest_types(model: str | os.PathLike[str] | bytes | ModelProto) -> dict[str, DType]:
    """By output: of the types of what it is computed from, inputs and constants left out, the one of the least precision. Nothing of
    models that cannot be imported."""
    try:
        graph = import_model(model)
    except MlcError:
        return {}
    return {name: t for name, t in zip(graph.output_names, _behind(graph), strict=True) if t is not None}


def settle_by_type(differences: Sequence[Difference], types: Callable[[], Mapping[str, DType]]) -> tuple[Difference, ...]:
    """Differences whose size alone is wrong are held to what the table grants the coarsest type behind them.

    Args:
        types: see `coarsest_types`; called at most once, and not at all when nothing is in question.
    """
    known = {} if all(d.agrees or not d.limit for d in differences) else types()
    return tuple(held_to(d, RELATIVE_L2[known[d.name]][1]) if d.name in known else d for d in differences)


def _behind(graph: Graph) -> list[DType | None]:
    """The coarsest type behind each output of a graph."""
    found: dict[Node, DType | None] = {}
    varies: set[Node] = set()
    for node in graph.nodes:
        types = [found[v.node] for v in node.inputs]
        if isinstance(node.op, Input):
            varies.add(node)
        elif any(v.node in varies for v in node.inputs):
            varies.add(node)
            if not node.op.traits & _EXACT:
                types += [t.dtype for t in node.types]
                types += [t for f in fields(node.op) if isinstance(body := getattr(node.op, f.name), Graph) for t in _behind(body)]
        found[node] = _coarser(types)
    return [found[v.node] for v in graph.outputs]


def _coarser(types: Sequence[DType | None]) -> DType | None:
    floats = [t for t in types if t in RELATIVE_L2]
    return max(floats, key=lambda t: RELATIVE_L2[t]) if floats else None
