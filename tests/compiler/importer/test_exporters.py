"""Models as other exporters write them, in miniature: what they do to names, inputs, attributes and dead code. Against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import mlc
import numpy as np
import onnx
import pytest
from mlc.errors import OnnxImportError
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx_nodes import run_ort

RNG = np.random.default_rng(61)
F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def n(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def model(
    nodes: Sequence[NodeProto], inputs: dict[str, tuple[int, Sequence[object]]], outputs: dict[str, int], *,
    weights: dict[str, np.ndarray] | None = None, opset: int = 13, listed: bool = False, imports: Sequence[tuple[str, int]] = (),
    value_info: Sequence[onnx.ValueInfoProto] = (), ir_version: int = 8, functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:  # fmt: skip
    """`listed`: initializers are graph inputs as well, as before IR version 4."""
    fixed = [numpy_helper.from_array(w, k) for k, w in (weights or {}).items()]
    infos = [helper.make_tensor_value_info(k, t, s) for k, (t, s) in inputs.items()]
    if listed:
        infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in fixed]
    graph = helper.make_graph(
        nodes, "graph", infos, [helper.make_tensor_value_info(k, t, None) for k, t in outputs.items()], fixed, value_info=value_info
    )
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in imports)]
    return helper.make_model(graph, opset_imports=sets, ir_version=ir_version, functions=functions)


def agree(m: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    named = onnx.ModelProto()  # onnxruntime wants names of nodes to differ
    named.CopyFrom(m)
    for i, node in enumerate(named.graph.node):
        node.name = f"node{i}"
    want = run_ort(named, feeds)
    for level in (0, 3):
        got = mlc.compile(m, threads=1, opt_level=level).run(feeds)
        for output, expected in zip(m.graph.output, want, strict=True):
            assert got[output.name].dtype == expected.dtype and got[output.name].shape == expected.shape
            np.testing.assert_allclose(got[output.name], expected, rtol=tolerance, atol=tolerance)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_tf2onnx_keeps_channels_last_outside() -> None:
    """Transposes around every convolution, names with slashes and colons, SAME padding, shapes computed for Reshape."""
    w, scale, shift = f(8, 3, 3, 3) / 5, f(8), f(8)
    nodes = [
        n("Transpose", ["input:0"], ["model/conv/x:0"], perm=[0, 3, 1, 2]),
        n("Conv", ["model/conv/x:0", "w"], ["model/conv/y:0"], auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3], group=1),
        n("Mul", ["model/conv/y:0", "scale"], ["model/bn/mul:0"]),
        n("Add", ["model/bn/mul:0", "shift"], ["model/bn/add:0"]),
        n("Clip", ["model/bn/add:0", "zero", "six"], ["model/relu6:0"]),
        n("Transpose", ["model/relu6:0"], ["nhwc:0"], perm=[0, 2, 3, 1]),
        n("Shape", ["nhwc:0"], ["s:0"]),
        n("Cast", ["s:0"], ["s32:0"], to=TensorProto.INT32),
        n("Slice", ["s32:0", "c0", "c1", "c0"], ["batch:0"]),
        n("Concat", ["batch:0", "minus"], ["target:0"], axis=0),
        n("Cast", ["target:0"], ["target64:0"], to=I64),
        n("Reshape", ["nhwc:0", "target64:0"], ["flat:0"]),
        n("Identity", ["flat:0"], ["Identity:0"]),
    ]
    weights = {
        "w": w, "scale": scale.reshape(1, 8, 1, 1), "shift": shift.reshape(1, 8, 1, 1), "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32), "c0": np.array([0]), "c1": np.array([1]), "minus": np.array([-1], np.int32),
    }  # fmt: skip
    m = model(nodes, {"input:0": (F32, ["unk__1", 9, 10, 3])}, {"Identity:0": F32}, weights=weights)
    for batch in (1, 3):
        agree(m, {"input:0": f(batch, 9, 10, 3)})


def test_keras2onnx_writes_its_own_domain_and_identities() -> None:
    """Opset 9, attributes where inputs came later, chains of Identity, the default domain written out."""
    nodes = [
        n("Squeeze", ["x"], ["a"], axes=[1], name="dup"),
        n("Identity", ["a"], ["b"], name="dup"),
        n("Identity", ["b"], ["c"], name="dup"),
        n("Unsqueeze", ["c"], ["d"], axes=[0], name=""),
        n("Dropout", ["d"], ["e", "mask"], ratio=0.5),
        n("Clip", ["e"], ["g"], min=-0.5, max=0.75),
        n("Slice", ["g"], ["h"], starts=[0, 1], ends=[1, 9223372036854775807], axes=[0, 2]),
        n("ReduceSum", ["h"], ["i"], axes=[-1], keepdims=0),
        n("Pad", ["i"], ["j"], pads=[0, 1, 0, 2], mode="constant", value=1.5),
        n("Softmax", ["j"], ["y"], domain="ai.onnx"),
        n("Flatten", ["j"], ["unused"]),
    ]
    m = model(nodes, {"x": (F32, [4, 1, 6])}, {"y": F32}, opset=9, imports=[("com.example.keras", 1)], ir_version=4)
    agree(m, {"x": f(4, 1, 6)})


def test_paddle_names_constants_and_scales() -> None:
    """Constants of every kind as nodes, int32 shapes cast to int64, scale as a tensor of one element, batch −1."""
    nodes = [
        n("Constant", [], ["scale_0.tmp_0"], value=numpy_helper.from_array(np.array([0.125], np.float32))),
        n("Constant", [], ["axes"], value_ints=[1]),
        n("Constant", [], ["k"], value_int=2),
        n("Constant", [], ["alpha"], value_float=0.25),
        n("Constant", [], ["row"], value_floats=[1.0, 2.0, 3.0]),
        n("Mul", ["image", "scale_0.tmp_0"], ["p_0"]),
        n("Add", ["p_0", "row"], ["p_1"]),
        n("Mul", ["p_1", "alpha"], ["p_2"]),
        n("Unsqueeze", ["p_2", "axes"], ["p_3"]),
        n("Cast", ["k"], ["k32"], to=TensorProto.INT32),
        n("Cast", ["k32"], ["kf"], to=F32),
        n("Pow", ["p_3", "kf"], ["p_4"]),
        n("Constant", [], ["words"], value_strings=["a", "b"]),
        n("Constant", [], ["dead"], value_string="never read"),
        n("HardSigmoid", ["p_4"], ["save_infer_model/scale_0.tmp_0"], alpha=0.166, beta=0.5),
    ]
    m = model(nodes, {"image": (F32, [-1, 3])}, {"save_infer_model/scale_0.tmp_0": F32})
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    feeds = {"image": f(5, 3)}
    got = mlc.compile(m).run(feeds)["save_infer_model/scale_0.tmp_0"]
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"  # onnxruntime refuses the −1
    np.testing.assert_allclose(got, run_ort(m, feeds)[0], rtol=1e-5)


def test_legacy_torch_lists_weights_as_inputs() -> None:
    """Initializers are inputs too; numbers as names; weights nobody reads; the deprecated Upsample of opset 9."""
    weights = {
        "1": f(4, 3, 3, 3),
        "2": f(4),
        "3": np.ones(4, np.float32),
        "4": f(4),
        "5": f(4),
        "6": f(4) ** 2,
        "num_batches_tracked": np.array(7),
    }
    nodes = [
        n("Conv", ["0", "1", "2"], ["8"], dilations=[1, 1], group=1, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        n("BatchNormalization", ["8", "3", "4", "5", "6"], ["9"], epsilon=1e-5, momentum=0.9),
        n("Relu", ["9"], ["10"]),
        n("Constant", [], ["11"], value=numpy_helper.from_array(np.float32([1, 1, 2, 2]))),
        n("Upsample", ["10", "11"], ["12"], mode="nearest"),
        n("Shape", ["12"], ["13"]),
        n("Constant", [], ["14"], value=numpy_helper.from_array(np.array(0))),
        n("Gather", ["13", "14"], ["15"], axis=0),
        n("Constant", [], ["16"], value=numpy_helper.from_array(np.array(-1))),
        n("Unsqueeze", ["15"], ["17"], axes=[0]),
        n("Unsqueeze", ["16"], ["18"], axes=[0]),
        n("Concat", ["17", "18"], ["19"], axis=0),
        n("Reshape", ["12", "19"], ["20"]),
        n("Sigmoid", ["8"], ["21"]),
    ]
    m = model(nodes, {"0": (F32, [2, 3, 6, 5])}, {"20": F32}, weights=weights, opset=9, listed=True, ir_version=3)
    x = f(2, 3, 6, 5)
    module = mlc.compile(m)
    assert [i.name for i in module.inputs] == ["0"]
    agree(m, {"0": x}, 1e-4)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 17, 21])
def test_the_same_network_at_every_opset(opset: int) -> None:
    """Attributes become inputs at their opsets: Squeeze, Unsqueeze, ReduceSum, Slice, Clip, Pad, Dropout, TopK, Split, Upsample."""
    weights: dict[str, np.ndarray] = {}

    def moved(
        since: int, op: str, source: str, target: Sequence[str], name: str, value: object, place: int = 1, **rest: object
    ) -> NodeProto:
        if opset < since:
            return n(op, [source], target, **{name: value}, **rest)
        weights[f"{target[0]}.{name}"] = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        return n(op, [source, *[""] * (place - 1), f"{target[0]}.{name}"], target, **rest)

    nodes = [
        moved(13, "Unsqueeze", "x", ["a"], "axes", [1]),
        moved(13, "Squeeze", "a", ["b"], "axes", [1]),
        moved(11, "Clip", "b", ["c"], "max", 0.9, 2) if opset >= 11 else n("Clip", ["b"], ["c"], max=0.9),
        moved(11, "Pad", "c", ["d"], "pads", [0, 1, 0, 0, 0, 1], mode="edge"),
        moved(13, "ReduceSum", "d", ["e"], "axes", [2], keepdims=1),
        n("Div", ["d", "e1"], ["g"]),
        n("Abs", ["e"], ["e0"]),
        n("Add", ["e0", "one"], ["e1"]),
        moved(13, "Split", "g", ["h0", "h1"], "split", [2, 4], axis=1),
        n("Softmax", ["h1"], ["s"], axis=2),
    ]
    nodes[5], nodes[6], nodes[7] = nodes[6], nodes[7], nodes[5]
    if opset < 10:
        nodes.append(n("Slice", ["s"], ["t"], starts=[0, -2], ends=[2, 100], axes=[1, 2]))
        nodes.append(n("TopK", ["t"], ["v", "i"], k=2, axis=2))
    else:
        weights |= {"st": np.array([0, -2]), "en": np.array([2, 100]), "ax": np.array([1, 2]), "k": np.array([2])}
        nodes.append(n("Slice", ["s", "st", "en", "ax"], ["t"]))
        nodes.append(n("TopK", ["t", "k"], ["v", "i"], axis=2))
    nodes.append(n("Dropout", ["h0"], ["dropped"], **({"ratio": 0.3} if opset < 12 else {})))
    weights["one"] = np.array([1], np.float32)
    m = model(nodes, {"x": (F32, [2, 5, 4])}, {"v": F32, "i": I64, "dropped": F32}, weights=weights, opset=opset)
    agree(m, {"x": f(2, 5, 4)})


def test_dead_branches_and_inputs_nobody_reads() -> None:
    """What no output needs may even be of operators that do not exist — as long as nothing needs it."""
    nodes = [n("Relu", ["x"], ["y"]), n("Sigmoid", ["z"], ["a"]), n("Tanh", ["a"], ["b"])]
    m = model(nodes, {"x": (F32, [3]), "z": (F32, ["k"]), "never": (I64, [2])}, {"y": F32})
    feeds = {"x": f(3), "z": f(4), "never": np.array([1, 2])}
    agree(m, feeds)
    m.graph.node.append(n("NotAnOperator", ["b"], ["c"], domain="some.where"))
    m.opset_import.append(helper.make_opsetid("some.where", 1))
    with pytest.raises(OnnxImportError, match="NotAnOperator"):
        mlc.compile(m)


def test_an_output_that_is_an_input_or_a_constant_or_twice() -> None:
    nodes = [n("Identity", ["x"], ["same"]), n("Neg", ["x"], ["y"]), n("Identity", ["y"], ["again"])]
    m = model(nodes, {"x": (F32, [2, 2])}, {"same": F32, "y": F32, "again": F32, "w": F32, "x": F32}, weights={"w": f(3)})
    agree(m, {"x": f(2, 2)})


def test_optional_inputs_left_out_by_empty_names() -> None:
    steps, batch, size, hidden = 3, 2, 4, 5
    weights = {"w": f(1, 4 * hidden, size), "r": f(1, 4 * hidden, hidden), "h0": f(1, batch, hidden), "lo": np.array(-0.2, np.float32)}
    nodes = [
        n("LSTM", ["x", "w", "r", "", "", "h0"], ["", "h", ""], hidden_size=hidden),
        n("Clip", ["h", "lo", ""], ["c"]),
        n("Resize", ["c4", "", "scales"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]
    nodes.insert(2, n("Unsqueeze", ["c", "axis"], ["c4"]))
    weights |= {"scales": np.float32([1, 1, 2, 3]), "axis": np.array([0])}
    agree(model(nodes, {"x": (F32, [steps, batch, size])}, {"y": F32}, weights=weights), {"x": f(steps, batch, size)}, 1e-4)


def test_sklearn_style_post_processing() -> None:
    """ArgMax of scores, labels gathered from a table, comparisons cast to numbers, shapes unknown."""
    weights = {"coef": f(4, 3), "bias": f(1, 3), "labels": np.array([10, 20, 30]), "half": np.array([0.5], np.float32)}
    nodes = [
        n("MatMul", ["X", "coef"], ["m"]), n("Add", ["m", "bias"], ["raw"]), n("Softmax", ["raw"], ["probabilities"], axis=1),
        n("ArgMax", ["raw"], ["at"], axis=1, keepdims=0), n("Gather", ["labels", "at"], ["label"]),
        n("Greater", ["probabilities", "half"], ["sure"]), n("Cast", ["sure"], ["number"], to=I64),
        n("ReduceMax", ["number"], ["certain"], axes=[1], keepdims=0),
    ]  # fmt: skip
    m = model(nodes, {"X": (F32, [None, 4])}, {"label": I64, "probabilities": F32, "certain": I64}, weights=weights)
    for rows in (1, 7):
        agree(m, {"X": f(rows, 4)})


def test_missing_and_wrong_value_info_is_no_obstacle() -> None:
    stale = [helper.make_tensor_value_info("a", F32, ["q", 99]), helper.make_tensor_value_info("nowhere", F32, [1])]
    m = model([n("Transpose", ["x"], ["a"]), n("Abs", ["a"], ["y"])], {"x": (F32, ["q", 3])}, {"y": F32}, value_info=stale)
    x = f(2, 3)
    np.testing.assert_array_equal(mlc.compile(m).run({"x": x})["y"], np.abs(x.T))


def test_functions_with_attributes_of_the_caller() -> None:
    """As torch.onnx with dynamo writes modules: nested functions, attributes passed on, names that repeat inside."""
    inner = helper.make_function("pkg", "Scaled", ["x"], ["y"], [n("LeakyRelu", ["x"], ["y"])], [helper.make_opsetid("", 17)], ["alpha"])
    inner.node[0].attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha"))
    call = n("Scaled", ["x"], ["h"], domain="pkg")
    call.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("pkg", 1)]
    outer = helper.make_function("pkg", "Block", ["x"], ["y"], [call, n("Mul", ["h", "x"], ["y"])], imports, ["slope"])
    nodes = [n("Block", ["x"], ["h"], domain="pkg", slope=0.25), n("Block", ["h"], ["y"], domain="pkg", slope=-2.0)]
    m = model(nodes, {"x": (F32, [6])}, {"y": F32}, opset=17, imports=[("pkg", 1)], functions=[inner, outer])
    agree(m, {"x": f(6)})


def test_if_over_a_constant_and_over_data() -> None:
    """Legacy torch writes Squeeze as an If on a shape; other exporters branch on data."""
    then = helper.make_graph([n("Squeeze", ["x"], ["a"], axes=[1])], "then", [], [helper.make_tensor_value_info("a", F32, None)])
    other = helper.make_graph([n("Identity", ["x"], ["b"])], "else", [], [helper.make_tensor_value_info("b", F32, None)])
    nodes = [
        n("Shape", ["x"], ["s"]), n("Gather", ["s", "one"], ["d"]), n("Equal", ["d", "one"], ["is_one"]),
        n("If", ["is_one"], ["r"], then_branch=then, else_branch=other), n("Neg", ["r"], ["y"]),
    ]  # fmt: skip
    m = model(nodes, {"x": (F32, [4, 1, 3])}, {"y": F32}, weights={"one": np.array(1)}, opset=11)
    agree(m, {"x": f(4, 1, 3)})
    branches = [
        helper.make_graph([n(op, ["x"], [out])], op, [], [helper.make_tensor_value_info(out, F32, [3])])
        for op, out in (("Exp", "p"), ("Sin", "q"))
    ]
    data = model(
        [n("ReduceSum", ["x"], ["t"], keepdims=0), n("Greater", ["t", "zero"], ["c"]),
         n("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])],
        {"x": (F32, [3])}, {"y": F32}, weights={"zero": np.array(0, np.float32)},
    )  # fmt: skip
    for sign in (1, -1):
        agree(data, {"x": np.float32([1, 2, 3]) * np.float32(sign)})


def test_half_precision_throughout() -> None:
    """All values float16, as converters write it: products, normalisation, softmax, convolution and pooling."""
    half = np.float16
    w, g, b, k = f(16, 24).astype(half), f(24).astype(half), f(24).astype(half), (f(4, 1, 3) / 2).astype(half)
    nodes = [
        n("MatMul", ["x", "w"], ["a"]), n("LayerNormalization", ["a", "g", "b"], ["c"], axis=-1), n("Gelu_", ["c"], ["d"], domain="f"),
        n("Softmax", ["d"], ["e"], axis=-1), n("Conv", ["e", "k"], ["h"], group=4, pads=[1, 1]), n("MaxPool", ["h"], ["i"], kernel_shape=[2]),
        n("ReduceMean", ["i"], ["y"], axes=[-1]), n("CumSum", ["i", "axis"], ["z"]),
    ]  # fmt: skip
    gelu = helper.make_function(
        "f", "Gelu_", ["x"], ["y"],
        [n("Constant", [], ["s"], value=numpy_helper.from_array(np.array(1.702, half))), n("Mul", ["x", "s"], ["m"]),
         n("Sigmoid", ["m"], ["g"]), n("Mul", ["x", "g"], ["y"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    m = model(nodes, {"x": (TensorProto.FLOAT16, [2, 4, 16])}, {"y": TensorProto.FLOAT16, "z": TensorProto.FLOAT16, "e": TensorProto.FLOAT16},
              weights={"w": w, "g": g, "b": b, "k": k, "axis": np.array(2)}, opset=17, imports=[("f", 1)], functions=[gelu])  # fmt: skip
    x = f(2, 4, 16).astype(half)
    got = mlc.compile(m, threads=1).run({"x": x})
    wide = x.astype(np.float64) @ w.astype(np.float64)
    c = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * g + b
    d = c / (1 + np.exp(-1.702 * c))
    e = np.exp(d - d.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    np.testing.assert_allclose(got["e"].astype(np.float64), e, rtol=2e-2, atol=1e-3)
    assert all(v.dtype == half for v in got.values())
    padded = np.pad(e, [(0, 0), (0, 0), (1, 1)])
    h = sum(padded[:, :, t : t + 24] * k[:, 0, t].astype(np.float64)[:, None] for t in range(3))
    i = np.maximum(h[:, :, :-1], h[:, :, 1:])
    np.testing.assert_allclose(got["y"].astype(np.float64), i.mean(-1, keepdims=True), rtol=3e-2, atol=2e-3)
    np.testing.assert_allclose(got["z"].astype(np.float64), i.cumsum(-1), rtol=3e-2, atol=1e-2)


@pytest.mark.parametrize(("imported", "used"), [("", "ai.onnx"), ("ai.onnx", ""), ("ai.onnx", "ai.onnx")])
def test_the_default_domain_has_two_names(imported: str, used: str) -> None:
    m = model([n("Softmax", ["x"], ["a"], domain=used), n("Abs", ["a"], ["y"])], {"x": (F32, [2, 3])}, {"y": F32})
    m.opset_import[0].domain = imported
    x = f(2, 3)
    e = np.exp(x)
    np.testing.assert_allclose(mlc.compile(m).run({"x": x})["y"], e / e.sum(1, keepdims=True), rtol=1e-6)


def test_domains_of_onnxruntime_need_no_import() -> None:
    """tf2onnx writes com.microsoft.Range in a loop of a model that imports no such domain."""
    body = helper.make_graph(
        [n("Range", ["zero", "four", "one"], ["r"], domain="com.microsoft"), n("Identity", ["c"], ["d"]), n("Add", ["s", "r"], ["t"])],
        "body",
        [helper.make_tensor_value_info("i", I64, []), helper.make_tensor_value_info("c", BOOL, []), helper.make_tensor_value_info("s", I64, [4])],
        [helper.make_tensor_value_info("d", BOOL, []), helper.make_tensor_value_info("t", I64, [4])],
    )  # fmt: skip
    nodes = [
        n("Loop", ["two", "", "x"], ["a"], body=body),
        n("LabelEncoder", ["a"], ["y"], domain="ai.onnx.ml", keys_int64s=[3], values_int64s=[5], default_int64=7),
    ]
    weights = {"zero": np.array(0), "four": np.array(4), "one": np.array(1), "two": np.array(2)}
    agree(model(nodes, {"x": (I64, [4])}, {"y": I64}, weights=weights), {"x": np.array([3, 1, 4, 1])})


def test_paddle2onnx_compresses_by_conditions_of_the_rank_of_x() -> None:
    nodes = [n("Greater", ["x", "zero"], ["c"]), n("Compress", ["x", "c"], ["y"]), n("Compress", ["x", "c"], ["z"], axis=1)]
    m = model(nodes, {"x": (F32, ["n", 6])}, {"y": F32, "z": F32}, weights={"zero": np.array(0, np.float32)})
    agree(m, {"x": np.concatenate([f(2, 6), f(2, 6) - 9])})
