"""Indices, axes and lengths that the operator does not allow, found when the model runs: an error, as in onnxruntime."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.errors import InputError, MlcError, OnnxImportError
from onnx import helper, parser
from onnx_nodes import feeds, node_model, run_mlc, run_ort

X = np.arange(12, dtype=np.float32).reshape(3, 4)
CACHE, SQUARE = np.ones((2, 4, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)


def ints(*values):
    return np.array(values, np.int64)


CASES = [
    ("Gather", [X, ints(0, 3)], {}, 18, "index 3; expected -3 to 2"),
    ("Gather", [X, np.array(-4, np.int32)], {}, 18, "index -4; expected -3 to 2"),
    ("GatherElements", [X, ints(0, 1, 5, 0).reshape(1, 4)], {}, 18, "index 5; expected -3 to 2"),
    ("GatherND", [X, ints(0, 3, 2, 4).reshape(2, 2)], {}, 18, "index 4; expected -4 to 3"),
    ("ScatterElements", [X, ints(0, 1, -4, 0).reshape(1, 4), X[:1]], {}, 18, "index -4; expected -3 to 2"),
    ("ScatterND", [X, ints(1, 3).reshape(2, 1), X[:2]], {}, 18, "index 3; expected -3 to 2"),
    ("CumSum", [X, np.array(2, np.int64)], {}, 14, "index 2; expected -2 to 1"),
    ("ReduceSum", [X, ints(4)], {}, 13, "index 4; expected -2 to 1"),
    ("Slice", [X, ints(0), ints(9), ints(4)], {}, 13, "index 4; expected -2 to 1"),
    ("Unsqueeze", [X, ints(5)], {}, 13, "index 5; expected -3 to 2"),
    ("ReverseSequence", [X, ints(4, 1, 1, 1)], {"batch_axis": 1, "time_axis": 0}, 10, "index 4; expected 0 to 3"),
    ("ReverseSequence", [X, ints(-1, 1, 1, 1)], {"batch_axis": 1, "time_axis": 0}, 10, "index -1; expected 0 to 3"),
    ("Pad", [X, ints(3, 0, 0, 0)], {"mode": "reflect"}, 18, "= 3 .*; expected -2147483647 to 2"),
    ("Expand", [X, ints(2, 4)], {}, 13, "differs"),
    ("TensorScatter", [CACHE, CACHE[:, :2], ints(3, 0)], {}, 24, "index 3; expected 0 to 2"),
    ("TensorScatter", [CACHE, CACHE[:, :2], ints(-1, 0)], {}, 24, "index -1; expected 0 to 2"),
    ("MaxUnpool", [SQUARE, ints(0, 3, 5, 99).reshape(1, 1, 2, 2)], {"kernel_shape": [2, 2], "strides": [2, 2]}, 11, "99; expected 0 to 15"),
    ("MaxUnpool", [SQUARE, ints(0, 3, 5, -1).reshape(1, 1, 2, 2)], {"kernel_shape": [2, 2], "strides": [2, 2]}, 11, "-1; expected 0 to 15"),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "opset", "says"), CASES, ids=[f"{i}_{c[0]}" for i, c in enumerate(CASES)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_refused(op, inputs, attributes, opset, says, symbolic):
    if symbolic and op in ("GatherND", "Pad", "Expand"):
        pytest.skip("a rank follows from the size")
    model = node_model(op, inputs, opset=opset, symbolic=symbolic, **attributes)
    given = feeds(model, inputs)
    with pytest.raises(Exception, match=r"(?s).") as refused:
        run_ort(model, given)
    assert "onnxruntime" in type(refused.value).__module__
    with pytest.raises(InputError, match=says) as error:
        run_mlc(model, given)
    assert op in error.value.loc or op in ("Pad", "Expand")


@pytest.mark.parametrize("optimize", [0, 3])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (0, 4)])
def test_what_is_allowed_stays(shape, optimize):
    """The least and greatest index that there are, and none at all."""
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    model = node_model("Gather", [x, ints(0, 0)], symbolic=True, opset=18)
    module = mlc.compile(model, threads=1, opt_level=optimize)
    index = ints(-shape[0], shape[0] - 1)[: 2 if shape[0] else 0]
    got = module.run({"x0": x, "x1": index})["y0"]
    np.testing.assert_array_equal(got, x[index])


def test_a_module_goes_on_after_a_refusal():
    model = node_model("Gather", [X, ints(1)], opset=18)
    module = mlc.compile(model, threads=1)
    for _ in range(3):
        with pytest.raises(InputError):
            module.run({"x0": X, "x1": ints(7)})
        np.testing.assert_array_equal(module.run({"x0": X, "x1": ints(2)})["y0"], X[[2]])


def test_a_saved_module_knows():
    module = mlc.load(mlc.compile(node_model("GatherND", [X, ints(0, 0).reshape(1, 2)], opset=18)).to_bytes(), threads=1)
    with pytest.raises(InputError, match="GatherND"):
        module.run({"x0": X, "x1": ints(0, -5).reshape(1, 2)})


BRANCH = """<ir_version: 9, opset_import: ["": 18]> g (float[3, 4] x, bool c) => (float[n] y) {
    y = If (c) <then_branch = a () => (float[n] t) { at = Constant<value_int = 3>() t = Gather(x, at) },
                else_branch = b () => (float[m] e) { i = Constant<value_int = -1>() e = Gather(x, i) }> }"""


def test_only_where_it_runs():
    """A constant out of range in a branch fails when that branch is taken."""
    module = mlc.compile(parser.parse_model(BRANCH), threads=1)
    np.testing.assert_array_equal(module.run({"x": X, "c": np.array(False)})["y"], X[-1])
    with pytest.raises(InputError, match="index 3"):
        module.run({"x": X, "c": np.array(True)})


LOOP = """<ir_version: 9, opset_import: ["": 18]> g (float[3, 4] x, int64 n) => (float[k, 4] y) {
    c = Constant<value = bool {1}>()
    y = Loop (n, c) <body = b (int64 i, bool go) => (bool on, float[4] row) { on = Identity(go) row = Gather(x, i) }> }"""


def test_loop_counters():
    module = mlc.compile(parser.parse_model(LOOP), threads=1)
    np.testing.assert_array_equal(module.run({"x": X, "n": np.array(3)})["y"], X)
    with pytest.raises(InputError, match="index 3; expected -3 to 2"):
        module.run({"x": X, "n": np.array(4)})


SIZES = """<ir_version: 9, opset_import: ["": 18]> g (float[s, 4] x) => (float[4] y) {
    sx = Shape<start = 0, end = 1>(x) one = Constant<value_ints = [1]>() last = Sub(sx, one) at = Squeeze(last) y = Gather(x, at) }"""


@pytest.mark.parametrize("text", [SIZES, SIZES.replace("y = Gather(x, at)", "i = Constant<value_int = 2>() y = Gather(x, i)")])
def test_sizes_as_indices(text):
    """x[s − 1], and a number: what only the sizes of a run decide."""
    proto = parser.parse_model(text)
    module = mlc.compile(proto, threads=1)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(module.run({"x": X})["y"], session.run(None, {"x": X})[0])
    with pytest.raises(InputError, match=r"Gather.*expected 0 to -1"):
        module.run({"x": np.zeros((0, 4), np.float32)})


def test_compress_by_more_than_there_is():
    condition = np.array([1, 0, 1, 1, 1], bool)
    model = node_model("Compress", [X, condition], opset=11, axis=0)
    given = feeds(model, [X, condition])
    np.testing.assert_array_equal(run_mlc(model, given)[0], run_ort(model, given)[0])


def test_known_indices_cost_nothing():
    """No comparison where the graph says that indices are in range."""
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[s, 4] x) => (float[s, 1] y) {
        at = ArgMax<axis = 1, keepdims = 1>(x) y = GatherElements<axis = 1>(x, at) }"""
    assert 9 not in _opcodes(mlc.compile(parser.parse_model(text), threads=1))
    assert 9 in _opcodes(mlc.compile(node_model("Gather", [X, ints(0)], opset=18), threads=1))


