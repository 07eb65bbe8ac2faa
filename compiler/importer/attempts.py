"""Imports a model, and again with another branch of an undecided If where what follows does not fit the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import ModelProto

from ...errors import OnnxImportError
from ...ir import Dim, Graph, may_stretch
from .build import Importer
from .tensors import TensorReader

_MAX_ATTEMPTS = 16


def import_proto(
    model: ModelProto, reader: TensorReader, shapes: Mapping[str, Sequence[int]] | None,
    constants: Mapping[str, np.ndarray] | None = None, stretch: bool = False,
) -> tuple[Graph, bool]:  # fmt: skip
    """Import, trying the other branch of an undecided If where what follows does not fit the first. Whether the graph takes sizes
    as equal of which one might be 1 instead, comes with it; with `stretch` it does not, and repeats what turns out to be 1.

    Where a branch that depends on data does not fit the sizes given by `shapes` (it is for other sizes, and will not run),
    the sizes stay symbolic and become requirements instead.
    """

    def importer(decisions: Sequence[bool], pin: bool) -> Importer:
        return Importer(model, reader, shapes, decisions, pin, constants, stretch)

    found, error, in_region = _attempt(importer, pin=False)
    if found is None and in_region and shapes:
        found, _, _ = _attempt(importer, pin=True)
    if found is None:
        assert error is not None
        raise error
    return found


Found = tuple[Graph, bool]


def _attempt(make: Callable[[Sequence[bool], bool], Importer], pin: bool) -> tuple[Found | None, OnnxImportError | None, bool]:
    """The graph and whether it assumes sizes to be equal, or the first error and whether it arose in a region."""
    decisions: list[bool] = []
    first: OnnxImportError | None = None
    in_region = False
    for _ in range(_MAX_ATTEMPTS):
        importer = make(decisions, pin)
        try:
            return (importer.run(), _assumes(importer)), None, False
        except OnnxImportError as e:
            if first is None:
                first, in_region = e, importer.failed_in_region
            decisions = importer.decisions[: importer.decided]
            while decisions and not decisions[-1]:
                decisions.pop()
            if not decisions:
                break
            decisions[-1] = False
    return None, first, in_region


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
