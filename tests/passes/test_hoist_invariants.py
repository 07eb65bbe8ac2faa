"""What every iteration of a loop computes alike is computed before it."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.importer import import_model
from mlc.ir.ops import Loop, MatMul
from mlc.passes.pipelines import optimize
from onnx import parser

R = np.random.default_rng(2)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


def model(body, results="float[?,4] y"):
    return parser.parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        g (float[n,6] x, float[6,4] w, float[4,4] u, float[n,4] s, int64 m) => ({results}) <bool go = {{1}}> {{
            y = Loop(m, go, s) <body = b (int64 i, bool c, float[n,4] h) => (bool c1, float[n,4] h1) {{ c1 = Identity(c) {body} }}>
        }}""")


def loop_of(graph):
    (found,) = [n for n in optimize(graph).nodes if isinstance(n.op, Loop)]
    return found


def products(graph):
    return sum(isinstance(n.op, MatMul) for n in graph.nodes)


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_projection_of_what_the_loop_only_reads(trips):
    proto = model("p = MatMul(x, w) q = Tanh(p) r = MatMul(h, u) t = Add(q, r) h1 = Tanh(t)")
    graph = optimize(import_model(proto))
    loop = loop_of(graph)
    assert products(graph) == 1 and products(loop.op.body) == 1
    feeds = {"x": f(3, 6), "w": f(6, 4), "u": f(4, 4), "s": f(3, 4), "m": np.array(trips)}
    (want,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(mlc.compile(proto, threads=1).run(feeds)["y"], want, rtol=1e-5, atol=1e-6)


def test_what_follows_states_or_the_counter_stays():
    graph = optimize(import_model(model("k = CastLike(i, x) a = Mul(x, k) p = MatMul(a, w) h1 = Add(h, p)")))
    assert products(graph) == 0 and products(loop_of(graph).op.body) == 1


def test_cheap_maps_stay_where_they_fuse():
    graph = optimize(import_model(model("a = Exp(s) h1 = Add(h, a)")))
    assert len(loop_of(graph).op.body.inputs) == 4