def _opcodes(module):
    from mlc.runtime.instructions import instruction_length

    words, pc, found = module.manifest.program, 0, []
    while pc < len(words):
        found.append(words[pc])
        pc += instruction_length(words, pc)
    return found


def test_embeddings_of_com_microsoft():
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    model = node_model("TorchEmbedding", [table, ints(0)], domain="com.microsoft", opset=18)
    with pytest.raises(InputError, match="index 5; expected -5 to 4"):
        run_mlc(model, {"x0": table, "x1": ints(5)})


@pytest.mark.parametrize("positions", [ints(0, 1, 8).reshape(1, 3), ints(-1, 1, 2).reshape(1, 3), ints(6)])
def test_positions_of_rotary_embedding(positions):
    angles = np.arange(16, dtype=np.float32).reshape(8, 2)
    inputs = [np.ones((1, 2, 3, 4), np.float32), positions, np.cos(angles), np.sin(angles)]
    model = node_model("RotaryEmbedding", inputs, domain="com.microsoft", opset=18)
    given = feeds(model, inputs)
    with pytest.raises(InputError, match="expected 0 to 7"):
        run_mlc(model, given)
    with pytest.raises(Exception, match=r"position|sequence"):
        run_ort(model, given)


SHAPES = [
    ("GatherElements", [X, np.zeros((9, 2), np.int64)], {"axis": 1}, "9"),
    ("GatherElements", [X, np.zeros((2, 5), np.int64)], {"axis": 0}, "5"),
    ("ScatterElements", [X, np.zeros((4, 2), np.int64), np.ones((4, 2), np.float32)], {"axis": 1}, "4"),
    ("ScatterElements", [X, np.zeros((3, 2), np.int64), np.ones((2, 2), np.float32)], {"axis": 1}, "2"),
    ("ScatterND", [X, np.zeros((3, 1), np.int64), np.ones((2, 4), np.float32)], {}, "2"),
    ("ScatterND", [X, np.zeros((3, 1), np.int64), np.ones((3, 2), np.float32)], {}, "2"),
    ("TensorScatter", [CACHE, CACHE[:1, :2], ints(0, 0)], {}, "1"),
    ("TensorScatter", [CACHE, CACHE[:, :2, :1], ints(0, 0)], {}, "1"),
    ("TensorScatter", [CACHE, CACHE[:, :2], ints(0, 0, 0)], {}, "3"),
    ("TensorScatter", [CACHE, np.ones((2, 6, 2), np.float32), ints(0, 0)], {}, "6"),
    ("MaxUnpool", [SQUARE, np.zeros((1, 1, 1, 4), np.int64)], {"kernel_shape": [2, 2], "strides": [2, 2]}, "1"),
    ("InstanceNormalization", [np.ones((1, 3, 4), np.float32), np.ones(3, np.float32), np.ones(1, np.float32)], {}, "1"),
    ("BatchNormalization", [np.ones((1, 3, 4), np.float32), *[np.ones(k, np.float32) for k in (3, 1, 3, 3)]], {}, "1"),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "size"), SHAPES, ids=[f"{i}_{c[0]}" for i, c in enumerate(SHAPES)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_indices_that_lie_outside_by_their_shape(op, inputs, attributes, size, symbolic):
    """Memory behind the tensors was read, and written."""
    opset = {"TensorScatter": 24, "MaxUnpool": 11}.get(op, 18)
    model = node_model(op, inputs, opset=opset, symbolic=symbolic, **attributes)
    given = feeds(model, inputs)
    with pytest.raises(Exception, match=r"(?s).") as refused:
        run_ort(model, given)
    assert "onnxruntime" in type(refused.value).__module__
    with pytest.raises(MlcError, match=rf"\b{size}\b") as error:
        run_mlc(model, given)
    assert isinstance(error.value, InputError if symbolic else OnnxImportError)


@pytest.mark.parametrize("mode", ["edge", "wrap"])
@pytest.mark.parametrize("pads", [[1, 0, 0, 0], [0, 0, 2, 0], [-3, 0, 1, 0]])
@pytest.mark.parametrize("symbolic", [False, True])
def test_pads_that_have_nothing_to_repeat(mode, pads, symbolic):
    """Memory behind the tensor was read."""
    cropped = 3 if mode == "wrap" and pads[0] < 0 else 0
    inputs = [np.ones((cropped, 2), np.float32), ints(*pads)]
    sizes = ["n", 2] if symbolic else [cropped, 2]
    model = node_model("Pad", inputs, opset=19, constants=[1], mode=mode)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, sizes if value.name == "x0" else [None, 2]))
    with pytest.raises(MlcError, match=r"at least 1|expected 1 to"):
        run_mlc(model, {"x0": inputs[0]})


