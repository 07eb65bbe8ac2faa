"""com.microsoft operators on tokens, masked pooling, AttnLSTM and blobs of 4-bit weights, each compared with onnxruntime."""

import mlc
import numpy as np
import pytest
from mlc.errors import InputError, OnnxImportError
from ms_nodes import R, build, compare, f, i32, run, typed


def i64(values):
    return np.asarray(values, np.int64)


# --- BifurcationDetector ----------------------------------------------------------------------------------------------

SOURCES = [
    ([7, 1, 2, 3, 1, 2, 4, 5], [9, 1], 3, [3, 1, 2, 9, 9, 9]),
    ([7, 1, 2, 3, 1, 2, 4, 5], [9, 1], 8, [2]),
    ([7, 1, 2, 3, 1, 2, 4, 5], [], 0, [7, 1, 2, 3, 1, 2, 4, 5, 6]),
    ([1, 1, 1], [1, 1], 2, [5, 1]),
    ([], [4, 4], 0, [3]),
    ([5, 6, 7], [5], 0, [5, 6, 8, 0]),
]


@pytest.mark.parametrize("src,cur,previous,predicted", SOURCES)
@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (3, 5)])
def test_bifurcation_detector(src, cur, previous, predicted, sizes):
    operands = [i64(src), i64(cur), i64([previous]), i64(predicted)]
    attributes = {"min_ngram_size": sizes[0], "max_ngram_size": sizes[1]}
    compare("BifurcationDetector", operands, ("tokens", "found"), symbolic=True, **attributes)
    compare("BifurcationDetector", [*operands[:3], None], ("tokens", "found"), **attributes)


def test_bifurcation_detector_one_compilation_many_lengths():
    model = build("BifurcationDetector", [i64(SOURCES[0][i]) if i != 2 else i64([3]) for i in range(4)], ["y", "at"], symbolic=True)
    compiled = mlc.compile(typed(model, "int64", "int64"), threads=1)
    got = compiled.run({"x0": i64([4, 5, 6, 7]), "x1": i64([4]), "x2": i64([1]), "x3": i64([5, 6, 1, 1])})
    np.testing.assert_array_equal(got["y"], [4, 5, 6, 1])
    with pytest.raises(InputError):  # four predictions need a match at 1
        compiled.run({"x0": i64([4, 5, 6, 7]), "x1": i64([4]), "x2": i64([2]), "x3": i64([5, 6, 1, 1])})


# --- hashes of n-grams ------------------------------------------------------------------------------------------------


