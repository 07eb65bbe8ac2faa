"""One-node models run by the ops' references and by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlc.compiler.importer import import_model
from mlc.ir import DType, TensorType, bind, sizes_of
from onnx import helper, numpy_helper

ort.set_default_logger_severity(4)


def _run_both(op, inputs, *, opset=20, known=(), outputs=1, dynamic=False, **attrs):
    """[(reference result, onnxruntime result)] per output.

    Inputs (None: absent) numbered in `known` are initializers; `dynamic` makes every dim of the others a symbol of its own.
    """
    arrays = {f"x{i}": np.asarray(a) for i, a in enumerate(inputs) if a is not None}
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    fixed = [n for i, n in enumerate(names) if i in known and n]
    feeds = {n: a for n, a in arrays.items() if n not in fixed}
    infos = [
        helper.make_tensor_value_info(n, DType.from_numpy(a.dtype).onnx, [f"{n}_{i}" if dynamic else d for i, d in enumerate(a.shape)])
        for n, a in feeds.items()
    ]
    outs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    for out in outs:
        out.type.tensor_type.SetInParent()
    node = helper.make_node(op, names, [o.name for o in outs], **attrs)
    graph = helper.make_graph([node], "g", infos, outs, [numpy_helper.from_array(arrays[n], n) for n in fixed])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(proto).SerializeToString()
    imported = import_model(model)
    imported = bind(imported, sizes_of(imported, [a.shape for a in feeds.values()]))
    want = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    got = imported.evaluate(*feeds.values())
    for value, w in zip(imported.outputs, want, strict=True):
        assert value.type == TensorType(DType.from_numpy(w.dtype), w.shape)
    return list(zip(got, want, strict=True))


@pytest.fixture
def run_both():
    return _run_both
