"""Models with attributes, constants and wires changed at random: mlc says what is wrong, or computes what onnxruntime does.

`python tests/fuzz/test_mutated_models.py FIRST COUNT` tries other seeds.
"""

import signal
import sys
from collections.abc import Iterator

import mlc
import numpy as np
import onnx
import pytest
from mlc import MlcError
from mlc.compiler.inputs import generate, specs_of_onnx
from mlc.compiler.oracle import Oracle, compare_outputs
from onnx import TensorProto, helper, numpy_helper

node, F = helper.make_node, TensorProto.FLOAT
IMAGE = ["n", 4, 9, 7]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


# shape of input x, nodes from x to y, constants
BASES = {
    "conv": (IMAGE, [node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1], dilations=[1, 1], group=2)], {"w": noise(6, 2, 3, 3), "b": noise(6)}),
    "transposed conv": (IMAGE, [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 0, 1, 0], output_padding=[1, 0], group=1)], {"w": noise(4, 3, 3, 2)}),
    "pools": (IMAGE, [node("MaxPool", ["x"], ["p"], kernel_shape=[3, 2], strides=[1, 1], pads=[1, 0, 1, 1], ceil_mode=0), node("AveragePool", ["p"], ["y"], kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1)], {}),
    "matmul": (["n", 3, 8], [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["s"]), node("Gelu", ["s"], ["y"], approximate="none")], {"w": noise(8, 5), "b": noise(5)}),
    "gemm": (["n", 8], [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transA=0, transB=1)], {"w": noise(5, 8), "b": noise(5)}),
    "slice": (IMAGE, [node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])], {"starts": ints(0, -1), "ends": ints(3, -9), "axes": ints(1, 2), "steps": ints(1, -2)}),
    "pad": (IMAGE, [node("Pad", ["x", "pads"], ["y"], mode="reflect")], {"pads": ints(0, 0, 1, 2, 0, 0, 2, 1)}),
    "resize": (IMAGE, [node("Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel")], {"scales": np.array([1, 1, 2, 1.5], np.float32)}),
    "reshape": (IMAGE, [node("Reshape", ["x", "shape"], ["r"], allowzero=0), node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("Flatten", ["t"], ["y"], axis=1)], {"shape": ints(0, -1, 9)}),
    "gather": (IMAGE, [node("Gather", ["x", "i"], ["g"], axis=1), node("Tile", ["g", "r"], ["t"]), node("Expand", ["t", "e"], ["y"])], {"i": ints(0, 3, -1), "r": ints(1, 1, 2, 1), "e": ints(1, 1, 1, 1)}),
    "reduce": (IMAGE, [node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), node("Sub", ["x", "m"], ["d"]), node("Softmax", ["d"], ["s"], axis=-1), node("ArgMax", ["s"], ["y"], axis=1, keepdims=0)], {"axes": ints(2, 3)}),
    "norms": (IMAGE, [node("InstanceNormalization", ["x", "g", "b"], ["i"], epsilon=1e-5), node("LayerNormalization", ["i", "s"], ["l"], axis=-1), node("LpNormalization", ["l"], ["y"], axis=1, p=2)], {"g": noise(4), "b": noise(4), "s": noise(7)}),
    "concat": (IMAGE, [node("Split", ["x", "parts"], ["p", "q"], axis=1), node("Concat", ["q", "p", "x"], ["c"], axis=1), node("DepthToSpace", ["c"], ["y"], blocksize=2)], {"parts": ints(1, 3)}),
    "lstm": (["t", 2, 4], [node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=3)], {"w": noise(1, 12, 4), "r": noise(1, 12, 3)}),
    "quantized": (["n", 8], [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]), node("MatMul", ["d", "w"], ["y"])], {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "w": noise(8, 5)}),
    "scan": (IMAGE, [node("CumSum", ["x", "axis"], ["c"], exclusive=0, reverse=1), node("TopK", ["c", "k"], ["v", "i"], axis=-1, largest=1), node("Clip", ["v", "lo", "hi"], ["y"])], {"axis": np.array(2, np.int64), "k": ints(3), "lo": np.array(-1, np.float32), "hi": np.array(1, np.float32)}),
    "scatter": (["n", 6], [node("ScatterElements", ["x", "i", "u"], ["s"], axis=1, reduction="add"), node("Trilu", ["s"], ["t"], upper=1), node("Where", ["c", "t", "s"], ["y"])], {"i": np.array([[0, -1, 2]]), "u": noise(1, 3), "c": np.array(False)}),
}  # fmt: skip


def build(name: str) -> onnx.ModelProto:
    shape, nodes, constants = BASES[name]
    kind = TensorProto.INT64 if nodes[-1].op_type == "ArgMax" else F
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", F, shape)], [value("y", kind, None)], [numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def number(rng: np.random.Generator) -> int:
    """Mostly small; now and then nothing that anyone would write."""
    return int(rng.choice([-(2**63), 2**31, 2**40, 2**62])) if rng.random() < 0.05 else int(rng.integers(-3, 10))


