"""Bad models give one OnnxImportError that says what was found."""

from __future__ import annotations

import os
import re

import mlc
import numpy as np
import onnx
import onnxruntime
import pytest
from mlc.compiler.importer import import_model
from mlc.errors import InputError, MlcError, OnnxImportError
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

F = TensorProto.FLOAT


def model(nodes, inputs=(("x", [2, 3]),), outputs=("y",), initializers=(), opset=17, domains=(), **kw):
    infos = [helper.make_tensor_value_info(n, F, s) for n, s in inputs]
    outs = [helper.make_tensor_value_info(n, F, None) for n in outputs]
    graph = helper.make_graph(nodes, "g", infos, outs, list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **kw)


def message(bad, **kw):
    with pytest.raises(OnnxImportError) as e:
        import_model(bad, **kw)
    return str(e.value)


def test_missing_file(tmp_path):
    assert "cannot be read" in message(tmp_path / "none.onnx")


def test_directory(tmp_path):
    assert "cannot be read" in message(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a protobuf at all", b"\x00" * 100])
def test_not_a_protobuf(data):
    assert "the model" in message(data)


def test_truncated():
    whole = model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[numpy_helper.from_array(np.ones(3, np.float32), "w")])
    data = whole.SerializeToString()
    for cut in range(1, len(data) - 1, 7):
        with pytest.raises(MlcError):
            import_model(data[:cut])


def test_checker():
    assert "ONNX checker" in message(model([helper.make_node("Relu", ["x", "x"], ["y"])]))


def test_nodes_in_any_order():
    """As onnxruntime takes them, and as its converters to float16 leave them; the caller's model stays as it was."""
    then = helper.make_graph([helper.make_node("Relu", ["b"], ["t"])], "then", [], [helper.make_tensor_value_info("t", F, None)])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["o"])], "else", [], [helper.make_tensor_value_info("o", F, None)])
    nodes = [
        helper.make_node("Neg", ["r"], ["y"]),
        helper.make_node("If", ["c"], ["r"], then_branch=then, else_branch=other),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Relu", ["x"], ["a"]),
    ]
    x = np.array([[-1.0, 0.5, 2.0], [0.0, -3.0, 1.0]], np.float32)
    for choice, want in ((True, -np.exp(np.maximum(x, 0))), (False, np.maximum(x, 0))):
        given = model(nodes, initializers=[numpy_helper.from_array(np.array(choice), "c")])
        before = given.SerializeToString()
        assert onnxruntime.InferenceSession(before).run(None, {"x": x})[0] == pytest.approx(want)
        assert import_model(given).evaluate(x)[0] == pytest.approx(want, rel=1e-6)
        assert given.SerializeToString() == before


def test_cyclic():
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"], name="third"),
    ]
    assert "cyclic: first -> second -> first" in message(model(nodes)) or "second -> first -> second" in message(model(nodes))


