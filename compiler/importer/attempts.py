"""Imports a model: again by other choices where what follows does not fit the first, and for sizes that those leave out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from onnx import ModelProto

from ...errors import OnnxImportError
from ...ir import Dim, Graph, may_stretch
from .build import Importer, formal_inputs
from .dim_names import DimNames, Place, by_given, shared_names, unrelated
from .tensors import TensorReader

_MAX_ATTEMPTS = 16
_MAX_OTHERS = 7  # graphs beside the first: all answers to three questions


@dataclass(frozen=True)
class Imported:
    """A graph, the choices (`ImportContext.decide`) that it needs to hold, whether it takes sizes as equal of which one might be
    1 instead, and what its dims are called."""

    graph: Graph
    choices: Mapping[Dim, bool]
    assumes: bool
    names: DimNames


def import_proto(
    model: ModelProto, reader: TensorReader, shapes: Mapping[str, Sequence[int]] | None,
    constants: Mapping[str, np.ndarray] | None = None, stretch: bool = False, variable: Container[str] = (),
    names: DimNames | None = None,
) -> Iterator[Imported]:  # fmt: skip
    """The model by each set of choices that all of it fits, the likeliest first; at least one. With `stretch` nothing is taken as
    equal that might be 1: it is repeated then. Initializers that are `variable` are inputs. `names` of dims are found if need be.

    Where a branch that depends on data does not fit the sizes given by `shapes` (it is for other sizes, and will not run),
    the sizes stay symbolic and become requirements instead. Raises OnnxImportError.
    """
    if names is None:
        shared = shared_names(formal_inputs(model.graph, variable, constants or ()))
        make = partial(Importer, model, reader, shapes, constants=constants, variable=variable)
        names = _dim_names(make, shared, shapes or {})
    error: OnnxImportError | None = None
    for pin in (False, True):
        in_region = found = False
        make = partial(
            Importer, model, reader, shapes, pin=pin, constants=constants, stretch=stretch, variable=variable, names=names
        )  # fmt: skip
        for importer, result in _attempts(make):
            if isinstance(result, Graph):
                found = True
                yield Imported(result, importer.choices, _assumes(importer), names)
            elif error is None:
                error, in_region = result, importer.failed_in_region
        if found:
            return
        if not (in_region and shapes):
            break
    assert error is not None
    raise error


def import_others(
    model: ModelProto, reader: TensorReader, shapes: Mapping[str, Sequence[int]] | None,
    constants: Mapping[str, np.ndarray] | None, first: Imported, variable: Container[str] = (),
) -> Iterator[Graph]:  # fmt: skip
    """Graphs for sizes that the first one leaves out: by other choices, and where something is 1 that it takes as equal."""
    if first.assumes or first.choices:
        every = import_proto(model, reader, shapes, constants, stretch=True, variable=variable, names=first.names)
        types = [v.dtype for v in first.graph.outputs]
        others = (found for found in every if first.assumes or found.choices != first.choices)
        more = (found.graph for found in others if [v.dtype for v in found.graph.outputs] == types)
        yield from islice(more, _MAX_OTHERS)


def _dim_names(make: Callable[..., Importer], shared: Mapping[str, Sequence[Place]], shapes: Mapping[str, Sequence[int]]) -> DimNames:
    """Names of their own for dims that share one although nothing in the model relates them: it is imported with all of them apart."""
    decided, apart = by_given(shared, shapes)
    if not apart:
        return decided
    importer = make(names={**decided, **apart})
    try:
        graph = importer.run()
    except OnnxImportError:
        return decided
    return {**decided, **unrelated(shared, apart, graph, importer.related())}


def _attempts(make: Callable[[Sequence[bool]], Importer]) -> Iterator[tuple[Importer, Graph | OnnxImportError]]:
    """Imports that answer the same questions in other ways, one after the other."""
    left: deque[list[bool]] = deque([[]])
    for _ in range(_MAX_ATTEMPTS):
        if not left:
            break
        departures = left.popleft()
        importer = make(departures)
        try:
            graph = importer.run()
        except OnnxImportError as e:
            yield importer, e
            left.extendleft(_further(departures, len(importer.choices)))  # the last answer is the likeliest to be the reason
        else:
            yield importer, graph
            left.extend(_further(departures, len(importer.choices)))  # few sizes are 1


def _further(departures: list[bool], asked: int) -> Iterator[list[bool]]:
    """One more question with the other answer."""
    for i in range(len(departures), asked):
        yield [*departures, *(False,) * (i - len(departures)), True]


def _assumes(importer: Importer) -> bool:
    """Whether sizes that are only assumed equal are not required to be so by others."""
    same: dict[Dim, Dim] = {}

    def end(d: Dim) -> Dim:
        while d in same:
            d = same[d]
        return d

    for (a, b), required in importer.equal.items():
        if required and end(a) != end(b):
            same[end(a)] = end(b)
    return any(end(a) != end(b) and may_stretch(a, b) for (a, b), required in importer.equal.items() if not required)
