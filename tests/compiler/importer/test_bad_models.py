"""Each kind of broken model is one clear error, exit code 2, and no file left behind."""

from collections.abc import Callable
from pathlib import Path

import mlc
import numpy as np
import onnx
import pytest
from mlc import MlcError
from mlc.compiler.cli import main
from mlc.compiler.importer import build as build_module
from mlc.errors import OnnxImportError
from onnx import TensorProto, helper


def build(
    nodes: list[onnx.NodeProto], *, shape: tuple[int | str, ...] = ("n", 4), opset: int = 18, **constants: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def with_inputs(model: onnx.ModelProto, **shapes: tuple[int | str, ...]) -> onnx.ModelProto:
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    return model


def sparse() -> bytes:
    model = build([helper.make_node("Relu", ["x"], ["y"])])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 5])
    given = helper.make_sparse_tensor(helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2]), indices, [4, 4])
    given.indices.int64_data.append(7)
    model.graph.sparse_initializer.append(given)
    return model.SerializeToString()


def promised() -> bytes:
    model = build([helper.make_node("Relu", ["x"], ["y"])])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model.SerializeToString()


def external(folder: Path, location: str, **fields: str) -> bytes:
    model = build([helper.make_node("Add", ["x", "w"], ["y"])], w=np.ones(4, np.float32))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def convolution(operator: str, **attributes: object) -> Callable[[Path], bytes]:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    return lambda folder: build([node], shape=(1, 2, 4), w=np.ones((2, 2, 3), np.float32)).SerializeToString()


