"""onnxruntime's gates, branch mixes and mixtures of experts, compared with it."""

import mlc
import numpy as np
import pytest
from ms_nodes import R, build, compare, f, run, typed

U8 = np.uint8


def test_gates():
    x, y = f(2, 3, 8), f(2, 3, 8)
    compare("GatedAdd", [x, y, f(2, 3, 1)], symbolic=True)
    for name in ("silu", "sigmoid", "swish"):
        compare("GatedRMSNorm", [x, f(4), y], activation=name, epsilon=1e-6)
    compare("BranchwiseRMSNorm", [f(2, 3, 4, 5)])
    compare("BranchwiseRMSNorm", [f(2, 3, 20), f(20)], num_branches=4)
    compare("BranchwiseRMSNorm", [f(2, 3, 20), f(5)], num_branches=4, epsilon=1e-3)


@pytest.mark.parametrize("gate", [(2, 3, 4), (2, 3, 4, 1), (2, 3, 4, 5)])
def test_hyper_connections(gate):
    compare("HyperConnectionPreMix", [f(2, 3, 4, 5), f(*gate)], reduction_scale=0.5)
    compare("HyperConnectionPostMix", [f(2, 3, 4, 5), f(2, 3, 5), f(*gate)])
    compare("HyperConnectionPostMix", [f(2, 3, 20), f(2, 3, 5), f(*gate), f(2, 3, 4, 4)], num_branches=4)


def test_linear_attention_gate_and_engram():
    compare("LinearAttentionGate", [f(2, 3, 4), f(4), f(4), f(2, 3, 4)], outs=("d", "e"))
    compare("LinearAttentionGate", [f(2, 3, 4), f(4), f(4)], outs=("d",))
    key, query, value = f(2, 3, 4, 8), f(2, 3, 4, 8), f(2, 3, 8)
    compare("EngramGate", [key, query, value, f(4, 8), f(4, 8), f(4, 8)], outs=("y", "z"))


def test_gated_relative_position_bias():
    """onnxruntime has it for GPUs only: the formula that its documentation gives."""
    n, s, h, d, w = 2, 5, 3, 4, 6
    x, x_bias, rel, weight, bias, eco = f(n, s, h * d), f(h * d), f(1, h, s, s), f(d, w), f(w), f(1, h, 1, 1)
    q = (x + x_bias).reshape(n, s, h, d).transpose(0, 2, 1, 3)
    gates = 1 / (1 + np.exp(-(q @ weight + bias).reshape(n, h, s, 2, w // 2).sum(-1)))
    want = (gates[..., :1] * (gates[..., 1:] * eco - 1) + 2) * rel
    got = run("GatedRelativePositionBias", [x, x_bias, rel, weight, bias, eco], num_heads=h)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_quantized_embeddings(segments, mask):
    ids, kinds = R.integers(0, 20, (2, 5)).astype(np.int32), R.integers(0, 2, (2, 5)).astype(np.int32)
    tables = [R.integers(0, 255, s).astype(U8) for s in ((20, 8), (9, 8), (2, 8), (8,), (8,))]
    scales = [np.float32(0.01 + 0.01 * i) for i in range(5)]
    zeros = [np.asarray(100 + i, U8) for i in range(5)]
    if not segments:
        tables[2], scales[2], zeros[2] = None, None, None
    operands = [ids, kinds if segments else None, *tables, np.array([[1] * 5, [1] * 3 + [0] * 2], np.int32) if mask else None]
    operands += [*(None if s is None else np.asarray(s) for s in scales), *zeros]
    compare("QEmbedLayerNormalization", operands, outs=("y", "m"), constants=range(2, 18), epsilon=1e-6, tolerance=1e-4)


def experts(e, h, i, fusion=1):
    return f(e, fusion * i, h, scale=0.3), f(e, fusion * i), f(e, h, i, scale=0.3), f(e, h)


@pytest.mark.parametrize("normalize", [0, 1])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
def test_mixture_of_experts(k, normalize, activation):
    x, logits = f(2, 3, 8), f(6, 4)
    w1, b1, w2, b2 = experts(4, 8, 12)
    compare(
        "MoE", [x, logits, w1, b1, w2, b2], constants=(2, 3, 4, 5), k=k, normalize_routing_weights=normalize, activation_type=activation
    )


def test_mixture_of_swiglu_experts():
    x, logits = f(7, 8), f(7, 4)
    w1, b1, w2, b2 = experts(4, 8, 12, 2)
    given = {"k": 2, "activation_type": "swiglu", "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_fusion": 1}
    compare("MoE", [x, logits, w1, b1, w2, b2], constants=(2, 3, 4, 5), swiglu_limit=0.7, normalize_routing_weights=1, **given)
    compare("MoE", [x, logits, w1, None, w2], constants=(2, 4), symbolic=True, **given)


def packed(e, rows, columns, bits):
    return R.integers(0, 256, (e, rows, columns * bits // 8)).astype(U8)


def few_bits(bits, block, zeros, e=4, h=32, i=64):
    """Operands of a QMoE of two layers with biases."""

    def scale(rows, columns):
        return np.abs(f(*((e, rows, columns // block) if block else (e, rows)), scale=0.02)) + np.float32(0.001)

    def zero(rows, columns):
        if not zeros:
            return None
        shape = (e, rows, -(-columns // block * bits // 8)) if block else (e, -(-rows * bits // 8))
        return R.integers(0, 256, shape).astype(U8)

    operands = [f(5, h), f(5, e), packed(e, i, h, bits), scale(i, h), f(e, i), packed(e, h, i, bits), scale(h, i), f(e, h)]
    operands += [None, None, None, zero(i, h), zero(h, i)]
    return operands if zeros else operands[:8]


@pytest.mark.parametrize("k", [1, 2])
def test_quantized_experts_always_weigh_1_together(k):
    """In onnxruntime, whatever normalize_routing_weights says."""
    operands = few_bits(4, 0, False)
    compare("QMoE", operands, constants=range(2, 8), tolerance=2e-4, k=k, activation_type="relu", normalize_routing_weights=0)


GIVEN = {"k": 2, "activation_type": "silu", "normalize_routing_weights": 1}


@pytest.mark.parametrize("bits,block", [(4, 0), (4, 16), (8, 0)])
@pytest.mark.parametrize("zeros", [False, True])
def test_quantized_mixture_of_experts(bits, block, zeros):
    operands = few_bits(bits, block, zeros)
    blocks = {"block_size": block} if block else {}
    compare("QMoE", operands, constants=range(2, len(operands)), tolerance=2e-4, expert_weight_bits=bits, **GIVEN, **blocks)


def test_blocks_of_8_bits():
    """onnxruntime rounds the activations to 8 bits here; mlc keeps them, and agrees with MoE of the same weights."""
    operands = few_bits(8, 16, False)
    x, logits, w1, s1, b1, w2, s2, b2 = operands
    w1, w2 = ((w.astype(np.float32) - 128) * np.repeat(s, 16, 2) for w, s in ((w1, s1), (w2, s2)))
    model = typed(build("QMoE", operands, ["y"], constants=range(2, 8), expert_weight_bits=8, block_size=16, **GIVEN), "float")
    want = run("MoE", [x, logits, w1, b1, w2, b2], **GIVEN)
    np.testing.assert_allclose(mlc.compile(model).run({"x0": x, "x1": logits})["y"], want, rtol=1e-4, atol=1e-3)
