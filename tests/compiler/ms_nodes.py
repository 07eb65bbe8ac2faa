"""One-node models of com.microsoft, and their comparison with onnxruntime."""

import mlc
import numpy as np
from against_onnxruntime import session
from onnx import helper, numpy_helper

R = np.random.default_rng(11)
TYPES = {np.dtype(k): v for k, v in ((np.float32, 1), (np.uint8, 2), (np.int8, 3), (np.int32, 6), (np.int64, 7), (np.bool_, 9))}


def f(*shape, scale=1.0):
    return (R.standard_normal(shape) * scale).astype(np.float32)


def u8(*shape):
    return R.integers(0, 256, shape).astype(np.uint8)


def i8(*shape):
    return R.integers(-127, 128, shape).astype(np.int8)


def i32(values):
    return np.asarray(values, np.int32)


def number(value, dtype=np.float32):
    return np.asarray(value, dtype)


def build(op, operands, outs, constants=(), symbolic=False, **attributes):
    """A model of one node; operands are arrays or None, those numbered in `constants` are initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(operands)]
    node = helper.make_node(op, names, outs, domain="com.microsoft", name="the_node", **attributes)
    inputs, given = [], []
    for i, x in enumerate(operands):
        if x is None:
            continue
        if i in constants:
            given.append(numpy_helper.from_array(x, names[i]))
        else:
            shape = [f"d{i}_{j}" if symbolic and d > 1 else d for j, d in enumerate(x.shape)]
            inputs.append(helper.make_tensor_value_info(names[i], TYPES[x.dtype], shape))
    results = [helper.make_empty_tensor_value_info(o) for o in outs if o]
    graph = helper.make_graph([node], "one", inputs, results, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)


def typed(model, *names):
    """The model with the element types of its results said: ONNX wants them, onnxruntime infers them."""
    kinds = {"float": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
    for value, name in zip(model.graph.output, names, strict=True):
        value.type.tensor_type.elem_type = kinds[name.removeprefix("tensor(").removesuffix(")")]
    return model


def run(op, operands, kind="float", **attributes):
    """Results of mlc alone, for what onnxruntime has no CPU kernel of."""
    model = typed(build(op, operands, ["y"], **attributes), kind)
    return mlc.compile(model, threads=1).run({f"x{i}": x for i, x in enumerate(operands)})["y"]


def compare(op, operands, outs=("y",), constants=(), symbolic=False, tolerance=2e-5, steps=0, only=None, kinds=(), **attributes):
    """mlc agrees with onnxruntime; quantized results may differ by `steps` on ties. `kinds` of outputs that cannot be inferred."""
    model = build(op, operands, outs, constants, symbolic, **attributes)
    model = typed(model, *kinds) if kinds else model
    feeds = {f"x{i}": x for i, x in enumerate(operands) if x is not None and i not in constants}
    oracle = session(model)
    want = dict(zip([o.name for o in oracle.get_outputs()], oracle.run(None, feeds), strict=True))
    got = mlc.compile(typed(model, *(o.type for o in oracle.get_outputs())), threads=1).run(feeds)
    for name in only or want:
        a, b = got[name], want[name]
        assert a.dtype == b.dtype and a.shape == b.shape, (name, a.dtype, a.shape, b.dtype, b.shape)
        if a.dtype.kind in "iu":
            assert np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0) <= steps, name
        else:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