def cyclic(folder: Path) -> bytes:
    return build(
        [
            helper.make_node("Add", ["x", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
        ]
    ).SerializeToString()


def outside(folder: Path) -> bytes:
    (folder.parent / "secret.bin").write_bytes(b"\0" * 16)
    return external(folder, "../secret.bin")


def linked(folder: Path) -> bytes:
    (folder.parent / "secret.bin").write_bytes(b"\0" * 16)
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    return external(folder, "link.bin")


def short(folder: Path) -> bytes:
    (folder / "short.bin").write_bytes(b"\0" * 8)
    return external(folder, "short.bin")


def huge(folder: Path) -> bytes:
    model = build([helper.make_node("Add", ["x", "w"], ["y"])], w=np.ones((0, 4), np.float32))
    model.graph.initializer[0].dims[:] = [0, 2**62, 2**62]
    return model.SerializeToString()


def doubling() -> onnx.ModelProto:
    """40 functions, each of which calls the next twice."""
    model = build([helper.make_node("F0", ["x"], ["y"], domain="d")])
    own, base = helper.make_opsetid("d", 1), helper.make_opsetid("", 18)
    for i in range(40):
        calls = [helper.make_node(f"F{i + 1}", [a], [b], domain="d") for a, b in (("a", "t"), ("t", "b"))]
        model.functions.append(helper.make_function("d", f"F{i}", ["a"], ["b"], calls, [own]))
    model.functions.append(helper.make_function("d", "F40", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [base]))
    model.opset_import.append(own)
    return model


BROKEN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda f: b"", "empty"),
    "text": (lambda f: b"hello, this is not a model\n" * 20, "protobuf"),
    "truncated": (lambda f: build([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()[:-9], "truncated"),
    "undefined": (lambda f: build([helper.make_node("Add", ["x", "nowhere"], ["y"])]).SerializeToString(), "nowhere"),
    "no such operator": (lambda f: build([helper.make_node("Relux", ["x"], ["y"])]).SerializeToString(), "Relux"),
    "bad attribute": (lambda f: build([helper.make_node("Relu", ["x"], ["y"], alpha=1.0)]).SerializeToString(), "alpha"),
    "cyclic": (cyclic, "cycl"),
    "shapes": (
        lambda f: build([helper.make_node("Add", ["x", "w"], ["y"])], w=np.ones(3, np.float32)).SerializeToString(),
        "3",
    ),
    "no groups": (convolution("Conv", group=0), "0 groups"),
    "transposed, without groups": (convolution("ConvTranspose", group=-1), "-1 groups"),
    "weights of another kernel": (convolution("Conv", kernel_shape=[5]), "kernel_shape=[5]"),
    "a window of 0": (
        lambda f: build([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[0])], shape=(1, 2, 4)).SerializeToString(),
        "kernel [0]",
    ),
    "a negative window": (
        lambda f: build([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[-1])], shape=(1, 2, 4)).SerializeToString(),
        "kernel [-1]",
    ),
    "norms over no channels": (
        lambda f: build([helper.make_node("LRN", ["x"], ["y"], size=0)], shape=(1, 4, 2, 2)).SerializeToString(),
        "0 channels",
    ),
    "norms over endless channels": (
        lambda f: build([helper.make_node("LRN", ["x"], ["y"], size=2**50)], shape=(1, 4, 2, 2)).SerializeToString(),
        "1125899906842624 channels",
    ),
    "a stride of 0": (convolution("Conv", strides=[0]), "strides"),
    "a negative size": (convolution("Conv", pads=[-3, -3]), "negative"),
    "negative blocks": (
        lambda f: build([helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=-2)], shape=(1, 8, 4, 4)).SerializeToString(),
        "DepthToSpace",
    ),
    "a scale below 0": (
        lambda f: build([helper.make_node("Resize", ["x", "", "s"], ["y"])], s=np.array([1, -2], np.float32)).SerializeToString(),
        "scale",
    ),
    "a flag of 7": (lambda f: build([helper.make_node("ArgMax", ["x"], ["y"], keepdims=7)]).SerializeToString(), "keepdims=7"),
    "sparse data of another size": (lambda f: sparse(), "data size mismatch"),
    "names of any length": (
        lambda f: build([helper.make_node("Relu", ["x" * 5000], ["y"])]).SerializeToString(),
        "xxx",
    ),
    "any number of dimensions": (
        lambda f: build([helper.make_node("Relu", ["x"], ["y"])], shape=(1,) * 10_000).SerializeToString(),
        "unsupported",
    ),
    "too large": (lambda f: build([helper.make_node("Tile", ["x", "r"], ["y"])], r=np.array([1, 2**61])).SerializeToString(), "2^62"),
    "more than memory": (
        lambda f: build(
            [helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear")], shape=(1, 4), s=np.array([1, 2**45])
        ).SerializeToString(),
        "memory",
    ),
    "an axis beyond memory": (
        lambda f: build([helper.make_node("Resize", ["x", "", "s"], ["y"])], s=np.array([1, 1e30], np.float32)).SerializeToString(),
        "sizes below",
    ),
    "nothing, in too many dimensions": (huge, "product"),
    "an axis out of range": (lambda f: build([helper.make_node("Softmax", ["x"], ["y"], axis=2)]).SerializeToString(), "axis 2 of rank 2"),
    "axes out of range": (
        lambda f: build([helper.make_node("Squeeze", ["x", "a"], ["y"])], shape=(1, 4), a=np.array([-3])).SerializeToString(),
        "axis -3 of rank 2",
    ),
    "too many axes": (
        lambda f: build([helper.make_node("Reshape", ["x", "s"], ["y"])], s=np.ones(70, np.int64)).SerializeToString(),
        "70 dimensions",
    ),
    "data of a long name": (lambda f: external(f, "a" * 5000), "name too long"),
    "a promised type": (lambda f: promised(), "output 'y': is computed as f32"),
    "an axis twice": (
        lambda f: build(
            [helper.make_node("Slice", ["x", "s", "e", "a"], ["y"])], s=np.array([0, 1]), e=np.array([2, 4]), a=np.array([1, -1])
        ).SerializeToString(),
        "axis 1 twice",
    ),
    "a split into nothing": (
        lambda f: build([helper.make_node("Split", ["x"], ["y", "z"], num_outputs=0, axis=1)]).SerializeToString(),
        "num_outputs = 0",
    ),
    "an uneven split": (
        lambda f: build([helper.make_node("Split", ["x"], ["y", "z"], axis=1)], shape=(2, 7), opset=17).SerializeToString(),
        "Split of 7 into [3, 3]",
    ),
    "another hidden size than the weights'": (
        lambda f: build(
            [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2**60)],
            shape=(1, 1, 3),
            w=np.ones((1, 4, 3), np.float32),
            r=np.ones((1, 4, 1), np.float32),
        ).SerializeToString(),
        f"hidden_size = {2**60} with weights for 1",
    ),
    "a hidden size alone": (
        lambda f: with_inputs(
            build([helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2**60)], shape=(1, 1, 3)), w=(1, "a", 3), r=(1, "b", "c")
        ).SerializeToString(),
        "2^62",
    ),
    "types": (lambda f: build([helper.make_node("Add", ["x", "w"], ["y"])], w=np.ones(4, np.int64)).SerializeToString(), "x"),
    "missing data": (lambda f: external(f, "weights.bin"), "weights.bin"),
    "data outside": (outside, "secret.bin"),
    "data behind a link": (linked, "link.bin"),
    "absolute data": (lambda f: external(f, "/etc/hostname"), "/etc/hostname"),
    "short data": (short, "short.bin"),
    "bad offset": (lambda f: (f / "w.bin").write_bytes(b"\0" * 16) and external(f, "w.bin", offset="8"), "w.bin"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_model(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BROKEN[kind]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(make(folder))
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(SystemExit) as exit_info:
        main(["compile", str(folder / "m.onnx"), "-o", str(folder / "m.mlc")])
    text = capfd.readouterr().err
    assert exit_info.value.code == 2, text
    assert message.lower() in text.lower()
    assert "Traceback" not in text and "internal error" not in text and max(map(len, text.split("\n"))) < 1100
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.parametrize("opset", [11, 17])
def test_symbolic_sizes_that_do_not_split_evenly(opset: int) -> None:
    module = mlc.compile(build([helper.make_node("Split", ["x"], ["y", "z"], axis=0)], opset=opset))
    assert module(np.ones((6, 4), np.float32)).shape == (3, 4)
    with pytest.raises(MlcError, match="n = 7"):
        module(np.ones((7, 4), np.float32))


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", ".", "absent"])
def test_what_is_no_file(path: str) -> None:
    with pytest.raises(OnnxImportError, match="expected an ONNX file"):
        mlc.compile(path)


def test_large_files_that_are_no_models_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "m.onnx", "wb") as f:
        f.truncate(1 << 40)
    with pytest.raises(OnnxImportError, match="is not a protobuf"):
        mlc.compile(tmp_path / "m.onnx")


@pytest.mark.parametrize("what", [None, 5, ["m.onnx"]])
def test_what_is_no_model(what: object) -> None:
    with pytest.raises(MlcError, match=f"a {type(what).__name__}; expected a path"):
        mlc.compile(what)
    with pytest.raises(MlcError, match=f"a {type(what).__name__}; expected a path"):
        mlc.load(what)


def test_functions_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "_MAX_EXPANDED", 1000)
    with pytest.raises(MlcError, match="functions expand to more than 1000 nodes"):
        mlc.compile(doubling())


def test_long_attributes_are_checked():
    """Of lists of thousands the checker sees the first element: their types, and that an attribute has no second value."""
    ids = list(range(5000))
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in ("x", "y")]
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", nodes_treeids=ids)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "g", io[:1], io[1:]), opset_imports=opsets)
    model.graph.node[0].attribute[0].floats.append(1.0)
    with pytest.raises(MlcError, match="fails the ONNX checker"):
        mlc.compile(model)
    model.graph.node[0].attribute[0].ClearField("ints")
    with pytest.raises(MlcError, match="fails the ONNX checker"):
        mlc.compile(model)
