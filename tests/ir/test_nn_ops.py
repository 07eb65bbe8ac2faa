"""Windows, contractions and recurrences: references against plain loops, type rules, typed errors."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.errors import VerifyError
from mlc.ir import DType, TensorType, evaluate, sym
from mlc.ir.ops import LRN, Attention, Conv, ConvTranspose, MatMul, Pool, Recurrent

RNG = np.random.default_rng(3)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def types(*arrays):
    return [TensorType(DType.from_numpy(a.dtype), a.shape) for a in arrays]


def run(op, *arrays):
    """The reference's results, checked against `infer`."""
    got = op.reference(*arrays)
    for t, a in zip(op.infer(types(*arrays)), got, strict=True):
        assert t.shape == a.shape and t.dtype.np == a.dtype
    return got[0] if len(got) == 1 else got


def conv_loops(x, w, strides, lo, out, dilations, groups):
    """Two-dimensional convolution by its definition."""
    y = np.zeros((x.shape[0], *out, w.shape[-1]))
    per, cg = w.shape[-1] // groups, w.shape[-2]
    for n, i, j, o in np.ndindex(*y.shape):
        for a, b in np.ndindex(*w.shape[:2]):
            r, c = i * strides[0] + a * dilations[0] - lo[0], j * strides[1] + b * dilations[1] - lo[1]
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                g = o // per
                y[n, i, j, o] += x[n, r, c, g * cg : (g + 1) * cg].astype(np.float64) @ w[a, b, :, o]
    return y


