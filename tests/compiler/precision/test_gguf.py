"""GGUF weights against the reference dequantizer of the package that defines the format."""

import contextlib
import struct

import mlc
import numpy as np
import onnx
import pytest
from mlc.compiler.precision.gguf_weights import read_gguf
from mlc.errors import InputError
from onnx import TensorProto, helper

gguf = pytest.importorskip("gguf")
KINDS = gguf.GGMLQuantizationType
RNG = np.random.default_rng(0)


def blocks(kind, n, k):
    """Rows of valid blocks with arbitrary levels."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    raw = RNG.integers(0, 256, (n, k // elements, size), dtype=np.uint8)
    halves = 2 if kind is KINDS.Q4_K else 1
    raw[..., : 2 * halves] = RNG.uniform(0.01, 0.2, (n, k // elements, halves)).astype(np.float16).view(np.uint8)
    if kind is KINDS.Q4_K:
        raw[0, 0, 4:16] = 0  # no scale and no minimum …
        raw[1, 0, 4:8] = 0  # … and minima without a scale
    return raw.reshape(n, -1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "weights.gguf"
    made = {kind: blocks(kind, 24, 512) for kind in (KINDS.Q4_0, KINDS.Q4_K, KINDS.Q8_0)}
    writer = gguf.GGUFWriter(path, "test")
    for kind, raw in made.items():
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
    writer.add_tensor("float", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, made


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q8_0"])
def test_every_weight_is_what_the_format_says(file, kind):
    path, made = file
    found = read_gguf(path)
    assert set(found) == {"Q4_0", "Q4_K", "Q8_0"}
    w = found[kind]
    got = (w.levels - np.repeat(w.zeros, 32, axis=0)) * np.repeat(w.scales, 32, axis=0)
    want = gguf.quants.dequantize(made[KINDS[kind]], KINDS[kind]).T
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_layer_takes_its_weights_from_a_file(file):
    path, made = file
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 512])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.zeros((512, 24), np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = RNG.standard_normal((3, 512)).astype(np.float32)
    precision = mlc.Precision(weights={"fc": (path, "Q4_K")}, keep_slower=True)
    want = x @ gguf.quants.dequantize(made[KINDS.Q4_K], KINDS.Q4_K).T
    got = mlc.compile(model, precision=precision).run({"x": x})["y"]
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    with pytest.raises(InputError, match="no tensor 'absent'"):
        mlc.compile(model, precision=mlc.Precision(weights={"fc": (path, "absent")}))
    with pytest.raises(InputError, match="no layer matches 'fd'"):
        mlc.compile(model, precision=mlc.Precision(weights={"fd": (path, "Q4_K")}))


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="no GGUF file"):
        read_gguf(tmp_path / "x.gguf")


def changed(file, tmp_path, change):
    data = bytearray(file[0].read_bytes())
    change(data)
    path = tmp_path / "changed.gguf"
    path.write_bytes(data)
    return path


def info(data, name):
    """Where a tensor's number of dims lies; dims of 8 bytes, the type of 4 and the offset of 8 follow."""
    at = data.index(name) + len(name)
    assert struct.unpack_from("<I", data, at) == (2,)
    return at + 4


def put(kind, shift, value):
    return lambda data: struct.pack_into(kind, data, info(data, b"Q8_0") + shift, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.__delitem__(slice(len(data) // 2, None)), "no GGUF file"),
        (lambda data: data.__delitem__(slice(40, None)), "no GGUF file"),
        (put("<Q", 0, 1 << 62), "no GGUF file"),  # elements of a row
        (put("<Q", 8, 1 << 40), "no GGUF file"),  # rows
        (put("<Q", 0, 0), "is 0 by 24"),
        (put("<Q", 8, 0), "by 0"),
        (put("<I", 16, 12345), "no GGUF file"),  # type
        (put("<Q", 20, 1 << 50), "no GGUF file"),  # offset
        (put("<Q", 20, 33), "begins at byte"),
        (put("<Q", 20, 0), "inside of another"),
        (lambda data: struct.pack_into("<Q", data, 8, 1 << 60), "no GGUF file"),  # number of tensors
    ],
)
def test_hostile_files_are_refused(file, tmp_path, change, words):
    path = changed(file, tmp_path, change)
    with pytest.raises(InputError, match=words):
        read_gguf(path)


def test_scales_must_be_finite(file, tmp_path):
    raw = file[1][KINDS.Q8_0].tobytes()[:64]

    def change(data):
        at = data.index(raw)
        data[at : at + 2] = np.float16("inf").tobytes()

    with pytest.raises(InputError, match="'Q8_0' has scales that are NaN or infinite"):
        read_gguf(changed(file, tmp_path, change))


def test_any_broken_byte_is_an_error_of_ours_or_harmless(file, tmp_path):
    rng = np.random.default_rng(5)
    header = file[0].read_bytes().index(b"float") + 40
    for _ in range(150):
        at, value = int(rng.integers(4, header)), int(rng.integers(0, 256))
        with contextlib.suppress(InputError):
            read_gguf(changed(file, tmp_path, lambda data, at=at, value=value: data.__setitem__(at, value)))