@pytest.mark.parametrize("column", [-1, 3])
def test_columns_that_there_are_not(column):
    model = node_model("ArrayFeatureExtractor", [np.ones((2, 3), np.float32), ints(column)], opset=18, domain="ai.onnx.ml", symbolic=True)
    with pytest.raises(InputError, match=f"index {column}; expected 0 to 2"):
        run_mlc(model, {"x0": np.ones((2, 3), np.float32), "x1": ints(column)})


def test_shapes_of_indices_in_a_branch():
    """What sizes allow is asked where the branch runs, also of sizes that it computes from data."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (bool c, float[a,b] x, int64[d,e] i, float[h] v) => (float[m,n] y) { y = If(c) <
      then_branch = t () => (float[p,q] z) { k = NonZero(v) l = Transpose(k) r = GatherElements<axis = 1>(x, l)
                                             s = GatherElements<axis = 1>(x, i) z = Concat<axis = 0>(r, s) },
      else_branch = f () => (float[p,q] z) { z = Neg(x) }> }"""
    module = mlc.compile(parser.parse_model(text))
    i, v = np.zeros((2, 1), np.int64), np.array([1, 0, 1], np.float32)
    assert module(np.array(True), X, i, v).shape == (4, 1)
    assert module(np.array(False), X[:1], np.zeros((9, 1), np.int64), v).shape == (1, 4)
    for x, index, data in ((X[:1], i[:1], v), (X, np.zeros((9, 1), np.int64), v), (X, i, np.ones(4, np.float32))):
        with pytest.raises(InputError, match="expected 0 to"):
            module(np.array(True), x, index, data)


