"""onnxruntime's own operators, each compared with onnxruntime: defaults, optional operands, caches, dynamic sizes."""

from math import erf

import ml_dtypes
import mlc
import numpy as np
import onnxruntime as ort
import pytest
from ms_nodes import R, build, compare, f, i8, number, run, typed, u8

# --- quantized --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x,w", [(u8, i8), (u8, u8), (i8, i8)])
@pytest.mark.parametrize("columns", [False, True])
def test_matmul_integer_to_float(x, w, columns):
    weights = w(20, 9)
    side = 9 if columns else ()
    scale = np.abs(f(9)) + 0.01 if columns else number(0.02)
    zero = R.integers(0, 9, side).astype(weights.dtype)
    operands = [x(2, 5, 20), weights, number(0.03), scale, number(7, x(1).dtype), np.asarray(zero), f(9)]
    compare("MatMulIntegerToFloat", operands, constants=(1, 3, 5, 6))


@pytest.mark.parametrize("symbolic", [False, True])
def test_dynamic_quantize_matmul(symbolic):
    operands = [f(3, 7, 20), i8(20, 9), np.abs(f(9)) + 0.01, np.zeros(9, np.int8), f(9)]
    compare("DynamicQuantizeMatMul", operands, constants=(1, 2, 3, 4), symbolic=symbolic, tolerance=1e-3)


@pytest.mark.parametrize("out", ["u8", "f32"])
@pytest.mark.parametrize("a,b", [(0, 0), (1, 1)])
def test_qgemm(out, a, b):
    tail = [number(0.5), number(9, np.uint8)] if out == "u8" else []
    x, w = (u8(12, 5) if a else u8(5, 12)), (i8(8, 12) if b else i8(12, 8))
    bias = R.integers(-99, 99, 8).astype(np.int32)
    operands = [x, number(0.02), number(3, np.uint8), w, number(0.03), number(2, np.int8), bias, *tail]
    compare("QGemm", operands, constants=range(1, 9), steps=1, alpha=1.5, transA=a, transB=b)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (5,), ()])
def test_qlinear_arithmetic(op, shape):
    operands = [
        u8(3, 4, 5),
        number(0.02),
        number(9, np.uint8),
        np.asarray(u8(*shape), np.uint8),
        number(0.05),
        number(0, np.uint8),
        number(0.07),
        number(4, np.uint8),
    ]
    compare(op, operands, steps=1)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_qlinear_arithmetic_rounds_halves_with_the_zero_point(op):
    """To even when it is added, and not before."""
    x, y = u8(40, 60), u8(40, 60)
    zeros = [number(z, np.uint8) for z in (120, 131, 125)]
    operands = [x, number(0.5), zeros[0], y, number(0.25), zeros[1], number(1 if op == "QLinearAdd" else 0.5), zeros[2]]
    compare(op, operands, constants=(1, 2, 4, 5, 6, 7), steps=0)


def test_qlinear_concat():
    operands = [number(0.04), number(5, np.uint8), u8(2, 3), number(0.02), number(1, np.uint8), u8(2, 4), number(0.04), number(5, np.uint8)]
    compare("QLinearConcat", operands, constants=(0, 1, 3, 4, 6, 7), axis=1, steps=1)


