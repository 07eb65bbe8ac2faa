"""One-node models and their runs, for tests of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlc
import numpy as np
import onnx
from against_onnxruntime import session
from onnx import helper, numpy_helper


def node_model(
    op: str, inputs: Sequence[np.ndarray | None], outputs: int = 1, *, opset: int = 21, domain: str = "", constants: Sequence[int] = (),
    symbolic: bool = False, **attributes: object,
) -> onnx.ModelProto:  # fmt: skip
    """Inputs x0, x1, … (None: absent), outputs y0, y1, …; those numbered in `constants` are initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    infos, fixed = [], []
    for i, x in enumerate(inputs):
        if x is None:
            continue
        shape = [f"{names[i]}_{a}" if symbolic and d != 1 else d for a, d in enumerate(x.shape)]
        if i in constants:
            fixed.append(numpy_helper.from_array(x, names[i]))
        else:
            infos.append(helper.make_tensor_value_info(names[i], helper.np_dtype_to_tensor_dtype(x.dtype), shape))
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=n) for n in results], fixed)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=10))
    for output in model.graph.output:
        output.type.tensor_type.elem_type = output.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
    return model


def feeds(model: onnx.ModelProto, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    return {v.name: x for v in model.graph.input if (x := inputs[int(v.name[1:])]) is not None}


def run_mlc(model: onnx.ModelProto, given: Mapping[str, np.ndarray], **options: object) -> list[np.ndarray]:
    got = mlc.compile(model, threads=1, **options).run(dict(given))
    return [got[o.name] for o in model.graph.output]


def run_ort(model: onnx.ModelProto, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return session(model).run(None, dict(given))
