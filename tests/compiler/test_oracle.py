"""Generated inputs, the figures of a comparison, and naming the first layer that differs."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from mlc import MlcError
from mlc.compiler import inputs, oracle
from mlc.compiler.compare import MOST_NOISE, Limits, Tolerance, compare, excuse, limits
from onnx import TensorProto, helper


def against(got, want, **options):
    want = np.asarray(want)
    return compare("t", np.asarray(got), want, limits(want.dtype, whole_model=True, tolerance=Tolerance(**options)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64])
def test_equal_arrays_agree(dtype) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    d = against(x, x)
    assert (d.agrees, d.max_abs, d.max_ulp, d.relative_l2, d.arg_max) == (True, 0, 0, 0, 1)
    assert d.cosine == pytest.approx(1)


def test_ulps_are_counted_across_zero() -> None:
    tiny = np.float32(1e-45)
    assert against(np.array([tiny, 1], np.float32), np.array([-tiny, 1], np.float32)).max_ulp == 2
    assert against(np.array([0.0], np.float32), np.array([-0.0], np.float32)).max_ulp == 0
    one = np.array([1], np.float32)
    assert against(np.nextafter(one, np.float32(2)), one).max_ulp == 1


def test_differences_are_found() -> None:
    want = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)
    assert against(want * np.float32(1 + 2e-5), want).agrees
    d = against(want * np.float32(1 + 2e-4), want)
    assert not d.agrees and "relative L2" in d.why and d.relative_l2 == pytest.approx(2e-4, rel=0.01)
    d = against(want[:, ::-1], want)
    assert not d.agrees and d.arg_max == 0 and d.cosine < 1
    assert "shape" in against(want[:1], want).why
    assert "dtype" in against(want.astype(np.float64), want).why


def test_noise_of_the_oracle_excuses_as_much() -> None:
    want = np.arange(1, 9, dtype=np.float32)
    d = against(want * np.float32(1 + 1e-3), want)
    assert not d.agrees and excuse(d, 0.9e-3) == d
    found = excuse(d, 2e-3)
    assert found.agrees and found.within_noise and not found.why
    much = against(want * np.float32(1 + 2 * MOST_NOISE), want)
    assert not excuse(much, 1.0).agrees, "noise that large says nothing"
    assert not excuse(against(want[:4], want), 1e-2).agrees
    whole = np.arange(5)
    assert not excuse(against(whole + 1, whole), 1e-2).agrees, "integers stay exact"
    alike = against(want, want)
    assert excuse(alike, 1e-2) == alike


def test_a_check_asks_the_oracle_for_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value("x", 1, ["n"])], [value("y", 1, ["n"])])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    feeds = {"x": np.arange(1, 5, dtype=np.float32)}

    class Restless(oracle.Oracle):
        """One whose optimizations change a thousandth or two."""

        def __init__(self, source: oracle.Source, *, optimize: bool = False, threads: int | None = None) -> None:
            super().__init__(source, optimize=optimize, threads=threads)
            self.factor = np.float32(1.002 if optimize else 1.0)

        def run(self, feeds: oracle.Feeds) -> dict[str, np.ndarray]:
            return {n: a * self.factor for n, a in super().run(feeds).items()}

    def mine(given: oracle.Feeds) -> oracle.Feeds:
        return {"y": given["x"] * np.float32(-1.001)}

    assert not oracle.check(mine, source, feeds, threads=1).agrees
    monkeypatch.setattr(oracle, "Oracle", Restless)
    assert oracle.check(mine, source, feeds, threads=1).outputs[0].within_noise
    assert not oracle.check(mine, source, feeds, threads=1, tolerance=Tolerance(rtol=1e-5)).agrees, "what the user asked for is kept"


def test_values_of_maps_count_as_the_type_they_had() -> None:
    """They are numbers of Python's, which are float64."""
    node = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[7, 8])
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    out = helper.make_value_info("z", helper.make_sequence_type_proto(entry))
    graph = helper.make_graph([node], "maps", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])], [out])
    domains = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    source = helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString()
    x = np.array([[0.25, 1 / 3], [0.5, 0.75]], np.float32)

    for off, agrees in ((2e-7, True), (1e-3, False)):
        maps = [dict(zip((7, 8), (row * np.float32(1 + off)).tolist(), strict=True)) for row in x]
        assert oracle.check(lambda _, z=maps: {"z": z}, source, {"x": x}, threads=1).agrees == agrees  # type: ignore[misc]


def test_integers_are_exact() -> None:
    want = np.arange(5)
    assert against(want, want).agrees
    assert "1 of 5" in against(np.array([0, 1, 2, 3, 5]), want).why
    assert not against(np.array([2**53 + 1]), np.array([2**53])).agrees
    assert not against(np.array([True]), np.array([False])).agrees


def test_not_finite_places_must_match() -> None:
    want = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    assert against(want, want).agrees
    for i in range(1, 4):
        got = want.copy()
        got[i] = 0
        assert f"element {i}" in against(got, want).why
    assert not against(-want, want).agrees


def test_elementwise_limits_replace_the_table() -> None:
    want = np.array([1.0, 100.0], np.float32)
    assert compare("t", want + np.float32(0.5), want, Limits(1e-4, atol=0.6)).agrees
    assert compare("t", want * np.float32(1.01), want, Limits(1e-4, rtol=0.02)).agrees
    assert not compare("t", want + np.float32(0.5), want, Limits(1e-4, rtol=0.02)).agrees


def test_limits_grow_with_the_reduction() -> None:
    short = limits(np.dtype(np.float32), whole_model=False)
    assert short.relative_l2 == 1e-5
    assert limits(np.dtype(np.float32), whole_model=False, reduction=4 * 4096).relative_l2 == 2e-5


