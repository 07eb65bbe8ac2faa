"""Observers, metrics, calibration data and weight quantizers: NumPy against first principles."""

import numpy as np
import pytest
from mlc.compiler.inputs import InputSpec
from mlc.compiler.precision import weights
from mlc.compiler.precision.choose import smoothing_of
from mlc.compiler.precision.data import load_calibration
from mlc.compiler.precision.metrics import METRICS, parse_bound
from mlc.compiler.precision.observers import OBSERVERS, Histogram
from mlc.compiler.precision.options import Precision
from mlc.compiler.precision.statistics import Statistics
from mlc.errors import InputError
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import MatMul

SPECS = [InputSpec("x", np.dtype(np.float32), ("N", 4)), InputSpec("ids", np.dtype(np.int64), ("N",))]


def sample(n=2):
    return {"x": np.ones((n, 4), np.float32), "ids": np.arange(n)}


def test_calibration_from_a_mapping_an_iterable_an_archive_and_a_folder(tmp_path):
    assert len(load_calibration(sample(), SPECS)) == 1
    assert [s["x"].shape for s in load_calibration((sample(i) for i in (1, 3)), SPECS)] == [(1, 4), (3, 4)]
    stacked = {k: np.stack([v, v, v]) for k, v in sample().items()}
    np.savez(tmp_path / "b.npz", **stacked)
    np.savez(tmp_path / "a.npz", **sample(5))
    assert len(load_calibration(tmp_path / "b.npz", SPECS)) == 3
    assert [len(s["ids"]) for s in load_calibration(tmp_path, SPECS)] == [5, 2, 2, 2]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"x": np.ones((2, 4), np.float32)}, "'ids' is missing"),
        ({**sample(), "y": np.ones(1)}, "no input is called 'y'"),
        ({**sample(), "x": np.ones((2, 4))}, "is float64"),
        ({**sample(), "x": np.ones((2, 5), np.float32)}, "shape"),
        ({**sample(), "ids": np.arange(3)}, "shape"),
        ({**sample(), "x": np.full((2, 4), np.nan, np.float32)}, "NaN"),
        ({**sample(), "x": np.ones(4, np.float32)}, "rank 1"),
        ({**sample(), "x": np.ones((3, 2, 4), np.float32)}, "one sample"),
    ],
)
def test_calibration_data_that_does_not_fit_is_refused(broken, words):
    with pytest.raises(InputError, match=words):
        load_calibration(broken, SPECS)


def test_no_samples_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no sample"):
        load_calibration([], SPECS)
    with pytest.raises(InputError, match="no sample"):
        load_calibration(tmp_path, SPECS)
    with pytest.raises(InputError, match="no such"):
        load_calibration(tmp_path / "absent.npz", SPECS)


def test_a_histogram_keeps_every_count_while_it_widens():
    h = Histogram()
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(1000) * s for s in (0.01, 1.0, 30.0)]
    for p in parts:
        h.add(p)
    values = np.concatenate(parts).astype(np.float32)
    assert h.total == values.size and (h.lo, h.hi) == (values.min(), values.max())
    assert abs((h.counts * h.centers).sum() / h.total - values.mean()) <= h.width
    direct = np.bincount(np.floor(values / np.float32(h.width)).astype(int) + 4096, minlength=8192)
    assert np.abs(direct - h.counts).sum() <= 4  # a value within rounding of a bin's edge may fall on either side


def test_observers_clip_an_outlier_and_keep_a_uniform_range():
    rng = np.random.default_rng(1)
    uniform, spiked = Histogram(), Histogram()
    uniform.add(rng.uniform(-1, 3, 200_000))
    spiked.add(np.append(rng.standard_normal(200_000), 100.0))
    for name, observe in OBSERVERS.items():
        lo, hi = observe(uniform)
        assert -1.01 <= lo <= -0.95 and 2.85 <= hi <= 3.01, name
        lo, hi = observe(spiked)
        assert (hi == 100.0) == (name == "min-max"), name
    constant = Histogram()
    constant.add(np.zeros(3))
    assert all(observe(constant) == (0, 0) for observe in OBSERVERS.values())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_to_nearest_is_within_half_a_step(bits, symmetric):
    w = np.random.default_rng(2).standard_normal((64, 5)).astype(np.float32)
    q = weights.nearest(w, bits=bits, group=32, symmetric=symmetric)
    step = np.abs(np.repeat(q.scales, 32, axis=0))
    # A symmetric range has one level fewer on one side: its end may be a whole step away. So may the shift of a rounded zero.
    assert (np.abs(q.dequantize() - w) <= step * 1.001).all()
    assert (np.abs(q.dequantize() - w) <= step * 0.501).mean() > 0.9


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_are_numbers_of_float16_and_cost_nothing(bits, symmetric, monkeypatch):
    rng = np.random.default_rng(5)
    w = rng.standard_normal((256, 40)).astype(np.float32)
    x = rng.standard_normal((300, 256))
    made = [
        weights.nearest(w, bits=bits, symmetric=symmetric),
        weights.gptq(w, x.T @ x, bits=bits, symmetric=symmetric),
        weights.awq(w, x.T @ x, bits=bits, symmetric=symmetric),
    ]
    assert all(np.array_equal(q.scales, q.scales.astype(np.float16)) for q in made)
    monkeypatch.setattr(weights, "_halves", lambda scales: scales.astype(np.float32))
    exact = weights.nearest(w, bits=bits, symmetric=symmetric)
    assert not np.array_equal(exact.scales, exact.scales.astype(np.float16))
    lost, least = (np.linalg.norm(q.dequantize() - w) for q in (made[0], exact))
    assert lost <= 1.01 * least