def test_cyclic_through_a_subgraph():
    then = helper.make_graph([helper.make_node("Relu", ["b"], ["t"])], "then", [], [helper.make_tensor_value_info("t", F, None)])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "else", [], [helper.make_tensor_value_info("o", F, None)])
    nodes = [
        helper.make_node("If", ["c"], ["a"], then_branch=then, else_branch=other, name="choice"),
        helper.make_node("Relu", ["a"], ["b"], name="after"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    condition = numpy_helper.from_array(np.array(True), "c")
    assert "cyclic" in message(model(nodes, initializers=[condition]))


@pytest.mark.parametrize("opset", [0, 1000])
def test_opset_out_of_range(opset):
    text = message(model([helper.make_node("Relu", ["x"], ["y"])], opset=opset))
    assert f"opset {opset}" in text and "1 to" in text and "version_converter" in text


def test_opset_newer_than_the_onnx_package(monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 16)
    text = message(model([helper.make_node("Relu", ["x"], ["y"])], opset=17))
    assert "opset 17; expected 1 to 16. Upgrade the onnx package" in text


def test_all_unsupported_operators_are_listed():
    nodes = [
        helper.make_node("NoSuchOp", ["x"], ["a"], name="node_a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Exotic", ["b", "x"], ["c"], domain="acme", name="node_b"),
        helper.make_node("StringNormalizer", ["x"], ["u"]),
        helper.make_node("Add", ["c", "x"], ["y"]),
    ]
    text = message(model(nodes, domains=["acme"]))
    assert "3 unsupported operators" in text
    assert "node_a: NoSuchOp (ai.onnx 17) of f32[2, 3]" in text
    assert "node_b: Exotic (acme 1) of ?, f32[2, 3]" in text
    assert "StringNormalizer:u: StringNormalizer" in text
    assert "Relu" not in text and "Add" not in text


def test_unsupported_inside_a_branch_is_listed():
    then = helper.make_graph(
        [helper.make_node("NoSuchOp", ["x"], ["t"], name="inner")], "then", [], [helper.make_tensor_value_info("t", F, None)]
    )
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], "else", [], [helper.make_tensor_value_info("o", F, None)])
    nodes = [
        helper.make_node("Cast", ["x0"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    assert "inner: NoSuchOp" in message(model(nodes, inputs=[("x", [2]), ("x0", [])]))


def test_shape_computed_from_data():
    nodes = [helper.make_node("Cast", ["x"], ["s"], to=TensorProto.INT64), helper.make_node("Reshape", ["x", "s"], ["y"])]
    text = message(model(nodes, inputs=[("x", ["N"])]))
    assert "the rank of Reshape is computed from data at run time" in text


def test_operands_that_do_not_fit_name_the_node():
    text = message(model([helper.make_node("Add", ["x", "z"], ["y"], name="sum")], inputs=[("x", [2]), ("z", [3])]))
    assert text.startswith("sum:") and "2 and 3" in text


def test_attribute_of_nonsense():
    text = message(model([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 7], name="t")]))
    assert text.startswith("t:")


def test_initializer_of_the_wrong_size():
    w = TensorProto(name="w", data_type=F, dims=[4], raw_data=b"\0" * 12)
    assert "data of 12 bytes" in message(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[w]))


def test_shapes_are_checked():
    ok = model([helper.make_node("Relu", ["x"], ["y"])], inputs=[("x", ["n", "n", 3])])
    assert "no input is called 'z'; expected one of x" in message(ok, shapes={"z": (1,)})
    assert "2 dims" in message(ok, shapes={"x": (1, 2)})
    assert "dimension 3 is given as 4" in message(ok, shapes={"x": (1, 1, 4)})
    square = model([helper.make_node("MatMul", ["x", "x"], ["y"])], inputs=[("x", ["n", "n"])])
    assert "inner dimensions 2 and 1" in message(square, shapes={"x": (1, 2)})


def test_sequence_where_a_tensor_is_needed():
    m = model([helper.make_node("SequenceAt", ["x", "i"], ["y"])], inputs=[("x", [3]), ("i", [1])])
    assert "SequenceAt of f32[3], which is no sequence" in message(m)


def test_more_sizes_than_any_node_has():
    m = model([helper.make_node("Split", ["x", "s"], ["y", "z"])], [("x", [4])])
    m.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [1 << 62]))
    assert f"{1 << 62} numbers" in message(m)


def test_outputs_without_a_type_are_taken():
    """Who wants to see an intermediate value appends its name to the outputs, which is enough for onnxruntime."""
    m = model([helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Neg", ["x"], ["y"])])
    m.graph.output.append(onnx.ValueInfoProto(name="s"))
    graph = import_model(m)
    assert graph.output_names == ("y", "s") and [str(v.type) for v in graph.outputs] == ["f32[2, 3]", "i64[2]"]


# --- external data ----------------------------------------------------------------------------------------------------


def external(folder, location, *, size=12, offset=None, length=None):
    """A model whose weight lies in `location`; saved without checks."""
    w = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
    set_external_data(w, location, offset, length)
    w.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[w]).SerializeToString())
    return path