@pytest.mark.parametrize("op,attributes", [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearLeakyRelu", {})])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_functions(op, attributes, dtype):
    x = np.arange(256).astype(np.uint8).view(dtype).reshape(2, 128)
    operands = [x, number(0.05), number(5, dtype), number(0.01), number(3, dtype)]
    compare(op, operands, constants=range(1, 5), steps=1, **attributes)


@pytest.mark.parametrize("opset", [11, 13])
def test_qlinear_softmax(opset):
    operands = [u8(3, 4, 5), number(0.1), number(5, np.uint8), number(1 / 256), number(0, np.uint8)]
    compare("QLinearSoftmax", operands, constants=range(1, 5), steps=1, opset=opset, axis=1 if opset == 11 else -1)


@pytest.mark.parametrize("last", [0, 1])
def test_qlinear_pools(last):
    operands = [u8(2, 6, 7, 8), number(0.1), number(5, np.uint8), number(0.11), number(9, np.uint8)]
    compare("QLinearGlobalAveragePool", operands, constants=range(1, 5), steps=1, channels_last=last)
    compare("QLinearAveragePool", operands, constants=range(1, 5), steps=1, channels_last=last, kernel_shape=[3, 2],
            strides=[2, 1], pads=[1, 0, 1, 1], count_include_pad=0)  # fmt: skip


def test_qlinear_conv_with_channels_last():
    x, w = u8(1, 6, 7, 8), i8(4, 8, 3, 3)
    operands = [x, number(0.02), number(7, np.uint8), w, np.abs(f(4)) * 0.01 + 0.001, np.zeros(4, np.int8), number(0.3),
                number(100, np.uint8), R.integers(-99, 99, 4).astype(np.int32)]  # fmt: skip
    compare("QLinearConv", operands, constants=range(1, 9), steps=1, channels_last=1, pads=[1, 1, 1, 1])


def test_qlinear_where():
    c = R.integers(0, 2, (3, 4)).astype(bool)
    operands = [c, u8(3, 4), number(0.1), number(3, np.uint8), u8(3, 4), number(0.2), number(4, np.uint8), number(0.2), number(1, np.uint8)]
    compare("QLinearWhere", operands, constants=(2, 3, 5, 6, 7, 8), steps=1)


def test_mul_integer_is_exact():
    a, b = u8(4), i8(4)
    got = run("MulInteger", [a, number(3, np.uint8), b, number(-2, np.int8)], "int32")
    np.testing.assert_array_equal(got, (a.astype(np.int32) - 3) * (b.astype(np.int32) + 2))


@pytest.mark.parametrize("mask,past", [(False, False), (True, False), (False, True)])
def test_qattention(mask, past):
    n, s, width, heads = 2, 5, 16, 4
    m = np.asarray([5, 3], np.int32) if mask else None
    cache = f(2, n, heads, 3, width // heads) if past else None
    operands = [
        u8(n, s, 12),
        i8(12, 3 * width),
        f(3 * width),
        number(0.02),
        number(0.01),
        m,
        number(120, np.uint8),
        number(0, np.int8),
        cache,
    ]
    outs = ("y", "present") if past else ("y",)
    compare("QAttention", operands, outs, constants=(1, 2, 3, 4, 6, 7), num_heads=heads, unidirectional=int(past), tolerance=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("columns, states", [(False, True), (True, False)])
def test_dynamic_quantize_lstm(direction, columns, states):
    """Rounded as onnxruntime does with one thread: x as a whole, h of the batch at every step."""
    dn, size, hidden, batch = (2 if direction == "bidirectional" else 1), 6, 8, 1
    scales = [np.full((dn, 4 * hidden) if columns else dn, 0.01, np.float32) * R.uniform(0.5, 1.5) for _ in range(2)]
    scales = [s.astype(np.float32) for s in scales]
    first = [f(dn, batch, hidden), f(dn, batch, hidden)] if states else [None, None]
    operands = [f(4, batch, size), i8(dn, size, 4 * hidden), i8(dn, hidden, 4 * hidden), f(dn, 8 * hidden, scale=0.1), None, *first, None,
                scales[0], np.zeros_like(scales[0], np.int8), scales[1], np.zeros_like(scales[1], np.int8)]  # fmt: skip
    compare("DynamicQuantizeLSTM", operands, ("y", "h", "c"), constants=(1, 2, 3, 8, 9, 10, 11), hidden_size=hidden,
            direction=direction, tolerance=1e-5)  # fmt: skip


def test_dynamic_quantize_lstm_with_lengths_keeps_activations():
    size, hidden = 6, 8
    operands = [f(4, 2, size), i8(1, size, 4 * hidden), i8(1, hidden, 4 * hidden), f(1, 8 * hidden, scale=0.1), np.array([4, 2], np.int32),
                None, None, None, np.full(1, 0.01, np.float32), np.zeros(1, np.int8), np.full(1, 0.01, np.float32), np.zeros(1, np.int8)]  # fmt: skip
    compare("DynamicQuantizeLSTM", operands, ("y", "h", "c"), constants=(1, 2, 3, 8, 9, 10, 11), hidden_size=hidden, tolerance=3e-2)


@pytest.mark.parametrize("bits,zeros", [(4, False), (4, True), (8, False), (8, True)])
def test_gather_block_quantized(bits, zeros):
    """Tables of bytes; onnxruntime reads blocks of 16 or more."""
    rows, width, block = 9, 64, 16
    table = u8(rows, width * bits // 8)
    index = R.integers(0, rows, (2, 3)).astype(np.int64)
    operands = [table, index, np.abs(f(rows, width // block)) + 0.1]
    if zeros:
        operands.append(u8(rows, width // block * bits // 8))
    compare("GatherBlockQuantized", operands, constants=(0, 2, 3), gather_axis=0, quantize_axis=1, block_size=block, bits=bits)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("axis,along", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1), (-1, -1)])
def test_gather_block_quantized_along_any_axis(axis, along, zeros):
    shape = [6, 20, 35]
    blocks = list(shape)
    blocks[along] = -(-shape[along] // 16)
    index = R.integers(-shape[axis], shape[axis], (2, 3)).astype(np.int64)
    operands = [R.integers(-8, 8, shape).astype(ml_dtypes.int4), index, np.abs(f(*blocks)) + 0.1]
    if zeros:
        operands.append(R.integers(-8, 8, blocks).astype(ml_dtypes.int4))
    compare("GatherBlockQuantized", operands, constants=(0, 2, 3), gather_axis=axis, quantize_axis=along, block_size=16)


# --- attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "ends", "ends and starts", "keys", "square"])
@pytest.mark.parametrize("causal,past", [(0, 0), (1, 0), (1, 3)])
def test_attention(kind, causal, past):
    n, s, width, heads = 2, 5, 16, 4
    keys = s + past
    mask = {"none": None, "ends": number([keys, 3], np.int32), "ends and starts": number([keys, 4, 1, 0], np.int32),
            "keys": R.integers(0, 2, (n, keys)).astype(np.int32), "square": R.integers(0, 2, (n, s, keys)).astype(np.int32)}[kind]  # fmt: skip
    cache = f(2, n, heads, past, width // heads) if past else None
    operands = [f(n, s, 12), f(12, 3 * width), f(3 * width), mask, cache]
    outs = ("y", "present") if past else ("y",)
    compare("Attention", operands, outs, constants=(1, 2), num_heads=heads, unidirectional=causal, tolerance=1e-4)


@pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
def test_lengths_of_keys_whose_count_has_a_name_of_its_own(op):
    """The exporter names the batch of every input apart, and onnxruntime's optimizer takes lengths from the mask, tokens from the ids."""
    lengths = number([5, 3], np.int32)
    operands = [f(2, 5, 12), f(12, 48), f(48), lengths] if op == "Attention" else [f(2, 5, 16)] * 3 + [None, lengths]
    compare(op, operands, constants=(1, 2) if op == "Attention" else (), symbolic=True, num_heads=4, tolerance=1e-4)


def test_attention_of_other_value_widths_with_a_bias_of_scores():
    operands = [f(2, 5, 12), f(12, 16 + 16 + 24), f(56), None, None, f(2, 4, 5, 5)]
    compare("Attention", operands, constants=(1, 2), num_heads=4, qkv_hidden_sizes=[16, 16, 24], scale=0.3, tolerance=1e-4)


@pytest.mark.parametrize("padding", [None, "ends", "keys"])
@pytest.mark.parametrize("past", [0, 2])
def test_multi_head_attention(padding, past):
    n, s, width, heads = 2, 4, 16, 4
    keys = s + past
    seen = R.integers(0, 2, (n, keys)).astype(np.int32)
    seen[:, 0] = 1  # without any key onnxruntime adds −10⁴ to all of them, and rounds what is left
    mask = None if padding is None else number([keys, 3], np.int32) if padding == "ends" else seen
    cache = [f(n, heads, past, 4), f(n, heads, past, 4)] if past else []
    operands = [f(n, s, width), f(n, s, width), f(n, s, width), f(3 * width), mask, f(1, heads, s, keys), *cache]
    outs = ("y", "k", "v") if past else ("y",)
    compare("MultiHeadAttention", operands, outs, num_heads=heads, tolerance=1e-4)


def test_multi_head_attention_packed():
    """onnxruntime has no CPU kernel of it: the same as query, key and value apart."""
    qkv, q, kv = f(2, 4, 3, 3, 8), f(2, 4, 24), f(2, 6, 3, 2, 8)
    parts = [qkv[:, :, :, i].reshape(2, 4, 24) for i in range(3)]
    apart = lambda *xs: run("MultiHeadAttention", [*xs], num_heads=3)  # noqa: E731
    np.testing.assert_allclose(apart(qkv), apart(*parts), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apart(q, kv), apart(q, *(kv[:, :, :, i].reshape(2, 6, 24) for i in range(2))), rtol=1e-4, atol=1e-5)


def test_multi_head_attention_with_dynamic_sizes():
    operands = [f(2, 4, 16), f(2, 6, 16), f(2, 6, 16)]
    model = build("MultiHeadAttention", operands, ["y"], symbolic=True, num_heads=4)
    for i, name in enumerate(("S", "L", "L")):
        dims = model.graph.input[i].type.tensor_type.shape.dim
        dims[0].dim_param, dims[1].dim_param = "N", name
        dims[2].dim_value = 16
    feeds = {f"x{i}": x for i, x in enumerate(operands)}
    want = ort.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(mlc.compile(typed(model, "float")).run(feeds)["y"], want, rtol=1e-4, atol=1e-4)


def gqa(n, s, past, heads=4, groups=2, size=16, packed=False, rotary=0, lengths=None, extra=(), room=0, known=True, outs=(), **attributes):
    total = s + past
    q = f(n, s, (heads + 2 * groups) * size) if packed else f(n, s, heads * size)
    k, v = (None, None) if packed else (f(n, s, groups * size), f(n, s, groups * size))
    cache = [f(n, groups, past + room, size), f(n, groups, past + room, size)] if past else [None, None]
    ends = np.full(n, total - 1, np.int32) if lengths is None else np.asarray(lengths, np.int32)
    tables = [f(32, size // 2), f(32, size // 2)] if rotary else [None, None]
    operands = [q, k, v, *cache, ends, number(total, np.int32), *tables, *extra]
    while operands[-1] is None:
        operands.pop()
    compare("GroupQueryAttention", operands, ("y", "k", "v", *outs), constants=(6,) if known else (), num_heads=heads, kv_num_heads=groups,
            do_rotary=rotary, tolerance=1e-4, **attributes)  # fmt: skip


class TestGroupQueryAttention:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("rotary", [0, 1])
    def test_prompt(self, packed, rotary):
        gqa(2, 5, 0, packed=packed, rotary=rotary)

    @pytest.mark.parametrize("n", [1, 2])
    def test_token(self, n):
        gqa(n, 1, 6, rotary=1)

    def test_part_of_a_prompt(self):
        gqa(1, 5, 6, rotary=1)
        gqa(1, 5, 6, extra=(None, f(1, 4, 5, 11)))

    def test_window_and_cap(self):
        gqa(1, 9, 0, local_window_size=4)
        gqa(1, 1, 9, local_window_size=4)
        gqa(1, 5, 0, softcap=3.0, scale=0.7)

    def test_interleaved_rotation(self):
        gqa(1, 5, 0, rotary=1, rotary_interleaved=1)

    def test_sinks_and_smooth_softmax(self):
        gqa(1, 5, 0, smooth_softmax=1)
        gqa(2, 5, 0, extra=(None, None, f(4)))

    def test_bias_of_scores(self):
        gqa(2, 5, 0, extra=(None, f(2, 4, 5, 5)))

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize(("n", "s"), [(1, 1), (1, 3), (2, 1)])
    def test_room_in_the_cache(self, known, n, s):
        """Caches of the length that a decoder will need, of which total_sequence_length says what is used."""
        gqa(n, s, 6, room=5, rotary=1, known=known, extra=(None, f(n, 4, s, 6 + s)))

    @pytest.mark.parametrize("output", [1, 2])
    def test_scores(self, output):
        gqa(1, 3, 4, qk_output=output, outs=("qk",), softcap=3.0, extra=(None, f(1, 4, 3, 7)))
        gqa(2, 5, 0, qk_output=output, outs=("qk",), smooth_softmax=1)

    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("kind", ["PER_TENSOR", "PER_CHANNEL"])
    @pytest.mark.parametrize(("n", "s", "room"), [(1, 3, 0), (2, 1, 5)])
    def test_cache_of_few_bits(self, bits, kind, n, s, room):
        q, k, v = f(n, s, 4 * 16), f(n, s, 2 * 16, scale=2.0), f(n, s, 2 * 16, scale=2.0)
        cache = [i8(n, 2, 6 + room, 16) if bits == 8 else u8(n, 2, 6 + room, 8) for _ in "kv"]
        scales = [number([0.1]) if kind == "PER_TENSOR" else np.abs(f(1, 2, 1, 16)) * 0.2 + 0.05 for _ in "kv"]
        ends = np.full(n, 5 + s, np.int32)
        operands = [q, k, v, *cache, ends, number(6 + s, np.int32), f(32, 8), f(32, 8), None, None, None, *scales]
        compare("GroupQueryAttention", operands, ("y", "k", "v"), num_heads=4, kv_num_heads=2, do_rotary=1, k_quant_type=kind,
                v_quant_type=kind, kv_cache_bit_width=bits, tolerance=1e-4, steps=0)  # fmt: skip


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("offset", [True, False])
def test_rotary_embedding(interleaved, offset):
    places = number([2], np.int64) if offset else R.integers(0, 16, (2, 5)).astype(np.int64)
    compare("RotaryEmbedding", [f(2, 3, 5, 8), places, f(16, 4), f(16, 4)], interleaved=interleaved)
    compare("RotaryEmbedding", [f(2, 5, 24), places, f(16, 4), f(16, 4)], interleaved=interleaved, num_heads=3)
    compare("RotaryEmbedding", [f(2, 5, 24), places, f(16, 4), f(16, 4)], interleaved=interleaved)


# --- the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelu(op):
    compare(op, [f(3, 8), *([f(8)] if op in ("BiasGelu", "FastGelu") else [])], tolerance=1e-5)


@pytest.mark.parametrize("op,operands", [
    ("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)]),
    ("SkipLayerNormalization", [f(2, 3, 8), f(3, 8), f(8)]),
    ("SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8)]),
])  # fmt: skip
def test_skip_norms(op, operands):
    compare(op, operands, ("y", "", "", "sum"))
    compare(op, operands, epsilon=0.1)


def test_embed_layer_normalization():
    ids, kinds = R.integers(0, 9, (2, 5)).astype(np.int32), R.integers(0, 2, (2, 5)).astype(np.int32)
    operands = [ids, kinds, f(9, 8), f(6, 8), f(2, 8), f(8), f(8), np.ones((2, 5), np.int32)]
    compare("EmbedLayerNormalization", operands, ("y", "mask"))


def test_grouped_queries_with_sinks_and_a_bias_of_symbolic_sizes():
    ends, total = np.full(2, 4, np.int32), number(5, np.int32)
    operands = [f(2, 5, 64), f(2, 5, 32), f(2, 5, 32), None, None, ends, total, None, None, None, f(2, 4, 5, 5), f(4)]
    compare("GroupQueryAttention", operands, ("y", "k", "v"), symbolic=True, num_heads=4, kv_num_heads=2, constants=(6, 11))


def test_quantized_lstm_whose_states_have_symbolic_sizes():
    operands = [f(3, 2, 4), i8(1, 4, 12), i8(1, 3, 12), f(1, 24), None, f(1, 2, 3), f(1, 2, 3), None]
    operands += [np.float32([0.01]), np.zeros(1, np.int8), np.float32([0.01]), np.zeros(1, np.int8)]
    compare(
        "DynamicQuantizeLSTM", operands, ("y", "h", "c"), symbolic=True, constants=(1, 2, 3, 8, 9, 10, 11), hidden_size=3, tolerance=3e-2
    )


@pytest.mark.parametrize("op,operands,attributes", [
    ("BiasSoftmax", [f(2, 3, 4, 5), f(2, 1, 1, 5)], {"axis": 3, "is_inner_broadcast": 1}),
    ("CDist", [f(5, 4), f(6, 4)], {"metric": "euclidean"}),
    ("CDist", [f(5, 4), f(6, 4)], {"metric": "sqeuclidean"}),
    ("ExpandDims", [f(3, 4), number(-1, np.int32)], {}),
    ("FusedMatMul", [f(4, 3), f(5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("TransposeMatMul", [f(4, 3), f(4, 5)], {"transA": 1}),
    ("FusedMatMul", [f(4, 2, 3), f(2, 3, 5)], {"transBatchA": 1}),
    ("FusedMatMul", [f(3, 2, 4), f(5, 2, 3)], {"transBatchA": 1, "transBatchB": 1, "transA": 1, "transB": 1}),
    ("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": "LeakyRelu", "activation_alpha": 0.3}),
    *(("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": name}) for name in ("Softplus", "Softsign")),
    ("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": "Celu", "activation_alpha": 0.6}),
    ("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": "Selu", "activation_alpha": 1.5, "activation_gamma": 0.7}),
    ("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": "ThresholdedRelu", "activation_alpha": 0.4}),
    ("MultiHeadAttention", [f(2, 3, 8), f(2, 5, 8), f(2, 5, 8)], {"num_heads": 2, "unidirectional": 1}),
    ("MultiHeadAttention", [f(2, 5, 8), f(2, 3, 8), f(2, 3, 8)], {"num_heads": 2, "unidirectional": 1}),
    ("FusedConv", [f(1, 3, 6, 6), f(4, 3, 3, 3), f(4)], {"activation": "Relu"}),
    ("Trilu", [f(2, 4, 5)], {"upper": 0}),
    ("Range", [number(1.0), number(4.0), number(0.5)], {}),
    ("Pad", [f(2, 3), number([0, 1, 1, 0], np.int64), number(2.0)], {}),
    ("BiasDropout", [f(2, 3), f(3), f(2, 3)], {}),
    ("GatherND", [f(3, 4), number([[0, 1], [2, 3]], np.int64)], {}),
    ("QuickGelu", [f(3, 4)], {"alpha": 1.0}),
    ("Inverse", [f(2, 3, 3) + 3 * np.eye(3, dtype=np.float32)], {}),
    ("IsAllFinite", [f(3), f(2)], {}),
])  # fmt: skip
def test_small_operators(op, operands, attributes):
    constants = range(1, len(operands)) if op in ("ExpandDims", "Pad", "Range", "FusedConv") else ()
    if op == "Range":
        constants = (0, 1, 2)
    try:
        compare(op, operands, constants=constants, tolerance=1e-4, **attributes)
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        pytest.skip("onnxruntime has no CPU kernel")


@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_products(conjugate):
    x, y = f(3, 2), f(3, 2)
    a, b = x[:, 0] + 1j * x[:, 1], y[:, 0] + 1j * y[:, 1]
    want = a * (b.conj() if conjugate else b)
    got = run("ComplexMulConj" if conjugate else "ComplexMul", [x, y])
    np.testing.assert_allclose(got, np.stack([want.real, want.imag], 1), rtol=1e-5, atol=1e-6)


def test_operators_of_diffusion_models():
    """onnxruntime has them for GPUs only; the formulas are those of its documentation."""
    x, bias, skip = f(2, 4, 6), f(6), f(2, 4, 6)
    np.testing.assert_allclose(run("BiasAdd", [x, bias, skip]), x + bias + skip, rtol=1e-6)
    y = x + bias
    gelu = np.vectorize(lambda t: 0.5 * t * (1 + erf(t / 2**0.5)))(y[..., 3:])
    np.testing.assert_allclose(run("BiasSplitGelu", [x, bias]), y[..., :3] * gelu, rtol=1e-4, atol=1e-6)
    image, gamma, beta = f(2, 3, 3, 8), f(8), f(8)
    g = image.reshape(2, 9, 2, 4)
    norm = ((g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-5)).reshape(image.shape) * gamma + beta
    np.testing.assert_allclose(run("GroupNorm", [image, gamma, beta], groups=2, activation=0), norm, rtol=1e-4, atol=1e-5)


def test_unsupported_variants_are_named():
    operands = [f(1, 2, 8), f(8, 24), f(24)]
    with pytest.raises(mlc.errors.OnnxImportError, match="do_rotary"):
        run("Attention", operands, num_heads=2, do_rotary=1)
