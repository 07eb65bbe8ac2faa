"""Control flow: ops that hold graphs. Values from outside are explicit operands, in the order of the graphs' inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import VerifyError
from ..dims import Dim
from ..dtypes import DType
from ..graph import Graph
from ..op import Op, Trait
from ..substitute import evaluate
from ..types import TensorType


def _check_inputs(name: str, graph: Graph, types: Sequence[TensorType]) -> None:
    if len(graph.inputs) != len(types):
        raise VerifyError(f"{name} gives {len(types)} values to a graph of {len(graph.inputs)} inputs")
    for v, t in zip(graph.inputs, types, strict=True):
        if v.type != t:
            raise VerifyError(f"{name} gives {t} to a graph input of {v.type}", expected="equal types")


def _alike(a: Sequence[TensorType], b: Sequence[TensorType]) -> bool:
    """Equal types but for sizes."""
    return [(t.dtype, t.rank) for t in a] == [(t.dtype, t.rank) for t in b]


@dataclass(frozen=True)
class If(Op):
    """Results of one of two graphs, operands (condition BOOL scalar, *captured). Both have the same inputs.

    `results`: their types, where dims of the branches differ (none: they are equal).
    """

    then_branch: Graph
    else_branch: Graph
    results: tuple[TensorType, ...] = ()
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE})

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if types[0].dtype is not DType.BOOL or types[0].numel != 1:
            raise VerifyError(f"if has a condition of {types[0]}", expected="a bool scalar")
        for graph in (self.then_branch, self.else_branch):
            _check_inputs("if", graph, types[1:])
        a, b = ([v.type for v in g.outputs] for g in (self.then_branch, self.else_branch))
        results = self.results or tuple(a)
        if not (_alike(results, a) and _alike(results, b)) or (not self.results and a != b):
            shown = (", ".join(map(str, ts)) for ts in (a, b))
            raise VerifyError(f"if has branches that give {' and '.join(shown)}", expected="equal types")
        return results

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        branch = self.then_branch if bool(np.asarray(args[0]).ravel()[0]) else self.else_branch
        return branch.evaluate(*args[1:])


@dataclass(frozen=True)
class Loop(Op):
    """for i < trip and while cond: cond, *state, *scanned = body(i, cond, *state, *captured).

    Operands (trip I64 scalar, cond BOOL scalar, *state of n_state, *captured); results (*state, *scans of n_scan), a scan being
    the scanned values of all iterations stacked along a new first axis of size `trips` (None only without scans; with scans
    the body's cond output has to stay true).

    `states`: types of the state results, where sizes change from one iteration to the next (none: they do not). The body's
    inputs then have symbols for these dims, which its `sizes` read from other states.
    """

    body: Graph
    n_state: int
    n_scan: int
    trips: Dim | None = None
    states: tuple[TensorType, ...] = ()
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE})

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if types[0] != TensorType(DType.I64, ()) or types[1] != TensorType(DType.BOOL, ()):
            raise VerifyError(f"loop has a trip count of {types[0]} and a condition of {types[1]}", expected="i64[] and bool[]")
        if not self.states:
            _check_inputs("loop", self.body, types)
        elif not _alike(types, [v.type for v in self.body.inputs]):
            raise VerifyError(f"loop gives {', '.join(map(str, types))} to its body", expected="types of the body's inputs")
        results = [v.type for v in self.body.outputs]
        if len(results) != 1 + self.n_state + self.n_scan or results[0] != types[1]:
            raise VerifyError(f"loop body gives {', '.join(map(str, results))}", expected="condition, states, scans")
        if self.states and not _alike(self.states, results[1 : 1 + self.n_state]):
            raise VerifyError(f"loop body gives {', '.join(map(str, results))}", expected=", ".join(map(str, self.states)))
        for before, after in zip(types[2 : 2 + self.n_state], results[1:], strict=False):
            if before != after and not self.states:
                raise VerifyError(f"loop turns a state of {before} into {after}", expected="the same type every iteration")
        if self.n_scan and self.trips is None:
            raise VerifyError("loop with scans has no number of iterations")
        trips: Dim = 0 if self.trips is None else self.trips
        return (
            *(self.states or results[1 : 1 + self.n_state]),
            *(TensorType(t.dtype, (trips, *t.shape)) for t in results[1 + self.n_state :]),
        )

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        trip, cond = int(args[0]), bool(args[1])
        state, captured = list(args[2 : 2 + self.n_state]), args[2 + self.n_state :]
        scans: list[list[np.ndarray]] = [[] for _ in range(self.n_scan)]
        i = 0
        while i < trip and cond:
            got = self.body.evaluate(np.array(i), np.array(cond), *state, *captured)
            cond, state = bool(got[0]), list(got[1 : 1 + self.n_state])
            for scan, value in zip(scans, got[1 + self.n_state :], strict=True):
                scan.append(value)
            i += 1
        types = [v.type for v in self.body.outputs[1 + self.n_state :]]
        stacked = [
            np.stack(scan) if scan else np.zeros((0, *(evaluate(d, {}) for d in t.shape)), t.dtype.np)
            for scan, t in zip(scans, types, strict=True)
        ]
        return (*state, *stacked)