def grams(n, heads):
    return R.integers(1, 2**31, n) | 1, R.integers(3, 1000, (n - 1) * heads)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("past,offsets,eos,segments", [(0, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (0, 1, 1, 1), (1, 0, 0, 1)])
@pytest.mark.parametrize("reset", [0, 1])
def test_ngram_hash_mapping(dtype, past, offsets, eos, segments, reset):
    multipliers, sizes = grams(4, 2)
    operands = [
        R.integers(0, 4, (3, 9)).astype(dtype), multipliers.astype(dtype), sizes.astype(dtype),
        R.integers(0, 4, (3, 3)).astype(dtype) if past else None, np.arange(6, dtype=dtype) * 1000 if offsets else None,
        np.asarray(2, dtype) if eos else None, np.repeat(i32([[0, 0, 1]]), 3, 1).repeat(3, 0) if segments else None,
    ]  # fmt: skip
    while operands[-1] is None:
        operands.pop()
    attributes = {"max_ngram_size": 4, "n_head_per_ngram": 2, "pad_id": 1, "reset_on_eos": reset}
    compare("NGramHashMapping", operands, ("y", "present"), symbolic=True, **attributes)


def test_ngram_hash_mapping_of_one_token_and_bad_sizes():
    multipliers, sizes = grams(3, 2)
    operands = [i64([[5]]), multipliers, sizes, i64([[3, 4]])]
    compare("NGramHashMapping", operands, ("y", "present"), max_ngram_size=3, n_head_per_ngram=2, pad_id=0)
    operands[2] = sizes * 0
    with pytest.raises(InputError):
        compare_mlc_only("NGramHashMapping", operands, max_ngram_size=3, n_head_per_ngram=2, pad_id=0)


def compare_mlc_only(op, operands, **attributes):
    return run(op, operands, "int64", **attributes)


@pytest.mark.parametrize(
    "past,offsets,eos,segments,old", [(0, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (0, 1, 1, 1, 0), (1, 0, 1, 1, 1)]
)
@pytest.mark.parametrize("reset", [0, 1])
def test_varlen_ngram_hash_mapping(past, offsets, eos, segments, old, reset):
    multipliers, sizes = grams(4, 3)
    operands = [
        R.integers(0, 4, 11), multipliers, sizes, i32([0, 1, 6, 11]), R.integers(0, 4, (3, 3)) if past else None,
        np.arange(9) * 1000 if offsets else None, i64(2) if eos else None,
        i32([0, 1, 1, 2, 2, 2, 5, 5, 5, 6, 6]) if segments else None, i32([[0, 1, 1], [0, 0, 1], [5, 5, 5]]) if old else None,
    ]  # fmt: skip
    while operands[-1] is None:
        operands.pop()
    outs = ("y", "present", "segments") if segments else ("y", "present")
    attributes = {"max_ngram_size": 4, "n_head_per_ngram": 3, "pad_id": 1, "reset_on_eos": reset}
    compare("VarlenNGramHashMapping", operands, outs, symbolic=True, **attributes)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("symbolic", "constants"), [(False, (1, 2, 3)), (True, (1, 2, 3)), (True, ())])
def test_word_conv_embedding(symbolic, constants):
    words = i32([[1, 2, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0], [5, 6, 7, 8, 9, 3], [2, 1, 0, 0, 0, 0]])
    operands = [words, f(5, 1, 3, 4), f(5), f(10, 4)]
    compare(
        "WordConvEmbedding", operands, constants=constants, symbolic=symbolic, embedding_size=5, conv_window_size=3, char_embedding_size=4
    )
    with pytest.raises(OnnxImportError, match="embedding_size=6"):
        mlc.compile(typed(build("WordConvEmbedding", operands, ["y"], embedding_size=6), "float"))


def test_word_conv_embedding_of_no_word():
    got = run("WordConvEmbedding", [i32([[0, 1, 2, 3]]), f(5, 1, 3, 4), f(5), f(10, 4)])
    np.testing.assert_array_equal(got, np.zeros((1, 5)))


# --- masked pooling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(1, 1), (2, 3), (1, 3)])
@pytest.mark.parametrize("spatial,kernel,strides", [((9,), (3,), (2,)), ((6, 7), (3, 2), (1, 2)), ((4, 5, 6), (2, 3, 2), (2, 1, 1))])
def test_max_pool_with_mask(channels, spatial, kernel, strides):
    mask = (R.random((*channels, *spatial)) < 0.8).astype(np.int32)
    pads = [1] * (2 * len(spatial))
    compare("MaxpoolWithMask", [f(2, 3, *spatial), mask], symbolic=True, kernel_shape=kernel, strides=strides, pads=pads)
    compare("MaxpoolWithMask", [f(2, 3, *spatial), mask], kernel_shape=kernel, strides=strides, auto_pad="SAME_UPPER")


# --- blobs of 4-bit weights -------------------------------------------------------------------------------------------


def blob(k, n, kind):
    """Random blocks, and the matrix that they stand for."""
    block, offset = {0: (32, 4), 1: (32, 5), 2: (64, 4), 4: (128, 4)}[kind]
    raw = R.integers(0, 256, (n, -(-k // block), offset + block // 2)).astype(np.uint8)
    scales = (R.random(raw.shape[:2]) + 0.5).astype(np.float32) / 10
    raw[..., :4] = scales[..., None].view(np.uint8)
    zeros = np.full(scales.shape, 8.0)
    if offset == 5:
        raw[..., 4] &= 15
        zeros = raw[..., 4].astype(np.float64)
    halves = raw[..., offset:].reshape(*raw.shape[:2], -1, 16)
    levels = np.stack([halves & 15, halves >> 4], 3).reshape(*raw.shape[:2], -1).astype(np.float64)
    return raw.ravel(), ((levels - zeros[..., None]) * scales[..., None]).reshape(n, -1)[:, :k].T


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("k", [64, 96, 133])
def test_matmul_fp_q4(kind, k):
    raw, matrix = blob(k, 24, kind)
    x = f(2, 5, k)
    model = typed(build("MatMulFpQ4", [x, raw, i64([k, 24])], ["y"], (1, 2), symbolic=True, blk_quant_type=kind), "float")
    got = mlc.compile(model, threads=1).run({"x0": x})["y"]
    np.testing.assert_allclose(got, x @ matrix, rtol=2e-4, atol=2e-4)


def test_matmul_fp_q4_refuses_other_blobs():
    with pytest.raises(OnnxImportError, match="MatMulFpQ4"):
        mlc.compile(typed(build("MatMulFpQ4", [f(2, 64), np.zeros(11, np.uint8), i64([64, 24])], ["y"], (1, 2)), "float"))


def test_sparse_to_dense_matmul_of_a_dense_constant():
    a, x = f(4, 6) * (R.random((4, 6)) < 0.3), f(5, 4)
    model = typed(build("SparseToDenseMatMul", [a.astype(np.float32), x], ["y"], (0,), alpha=2.0, transA=1, transB=1), "float")
    np.testing.assert_allclose(mlc.compile(model, threads=1).run({"x1": x})["y"], 2 * a.T @ x.T, rtol=1e-5, atol=1e-5)


def test_sample_op():
    compare("SampleOp", [f(3, 4)])


# --- AttnLSTM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("ragged,layer,peephole", [(0, 0, 0), (1, 1, 1), (1, 0, 0)])
def test_attn_lstm(direction, ragged, layer, peephole):
    steps, batch, width, hidden, depth, memory, spans, size = 5, 3, 4, 6, 7, 5, 8, 9
    dn = 2 if direction == "bidirectional" else 1
    attended = size if layer else memory
    operands = [
        f(steps, batch, width), f(dn, 4 * hidden, width + attended, scale=0.3), f(dn, 4 * hidden, hidden, scale=0.3),
        f(dn, 8 * hidden, scale=0.3) if layer else None, i32([5, 2, 4]) if ragged else None,
        f(dn, batch, hidden) if ragged else None, f(dn, batch, hidden) if ragged else None,
        f(dn, 3 * hidden, scale=0.3) if peephole else None,
        f(dn, hidden, depth), f(dn, memory, depth), f(dn, depth), f(batch, spans, memory),
        i32([8, 3, 1]) if ragged else None, f(dn, memory + hidden, size) if layer else None,
    ]  # fmt: skip
    while operands[-1] is None:
        operands.pop()
    compare("AttnLSTM", operands, ("y", "h", "c"), (1, 2, 3, 7, 8, 9, 10, 13), True, 1e-4, hidden_size=hidden, direction=direction)


def test_attn_lstm_clip_activations_and_coupled_gates():
    operands = [
        f(4, 2, 3), f(1, 20, 7), f(1, 20, 5), None, None, None, None, None, f(1, 5, 6), f(1, 4, 6), f(1, 6), f(2, 3, 4),
    ]  # fmt: skip
    attributes = {"clip": 0.5, "input_forget": 1, "activations": ["HardSigmoid", "Softsign", "ScaledTanh"]}
    attributes |= {"activation_alpha": [0.3, 1.2], "activation_beta": [0.4, 0.7]}
    compare("AttnLSTM", operands, ("y", "h", "c"), tolerance=1e-4, hidden_size=5, **attributes)
    with pytest.raises(OnnxImportError, match="direction"):
        mlc.compile(typed(build("AttnLSTM", operands, ["y"], direction="sideways"), "float"))
