"""Layers that float32 serves better than the precision asked for: convolutions that minimal filtering saves more than bfloat16 does."""

import mlc
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from mlc.compiler.backends import backend_of
from mlc.compiler.cli import cli
from mlc.compiler.importer import import_model
from mlc.compiler.precision.lowering import lower_precision
from mlc.passes.base import PassContext
from mlc.passes.pipelines import optimize
from onnx import TensorProto, helper, numpy_helper

WIDE, POINT = "wide", "point"  # 3×3 and 1×1 of 64 channels


def convolutions() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {WIDE: rng.standard_normal((64, 64, 3, 3)) / 24, POINT: rng.standard_normal((64, 64, 1, 1)) / 8}
    nodes = [
        helper.make_node("Conv", ["x", WIDE], ["y"], name=WIDE, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Conv", ["r", POINT], ["z"], name=POINT),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 64, 32, 32)) for name in "xz"]
    kept = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "convolutions", sides[:1], sides[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def graph():
    return optimize(import_model(convolutions(), None), PassContext())


def lowered(graph, target, precision=None, exact=False):
    backend = backend_of(target)
    costs = backend.options(3, exact)
    options = precision or mlc.Precision("bf16")
    return lower_precision(graph, options, stays=lambda layer, asked: backend.stays(layer, asked, costs))


def test_minimal_filtering_beats_dots_of_bfloat16_on_vectors(graph):
    made = lowered(graph, "cpu:znver4")
    assert made.assignment == {POINT: "bf16"} and made.stayed == (WIDE,)


def test_tiles_beat_minimal_filtering(graph):
    made = lowered(graph, "cpu:sapphirerapids")
    assert set(made.assignment) == {WIDE, POINT} and not made.stayed


def test_gpus_and_direct_sums_lower_all(graph):
    for made in (lowered(graph, "cuda:sm_90a"), lowered(graph, "cpu:znver4", exact=True)):
        assert set(made.assignment) == {WIDE, POINT} and not made.stayed


def test_what_the_user_names_is_lowered(graph):
    made = lowered(graph, "cpu:znver4", mlc.Precision("bf16", overrides=((WIDE, "bf16"),)))
    assert set(made.assignment) == {WIDE, POINT} and not made.stayed


def test_the_command_says_what_stays(tmp_path):
    path = tmp_path / "convolutions.onnx"
    onnx.save(convolutions(), path)
    done = CliRunner().invoke(cli, ["compile", str(path), "--target", "cpu:znver4", "--precision", "bf16", "-o", str(tmp_path / "c.mlc")])
    assert done.exit_code == 0 and "1 layers bf16; 1 stay float32" in done.stderr
