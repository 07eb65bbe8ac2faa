"""Lower precision from the API and the command line, on a model large enough to gain by it."""

import json
import re
import sys
import warnings

import mlc
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from mlc.compiler.cli import main
from mlc.compiler.importer import import_model
from mlc.compiler.precision.choose import Chooser, affine_range, assign
from mlc.compiler.precision.lowering import lower_precision
from mlc.compiler.precision.metrics import relative_l2
from mlc.errors import InputError, SlowerWarning
from mlc.ir.ops import Relu
from mlc.passes.base import PassContext
from mlc.passes.pipelines import optimize
from onnx import TensorProto, helper


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two products with an outlying channel between, and a convolution."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.uniform(0, 0.1, (3, 3, 7, 7)).astype(np.float32),  # too long a sum for planes; smooth: what calibration learns from
        "u": rng.standard_normal((48, 256)).astype(np.float32) / 7 * np.exp(rng.standard_normal(256)).astype(np.float32),
        "v": rng.standard_normal((256, 64)).astype(np.float32) / 16,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[3, 3, 3, 3]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "u"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["a"], name="act"),
        helper.make_node("MatMul", ["a", "v"], ["y"], name="down"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [*(onnx.numpy_helper.from_array(a, n) for n, a in weights.items()), onnx.numpy_helper.from_array(np.array([-1, 16, 48]), "shape")],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("precision") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def samples():
    return [{"x": np.random.default_rng(i).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)} for i in range(4)]


@pytest.fixture(scope="module")
def graph(model):
    return optimize(import_model(model, None), PassContext())


def loss(model, samples, precision):
    want, got = mlc.compile(model), mlc.compile(model, precision=precision)
    assert got.to_bytes() != want.to_bytes()
    x = {"x": np.random.default_rng(9).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)}
    a, b = want.run(x)["y"], got.run(x)["y"]
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.mark.parametrize(
    ("name", "limit"), [("bf16", 1e-2), ("fp16", 2e-3), ("int8-dynamic", 2e-2), ("int8", 3e-2), ("int8-weight", 2e-2), ("int4", 0.2)]
)
def test_each_precision_is_near_float32(model, samples, name, limit):
    precision = mlc.Precision(name, group=16, calibration=samples if name == "int8" else None, keep_slower=True)
    assert 1e-5 < loss(model, samples, precision) < limit


def test_a_convolution_that_minimal_filtering_would_take_stays_a_dot_product(tmp_path):
    w = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32) / 17
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 32, 40, 40]) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [onnx.numpy_helper.from_array(w, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 32, 40, 40)).astype(np.float32)}
    want, got = (mlc.compile(made, precision=mlc.Precision(p, keep_slower=True)).run(feeds)["y"] for p in ("fp32", "bf16"))
    assert np.linalg.norm(got - want) < 1e-2 * np.linalg.norm(want)


@pytest.mark.parametrize("observer", ["min-max", "percentile", "mse"])
def test_smoothing_and_observers(model, samples, observer):
    many = [{"x": np.tile(s["x"], (4, 1, 1, 1)) * np.linspace(0.9, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)} for s in samples]
    smooth, plain = (
        loss(model, many, mlc.Precision("int8", calibration=many, observer=observer, smooth=s, keep_slower=True)) for s in (0.5, 0.0)
    )
    assert smooth < plain  # the channels of `up` differ in scale by far


def test_nothing_is_smoothed_by_fewer_rows_than_channels(model, samples):
    """128 rows of 256 channels: each would be just as wide as these rows, and other data wider."""
    smooth, plain = (loss(model, samples, mlc.Precision("int8", calibration=samples, smooth=s, keep_slower=True)) for s in (0.5, 0.0))
    assert smooth == plain


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibrated_rounding_of_weights_loses_less(model, samples, method):
    limit = loss(model, samples, mlc.Precision("int4", group=16, keep_slower=True))
    assert loss(model, samples, mlc.Precision("int4", group=16, method=method, calibration=samples, keep_slower=True)) < limit


