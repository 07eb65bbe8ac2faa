"""Linear attention, causal convolution with a state and rotary embedding of three positions, against onnxruntime's CPU kernels."""

import mlc
import numpy as np
import pytest
from mlc.errors import OnnxImportError
from ms_nodes import R, build, compare, f, run, typed


def near(*shape):
    return f(*shape, scale=0.3)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("steps", [1, 5])
def test_linear_attention(rule, steps, symbolic):
    if symbolic and rule != "linear":
        pytest.skip("a gate of one symbol may be for each head or for each key")
    batch, heads, keys, values = 2, 2, 4, 3
    q, k, v = near(batch, steps, heads * 2 * keys), near(batch, steps, heads * keys), near(batch, steps, heads * values)
    decay = -np.abs(near(batch, steps, heads)) if "gated" in rule else None
    beta = 1 / (1 + np.exp(near(batch, steps, heads))).astype(np.float32) if "delta" in rule else None
    compare("LinearAttention", [q, k, v, near(batch, heads, keys, values), decay, beta], ["y", "s"], kinds=["float", "float"],
            symbolic=symbolic, update_rule=rule, q_num_heads=2 * heads, kv_num_heads=heads)  # fmt: skip


def test_linear_attention_without_a_past():
    compare("LinearAttention", [near(1, 3, 8), near(1, 3, 8), near(1, 3, 6)], ["y", "s"], kinds=["float", "float"], update_rule="linear",
            q_num_heads=2, kv_num_heads=2, scale=0.5)  # fmt: skip


def test_linear_attention_of_a_window_is_refused():
    q, k, v = near(1, 3, 8), near(1, 3, 8), near(1, 3, 6)
    with pytest.raises(OnnxImportError, match="state_window"):
        run("LinearAttention", [q, k, v], update_rule="linear", q_num_heads=2, kv_num_heads=2, state_window=2)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("length", "dilation", "activation"), [(1, 1, "silu"), (6, 2, "none"), (2, 3, "swish")])
def test_causal_conv(length, dilation, activation, symbolic):
    state = 3 * dilation
    operands = [f(2, 5, length), f(5, 1, 4), f(5), f(2, 5, state)]
    compare("CausalConvWithState", operands, ["y", "s"], (1, 2), symbolic, kinds=["float", "float"], activation=activation,
            **({"dilation": dilation} if dilation > 1 else {}))  # fmt: skip


def test_causal_conv_of_weights_of_any_size():
    operands = [f(2, 5, 6), f(5, 1, 4), f(5), f(2, 5, 6)]
    compare("CausalConvWithState", operands, ["y", "s"], (), True, kinds=["float", "float"], activation="silu", dilation=2)


def test_causal_conv_without_bias_and_past():
    compare("CausalConvWithState", [f(1, 4, 7), f(4, 1, 3)], ["y", "s"], (1,), kinds=["float", "float"])


def test_causal_conv_of_channels_that_come_last():
    compare(
        "CausalConvWithState", [f(2, 6, 5), f(5, 1, 4), f(5), f(2, 3, 5)], ["y", "s"], (1, 2), kinds=["float", "float"], channels_last=1
    )


@pytest.mark.parametrize("length", [1, 2, 6])
def test_causal_conv_with_a_window_of_states(length):
    """onnxruntime has it on GPUs only: slot j is the state behind position length − 3 + j, nothing where there is none."""
    x, w, past = f(2, 5, length), f(5, 1, 4), f(3, 2, 5, 3)
    model = typed(build("CausalConvWithState", [x, w, None, past], ["y", "s"], state_window=3), "float", "float")
    got = mlc.compile(model, threads=1).run({"x0": x, "x1": w, "x3": past})
    seen = np.concatenate([past[-1], x], -1)
    for j in range(3):
        behind = length - 3 + j + 1
        want = seen[:, :, behind : behind + 3] if behind > 0 else np.zeros_like(past[0])
        np.testing.assert_array_equal(got["s"][j], want)
    want = sum(seen[:, :, k : k + length] * w[:, 0, k, None] for k in range(4))
    np.testing.assert_allclose(got["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rank", [3, 4])
def test_m_rotary_embedding(rank, interleaved, layout, symbolic):
    angles = R.uniform(0, 3, (20, 8)).astype(np.float32)
    positions = R.integers(0, 20, (3, 2, 5)).astype(np.int64)
    x = f(2, 5, 48) if rank == 3 else f(2, 3, 5, 16)
    more = {"num_heads": 3} if rank == 3 else {}
    compare("MRotaryEmbedding", [x, positions, np.cos(angles), np.sin(angles)], kinds=["float"], mrope_section=[4, 2, 2],
            symbolic=symbolic, mrope_layout=layout, interleaved=interleaved, **more)  # fmt: skip


@pytest.mark.parametrize("values", [[2.0, 1, 1, 3, 4, 3], [5.0], [1.0, 1, 1]])
def test_unique(values):
    compare("Unique", [np.array(values, np.float32)], ["y", "i", "c"], kinds=["float", "int64", "int64"])


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 2, 1]])
def test_conv_transpose_with_dynamic_pads(pads):
    compare("ConvTransposeWithDynamicPads", [f(1, 3, 5, 4), f(3, 2, 3, 3), np.array(pads, np.int64), f(2)], constants=(1, 2), kinds=["float"],
            strides=[2, 1])  # fmt: skip
