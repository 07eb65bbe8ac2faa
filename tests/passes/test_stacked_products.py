"""Products of places along an axis with one matrix become one product; all others stay."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.api import compile_stages
from mlc.compiler.options import Options
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import MatMul, Reshape, Slice
from mlc.passes.base import PassContext, apply
from mlc.passes.stacked_products import StackedProducts
from onnx import numpy_helper, parser

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def graph_of(shape, axis, places, kept=False, matrices=1, step=1):
    """x at each of the places by a matrix of 8 columns."""
    x = Node.make(Input(TensorType(DType.F32, shape)), ()).out
    rest = tuple(d for i, d in enumerate(shape) if i != axis)
    ws = [const(f(rest[-1] if not kept else shape[-1], 8)) for _ in range(matrices)]
    one = tuple(1 if i == axis else d for i, d in enumerate(shape))
    steps = tuple(step if i == axis else 1 for i in range(len(shape)))
    outs = []
    for k, at in enumerate(places):
        a = apply(Slice(tuple(at if i == axis else 0 for i in range(len(shape))), one, steps), x)
        outs.append(apply(MatMul(), a if kept else apply(Reshape(rest), a), ws[k % matrices]))
    return Graph((x,), tuple(outs), ("x",), tuple(f"y{k}" for k in range(len(outs))))


def products(graph):
    return sum(isinstance(n.op, MatMul) for n in graph.nodes)


@pytest.mark.parametrize(("shape", "axis", "places", "kept"), [
    ((5, 3, 4), 0, (0, 1, 2, 3, 4), False),
    ((3, 5, 4), 1, (4, 2, 0, 1, 3), False),
    ((3, 4, 5), 2, (0, 1, 2, 3, 4), False),
    ((3, 5, 4), 1, (1, 2, 2), True),
    ((2, 3, 6, 4), 2, (1, 3, 5), False),
    ((1, 3, 4, 6), 3, (5, 3, 1), False),
])  # fmt: skip
@pytest.mark.parametrize("step", [1, -1])
def test_places_of_one_product(shape, axis, places, kept, step):
    graph = graph_of(shape, axis, places, kept, step=step)
    new = StackedProducts().run(graph, PassContext(verify=True))
    assert products(new) == 1 and [v.type for v in new.outputs] == [v.type for v in graph.outputs]
    feed = f(*shape)
    for got, want in zip(new.evaluate(feed), graph.evaluate(feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_matrices_have_a_product_each():
    new = StackedProducts().run(graph_of((3, 6, 4), 1, range(6), matrices=2), PassContext(verify=True))
    assert products(new) == 2


@pytest.mark.parametrize(("shape", "axis", "places", "kept"), [
    ((3, 5, 4), 1, (2, 2), False),  # one place
    ((3, 50, 4), 1, (0, 49), False),  # few of many
    ((64, 4, 5), 2, (0, 1, 2, 3, 4), False),  # many rows to turn for a small matrix
    ((3, 5, 1), 2, (0, 0), True),  # a product sums over that axis
])  # fmt: skip
def test_other_products_stay(shape, axis, places, kept):
    graph = graph_of(shape, axis, places, kept)
    assert StackedProducts().run(graph, PassContext(verify=True)) is graph


def test_an_unrolled_recurrent_layer_reads_its_input_matrix_once():
    """As PyTorch writes a loop over an RNNCell, of a symbolic batch; backwards as well."""
    steps = 6
    lines = []
    for name, order in (("f", range(steps)), ("b", range(steps)[::-1])):
        h = f"{name}_start"
        lines.append(f"{h} = Mul(x0, nought)")
        for t in order:
            lines.append(f"{name}x{t} = Gather<axis = 1>(x, t{t}) {name}u{t} = Gemm<transB = 1>({name}x{t}, {name}w, bias)")
            lines.append(f"{name}r{t} = Gemm<transB = 1>({h}, v) {name}s{t} = Add({name}u{t}, {name}r{t}) {name}h{t} = Tanh({name}s{t})")
            h = f"{name}h{t}"
    indices = ", ".join(f"int64 t{t} = {{{t}}}" for t in range(steps))
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,{steps},5] x, float[n,4] x0, float[4] bias) => (float[n,4] y)
               <{indices}, float nought = {{0}}> {{ {" ".join(lines)} y = Add(fh{steps - 1}, bh0) }}"""
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(f(*s), n) for n, s in (("fw", (4, 5)), ("bw", (4, 5)), ("v", (4, 4))))
    made = compile_stages(model, Options(threads=1)).graph
    assert sum(isinstance(n.op, MatMul) and n.inputs[1].shape == (5, 4) for n in made.nodes) == 2
    module = mlc.compile(model, threads=1)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 3):
        feed = {"x": f(n, steps, 5), "x0": f(n, 4), "bias": f(4)}
        np.testing.assert_allclose(module.run(feed)["y"], session.run(None, feed)[0], rtol=1e-5, atol=1e-5)