@pytest.mark.parametrize("size", [1e-30, 1e7])
def test_scales_out_of_float16_s_range_stay_float32(size):
    w = (np.random.default_rng(6).standard_normal((64, 3)) * size).astype(np.float32)
    for symmetric in (True, False):
        q = weights.nearest(w, group=32, symmetric=symmetric)
        assert np.linalg.norm(q.dequantize() - w) <= 0.1 * np.linalg.norm(w)


def test_gptq_and_awq_lose_less_than_rounding_on_correlated_data():
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((160, 160)) * np.exp(rng.standard_normal(160))
    x = rng.standard_normal((512, 160)) @ mix
    w = rng.standard_normal((160, 24)).astype(np.float32)
    h = x.T @ x

    def loss(q):
        return np.linalg.norm(x @ (q.dequantize() - w)) / np.linalg.norm(x @ w)

    plain = loss(weights.nearest(w))
    assert loss(weights.gptq(w, h)) < 0.8 * plain
    assert loss(weights.awq(w, h)) <= plain


def test_gptq_with_groups_across_blocks_equals_the_definition():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, 192))
    w = rng.standard_normal((192, 3)).astype(np.float32)
    q = weights.gptq(w, x.T @ x, group=96)  # the second group straddles the block of 128 rows
    h = x.T @ x + 0.01 * np.mean(np.diag(x.T @ x)) * np.eye(192)
    rest, upper = w.astype(np.float64).copy(), np.linalg.cholesky(np.linalg.inv(h)).T
    for i in range(192):
        level = np.clip(np.rint(rest[i] / q.scales[i // 96]) + 8, 0, 15)
        assert (level == q.levels[i]).all(), i
        error = (rest[i] - (level - 8) * q.scales[i // 96]) / upper[i, i]
        rest[i + 1 :] -= np.outer(upper[i, i + 1 :], error)


def test_smoothing_evens_out_columns():
    x, w = np.array([100.0, 1.0]), np.array([[1.0, -2.0], [0.5, 2.0]])
    s = weights.smoothing(x, w)
    assert np.allclose(x / s, np.sqrt(x * np.abs(w).max(axis=1)), rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_last_group_may_be_short(symmetric):
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((200, 42)), rng.uniform(1, 2, (42, 5)).astype(np.float32)
    settings = {"group": 32, "symmetric": symmetric}
    for q in (weights.nearest(w, **settings), weights.gptq(w, x.T @ x, **settings), weights.awq(w, x.T @ x, **settings)):
        assert q.levels.shape == (42, 5) and q.scales.shape == q.zeros.shape == (2, 5)
        lost = np.linalg.norm(x @ (q.dequantize() - w), axis=0)
        assert (lost < 0.1 * np.linalg.norm(x @ w, axis=0)).all()
    alone = weights.nearest(w[32:], group=10, symmetric=symmetric)
    assert np.array_equal(weights.nearest(w, **settings).dequantize()[32:], alone.dequantize())


def test_metrics_and_bounds(tmp_path):
    want = [{"y": np.array([[1.0, 2.0], [4.0, 3.0]], np.float32), "n": np.array([1])}]
    got = [{"y": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "n": np.array([2])}]
    assert METRICS["relative-l2"](got, want) == pytest.approx(np.sqrt(2 / 30))
    assert METRICS["cosine"](got, want) == pytest.approx(1 - 29 / 30)
    assert METRICS["arg-max"](got, want) == 0.5
    bound = parse_bound("cosine=0.01")
    assert bound.name == "cosine" and bound.limit == 0.01
    (tmp_path / "m.py").write_text("def worst(got, want): return 7")
    assert parse_bound(f"{tmp_path}/m.py:worst=8").metric(got, want) == 7
    for wrong in ("cosine", "cosine=-1", "cosine=x", "mine=1", f"{tmp_path}/m.py:absent=1"):
        with pytest.raises(InputError):
            parse_bound(wrong)


def test_smoothing_is_used_where_it_lowers_the_error():
    """Outliers of x move into w, unless w has none to spare."""
    rng = np.random.default_rng(0)

    def factors(x, w):
        node = Node.make(MatMul(), (Node.make(Input(TensorType(DType.F32, x.shape)), ()).out, const(w)), ("fc",))
        graph = Graph((node.inputs[0],), (node.out,), ("x",), ("y",))
        seen = Statistics(x.shape[1])
        seen.add(x)
        return smoothing_of(graph, Precision())(node.inputs[0], seen)

    def loss(x, w, f):
        def rounded(a, scale):
            return np.rint(a / scale) * scale

        a, b = x * f, w / f[:, None]
        return np.linalg.norm(rounded(a, np.ptp(a) / 255) @ rounded(b, np.abs(b).max(axis=0) / 127) - x @ w)

    used = []
    for i in range(20):
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((256, 48), (48, 24)))
        x *= np.exp(rng.standard_normal(48) * (i % 3)).astype(np.float32)
        if i % 2:
            x[0, :24] *= 30  # once, so that hardly anything is gained by fine steps for it
            w[:24] *= 4
        found, none = factors(x, w), np.ones(48, np.float32)
        used.append(found is not None)
        always = 1 / weights.smoothing(np.abs(x).max(axis=0), w)
        chosen = none if found is None else found
        assert loss(x, w, chosen) < 1.15 * min(loss(x, w, none), loss(x, w, always))
    assert True in used and False in used