@pytest.mark.parametrize("method", ["nearest", "gptq", "awq"])
def test_the_last_group_of_a_layer_may_be_short(model, samples, method):
    """48 and 256 rows in groups of 40."""
    precision = mlc.Precision("int4", group=40, method=method, calibration=samples, keep_slower=True)
    assert 1e-3 < loss(model, samples, precision) < 0.2


def test_overrides_choose_layers_by_name_and_operator(graph):
    assert assign(graph, mlc.Precision("bf16", overrides=(("Conv", "fp32"), ("d*", "fp16")))) == {"up": "bf16", "down": "fp16"}
    assert assign(graph, mlc.Precision("int8-dynamic")) == {"up": "int8-dynamic", "down": "int8-dynamic"}
    with pytest.raises(InputError, match="no layer matches 'absent'"):
        assign(graph, mlc.Precision("bf16", overrides=(("absent", "fp32"),)))
    with pytest.raises(InputError, match="conv cannot be int8-dynamic"):
        assign(graph, mlc.Precision("fp32", overrides=(("conv", "int8-dynamic"),)))


def test_nodes_that_cannot_be_lowered_can_only_be_told_to_stay_float32(graph):
    name = next(n.loc[0] for n in graph.nodes if isinstance(n.op, Relu))
    assert assign(graph, mlc.Precision("fp32", overrides=((name, "fp32"), ("up", "bf16")))) == {"up": "bf16"}
    with pytest.raises(InputError, match=f"{re.escape(name)} cannot be lowered"):
        assign(graph, mlc.Precision("fp32", overrides=((name, "bf16"),)))


def test_products_are_matched_by_either_of_their_operators(graph):
    for pattern in ("MatMul", "Gemm", "[MG]*"):
        assert assign(graph, mlc.Precision("bf16", overrides=((pattern, "fp32"),))) == {"conv": "bf16"}


def test_a_bound_keeps_the_sensitive_layers_high(graph, samples):
    wide = lower_precision(graph, mlc.Precision("int8", calibration=samples, max_drop="relative-l2=0.5"))
    assert set(wide.assignment.values()) == {"int8"} and not wide.outcome.kept
    limit = wide.outcome.loss / 2
    tight = lower_precision(graph, mlc.Precision("int8", calibration=samples, max_drop=f"relative-l2={limit}"))
    assert tight.outcome.loss <= limit and tight.outcome.kept
    with pytest.raises(InputError, match="no layer can be lowered within"):
        lower_precision(graph, mlc.Precision("int8", calibration=samples, max_drop="relative-l2=1e-9"))


def test_what_was_chosen_is_reported(graph, samples, model, tmp_path, capsys):
    told = []
    lower_precision(graph, mlc.Precision("int8-dynamic", report=told.append))
    assert told[0].assignment == {"up": "int8-dynamic", "down": "int8-dynamic"} and told[0].outcome is None
    options = {"overrides": (("conv", "fp32"),), "calibration": samples, "report": told.append}
    lower_precision(graph, mlc.Precision("int8", max_drop=(lambda got, want: relative_l2(got, want), 0.5), **options))
    assert told[1].outcome.kept == {"conv": "as --layer says"} and told[1].float32 is not None
    with pytest.raises(InputError, match="returned 'much'"):
        lower_precision(graph, mlc.Precision("int8", max_drop=(lambda got, want: "much", 0.5), **options))
    np.savez(tmp_path / "data.npz", x=np.stack([s["x"] for s in samples]))
    asked = ["--precision", "int8", "--calibration", tmp_path / "data.npz", "--max-drop", "relative-l2=0.5", "--layer", "conv=fp32"]
    assert run("compile", model, "-o", tmp_path / "m.mlc", *asked, "--no-bias-correction") == 0
    assert "2 layers int8; loss" in (said := capsys.readouterr().err) and "conv fp32: as --layer says" in said


