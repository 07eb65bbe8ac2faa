"""`check(before, after, *passes)`: IR text in, IR text out, and the same numbers from both."""

from __future__ import annotations

import re

import numpy as np
import pytest
from mlc.ir import DType, Graph
from mlc.ir.parser import parse
from mlc.ir.printer import print_graph
from mlc.ir.verify import verify
from mlc.passes import PassContext, run_passes


def random_inputs(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for v in graph.inputs:
        x = rng.standard_normal(v.shape)
        made.append((x > 0) if v.dtype is DType.BOOL else (x * (1 if v.dtype.is_float else 5)).astype(v.dtype.np))
    return made


def same_numbers(a: Graph, b: Graph, rtol: float = 1e-5) -> None:
    args = random_inputs(a)
    for x, y in zip(a.evaluate(*args), b.evaluate(*args), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-5)


def canonical(text: str) -> str:
    """Text without the locs, layout and numbering that a test need not spell out."""
    return re.sub(r"  ;[^\n]*", "", print_graph(parse(text)))


@pytest.fixture
def check():
    def run(before: str, after: str | None, *passes) -> Graph:
        graph = verify(parse(before))
        ctx = PassContext(verify=True)
        new = run_passes(graph, passes, ctx)
        if after is None:
            assert new is graph, f"must not fire, but gave\n{print_graph(new)}"
        else:
            assert re.sub(r"  ;[^\n]*", "", print_graph(new)) == canonical(after)
        if all(v.type.static for v in graph.inputs):
            same_numbers(graph, new)
        assert run_passes(new, passes, ctx) is new, "a second run must change nothing"
        return new

    return run


@pytest.fixture
def numbers():
    return same_numbers
