"""Operators that onnxruntime has for GPUs only: against NumPy, and Attention of padded batches."""

import math

import mlc
import numpy as np
import pytest
from mlc.errors import OnnxImportError
from ms_nodes import build, f, i32
from onnx import TensorProto

F, I = TensorProto.FLOAT, TensorProto.INT32


def results(op, operands, kinds, symbolic=True, constants=(), **attributes):
    outs = [f"y{i}" for i in range(len(kinds))]
    model = build(op, operands, outs, constants, symbolic, **attributes)
    for value, kind in zip(model.graph.output, kinds, strict=True):
        value.type.tensor_type.elem_type = kind
    feeds = {f"x{i}": x for i, x in enumerate(operands) if x is not None and i not in constants}
    got = mlc.compile(model, threads=1).run(feeds)
    return [got[o] for o in outs]


COUNTS = [[2, 5, 1], [5, 5, 5], [0, 3, 0]]


@pytest.mark.parametrize("counts", COUNTS)
def test_padding(counts):
    x = f(3, 5, 4)
    rows, offset, starts, longest = results("RemovePadding", [x, i32(counts)], [F, I, I, I])
    real = np.arange(5) < np.array(counts)[:, None]
    np.testing.assert_array_equal(rows, x[real])
    np.testing.assert_array_equal(offset.ravel(), np.concatenate([np.flatnonzero(real), np.flatnonzero(~real)]))
    np.testing.assert_array_equal(starts, np.concatenate([[0], np.cumsum(counts)]))
    np.testing.assert_array_equal(longest, [max(counts)])
    (back,) = results("RestorePadding", [rows, offset], [F])
    np.testing.assert_array_equal(back, x * real[..., None])


def attention(x, counts, heads, extra):
    """Softmax attention of each sequence x[S, 3·D] by itself."""
    width = x.shape[1] // 3
    out, start = [], 0
    for n in counts:
        q, k, v = (x[start : start + n, i * width : (i + 1) * width].reshape(n, heads, -1).swapaxes(0, 1) for i in range(3))
        s = q @ k.swapaxes(1, 2) / math.sqrt(width // heads) + (0 if extra is None else extra[0, :, :n, :n])
        p = np.exp(s - s.max(-1, keepdims=True))
        out.append(((p / p.sum(-1, keepdims=True)) @ v).swapaxes(0, 1).reshape(n, width))
        start += n
    return np.concatenate(out)


@pytest.mark.parametrize("counts", COUNTS[:2])
@pytest.mark.parametrize(("biased", "symbolic"), [(False, False), (True, False), (True, True)])
def test_packed_attention(counts, biased, symbolic):
    real = np.arange(5) < np.array(counts)[:, None]
    offset = i32(np.concatenate([np.flatnonzero(real), np.flatnonzero(~real)]).reshape(3, 5))
    starts, total = i32(np.concatenate([[0], np.cumsum(counts)])), sum(counts)
    x, w, bias, extra = f(total, 6), f(6, 24), f(24), f(1, 2, 5, 5) if biased else None
    (got,) = results("PackedAttention", [x, w, bias, offset, starts, extra][: 6 if biased else 5], [F], symbolic, num_heads=2)
    np.testing.assert_allclose(got, attention(x @ w + bias, counts, 2, extra), rtol=1e-4, atol=1e-5)
    q, k, v = (f(total, 8) for _ in range(3))
    want = attention(np.concatenate([q, k, v], 1), counts, 2, extra)
    (got,) = results("PackedMultiHeadAttention", [q, k, v, None, offset, starts, *([extra] if biased else [])], [F], symbolic, num_heads=2)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    both = np.stack([y.reshape(total, 2, 4) for y in (q, k, v)], 2)
    (got,) = results("PackedMultiHeadAttention", [both, None, None, None, offset, starts], [F], symbolic, num_heads=2)
    np.testing.assert_allclose(got, attention(np.concatenate([q, k, v], 1), counts, 2, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("both", [0, 1])
def test_relative_position_bias(both):
    """The buckets of T5, as its authors' code has them."""
    table, buckets, heads, farthest = f(32, 4), 32, 4, 128
    (got,) = results(
        "RelativePositionBias", [table, np.array([150]), np.array([150])], [F], False, (0,), is_bidirectional=both, max_distance=farthest
    )
    relative = np.arange(150)[None] - np.arange(150)[:, None]
    half, at = buckets, np.zeros_like(relative)
    if both:
        half //= 2
        at, relative = (relative > 0) * half, np.abs(relative)
    else:
        relative = np.maximum(-relative, 0)
    exact = half // 2
    with np.errstate(divide="ignore"):
        large = exact + (np.log(np.float32(relative) / exact) / math.log(farthest / exact) * (half - exact)).clip(0).astype(int)
    at = at + np.where(relative < exact, relative, np.minimum(large, half - 1))
    assert got.shape == (1, heads, 150, 150)
    same = np.isclose(got[0], table.reshape(heads, buckets)[:, at], rtol=1e-6)
    assert same.mean() > 0.999  # a logarithm next to a whole number may fall to either side


def test_gemma_rotary_embedding():
    angles, q, q2, k, k2 = f(2, 5, 8), *(f(2, 3, 5, 8) for _ in range(4))
    got = results("GemmaRotaryEmbedding", [angles, q, q2, k, k2], [F, F])
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    for y, (x, turned) in zip(got, ((q, q2), (k, k2)), strict=True):
        np.testing.assert_allclose(y, x * cos + turned * sin, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [8, 30])
def test_spectra(n):
    x = f(2, 3, n)
    (y,) = results("Rfft", [x], [F], signal_ndim=1)
    want = np.fft.rfft(x)
    np.testing.assert_allclose(y, np.stack([want.real, want.imag], -1), rtol=1e-4, atol=1e-4)
    (back,) = results("Irfft", [y], [F], signal_ndim=1)
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4)
    with pytest.raises(OnnxImportError, match="one axis"):
        results("Rfft", [x], [F], signal_ndim=2)