def test_float32_is_compiled_once(model, samples, monkeypatch):
    from mlc.compiler import api
    from mlc.compiler.precision import speed, workbench

    made = []
    monkeypatch.setattr(workbench, "compile_graph", None)  # those that the options of compile are not known to
    monkeypatch.setattr(speed, "compile_graph", None)
    real = api.compile_graph
    monkeypatch.setattr(api, "compile_graph", lambda graph, **options: made.append(options) or real(graph, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerWarning)
        mlc.compile(model, precision=mlc.Precision("int8", calibration=samples), opt_level=2, threads=1)
    assert [(o["opt_level"], o["threads"]) for o in made] == [(2, 1)]


def test_statistics_cover_zero_and_choices_are_made_once(graph, samples):
    assert affine_range(0.5, 2.0) == (2.0 / 255, 0) and affine_range(0.0, 0.0) == (1.0, 0)
    scale, zero = affine_range(-1.0, 3.0)
    assert (0 - zero) * scale <= -0.99 and (255 - zero) * scale >= 2.99
    chooser = Chooser(graph, mlc.Precision("int8-dynamic"))
    assert chooser.choice("up", "int8-dynamic") is chooser.choice("up", "int8-dynamic")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"default": "int9"}, "precision 'int9'"),
        ({"default": "int8"}, "without calibration data"),
        ({"default": "auto"}, "without a bound"),
        ({"default": "bf16", "seconds": 0}, "seconds=0"),
        ({"default": "bf16", "max_drop": "relative-l2=0.1"}, "without calibration data"),
        ({"default": "int8", "observer": "best"}, "observer 'best'"),
        ({"smooth": 2.0}, "smooth=2"),
        ({"smooth": "much"}, "smooth='much'"),
        ({"group": 0}, "group=0"),
        ({"group": 2.5}, "group=2.5"),
        ({"default": "bf16", "seconds": "10"}, "seconds='10'"),
        ({"symmetric": "no"}, "symmetric='no'"),
        ({"correct_bias": 3}, "correct_bias=3"),
        ({"keep_slower": "no"}, "keep_slower='no'"),
        ({"overrides": "Conv=fp32"}, "overrides='Conv=fp32'"),
        ({"overrides": 5}, "overrides=5"),
        ({"max_drop": 0.5}, "max_drop=0.5"),
        ({"calibration": 5}, "calibration=5"),
        ({"weights": 5}, "weights=5"),
        ({"weights": {"fc": "model.gguf"}}, "weights="),
        ({"report": 5}, "report=5"),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        mlc.Precision(**options)


def test_a_slower_module_is_not_kept_silently(model, monkeypatch):
    from mlc.compiler import bench

    def measured(engines, threads, options, tell=None):
        return [bench.Timing(n, threads, ms, ms, ms, 1) for n, ms in zip(engines, (1.0, 2.0), strict=True)]

    monkeypatch.setattr(bench, "measure", measured)
    with pytest.warns(SlowerWarning, match="float32 is kept"):
        kept = mlc.compile(model, precision="bf16")
    assert kept.to_bytes() == mlc.compile(model).to_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mlc.compile(model, precision=mlc.Precision("bf16", keep_slower=True)).to_bytes() != kept.to_bytes()


def run(*args):
    with pytest.raises(SystemExit) as found:
        main([str(a) for a in args])
    return found.value.code