def test_external_data_is_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"junk" + np.arange(3, dtype=np.float32).tobytes())
    graph = import_model(external(tmp_path, "sub/w.bin", offset=4, length=12))
    (got,) = graph.evaluate(np.zeros((2, 3), np.float32))
    assert got.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "/etc/passwd", "", "C:\\w.bin", "..\\w.bin"])
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    assert "leaves the model's folder" in message(external(folder, location))


def test_external_data_through_a_link(tmp_path):
    folder = tmp_path / "m"
    (tmp_path / "out").mkdir()
    folder.mkdir()
    (tmp_path / "out" / "w.bin").write_bytes(bytes(12))
    (folder / "w.bin").symlink_to(tmp_path / "out" / "w.bin")
    assert "symbolic link" in message(external(folder, "w.bin"))
    (folder / "dir").symlink_to(tmp_path / "out")
    assert "symbolic link" in message(external(folder, "dir/w.bin"))
    os.link(tmp_path / "out" / "w.bin", folder / "hard.bin")
    assert "hard link" in message(external(folder, "hard.bin"))


def test_external_data_missing_or_not_a_file(tmp_path):
    assert "cannot be opened" in message(external(tmp_path, "none.bin"))
    os.mkfifo(tmp_path / "pipe")
    assert "not a plain file" in message(external(tmp_path, "pipe"))
    (tmp_path / "dir").mkdir()
    assert "not a plain file" in message(external(tmp_path, "dir"))


def test_external_data_in_names_too_long(tmp_path):
    assert "cannot be opened" in message(external(tmp_path, "a/" * 3000 + "b"))
    assert "cannot be opened" in message(external(tmp_path, "a" * 5000))


def test_external_strings(tmp_path):
    path = external(tmp_path, "w.bin")
    m = onnx.load(path, load_external_data=False)
    m.graph.initializer[0].data_type = TensorProto.STRING
    (tmp_path / "w.bin").write_bytes(bytes(24))
    path.write_bytes(m.SerializeToString())
    assert "strings as external data" in message(path)


@pytest.mark.parametrize("rank", [65, 2000])
def test_tensors_of_too_many_dimensions(rank):
    w = TensorProto(name="w", data_type=F, dims=[1] * rank, float_data=[1])
    assert f"{rank} dimensions; expected at most 64" in message(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[w]))


@pytest.mark.parametrize(
    ("dims", "text"), [([1] * 70, "70 dimensions"), ([1 << 31], "at most"), ([1 << 50], "at most"), ([1 << 61], "memory could hold")]
)
def test_sparse_tensors_too_large_when_dense(dims, text):
    sparse = onnx.SparseTensorProto(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    m = model([helper.make_node("Add", ["x", "w"], ["y"])])
    m.graph.sparse_initializer.append(sparse)
    assert text in message(m)
    constant = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    assert text in message(model([constant, helper.make_node("Add", ["x", "w"], ["y"])]))


@pytest.mark.parametrize("offset,length", [(4, 12), (0, 16), (None, 13), (1 << 62, 12), (-4, 12)])
def test_external_data_beyond_the_file(tmp_path, offset, length):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    message(external(tmp_path, "w.bin", offset=offset, length=length))


def test_external_data_needs_a_path(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    path = external(tmp_path, "w.bin")
    assert "Pass the model's path" in message(path.read_bytes())
    assert "Pass the model's path" in message(onnx.load(path, load_external_data=False))


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_damaged_models_raise_nothing_but_our_errors():
    """Bytes of a model with a loop and a branch, changed, dropped and inserted at random."""
    result = helper.make_tensor_value_info("t", F, None)
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "then", [], [result])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "else", [], [result])
    nodes = [
        helper.make_node("Cast", ["x0"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["a"], then_branch=then, else_branch=other),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["z"], kernel_shape=[3], strides=[2]),
        helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]
    weights = [
        numpy_helper.from_array(np.ones((4, 2, 3), np.float32), "w"),
        numpy_helper.from_array(np.array([1, 2, -1]), "s"),
    ]
    data = model(nodes, inputs=[("x", ["n", 4]), ("x0", [])], initializers=weights).SerializeToString()
    rng = np.random.default_rng(11)
    accepted = 0
    for _ in range(4000):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(damaged)))
            match rng.integers(3):
                case 0:
                    damaged[at] = rng.integers(256)
                case 1:
                    del damaged[at : at + int(rng.integers(1, 8))]
                case _:
                    damaged[at:at] = rng.integers(0, 256, rng.integers(1, 6), dtype=np.uint8).tobytes()
        try:
            import_model(bytes(damaged))
            accepted += 1
        except MlcError:
            pass
    assert 0 < accepted < 4000


