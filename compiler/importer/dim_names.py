"""Whether dims of one name are one unknown: exporters name dims alike that need not be equal ("None", or the batches of two towers).

onnxruntime binds no names. Here dims of one name are one symbol where anything in the model relates their sizes, which keeps kernels
simple, and mistakes are told at the inputs; where nothing does, each is a symbol of its own, and any sizes run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from onnx import TensorShapeProto, ValueInfoProto

from ...ir import Dim, Graph, symbols_of

Place: TypeAlias = tuple[str, int]  # input, axis
DimNames: TypeAlias = Mapping[Place, str]


def dim_name(d: TensorShapeProto.Dimension) -> str:
    """The name of a dim that stands for an unknown size; "" where the file gives it none ("?", or a number as a text)."""
    known = d.HasField("dim_value") and d.dim_value >= 0
    name = d.dim_param
    return name if not known and re.search(r"[A-Za-z0-9]", name) and not re.fullmatch(r"-?\d+", name) else ""


def shared_names(inputs: Iterable[ValueInfoProto]) -> dict[str, list[Place]]:
    """Where dims have a name that others have, too."""
    places: dict[str, list[Place]] = {}
    for info in inputs:
        for axis, d in enumerate(info.type.tensor_type.shape.dim):
            if name := dim_name(d):
                places.setdefault(name, []).append((info.name, axis))
    return {name: found for name, found in places.items() if len(found) > 1}


def by_given(shared: Mapping[str, Sequence[Place]], shapes: Mapping[str, Sequence[int]]) -> tuple[DimNames, DimNames]:
    """Names that `shapes` decides, because it has several sizes for one; and names of all dims without a size that may be apart."""
    decided, apart = {}, {}
    for name, places in shared.items():
        sizes = {p: s[p[1]] for p in places if (s := shapes.get(p[0], ())) and p[1] < len(s) and s[p[1]] >= 0}
        others = list(dict.fromkeys(sizes.values()))
        if not sizes:
            apart.update({p: _own(name, p) for p in places[1:]})
        decided.update({p: f"{name} {others.index(size)}" for p, size in sizes.items() if size != others[0]})
    return decided, apart


def _own(name: str, place: Place) -> str:
    return f"{name} {place[0]} {place[1]}"


def unrelated(
    shared: Mapping[str, Sequence[Place]], apart: DimNames, graph: Graph, related: Iterable[Iterable[Dim]]
) -> dict[Place, str]:  # fmt: skip
    """Of the names in `apart`, by which the graph was imported, those whose symbols nothing relates to others of the shared name.
    Dims whose symbols are `related` to each other have the first's name."""
    group: dict[str, str] = {}

    def end(symbol: str) -> str:
        while symbol in group:
            symbol = group[symbol]
        return symbol

    for dims in related:
        ends = [end(s) for s in sorted(symbols_of(dims))]
        group.update({s: ends[0] for s in ends[1:] if s != ends[0]})
    shapes = dict(zip(graph.input_names, (v.shape for v in graph.inputs), strict=True))
    names = {}
    for name, places in shared.items():
        first: dict[str, str] = {}
        for place in places:
            for symbol in symbols_of((shapes[place[0]][place[1]],)):
                taken = first.setdefault(end(symbol), apart.get(place, name))
                if taken != name:
                    names[place] = taken
    return names