def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph = model.graph
    match rng.integers(5):
        case 0 | 1 if attributes := [a for n in graph.node for a in n.attribute]:
            a = attributes[rng.integers(len(attributes))]
            match a.type:
                case onnx.AttributeProto.INT:
                    a.i = number(rng)
                case onnx.AttributeProto.FLOAT:
                    a.f = float(rng.choice([0.0, 0.3, 2.0, np.nan]))
                case onnx.AttributeProto.INTS:
                    values = list(a.ints)
                    kind = rng.integers(4)
                    if kind == 0 or not values:
                        values.append(number(rng))
                    elif kind == 1:
                        del values[rng.integers(len(values))]
                    else:
                        values[rng.integers(len(values))] = number(rng)
                    del a.ints[:]
                    a.ints.extend(values)
                case onnx.AttributeProto.STRING:
                    a.s = rng.choice([b"", b"same", b"edge", b"wrap", b"nearest", b"cubic", b"\xff\xfe", b"tanh"])
        case 2 if graph.initializer:
            t = graph.initializer[rng.integers(len(graph.initializer))]
            a = numpy_helper.to_array(t).copy()
            match rng.integers(4):
                case 0:
                    a = a.reshape(-1)
                case 1:
                    a = a[..., :-1] if a.ndim else a.reshape(1)
                case 2:
                    a = a.astype(rng.choice(np.array([np.int64, np.float32, np.float64, np.int32, np.uint8, np.bool_, np.float16])))
                case _ if a.size:
                    with np.errstate(all="ignore"):
                        a.reshape(-1)[rng.integers(a.size)] = np.array(number(rng)).astype(a.dtype)
            t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(a), t.name))
        case 3:
            n = graph.node[rng.integers(len(graph.node))]
            names = ["x", "", "nowhere", *(t.name for t in graph.initializer), *(o for m in graph.node for o in m.output)]
            n.input[rng.integers(len(n.input))] = names[rng.integers(len(names))]
        case _:
            dims = graph.input[0].type.tensor_type.shape.dim
            d = dims[rng.integers(len(dims))]
            d.dim_value = int(rng.integers(0, 12))


def attempt(seed: int) -> str:
    """What became of one model: "refused", "agrees" or "unknown" (onnxruntime would not run it). Raises when mlc is wrong."""
    rng = np.random.default_rng(seed)
    name = list(BASES)[seed % len(BASES)]
    model = build(name)
    for _ in range(rng.integers(1, 3)):
        mutate(model, rng)
    try:
        module = mlc.compile(model.SerializeToString(), threads=1, opt_level=int(rng.choice([0, 3])))
        if any(np.prod([d for d in o.shape if isinstance(d, int)], dtype=float) > 1e7 for o in module.outputs):
            return "refused"
        specs = specs_of_onnx(model)
        feeds = generate(specs, {"x": [d if isinstance(d, int) else int(rng.integers(0, 4)) for d in specs[0].shape]})
        got = module.run(feeds)
    except MlcError:
        return "refused"
    if name in ("lstm", "reduce") and 0 in feeds["x"].shape:
        return "unknown"  # onnxruntime ends the process, or keeps a dim that it should not
    try:
        want = Oracle(model.SerializeToString(), threads=1).run(feeds)
    except MlcError:
        return "unknown"
    for d in compare_outputs(got, want):
        if not d.agrees and not ("scan" in name and d.dtype == "int64"):
            raise AssertionError(f"seed {seed}, {name}: {d.name}: {d.why}\n{onnx.printer.to_text(model.graph)[:1500]}")
    return "agrees"


def hurried(seeds: range, seconds: int = 20) -> Iterator[tuple[int, str]]:
    """Each seed's result; one that takes too long raises."""

    def late(*_: object) -> None:
        raise TimeoutError("still compiling")

    old = signal.signal(signal.SIGALRM, late)
    try:
        for seed in seeds:
            signal.alarm(seconds)
            yield seed, attempt(seed)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("first", [0, 60, 120])
def test_mutated_models(first: int) -> None:
    found = [result for _, result in hurried(range(first, first + 60))]
    assert {"refused", "agrees"} <= set(found)


if __name__ == "__main__":
    start, count = int(sys.argv[1]), int(sys.argv[2])
    tally: dict[str, int] = {}
    for s in range(start, start + count):
        try:
            ((_, outcome),) = hurried(range(s, s + 1))
        except Exception as e:
            outcome = "wrong"
            print(f"seed {s} ({list(BASES)[s % len(BASES)]}): {type(e).__name__}: {e}\n", flush=True)
        tally[outcome] = tally.get(outcome, 0) + 1
    print(tally)
