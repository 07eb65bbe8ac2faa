"""Results of contractions in the memory of an operand: only of one that nobody reads elsewhere or later."""

import numpy as np
import pytest
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.plan import Step
from mlc.compiler.stages import compile_graph
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Add, MatMul, Relu, Slice
from mlc.passes.base import apply

RNG = np.random.default_rng(0)


def placeholder(*shape):
    return Node.make(Input(TensorType(DType.F32, shape)), ()).out


def product(x, k, n):
    return apply(MatMul(), x, const((RNG.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)))


def graph_of(x, *outputs):
    return Graph((x,), outputs, ("x",), tuple(f"y{i}" for i in range(len(outputs))))


def aliases(graph, **options):
    """Of a plan: whether the last operand of each contraction is an alias."""
    plan = lower(graph, LowerOptions(overwrite=True, **options))
    steps = [s for s in plan.steps if isinstance(s, Step) and isinstance(s.kernel, ContractKernel)]
    return [plan.buffers[s.buffers[-1]].kind == "alias" for s in steps]


def residual(layers=3):
    x = placeholder(40, 24)
    y = apply(Relu(), product(x, 24, 24))
    for _ in range(layers):
        y = apply(Relu(), apply(Add(), product(product(y, 24, 24), 24, 24), y))
    return x, y


def test_a_chain_of_residual_layers_stays_in_one_place():
    x, y = residual()
    graph = graph_of(x, product(y, 24, 8))
    assert aliases(graph) == [False, *[False, True] * 3, False]
    assert lower(graph, LowerOptions()).buffers == lower(graph).buffers  # not unless asked


@pytest.mark.parametrize("layers", [1, 3])
def test_numbers_are_the_same(layers):
    x, y = residual(layers)
    graph = graph_of(x, product(y, 24, 8))
    data = RNG.standard_normal((40, 24)).astype(np.float32)
    module = compile_graph(graph, threads=2)
    (want,) = graph.evaluate(data)
    for _ in range(2):
        np.testing.assert_allclose(module.run({"x": data})["y0"], want, rtol=1e-4, atol=1e-4)


def later(x):
    y = apply(Relu(), product(x, 24, 24))
    z = apply(Add(), product(y, 24, 24), y)
    return product(z, 24, 8), product(y, 24, 5)  # y is read again


def wanted(x):
    y = apply(Relu(), product(x, 24, 24))
    return apply(Add(), product(y, 24, 24), y), y  # outputs are the user's


def own_operand(x):
    y = apply(Relu(), product(x, 24, 24))
    return product(apply(Add(), product(y, 24, 24), y), 24, 8), None  # y is also operand A of that product


def elsewhere(x):
    y = apply(Relu(), product(x, 24, 48))
    half = apply(Slice((0, 24), (40, 24), (1, 1)), y)  # half of a larger buffer
    return product(apply(Add(), product(product(x, 24, 24), 24, 24), half), 24, 8), None


@pytest.mark.parametrize("make", [later, wanted, own_operand, elsewhere], ids=lambda f: f.__name__)
def test_memory_that_is_still_wanted_stays(make):
    x = placeholder(40, 24)
    graph = graph_of(x, *(v for v in make(x) if v is not None))
    assert not any(aliases(graph))
