"""Interpolation along one axis after the other: the same pixels, and where it must not happen."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.ir import DType, Graph, Input, Node, TensorType, sym
from mlc.ir.ops import Resize
from mlc.passes.base import PassContext, apply
from mlc.passes.separate_resizes import SeparateResizes
from onnx import parser

RNG = np.random.default_rng(0)
H, W = sym("H"), sym("W")


def graph_of(shape, sizes, scales=None, dtype=DType.F32, **form):
    x = Node.make(Input(TensorType(dtype, shape)), ()).out
    op = Resize(tuple(sizes), scales or (None,) * len(shape), **{"mode": "linear"} | form)
    return Graph((x,), (apply(op, x, loc=("resize",)),), ("x",), ("y",))


def resizes(graph):
    new = SeparateResizes().run(graph, PassContext(verify=True))
    return new, [n.op.sizes for n in new.nodes if isinstance(n.op, Resize)]


@pytest.mark.parametrize("form", [{}, {"mode": "cubic"}, {"mode": "cubic", "exclude_outside": True}, {"coord_mode": "align_corners"}])
def test_rows_first_where_pixels_become_more(form):
    graph = graph_of((2, 3, 5, 4), (2, 3, 7, 9), **form)
    new, sizes = resizes(graph)
    assert sizes == [(2, 3, 5, 9), (2, 3, 7, 9)]
    x = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("antialias", [True, False])
def test_columns_first_where_pixels_become_fewer(antialias):
    graph = graph_of((1, 8, 6), (1, 3, 4), antialias=antialias)
    new, sizes = resizes(graph)
    assert sizes == [(1, 3, 6), (1, 3, 4)]
    x = RNG.standard_normal((1, 8, 6)).astype(np.float32)
    np.testing.assert_allclose(new.evaluate(x)[0], graph.evaluate(x)[0], rtol=1e-5, atol=1e-6)


def test_small_floats_keep_their_precision_between():
    graph = graph_of((1, 2, 5, 4), (1, 2, 10, 8), dtype=DType.F16)
    new, sizes = resizes(graph)
    assert len(sizes) == 2 and new.outputs[0].type == graph.outputs[0].type
    x = RNG.standard_normal((1, 2, 5, 4)).astype(np.float16)
    np.testing.assert_allclose(new.evaluate(x)[0].astype("f4"), graph.evaluate(x)[0].astype("f4"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "graph",
    [
        graph_of((1, 2, 5, 4), (1, 2, 10, 8), mode="nearest"),
        graph_of((1, 2, 5, 4), (1, 2, 10, 8), dtype=DType.U8),
        graph_of((1, 2, 5, 4), (1, 2, 5, 8)),  # one axis
        graph_of((1, 5, 4, 2), (1, 10, 8, 2)),  # vectors run along channels
        graph_of((1, 2, 8, 8), (1, 2, 4, 4)),  # read in strides
        graph_of((1, 2, 60, 60), (1, 2, 8, 7)),  # few pixels of each row
        graph_of((1, 2, H, W), (1, 2, 4, 4), (1.0, 1.0, 0.5, 0.5)),
        graph_of((1, 1, 5, 4), (1, 1, 7, 9), coord_mode="tf_crop_and_resize", roi=(0.0, 0.0, 0.1, 0.1, 1.0, 1.0, 0.9, 0.9)),
    ],
)
def test_stays_whole(graph):
    assert SeparateResizes().run(graph, PassContext()) is graph


def test_sizes_of_another_image():
    """As segmentation models bring their scores to the size of the image."""
    proto = parser.parse_model("""<ir_version: 9, opset_import: ["": 18]> g (float[n,3,h,w] x, float[n,c,r,s] image) => (float[n,3,r,s] y)
        { a = Shape<start = 0, end = 2>(x) b = Shape<start = 2>(image) sizes = Concat<axis = 0>(a, b) y = Resize<mode = "linear">(x, , , sizes) }""")
    module = mlc.compile(proto, threads=1)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for h, w, r, s in ((5, 4, 33, 20), (9, 30, 9, 17), (1, 1, 3, 5), (16, 16, 5, 7), (3, 8, 1, 40)):
        feed = {"x": RNG.standard_normal((2, 3, h, w)).astype(np.float32), "image": np.zeros((2, 1, r, s), np.float32)}
        np.testing.assert_allclose(module.run(feed)["y"], session.run(None, feed)[0], rtol=1e-4, atol=1e-5)