@pytest.mark.parametrize(("strides", "lo", "hi", "dilations", "groups"), [
    ((1, 1), (0, 0), (0, 0), (1, 1), 1), ((2, 1), (1, 2), (0, 1), (1, 2), 2), ((1, 3), (-1, 0), (0, -2), (1, 1), 4),
])  # fmt: skip
def test_conv_is_its_definition(strides, lo, hi, dilations, groups):
    x, w = f32(2, 7, 8, 4), f32(3, 2, 4 // groups, 8)
    y = run(Conv(strides, lo, hi, dilations, groups), x, w)
    np.testing.assert_allclose(y, conv_loops(x, w, strides, lo, y.shape[1:3], dilations, groups), atol=1e-5)


def test_conv_in_integers_is_exact():
    x, w = (RNG.integers(-99, 99, s).astype(np.int32) for s in ((1, 5, 5, 2), (3, 3, 2, 3)))
    y = run(Conv((1, 1), (1, 1), (1, 1), (1, 1)), x, w)
    np.testing.assert_array_equal(y, conv_loops(x, w, (1, 1), (1, 1), (5, 5), (1, 1), 1))


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose_is_the_adjoint_of_conv(groups):
    """⟨conv(x), y⟩ = ⟨x, convᵀ(y)⟩ with the same weights seen the other way round."""
    x, w = f32(1, 9, 10, 4), f32(3, 2, 4 // groups, 6)
    strides, lo, hi, dilations = (2, 1), (1, 0), (0, 1), (1, 2)
    y = f32(*run(Conv(strides, lo, hi, dilations, groups), x, w).shape)
    sides = zip(x.shape[1:3], y.shape[1:3], strides, dilations, w.shape[:2], lo, hi, strict=True)
    extra = tuple(n - ((o - 1) * s + d * (k - 1) + 1 - a - b) for n, o, s, d, k, a, b in sides)
    back = run(ConvTranspose(strides, lo, hi, extra, dilations, groups), y, w)
    assert back.shape == x.shape
    forward = run(Conv(strides, lo, hi, dilations, groups), x, w)
    np.testing.assert_allclose((forward * y).sum(), (x * back).sum(), rtol=1e-4)


def test_pool_counts_only_what_the_definition_says():
    x = np.ones((1, 3, 3, 1), np.float32)
    shape = ((2, 2), (2, 2), (1, 1), (1, 1), (1, 1))
    assert run(Pool("avg", *shape), x).ravel().tolist() == [1, 1, 1, 1]
    assert run(Pool("avg", *shape, count_include_pad=True), x)[0, 0, 0, 0] == 0.25
    assert run(Pool("max", *shape), -x).max() == -1, "padding never wins a maximum"
    # rounding up never adds a window that starts in the padding behind
    assert run(Pool("max", (1, 1), (2, 2), (0, 0), (0, 0), (1, 1), ceil_mode=True), x).shape == (1, 2, 2, 1)


def test_lrn_of_even_size_reaches_further_up():
    x = np.ones((1, 4), np.float32)
    y = run(LRN(2, alpha=2.0, beta=1.0, bias=0.0), x)
    np.testing.assert_allclose(y, [[0.5, 0.5, 0.5, 1.0]])


def test_attention_rows_that_see_nothing_are_zero():
    q, k, v = f32(1, 4, 3, 8), f32(1, 2, 5, 8), f32(1, 2, 5, 6)
    mask = np.zeros((3, 5), np.float32)
    mask[1] = -np.inf
    y = run(Attention(0.3), q, k, v, mask)
    assert not y[:, :, 1].any() and np.isfinite(y).all()
    s = q[0, 3] @ k[0, 1].T * np.float32(0.3)
    e = np.exp(s - s.max(-1, keepdims=True))
    np.testing.assert_allclose(y[0, 3, [0, 2]], (e / e.sum(-1, keepdims=True) @ v[0, 1])[[0, 2]], rtol=1e-4, atol=1e-5)


def test_causal_attention_aligns_the_last_query_with_the_last_key():
    q, k, v = f32(1, 1, 2, 4), f32(1, 1, 5, 4), f32(1, 1, 5, 3)
    y = run(Attention(1.0, causal=True), q, k, v)
    first = run(Attention(1.0), q[:, :, :1], k[:, :, :4], v[:, :, :4])
    np.testing.assert_allclose(y[:, :, :1], first, rtol=1e-5)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_half_precision_accumulates_in_float32(dtype):
    a, b = np.full((1, 4096), 1, dtype.np), np.full((4096, 1), 1, dtype.np)
    assert float(run(MatMul(), a, b)[0, 0]) == 4096


def test_a_finished_sequence_keeps_its_state():
    cell = Recurrent("gru", 4, (False, True), (("Sigmoid", 0.0, 0.0), ("Tanh", 0.0, 0.0)) * 2)
    x, h0 = f32(6, 2, 3), f32(2, 2, 4)
    rest = f32(2, 12, 3), f32(2, 12, 4), f32(2, 24)
    zero = np.zeros((2, 2, 4), np.float32), np.zeros((2, 12), np.float32)
    y, last = run(cell, x, *rest, np.array([6, 0], np.int32), h0, *zero)
    assert not y[:, :, 1].any()
    np.testing.assert_array_equal(last[:, 1], h0[:, 1])
    np.testing.assert_array_equal(last[0, 0], y[5, 0, 0])
    np.testing.assert_array_equal(last[1, 0], y[0, 1, 0])


def symbolic(*shape):
    return TensorType(DType.F32, shape)


def test_shapes_follow_symbolic_dims():
    n, h = sym("N", 1), sym("H", 8)
    (t,) = Conv((2, 2), (1, 1), (1, 1), (1, 1)).infer([symbolic(n, h, h, 3), symbolic(3, 3, 3, 16)])
    assert [evaluate(d, {"N": 2, "H": 33}) for d in t.shape] == [2, 17, 17, 16]
    (t,) = ConvTranspose((2,), (0,), (0,), (0,), (1,)).infer([symbolic(n, h, 3), symbolic(2, 5, 3)])
    assert t.shape == (n, 2 * h, 5)
    (t,) = MatMul().infer([symbolic(n, 1, h, 4), symbolic(6, 4, n)])
    assert t.shape == (n, 6, h, n)
    (t,) = Pool("avg", (2,), (2,), (0,), (0,), (1,), ceil_mode=True).infer([symbolic(n, h, 3)])
    assert [evaluate(t.shape[1], {"H": k}) for k in (8, 9)] == [4, 5]


@pytest.mark.parametrize(("op", "operands"), [
    (Conv((1, 1), (0, 0), (0, 0), (1, 1)), [symbolic(1, 5, 5, 3), symbolic(3, 3, 4, 8)]),
    (Conv((1, 1), (0, 0), (0, 0), (1, 1), 2), [symbolic(1, 5, 5, 4), symbolic(3, 3, 2, 7)]),
    (Conv((1,), (0,), (0,), (1,)), [symbolic(1, 5, 5, 3), symbolic(3, 3, 3, 8)]),
    (Conv((1,), (0,), (0,), (1,)), [symbolic(1, 5, 3), symbolic(sym("K"), 3, 8)]),
    (MatMul(), [symbolic(3, 4), symbolic(5, 6)]),
    (MatMul(), [symbolic(4), symbolic(4, 6)]),
    (MatMul(), [symbolic(3, 4), TensorType(DType.F64, (4, 5))]),
    (Attention(1.0), [symbolic(1, 3, 4, 8), symbolic(1, 2, 4, 8), symbolic(1, 2, 4, 8)]),
    (Pool("median", (2,), (1,), (0,), (0,), (1,)), [symbolic(1, 5, 3)]),
    (Recurrent("lstm", 4, (False,), (("Tanh", 0.0, 0.0),)), [symbolic(1, 1, 1)] * 8),
    (Recurrent("rnn", 4, (False,), (("Gelu", 0.0, 0.0),)), [symbolic(1, 1, 1)] * 8),
])  # fmt: skip
def test_operands_that_do_not_fit_are_typed_errors(op, operands):
    with pytest.raises(VerifyError):
        op.infer(operands)