@pytest.fixture
def model() -> onnx.ModelProto:
    """Embedding, mask and a floating-point input, with symbols shared between them."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"], name="embed"),
        helper.make_node("Mul", ["e", "mask"], ["m"], name="mask it"),
        helper.make_node("Add", ["m", "x"], ["y"], name="add"),
    ]
    table = onnx.numpy_helper.from_array(np.ones((7, 3), np.float32), "table")
    shapes = {"ids": ["batch", "sequence"], "mask": ["batch", "sequence", 1], "x": ["batch", "sequence", 3]}
    kinds = {"ids": TensorProto.INT32}
    given = [info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in shapes.items()]
    graph = helper.make_graph(nodes, "g", given, [info("y", TensorProto.FLOAT, None)], [table])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_inputs_suit_names_and_symbols(model: onnx.ModelProto) -> None:
    specs = inputs.specs_of_onnx(model)
    feeds = inputs.generate(specs, {})
    assert {n: a.shape for n, a in feeds.items()} == {"ids": (1, 16), "mask": (1, 16, 1), "x": (1, 16, 3)}
    assert feeds["ids"].dtype == np.int32 and feeds["ids"].min() >= 0 and feeds["ids"].max() < 7
    assert np.all(feeds["mask"] == 1)
    again = inputs.generate(specs, {"x": (1, 16, 3)})
    assert all(np.array_equal(feeds[n], again[n]) for n in feeds)
    assert not np.array_equal(inputs.generate(specs, {}, seed=1)["x"], feeds["x"])
    assert inputs.generate(specs, {"ids": (2, 5)})["x"].shape == (2, 5, 3)


def test_shapes_are_checked(model: onnx.ModelProto) -> None:
    specs = inputs.specs_of_onnx(model)
    for shapes in ({"q": (1,)}, {"ids": (1,)}, {"x": (1, 2, 4)}, {"ids": (1, 2), "x": (1, 3, 3)}):
        with pytest.raises(MlcError):
            inputs.generate(specs, shapes)
    for text in ("x", "x=1,a", "x=-1", "=1"):
        with pytest.raises(MlcError):
            inputs.parse_shapes([text])
    assert inputs.parse_shapes(["a=b=1, 2", "s="]) == {"a=b": (1, 2), "s": ()}


def test_first_divergence_is_named(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    feeds = inputs.generate(inputs.specs_of_onnx(model), {})

    def compile_wrong(extended: onnx.ModelProto):
        session = oracle.Oracle(extended.SerializeToString(), threads=1)
        return lambda f: {n: a * (1.5 if n in ("m", "y") else 1) for n, a in session.run(f).items()}

    layers = oracle.check_layers(compile_wrong, path, feeds, threads=1)
    assert [x.difference.agrees for x in layers[-3:]] == [True, False, False]
    report = oracle.Report((), {}, layers)
    assert not report.agrees and report.first_divergence is not None and report.first_divergence.node == "mask it"
    assert report.as_json()["first_divergence"]["tensor"] == "m"


def test_a_model_that_no_message_holds_is_refused(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)

    def fail(self: onnx.ModelProto) -> bytes:
        raise EncodeError("Failed to serialize proto")

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", fail)
    with pytest.raises(MlcError, match="2 GiB"):
        oracle.expose(path)


def test_rows_that_may_be_rounded_are_compared_unrounded_too() -> None:
    """accuracy_level 4 of MatMulNBits: 8 bits, which move the result by more than the table grants. As much is granted to mlc."""
    rng = np.random.default_rng(5)
    w, scale = rng.integers(0, 256, (64, 4, 16)).astype(np.uint8), (rng.random((64, 4)) * 0.1).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=128, N=64, bits=4, block_size=32, accuracy_level=4
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3, d]) for n, d in (("x", 128), ("y", 64))]
    given = [onnx.numpy_helper.from_array(a, n) for a, n in ((w, "w"), (scale, "s"))]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], given), opset_imports=opsets, ir_version=9)
    feeds = {"x": rng.standard_normal((3, 128)).astype(np.float32)}
    exact = oracle.Oracle(oracle.exact_products(data).SerializeToString()).run(feeds)
    rounded = oracle.Oracle(data.SerializeToString()).run(feeds)
    assert not against(rounded["y"], exact["y"]).agrees
    for error, agrees in ((0, True), (1e-3, True), (3e-2, False)):
        off = {"y": exact["y"] * np.float32(1 + error)}
        assert oracle.check(lambda _, off=off: off, data.SerializeToString(), feeds).agrees == agrees


def test_states_that_onnxruntimes_threads_round_apart() -> None:
    """With several threads it rounds the states of a DynamicQuantizeLSTM by the rows that each thread has."""
    import mlc

    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-90, 90, (1, 8, 48)).astype(np.int8), "r": rng.integers(-90, 90, (1, 12, 48)).astype(np.int8),
        "scale": np.full(1, 0.01, np.float32), "zero": np.zeros(1, np.int8),
    }  # fmt: skip
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        ["x", "w", "r", "", "", "", "", "", "scale", "zero", "scale", "zero"],
        ["y"],
        domain="com.microsoft",
        hidden_size=12,
    )
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 4, 8])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(w, k) for k, w in weights.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()
    x = {"x": rng.standard_normal((5, 4, 8)).astype(np.float32)}
    apart = oracle.compare_outputs(oracle.Oracle(model, threads=2).run(x), oracle.Oracle(model, threads=1).run(x))
    assert not apart[0].agrees
    assert oracle.check(mlc.compile(model, threads=1).run, model, x, threads=2).agrees
