"""Helpers of the lowering tests: build a graph, run its plan by the interpreter, compare with the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mlc.codegen.interpret import run_plan
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.plan import Plan
from mlc.ir import Dim, DType, Graph, Input, Node, Op, TensorType, Value, evaluate, substitute

F = DType.F32


def tensor(*shape: Dim, dtype: DType = F) -> Value:
    return Node.make(Input(TensorType(dtype, shape)), ()).out


def ap(op: Op, *args: Value) -> Value:
    return Node.make(op, args).out


def graph(inputs: Sequence[Value], *outputs: Value) -> Graph:
    return Graph(tuple(inputs), outputs, tuple(f"x{i}" for i in range(len(inputs))), tuple(f"y{i}" for i in range(len(outputs))))


def random(v: Value, rng: np.random.Generator, bindings: Mapping[str, int]) -> np.ndarray:
    shape = tuple(evaluate(d, bindings) for d in v.shape)
    if v.dtype.is_float:
        return rng.standard_normal(shape).astype(v.dtype.np)
    if v.dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0, 5, shape).astype(v.dtype.np)


def run(
    g: Graph,
    arrays: Sequence[np.ndarray] | None = None,
    want: Sequence[np.ndarray] | None = None,
    tol: float = 2e-5,
    options: LowerOptions | None = None,
    **bindings: int,
) -> Plan:
    """Compare the plan with `want` (default: the references, when nothing is symbolic); returns the plan."""
    rng = np.random.default_rng(7)
    given = [random(v, rng, bindings) for v in g.inputs] if arrays is None else list(arrays)
    plan = lower(g, options)
    got = run_plan(plan, given, bindings)
    expected = want if want is not None else bind(g, bindings).evaluate(*given)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        if a.dtype.kind in "biu":
            np.testing.assert_array_equal(a, b)
        else:
            scale = max(1.0, float(np.max(np.abs(b.astype(np.float64)), initial=0, where=np.isfinite(b.astype(np.float64)))))
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=tol, atol=tol * scale)
    return plan


def bind(g: Graph, bindings: Mapping[str, int]) -> Graph:
    """The graph with its symbols replaced."""
    if not bindings:
        return g
    from dataclasses import fields, replace

    def dims(x: object) -> object:
        if isinstance(x, tuple):
            return tuple(dims(y) for y in x)
        return substitute(x, bindings) if hasattr(x, "terms") else x  # type: ignore[arg-type]

    def visit(node: Node, ins: tuple[Value, ...]) -> Sequence[Value] | None:
        if isinstance(node.op, Input):
            return Node.make(Input(TensorType(node.op.type.dtype, dims(node.op.type.shape))), ()).outputs  # type: ignore[arg-type]
        if not fields(node.op) or type(node.op).__name__ == "Const":
            return None
        return Node.make(replace(node.op, **{f.name: dims(getattr(node.op, f.name)) for f in fields(node.op)}), ins).outputs

    return g.rewrite(visit)
