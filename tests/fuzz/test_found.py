"""Models that random search found wrong or refused, as small as they could be made: they give what onnxruntime gives."""

from __future__ import annotations

from typing import Any

import mlc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlc.errors import InputError
from onnx import NodeProto, helper, numpy_helper

Arrays = dict[str, np.ndarray]
node = helper.make_node


def model(nodes: list[NodeProto], feeds: Arrays, consts: Arrays, opset: int, dims: dict[str, list[Any]]) -> onnx.ModelProto:
    """`dims`: shapes to declare for inputs, where not those of the feeds."""
    ins = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), dims.get(k, list(a.shape))) for k, a in feeds.items()]
    outs = [onnx.ValueInfoProto(name=o) for o in nodes[-1].output if o]
    bare = helper.make_graph(nodes, "g", ins, outs, [numpy_helper.from_array(a, k) for k, a in consts.items()])
    return helper.make_model(bare, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def onnxruntime_runs(m: onnx.ModelProto, feeds: Arrays) -> Arrays:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def agree(nodes: list[NodeProto], feeds: Arrays, consts: Arrays | None = None, opset: int = 18, **dims: list[Any]) -> None:
    """Optimized and not; with dims as declared."""
    wanted = onnxruntime_runs(model(nodes, feeds, consts or {}, opset, {}), feeds)
    m = model(nodes, feeds, consts or {}, opset, dims)
    for o in m.graph.output:  # the type is part of what has to be declared
        array = np.asarray(wanted[o.name])
        o.CopyFrom(helper.make_tensor_value_info(o.name, helper.np_dtype_to_tensor_dtype(array.dtype), None))
    for level in (0, 3):
        found = mlc.compile(m, threads=1, opt_level=level).run(feeds)
        for name, array in wanted.items():
            assert found[name].shape == array.shape and found[name].dtype == array.dtype
            if array.dtype.kind == "f":
                np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=f"-O{level}")
            else:
                np.testing.assert_array_equal(found[name], array, err_msg=f"-O{level}")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rows", [(5,), (3, 5), (2, 3, 5)])
def test_product_without_columns(rows: tuple[int, ...]) -> None:
    """B, computed at run time, is packed: no panel of no columns."""
    x, w = noise(*rows), noise(5, 0)
    m = model([node("MatMul", ["x", "w"], ["y"])], {"x": x, "w": w}, {}, 18, {})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    module = mlc.compile(m, threads=1)
    assert module.run({"x": x, "w": w})["y"].shape == (*rows[:-1], 0)


def test_empty_operand_of_a_concat_names_the_size() -> None:
    """A size of another operand may not replace that of the empty one, which is known."""
    agree([node("Concat", ["e", "x", "x"], ["y"], axis=1)], {"x": noise(1, 1)}, {"e": noise(1, 0)}, x=["s", "s"])