def test_a_module_is_no_model(tmp_path):
    assert "mlc.load" in message(mlc.compile(model([helper.make_node("Relu", ["x"], ["y"])])).to_bytes())
    (tmp_path / "m.onnx").write_bytes(model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString())
    with pytest.raises(MlcError, match="mlc compile"):
        mlc.load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "head, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "a zip archive.*torch.onnx.export"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle"),
        (b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TensorFlow Lite"),
        (b"GGUF\x03\0\0\0", "a GGUF"),
        ((200).to_bytes(8, "little") + b'{"w":{"dtype":"F32"', "a safetensors"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_other_files_are_told(head, words, tmp_path):
    (tmp_path / "model.onnx").write_bytes(head)
    assert re.search(f"model.onnx: is {words}", message(tmp_path / "model.onnx"))


def test_an_operator_of_a_later_version():
    text = message(model([helper.make_node("Gelu", ["x"], ["y"])]))
    assert "Gelu (ai.onnx 17) of f32[2, 3]: there from version 20 on" in text


def test_what_the_checker_says_is_a_sentence():
    text = message(model([helper.make_node("Softmax", ["x"], ["y"], axis="a")]))
    assert "\n" not in text and ".." not in text


@pytest.mark.parametrize(
    "options, words",
    [
        ({"shapes": {"x": "ab"}}, "whole numbers"),
        ({"shapes": {"x": (2.5, 3)}}, "whole numbers"),
        ({"shapes": {"x": 3}}, "whole numbers"),
        ({"shapes": {"x": (-2, 3)}}, "whole numbers"),
        ({"shapes": [("x", (2, 3))]}, "a dict"),
        ({"target": None}, "target=None"),
        ({"opt_level": "2"}, "0 to 3"),
        ({"opt_level": 4}, "0 to 3"),
        ({"opt_level": 3.0}, "0 to 3"),
        ({"precision": None}, "mlc.Precision"),
        ({"tune": -1}, "seconds from 0"),
        ({"tune": float("inf")}, "seconds from 0"),
        ({"progress": 5}, "progress=5"),
        ({"exact": "x"}, "True or False"),
        ({"dump": 3}, "a folder"),
        ({"dump": ""}, "a folder"),
        ({"constants": 3}, "a dict"),
    ],
)
def test_options_that_are_none(options, words):
    with pytest.raises(InputError, match=words):
        mlc.compile(b"", **options)


def test_constants_of_another_type_are_told_the_type_wanted():
    relu = model([helper.make_node("Relu", ["x"], ["y"])], inputs=(("x", ["n", 3]),))
    assert "int64; expected f32[n, 3]" in message(relu, constants={"x": 3})


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_sizes_left_open(precision):
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    product = model([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs=(("x", ["n", "k"]),), initializers=[weights])
    for size in (-1, None):
        module = mlc.compile(product, shapes={"x": (size, 64)}, precision=mlc.Precision(precision, keep_slower=True))
        assert module.inputs[0].shape == ("n", 64)
