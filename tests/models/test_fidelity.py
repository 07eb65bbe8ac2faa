"""The comparison of 4-bit weights with other quantizers, on one product."""

import sys

import numpy as np
import onnx
import pytest
from mlc.errors import InputError
from mlc.models import fidelity, trained
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = product(tmp_path_factory.mktemp("fidelity") / "m.onnx")
    mixed = RNG.standard_normal((256, 256)) / 16
    samples = [{"x": (RNG.standard_normal((8, 256)) @ mixed).astype(np.float32)} for _ in range(40)]
    return list(fidelity.losses(path, fidelity.Texts(samples[:36], samples[36:])))


def product(path):
    weights = numpy_helper.from_array(RNG.standard_normal((256, 64)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, k]) for n, k in (("x", 256), ("y", 64)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "g", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def by(found, engine, method):
    return {(x.group, x.symmetric): x.relative_l2 for x in found if (x.engine, x.method) == (engine, method)}


def test_rounding_to_nearest_is_that_of_onnxruntime_and_of_llama_cpp(found):
    ours, theirs = by(found, "mlc", "nearest"), by(found, "onnxruntime", "default")
    assert ours.keys() == theirs.keys() and len(ours) == 6
    for key, loss in ours.items():
        assert loss == pytest.approx(theirs[key], rel=0.02), key
    for name, symmetric in (("Q4_0", True), ("Q4_1", False)):
        assert by(found, "llama.cpp", name)[32, symmetric] == pytest.approx(ours[32, symmetric], rel=0.1)


def test_calibration_loses_less(found):
    nearest = by(found, "mlc", "nearest")
    assert all(loss < nearest[key] for key, loss in by(found, "mlc", "gptq").items())


def test_gptq_loses_no_more_than_that_of_onnxruntime(found):
    ours, theirs = by(found, "mlc", "gptq"), by(found, "onnxruntime", "GPTQ")
    assert ours.keys() == theirs.keys() and len(ours) == 6
    for key, loss in ours.items():
        assert loss < 1.02 * theirs[key], key


def test_the_table_is_sorted_and_whole(found):
    lines = fidelity.table(found).splitlines()
    assert len(lines) == 2 + len(found)
    groups = [line.split("|")[2].strip() for line in lines[2:]]
    assert groups == [""] * 6 + ["32"] * groups.count("32") + ["64"] * groups.count("64") + ["128"] * groups.count("128")


def test_precisions_lose_what_they_are_known_for(found):
    lost = {x.method: x.relative_l2 for x in found if not x.group}
    assert lost["float32"] == 0 and lost["fp32"] < 1e-6
    assert lost["bf16"] < 5e-3 and lost["int8-weight"] < 1e-2 and lost["int8-dynamic"] < 2e-2 and lost["int8"] < 3e-2


def test_perplexity_is_of_what_follows(tmp_path):
    path = product(tmp_path / "m.onnx")  # x [8, 256] → y [8, 64]
    x = RNG.standard_normal((8, 256)).astype(np.float32)
    following = np.arange(8) * 7

    logits = x @ numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    wide = np.exp(logits.astype(np.float64))
    want = np.exp(-np.mean(np.log(wide[np.arange(8), following] / wide.sum(axis=1))))
    assert trained.perplexity(logits, following) == pytest.approx(want, rel=1e-6)
    assert trained.perplexity(np.zeros((8, 64), np.float32), following) == pytest.approx(64)


def test_texts_without_a_tokenizer(monkeypatch):
    monkeypatch.setitem(sys.modules, "blingfire", None)
    with pytest.raises(InputError, match="blingfire"):
        fidelity.texts(2, 8)


def test_a_quantizer_without_its_package(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(InputError, match=r"no onnx_ir.*pip install onnx-ir"):
        ones = [{"x": np.ones((8, 256), np.float32)}]
        list(fidelity.losses(product(tmp_path / "m.onnx"), fidelity.Texts(ones, ones)))
