"""Random operators: their distribution, the effect of seeds, and that runs without a seed differ."""

from __future__ import annotations

import math

import mlc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_nodes import feeds, node_model, run_mlc

COUNT = 100_000


def _shaped(op: str, **attributes: object) -> onnx.ModelProto:
    return node_model(op, [], shape=[COUNT], opset=22, **attributes)


def kolmogorov(sample: np.ndarray, cdf: np.ndarray) -> float:
    """√n times the largest distance to the distribution; above 1.95 with probability 0.001."""
    n = sample.size
    above, below = np.arange(1, n + 1) / n - cdf, cdf - np.arange(n) / n
    return float(math.sqrt(n) * max(above.max(), below.max()))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_uniform(dtype: int) -> None:
    (x,) = run_mlc(_shaped("RandomUniform", seed=3.0, low=-2.0, high=5.0, dtype=dtype), {})
    assert x.dtype == helper.tensor_dtype_to_np_dtype(dtype) and x.min() >= -2 and x.max() <= 5
    x = np.sort(x.astype(np.float64))
    if dtype != TensorProto.FLOAT16:
        assert kolmogorov(x, (x + 2) / 7) < 1.95
    assert abs(np.corrcoef(x[:-1], np.roll(x, 1)[:-1])[0, 1]) <= 1


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_normal(dtype: int) -> None:
    (x,) = run_mlc(_shaped("RandomNormal", seed=4.0, mean=1.0, scale=2.0, dtype=dtype), {})
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.015
    z = np.sort((x.astype(np.float64) - 1) / 2)
    assert kolmogorov(z, np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])) < 1.95


def test_seeds_decide() -> None:
    first, again, other = (run_mlc(_shaped("RandomUniform", seed=s), {})[0] for s in (1.0, 1.0, 2.0))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.99 and abs(np.corrcoef(first, other)[0, 1]) < 0.015


def test_without_a_seed_runs_and_nodes_differ() -> None:
    nodes = [helper.make_node("RandomNormal", [], [name], shape=[COUNT]) for name in ("a", "b")]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [COUNT]) for n in ("a", "b")]
    model = helper.make_model(helper.make_graph(nodes, "g", [], infos), opset_imports=[helper.make_opsetid("", 22)])
    module = mlc.compile(model)
    runs = [module.run({})[n] for n in ("a", "b") for _ in range(2)]
    for i, x in enumerate(runs):
        for y in runs[:i]:
            assert abs(np.corrcoef(x, y)[0, 1]) < 0.015


@pytest.mark.parametrize("op", ["RandomUniformLike", "RandomNormalLike", "Bernoulli"])
def test_symbolic_shapes(op: str) -> None:
    x = np.full((37, 11), 0.25, np.float32)
    (y,) = run_mlc(node_model(op, [x], opset=22, symbolic=True, dtype=TensorProto.DOUBLE), {"x0": x})
    assert y.shape == x.shape and y.dtype == np.float64 and np.unique(y).size == (2 if op == "Bernoulli" else y.size)


def test_bernoulli() -> None:
    p = np.repeat(np.float32([0, 0.1, 0.5, 1]), COUNT // 4)
    (y,) = run_mlc(node_model("Bernoulli", [p], opset=22, seed=5.0), {"x0": p})
    np.testing.assert_allclose(y.reshape(4, -1).mean(1), [0, 0.1, 0.5, 1], atol=0.01)


def test_multinomial() -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0, 0.5]], np.float32)
    with np.errstate(divide="ignore"):
        logits = np.log(p) + np.float32(3)
    (y,) = run_mlc(node_model("Multinomial", [logits], opset=22, sample_size=COUNT // 2, seed=6.0), {"x0": logits})
    assert y.dtype == np.int32
    for row, want in zip(y, p, strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / row.size, want, atol=0.01)


@pytest.mark.parametrize("constants", [(1, 2), ()], ids=["constant", "run time"])
def test_dropout_in_training(constants: tuple[int, ...]) -> None:
    x, ratio, training = np.ones(COUNT, np.float32), np.array(0.75, np.float32), np.array(True)
    model = node_model("Dropout", [x, ratio, training], 2, opset=22, constants=constants, seed=7)
    y, mask = run_mlc(model, feeds(model, [x, ratio, training]))
    np.testing.assert_array_equal(y, np.where(mask, 4, 0))
    assert abs(mask.mean() - 0.25) < 0.01
    if not constants:
        y, mask = run_mlc(model, feeds(model, [x, ratio, np.array(False)]))
        assert mask.all() and (y == x).all()