@pytest.mark.parametrize("given", ["x", "w", "r", "xwr"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_sizes_from_any_operand(op: str, given: str) -> None:
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 5
    arrays = {"x": noise(4, 2, 3), "w": noise(1, gates * hidden, 3) / 2, "r": noise(1, gates * hidden, hidden) / 2}
    dims = {k: [f"{k}{i}" for i in range(3)] for k in given}
    feeds = {k: a for k, a in arrays.items() if k in given}
    consts = {k: a for k, a in arrays.items() if k not in given}
    agree([node(op, ["x", "w", "r"], ["y", "h"], hidden_size=hidden)], feeds, consts, **dims)


@pytest.mark.parametrize("reduction", ["add", "mul"])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_scattered_truth(op: str, reduction: str) -> None:
    x, at = np.array([True, False, True, False]), np.array([0, 1, 1, 2, 3])
    updates = np.array([True, True, True, False, False])
    agree([node(op, ["x", "i", "u"], ["y"], reduction=reduction)], {"x": x, "u": updates}, {"i": at[:, None] if op == "ScatterND" else at})


@pytest.mark.parametrize("pads", [[2, -1], [-1, 2], [-2, 0], [-3, -1]])
@pytest.mark.parametrize("mode", ["wrap", "edge", "reflect", "constant"])
def test_pads_that_crop(mode: str, pads: list[int]) -> None:
    """What is cropped is gone before the rest is repeated."""
    agree([node("Pad", ["x", "p"], ["y"], mode=mode)], {"x": noise(7)}, {"p": np.array(pads)}, opset=20)


def test_deprecated_but_known() -> None:
    """The checker has no GroupNormalization of opset 18 to 20 any more, onnxruntime has."""
    consts = {"s": noise(2), "b": noise(2)}
    agree([node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], {"x": noise(2, 6, 3)}, consts, opset=18)


def test_scalar_bias_of_a_dealt_product() -> None:
    """A scalar sum has no last axis to compare with that of a bias."""
    agree([node("ReduceSum", ["x"], ["s"], keepdims=0), node("Add", ["s", "c"], ["y"])], {"x": noise(3)}, {"c": np.float32(2) + noise()})


def test_window_of_no_rows() -> None:
    """A pool as deep as what it reads leaves rows of no size."""
    pool = node("LpPool", ["x"], ["y"], dilations=[2, 1], kernel_shape=[2, 1], strides=[1, 3])
    agree([pool], {"x": noise(2, 4, 2, 17)}, opset=18)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap", "constant"])
def test_pad_beside_an_axis_of_none(mode: str) -> None:
    if mode == "constant":
        agree([node("Pad", ["x", "p"], ["y"], mode=mode)], {"x": noise(3, 0, 4)}, {"p": np.array([1, 0, 2, 0, 0, 0])}, opset=20)
        return
    m = model([node("Pad", ["x", "p"], ["y"], mode=mode)], {"x": noise(3, 0, 4)}, {"p": np.array([1, 0, 2, 0, 0, 0])}, 20, {})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    assert mlc.compile(m, threads=1).run({"x": noise(3, 0, 4)})["y"].shape == (4, 0, 6)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_regions(mode: str) -> None:
    """Nothing says how many points a cell has."""
    op = node("RoiAlign", ["x", "r", "i"], ["y"], mode=mode, output_height=2, output_width=3)
    agree([op], {"x": noise(1, 2, 5, 5), "r": noise(0, 4)}, {"i": np.zeros(0, np.int64)})


def test_rows_of_no_iterations() -> None:
    """Sizes that inputs give are those of rows that were never made; what only an iteration would say is 0."""
    value = helper.make_tensor_value_info
    nodes = [
        node("Identity", ["go"], ["on"]), node("Add", ["s", "w"], ["t"]), node("Tanh", ["t"], ["next"]),
        node("Cast", ["i"], ["f"], to=1), node("Add", ["f", "next"], ["row"]),
    ]  # fmt: skip
    results = [value("on", 9, []), value("next", 1, None), value("row", 1, None)]
    body = helper.make_graph(nodes, "body", [value("i", 7, []), value("go", 9, []), value("s", 1, None)], results)
    loop = node("Loop", ["m", "", "x"], ["y", "rows"], body=body)
    feeds = {"x": noise(5, 1, 2), "w": noise(5, 1, 1), "m": np.array(2)}
    dims = {"x": ["a", "b", "c"], "w": ["a", "d", "e"]}
    agree([loop], feeds, **dims)
    m = model([loop], feeds, {}, 18, dims)
    for o in m.graph.output:
        o.CopyFrom(value(o.name, 1, None))
    found = mlc.compile(m, threads=1).run({**feeds, "m": np.array(0)})
    assert found["y"].shape == (5, 1, 2) and found["rows"].shape == (0, 5, 0, 0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_reflections_of_one_element(mode: str) -> None:
    """Its middle is both borders: nothing lies between them to divide by."""
    grid = np.linspace(-1.4, 1.4, 18, dtype=np.float32).reshape(1, 3, 3, 2)
    op = node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode="reflection", align_corners=1)
    agree([op], {"x": noise(1, 2, 1, 6), "g": grid})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8-dynamic", "int4"])
def test_weights_of_few_bits_beside_quantized_values(precision: str) -> None:
    """A product of weights of few bits has four operands, and is none of dequantized values."""
    rng = np.random.default_rng(0)
    x, consts = noise(3, 32), {"w": rng.integers(0, 256, (8, 2, 8)).astype(np.uint8), "s": np.full((8, 2), 0.02, np.float32)}
    consts |= {"step": np.float32(0.05) + noise() * 0, "v": noise(8, 4), "from": np.array(3, np.uint8)}
    nodes = [
        node("MatMulNBits", ["x", "w", "s"], ["p"], domain="com.microsoft", K=32, N=8, bits=4, block_size=16),
        node("QuantizeLinear", ["p", "step", "from"], ["q"]), node("DequantizeLinear", ["q", "step", "from"], ["d"]),
        node("MatMul", ["d", "v"], ["y"]),
    ]  # fmt: skip
    m = model(nodes, {"x": x}, consts, 21, {})
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    wanted = onnxruntime_runs(m, {"x": x})["y"]
    found = mlc.compile(m, threads=1, precision=mlc.Precision(precision, keep_slower=True)).run({"x": x})["y"]
    limit = 0.2 if precision == "int4" else 0.05
    assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted)


@pytest.mark.parametrize(("k", "n"), [(5, 0), (0, 4), (0, 0)])
def test_empty_constants_of_several_products(k: int, n: int) -> None:
    """How many matrices there are does not follow from elements where there are none."""
    m = model([node("MatMul", ["x", "w"], ["y"])], {"x": noise(3, 2, k)}, {"w": noise(3, k, n)}, 18, {})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    for level in (0, 3):
        found = mlc.compile(m, threads=1, opt_level=level).run({"x": noise(3, 2, k)})["y"]
        np.testing.assert_array_equal(found, np.zeros((3, 2, n), np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_running_sums_of_nothing(axis: int, kind: type) -> None:
    op = node("CumSum", ["x", "a"], ["y"], exclusive=1, reverse=1)
    agree([op], {"x": np.zeros((3, 5, 0), kind)}, {"a": np.array(axis)}, opset=20)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_blocks_keep_nan_to_themselves(strides: tuple[int, int], dilations: tuple[int, int], known: bool) -> None:
    pads, block, image = [1, 0, 2, 1], (3, 2), (7, 8)
    counts = [(n + pads[i] + pads[2 + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i, n in enumerate(image)]
    x = noise(2, 6 * 2, int(np.prod(counts)))
    x[1, 7, 5], x[0, 0, 3] = np.nan, np.inf
    op = node("Col2Im", ["x", "size", "block"], ["y"], strides=strides, dilations=dilations, pads=pads)
    sizes = {"size": np.array(image), "block": np.array(block)}
    agree([op], {"x": x} if known else {"x": x, **sizes}, sizes if known else {}, x=["n", "c", "l"])


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_last_state_of_no_steps(op: str, direction: str) -> None:
    """It is 0 in onnxruntime, and not the initial state; ONNX does not say."""
    gates, sides = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 1 + (direction == "bidirectional")
    x, w, r = noise(4, 3, 2), noise(sides, gates * 5, 2), noise(sides, gates * 5, 5)
    feeds = {"x": x, "h": noise(sides, 3, 5), "lens": np.array([4, 0, 2], np.int32)} | ({"c": noise(sides, 3, 5)} if op == "LSTM" else {})
    last = ["y", "yh"] + ["yc"] * (op == "LSTM")
    ins = ["x", "w", "r", "", "lens", "h"] + ["c"] * (op == "LSTM")
    agree([node(op, ins, last, hidden_size=5, direction=direction)], feeds, {"w": w, "r": r})


CASES = (("ScatterND", 0, (2, 1)), ("ScatterND", 0, (2, 2)), ("GatherND", 0, (2, 2)), ("GatherND", 1, (4, 2)), ("GatherND", 2, (4, 3, 1)))


@pytest.mark.parametrize(("op", "batch", "sizes"), CASES)
def test_length_of_index_tuples_follows_from_ranks(op: str, batch: int, sizes: tuple[int, ...]) -> None:
    x, at = noise(4, 3, 5), np.arange(np.prod(sizes)).reshape(sizes) % 3
    feeds = {"x": x, "i": at} | ({"u": noise(*sizes[:-1], *x.shape[sizes[-1] :])} if op == "ScatterND" else {})
    m = model([node(op, list(feeds), ["y"], **({"batch_dims": batch} if batch else {}))], feeds, {}, 18, {})
    wanted = onnxruntime_runs(m, feeds)["y"]
    m = model(list(m.graph.node), feeds, {}, 18, {k: [f"{k}{i}" for i in range(a.ndim)] for k, a in feeds.items()})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [f"y{i}" for i in range(wanted.ndim)]))
    np.testing.assert_array_equal(mlc.compile(m, threads=1).run(feeds)["y"], wanted)


@pytest.mark.parametrize("axes", [[0, 2], [1]])
@pytest.mark.parametrize("op", ["Slice", "Pad", "Tile"])
def test_length_of_sizes_follows_from_another_operand(op: str, axes: list[int]) -> None:
    """Of Slice from axes that are known; of Pad and Tile from the rank."""
    x = noise(4, 3, 5)
    feeds = {
        "Slice": {"x": x, "from": np.full(len(axes), 1), "to": np.full(len(axes), 3)},
        "Pad": {"x": x, "pads": np.array([1, 0, 2, 0, 1, 0])},
        "Tile": {"x": x, "repeats": np.array([2, 1, 2])},
    }[op]
    consts = {"axes": np.array(axes)} if op == "Slice" else {}
    agree([node(op, [*feeds, *consts], ["y"])], feeds, consts, **{k: [f"{k}{i}" for i in range(a.ndim)] for k, a in feeds.items()})


@pytest.mark.parametrize("shape", [(7,), (5, 6)])
def test_scales_of_blocks(shape: tuple[int, ...]) -> None:
    """A vector's scales are a vector too, and are not one for each element."""
    scale, zero = np.linspace(0.1, 0.3, 4, dtype=np.float32), np.arange(4, dtype=np.uint8)
    if len(shape) > 1:
        scale, zero = (np.stack([v[:3]] * shape[0]) for v in (scale, zero))
    nodes = [
        node(op, [x, "s", "z"], [y], axis=-1, block_size=2) for op, x, y in (("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "y"))
    ]
    agree(nodes, {"x": noise(*shape)}, {"s": scale, "z": zero}, 21)
    agree(nodes, {"x": noise(*shape)}, {"s": scale, "z": zero}, 21, x=[f"n{i}" for i in range(len(shape))])


def test_steps_of_a_range_are_a_size() -> None:
    """As PyTorch exports EmbeddingBag: where each row begins."""
    nodes = [node("Shape", ["x"], ["n"], start=0, end=1), node("Shape", ["x"], ["t"], start=1), node("Mul", ["n", "t"], ["end"])]
    nodes += [node("Squeeze", [v], [v + "0"]) for v in ("t", "end")]
    nodes += [node("Range", ["zero", "end0", "t0"], ["starts"]), node("Unsqueeze", ["starts", "axis"], ["column"])]
    nodes += [node("Cast", ["column"], ["f"], to=1), node("Add", ["x", "f"], ["y"])]
    agree(nodes, {"x": noise(3, 4)}, {"zero": np.array(0), "axis": np.array([1])}, x=["n", "t"])
    nodes[-3:] = [node("Neg", ["t0"], ["back"]), node("Range", ["end0", "zero", "back"], ["y"])]
    agree(nodes, {"x": noise(3, 4)}, {"zero": np.array(0)}, x=["n", "t"])


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_weights_say_how_many_channels(op: str, groups: int) -> None:
    """Inputs of open sizes: code knows the number, and another one is refused, not read past the end of."""
    x, w = noise(2, 8, 9), noise(8, 8 // groups if op == "Conv" else 1, 3)
    m = model([node(op, ["x", "w"], ["y"], group=groups)], {"x": x}, {"w": w}, 18, {"x": ["n", "c", "s"]})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    module = mlc.compile(m, threads=1)
    np.testing.assert_allclose(module(x), onnxruntime_runs(m, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    for channels in (5, 16):
        with pytest.raises(InputError, match=f"c = {channels}"):
            module(noise(2, channels, 9))


def test_a_truth_that_decides_about_itself() -> None:
    """It is loaded once, as a condition and as a value: onnxruntime has no Where of truths."""
    feeds = {"a": np.array([True, False, False]), "b": np.array([True, False, True])}
    m = model([node("Where", ["a", "a", "b"], ["y"])], feeds, {}, 18, {})
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 9, None))
    for level in (0, 3):
        np.testing.assert_array_equal(mlc.compile(m, threads=1, opt_level=level).run(feeds)["y"], feeds["a"] | feeds["b"])


def test_the_greatest_of_fewer_than_asked_for() -> None:
    """An axis of open size has to be as long as k, or what lies behind it would be sorted, too."""
    m = model([node("TopK", ["x", "k"], ["y", "i"], axis=0)], {"x": noise(4, 3)}, {"k": np.array([2])}, 18, {"x": ["n", 3]})
    for o, kind in zip(m.graph.output, (1, 7), strict=True):
        o.CopyFrom(helper.make_tensor_value_info(o.name, kind, None))
    module = mlc.compile(m, threads=1)
    np.testing.assert_array_equal(module.run({"x": noise(4, 3)})["y"], onnxruntime_runs(m, {"x": noise(4, 3)})["y"])
    assert module.run({"x": noise(2, 3)})["i"].shape == (2, 3)
    for rows in (0, 1):
        with pytest.raises(InputError, match=f"{rows}"):
            module.run({"x": noise(rows, 3)})


@pytest.mark.parametrize("given", [True, False])
def test_one_element_by_all_of_its_indices(given: bool) -> None:
    """Has no axes, when it is found while compiling, too."""
    x, index = {"x": noise(7)}, {"i": np.array([5])}
    agree([node("GatherND", ["x", "i"], ["y"])], x if given else {}, index if given else x | index)
