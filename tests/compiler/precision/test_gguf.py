"""GGUF weights against the reference dequantizer of the package that defines the format."""

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