F, U8 = np.float32, np.uint8
CONTRADICTIONS = {
    "MatMulInteger": ("uint8[a,b] x, uint8[c,d] y", "MatMulInteger(x, y)", [np.ones((4, 6), U8), np.ones((1, 2), U8)]),
    "MatMulInteger, zero points": ("uint8[a,b] x, uint8[b,d] y, uint8[e] p, uint8[h] q", "MatMulInteger(x, y, p, q)",
                                   [np.ones((4, 2), U8), np.ones((2, 3), U8), np.ones(4, U8), np.ones(2, U8)]),
    "DequantizeLinear": ("uint8[a,b] x, float[c] s, uint8[d] p", "DequantizeLinear<axis = 1>(x, s, p)",
                         [np.ones((2, 3), U8), np.ones(3, F), np.ones(2, U8)]),
    "blocks": ("uint8[a,b] x, float[c,d] s", "DequantizeLinear<axis = 1, block_size = 2>(x, s)", [np.ones((2, 8), U8), np.ones((2, 3), F)]),
    "LayerNormalization": ("float[a,b] x, float[c] s", "LayerNormalization(x, s)", [X, np.ones(3, F)]),
    "RMSNormalization": ("float[a,b] x, float[c] s", "RMSNormalization(x, s)", [X, np.ones(3, F)]),
    "GridSample, no pixels": ("float[n,c,h,w] x, float[n,p,q,2] g", "GridSample(x, g)", [np.ones((1, 1, 0, 3), F), np.zeros((1, 2, 2, 2), F)]),
    "GridSample, batches": ("float[n,c,h,w] x, float[m,p,q,2] g", "GridSample(x, g)", [np.ones((1, 1, 3, 3), F), np.zeros((2, 2, 2, 2), F)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_sizes_that_contradict_each_other(name):
    """Kernels read behind the smaller tensor."""
    inputs, call, arrays = CONTRADICTIONS[name]
    dtype = "int32" if "Integer" in call else "float"
    rank = 4 if "Grid" in call else 2
    result = f"{dtype}[{','.join(f'o{i}' for i in range(rank))}] z"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> g ({inputs}) => ({result}) {{ z = {call} }}')
    module = mlc.compile(model, threads=1)
    with pytest.raises(InputError):
        module(*arrays)