def test_check_names_where_error_enters(model, samples, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x=np.stack([s["x"] for s in samples]))
    np.savez(tmp_path / "one.npz", **samples[0])
    arguments = (
        "check",
        model,
        "--precision",
        "int8",
        "--calibration",
        tmp_path / "data.npz",
        "--keep-slower",
        "--inputs",
        tmp_path / "one.npz",
    )
    assert run(*arguments, "--per-layer", "--json", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert {x["node"] for x in found["error_enters"][:3]} <= {"conv", "up", "down"} and found["precision"] == "int8"
    assert "error enters at" in capsys.readouterr().out
    assert run(*arguments, "--max-drop", "relative-l2=1e-9") == 2


def test_pareto_says_before_it_measures_that_it_cannot_draw(model, tmp_path, monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("pareto", model, "--data", "missing.npz", "--html", tmp_path / "p.html") == 2
    assert "matplotlib" in capsys.readouterr().err


def test_pareto_goes_on_from_its_file_and_draws_a_page(model, samples, tmp_path, monkeypatch, capsys):
    from mlc.compiler import bench

    runs = []
    monkeypatch.setattr(
        bench,
        "measure",
        lambda engines, threads, options, tell=None: runs.append(1) or [bench.Timing(n, threads, 1.0, 1.0, 1.0, 1) for n in engines],
    )
    np.savez(tmp_path / "data.npz", x=np.stack([s["x"] for s in samples]))
    arguments = ("pareto", model, "--data", tmp_path / "data.npz", "--json", tmp_path / "p.json", "--max-drop", "relative-l2=0.05")
    assert run(*arguments, "--html", tmp_path / "p.html") == 0
    points = json.loads((tmp_path / "p.json").read_text())["points"]
    assert {"fp32", "bf16", "int8-dynamic", "int8"} <= {p["name"] for p in points} and len(runs) == len(points)
    text = (tmp_path / "p.html").read_text()
    assert "<svg" in text and "http" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )
    cut = json.loads((tmp_path / "p.json").read_text())
    cut["points"] = cut["points"][:2]
    (tmp_path / "p.json").write_text(json.dumps(cut))
    runs.clear()
    assert run(*arguments) == 0
    assert len(runs) == len(points) - 2
    assert run(*arguments[:-1], "relative-l2=0.06") == 2  # other options: not to be mixed into the same file
    assert "another model" in capsys.readouterr().err


def test_samples_that_can_be_read_only_once_serve_every_use(model, samples, monkeypatch):
    """Calibration, the bound, and the comparison of speed with float32 all want them."""
    from mlc.compiler import bench

    def measured(engines, threads, options, tell=None):
        return [bench.Timing(n, threads, ms, ms, ms, 1) for n, ms in zip(engines, (2.0, 1.0), strict=True)]

    monkeypatch.setattr(bench, "measure", measured)
    precision = mlc.Precision("int8", calibration=(dict(s) for s in samples), max_drop="relative-l2=0.5")
    first, again = (mlc.compile(model, precision=precision).to_bytes() for _ in range(2))
    assert first == again


def test_help_of_compile_lists_precision():
    from mlc.compiler.cli import cli

    assert "--precision" in CliRunner().invoke(cli, ["compile", "--help"]).output


def test_auto_without_a_layer_that_gains_stays_float32_and_says_so(samples):
    node = helper.make_node("Relu", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [6, 16]) for n in "xy")
    made = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    told = []
    data = [{"x": np.random.default_rng(i).standard_normal((6, 16)).astype(np.float32)} for i in range(2)]
    with pytest.warns(SlowerWarning, match="float32 is kept"):
        module = mlc.compile(made, precision=mlc.Precision("auto", calibration=data, max_drop="relative-l2=0.1", report=told.append))
    assert told[0].assignment == {} and module.to_bytes() == mlc.compile(made).to_bytes()


class Clock:
    """Time passes whenever somebody looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(("seconds", "lowered"), [(0.5, False), (10.5, True)])
def test_a_search_whose_time_is_up_takes_the_best_so_far(model, samples, monkeypatch, seconds, lowered):
    from mlc.compiler import bench
    from mlc.compiler.precision import workbench

    def measured(engines, threads, options, tell=None):
        return [bench.Timing(n, threads, ms, ms, ms, 1) for n, ms in zip(engines, (2.0, 1.0), strict=True)]

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(workbench, "monotonic", Clock())
    told = []
    precision = mlc.Precision("auto", calibration=samples, max_drop="relative-l2=0.05", seconds=seconds, report=told.append)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = mlc.compile(model, precision=precision)
    assert told[0].outcome.unfinished and told[0].outcome.loss <= 0.05
    assert (set(told[0].assignment.values()) == {"bf16"}) is lowered
    assert any("--search-seconds" in str(w.message) for w in seen) is not lowered
    want, got = mlc.compile(model).run(samples[0])["y"], module.run(samples[0])["y"]
    assert np.linalg.norm(got - want) <= 0.05 * np.linalg.norm(want), "as max_drop says"
