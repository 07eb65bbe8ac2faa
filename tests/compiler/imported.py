"""Models from text, imported and compared with onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from mlc.compiler.importer import import_model
from mlc.ir import Const, Graph, Input, bind, sizes_of
from onnx import parser

ort.set_default_logger_severity(4)


def text(source, opset=18, **imports):
    """A model from ONNX's text form; the header is added."""
    opsets = ", ".join([f'"" : {opset}', *(f'"{d}" : {v}' for d, v in imports.items())])
    return parser.parse_model(f"<ir_version: 9, opset_import: [{opsets}]>\n{source}")


def evaluate(graph: Graph, *arrays):
    return bind(graph, sizes_of(graph, [a.shape for a in arrays])).evaluate(*arrays)


def check(model, *arrays, rtol=1e-5) -> Graph:
    """Import with dims as declared and with `shapes`; both agree with onnxruntime. Returns the first graph."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = import_model(model)
    want = session.run(None, dict(zip(graph.input_names, arrays, strict=True)))
    fixed = import_model(model, {n: a.shape for n, a in zip(graph.input_names, arrays, strict=True)})
    for g in (graph, fixed):
        for got, w in zip(evaluate(g, *arrays), want, strict=True):
            assert got.dtype == w.dtype and got.shape == w.shape
            np.testing.assert_allclose(got, w, rtol=rtol, atol=1e-6)
    return graph


def ops_of(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if not isinstance(n.op, (Input, Const))]


def f32(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
