"""All precisions of all layers in one module: further inputs choose between them, so that an assignment costs a run and no compilation.

Results are those of a module of that assignment but for what passes do across layers (a value rounded once for several readers,
attention in 16 bits), so what is found with it is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...ir import DType, Graph, Input, Node, TensorType, Value
from ...ir.ops import Where
from ...passes.base import PassContext, apply
from ...passes.pipelines import CLEAN, run_passes
from ...passes.precision import layers, lower_layer
from ...runtime.module import Module
from .choose import Chooser
from .data import Feeds
from .search import Assignment


class Switches:
    """A module that runs any assignment.

    Args:
        graph: float32.
        chooser: makes what lowers a layer.
        ladders: the precisions that each layer may have.
        build: compiles a graph.
    """

    def __init__(self, graph: Graph, chooser: Chooser, ladders: Mapping[str, Iterable[str]], build: Callable[[Graph], Module]) -> None:
        known = {node: name for name, node in layers(graph).items()}
        self._inputs: dict[tuple[str, str], str] = {}
        added: list[Value] = []

        def switched(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            name = known.get(node)
            if name is None or name not in ladders:
                return None
            out = node.with_inputs(inputs).out
            for precision in ladders[name]:
                flag = Node.make(Input(TensorType(DType.BOOL, ())), (), node.loc).out
                self._inputs[name, precision] = f"precision {len(added)}"
                added.append(flag)
                out = apply(Where(), flag, lower_layer(node, inputs, chooser.choice(name, precision)), out, loc=node.loc)
            return (out,)

        made = graph.rewrite(switched)
        made = replace(made, inputs=(*made.inputs, *added), input_names=(*made.input_names, *self._inputs.values()))
        self._module = build(run_passes(made, (CLEAN,), PassContext()))

    def outputs(self, assignment: Assignment, samples: Sequence[Feeds]) -> list[Feeds]:
        """Of each sample, with layers at their precisions and all others in float32."""
        flags = {name: np.asarray(assignment.get(layer) == precision) for (layer, precision), name in self._inputs.items()}
        return [self._module.run({**sample, **flags}) for sample in samples]
