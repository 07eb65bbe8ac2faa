"""How long each layer takes inside of a module."""

from __future__ import annotations

from collections.abc import Mapping

from ...runtime.module import Module
from .data import Feeds

_PROFILED = 5  # runs that a layer's time is the smallest of


def layer_times(module: Module, locs: Mapping[str, tuple[str, ...]], feeds: Feeds) -> dict[str, float]:
    """Milliseconds of a module's steps by the layer whose ONNX nodes they name; a step of several layers is shared among them."""
    runs = [module.profile(feeds) for _ in range(_PROFILED)]
    seconds = {word: min(run[word] for run in runs) for word in runs[0]}
    of_node: dict[str, list[str]] = {}
    for layer, loc in locs.items():
        of_node.setdefault(loc[0] if loc else layer, []).append(layer)
    out = dict.fromkeys(locs, 0.0)
    for step in module.steps:
        owners = [layer for node in step.loc for layer in of_node.get(node, ())]
        for layer in owners:
            out[layer] += 1e3 * seconds.get(step.word, 0.0) / len(owners)
    return out
