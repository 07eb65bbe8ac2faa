"""The steps of docs/architecture.md, followed: an operator, a pass and a backend, each as short as the page says."""

from dataclasses import dataclass
from typing import Any

import mlc
import numpy as np
import onnx
import pytest
from mlc.codegen.cpu.target import parse
from mlc.compiler.api import Options, compile_stages
from mlc.compiler.cpu_backend import CpuBackend
from mlc.compiler.importer.handlers import table as handlers
from mlc.compiler.importer.handlers.elementwise import plain
from mlc.compiler.stages import module_of
from mlc.ir import Graph, S, Value
from mlc.ir.ops import Neg
from mlc.ir.ops.elementwise import Same
from mlc.ir.printer import print_graph
from mlc.passes import pipelines
from mlc.passes.base import Pass, PassContext, apply
from mlc.passes.rewrite import P, Rule, X, rewrite
from onnx import helper


@dataclass(frozen=True)
class Hump(Same):
    """x · exp(−width · x²)."""

    width: float = 1.0

    def body(self, s: S, *args: Any) -> Any:
        (x,) = args
        return s.mul(x, s.exp(s.neg(s.mul(s.mul(x, x), self.width))))


def odd(x: Value, hump: Value) -> Value:
    """hump(−x) = −hump(x)."""
    return apply(Neg(), apply(hump.node.op, x))


RULES = (Rule(P(Hump, P(Neg, X("x")), name="hump"), odd),)


@dataclass(frozen=True)
class TurnHumps(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        return rewrite(graph, RULES)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """y = hump(−x) + x, with the operator in the importer's table."""
    monkeypatch.setitem(handlers.HANDLERS, ("acme::Hump", 1), plain(Hump(0.5), 1))
    monkeypatch.setitem(handlers._VERSIONS, "acme::Hump", (1,))
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Hump", ["n"], ["h"], domain="acme"),
        helper.make_node("Add", ["h", "x"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 5])], [value("y", 1, None)])
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)], ir_version=9
    )
    return made.SerializeToString()


X_IN = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
WANT = X_IN - X_IN * np.exp(-0.5 * X_IN * X_IN)


@pytest.mark.parametrize("level", range(4))
def test_an_operator(model: bytes, level: int) -> None:
    module = mlc.compile(model, opt_level=level)
    assert np.allclose(module(X_IN), WANT, atol=1e-6)
    assert level == 0 or len(module.manifest.steps) == 1, "fused, without a line about it"


def test_a_pass(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = print_graph(compile_stages(model, Options()).graph)
    monkeypatch.setattr(pipelines, "LEVELS", tuple((*level, TurnHumps(), pipelines.CLEAN) for level in pipelines.LEVELS))
    result = compile_stages(model, Options())
    after = print_graph(result.graph)
    assert "neg" in before and "neg" not in after and "sub" in after
    assert np.allclose(module_of(result)(X_IN), WANT, atol=1e-6)


class Plain(CpuBackend):
    """The CPU's, for the oldest processor there is, whatever the target says."""

    def __init__(self) -> None:
        super().__init__(parse("cpu:x86-64"))


def test_a_backend(model: bytes) -> None:
    module = module_of(compile_stages(model, Options(), backend=Plain()))
    assert module.manifest.raw["target"]["cpu"] == "x86-64"
    assert np.allclose(module(X_IN), WANT, atol=1e-6)
