"""Transposes around channels-last ops cancel over a whole graph; what is left moves no more than before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlc.ir import DType, Graph, Input, TensorType, const, sym
from mlc.ir.ops import (
    Add,
    ArgReduce,
    Concat,
    Conv,
    Expand,
    LayerNorm,
    MatMul,
    Mul,
    Pad,
    Reciprocal,
    Reduce,
    Relu,
    Reshape,
    Resize,
    Sigmoid,
    Slice,
    Softmax,
    Sqrt,
    Sub,
    Transpose,
)  # fmt: skip
from mlc.ir.verify import verify
from mlc.passes import PassContext, optimize
from mlc.passes.base import apply, is_trivial
from mlc.passes.layout_ops import axis_groups, reshape_perm
from mlc.passes.sink_transposes import SinkTransposes, moved_elements

RNG = np.random.default_rng(0)
C = 32  # channels that fill vectors, and half of which do


def transposes(graph):
    """Those that move something."""
    return [n for n in graph.nodes if isinstance(n.op, Transpose) and not is_trivial(n.op.perm, n.inputs[0].shape)]


def weights(*shape):
    return const(RNG.standard_normal(shape).astype(np.float32) * 0.3)


def conv(x, channels, kernel=3, stride=1, groups=1):
    """As the importer writes a convolution of an NCHW model."""
    k = kernel // 2
    y = apply(Transpose((0, 2, 3, 1)), x)
    y = apply(Conv((stride,) * 2, (k, k), (k, k), (1, 1), groups), y, weights(kernel, kernel, x.shape[1] // groups, channels))
    return apply(Transpose((0, 3, 1, 2)), apply(Add(), y, weights(channels)))


def batch_norm(x):
    return apply(Add(), apply(Mul(), x, weights(x.shape[1], 1, 1)), weights(x.shape[1], 1, 1))


def residual(x):
    return apply(Relu(), apply(Add(), x, batch_norm(conv(apply(Relu(), batch_norm(conv(x, C))), x.shape[1]))))


def squeeze_excite(x):
    p = apply(Reduce("mean", (2, 3), True), x)
    return apply(Mul(), x, apply(Sigmoid(), conv(apply(Relu(), conv(p, C // 2, 1)), x.shape[1], 1)))


def dense(x):
    return apply(Concat(1), x, conv(apply(Relu(), batch_norm(x)), C // 2))


def up(x):
    n, c, h, w = x.shape
    return apply(Resize((n, c, h * 2, w * 2), (1.0, 1.0, 2.0, 2.0), "nearest", "asymmetric", "floor"), x)


def unet(x):
    down = conv(x, C, 3, 2)
    return conv(apply(Concat(1), up(apply(Relu(), down)), x), C)


def split(x):
    n, c, h, w = x.shape
    a, b = (apply(Slice((0, i * (c // 2), 0, 0), (n, c // 2, h, w), (1,) * 4), x) for i in (0, 1))
    return apply(Concat(1), conv(a, c // 2), apply(Mul(), b, apply(Sigmoid(), b)))


def padded(x):
    return conv(apply(Pad((0, 0, 1, 2), (0, 0, 1, 0), "reflect"), x, const(np.float32(0))), C)


def channel_softmax(x):
    return conv(apply(Softmax(1), x), C)


BLOCKS = {f.__name__: f for f in (residual, squeeze_excite, dense, unet, split, padded, channel_softmax)}


def build(blocks, shape=(1, C, 8, 8)):
    x = apply(Input(TensorType(DType.F32, shape)))
    v = conv(x, C)
    for name in blocks:
        v = BLOCKS[name](v)
        if v.shape[1] != C:
            v = conv(v, C, 1)
    v = apply(Reshape((shape[0], C)), apply(Reduce("mean", (2, 3), True), apply(Relu(), v)))
    return verify(Graph((x,), (apply(MatMul(), v, weights(C, 3)),), ("x",), ("y",)))


def numbers_agree(a: Graph, b: Graph) -> None:
    args = [RNG.standard_normal([d if isinstance(d, int) else 2 for d in v.shape]).astype(v.dtype.np) for v in a.inputs]
    for x, y in zip(a.evaluate(*args), b.evaluate(*args), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_only_the_input_is_transposed(block):
    g = build([block, block])
    new = optimize(g, PassContext(verify=True))
    assert [n.inputs[0].node.op.name for n in transposes(new)] == ["input"]
    numbers_agree(g, new)


@settings(max_examples=25)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4))
def test_any_stack_of_blocks(blocks):
    g = build(blocks)
    new = optimize(g, PassContext(verify=True))
    assert len(transposes(new)) == 1
    numbers_agree(g, new)


def test_symbolic_batch_and_size():
    n, h = sym("N", 1, 8), sym("H", 8, 64)
    new = optimize(build(["residual", "squeeze_excite", "dense"], (n, C, h, 8)), PassContext(verify=True))
    assert len(transposes(new)) == 1


def shuffle(x, groups):
    n, c, h, w = x.shape
    y = apply(Reshape((n, groups, c // groups, h, w)), x)
    return apply(Reshape((n, c, h, w)), apply(Transpose((0, 2, 1, 3, 4)), y))


def depth_to_space(x, b):
    n, c, h, w = x.shape
    y = apply(Reshape((n, b, b, c // b // b, h, w)), x)
    return apply(Reshape((n, c // b // b, h * b, w * b)), apply(Transpose((0, 3, 4, 1, 5, 2)), y))


@pytest.mark.parametrize("fn", [lambda x: shuffle(x, 2), lambda x: depth_to_space(x, 2)])
def test_shuffles_happen_channels_last(fn):
    x = apply(Input(TensorType(DType.F32, (1, 4, 4, 4))))
    v = apply(Reduce("max", (2, 3), False), conv(fn(conv(x, 8)), 6))
    g = Graph((x,), (v,), ("x",), ("y",))
    new = optimize(g, PassContext(verify=True))
    assert len(transposes(new)) == 2  # the input, and the shuffle itself
    numbers_agree(g, new)


def test_patches_of_a_vision_transformer():
    x = apply(Input(TensorType(DType.F32, (1, 3, 8, 8))))
    v = conv(x, 4, 1)
    v = apply(Transpose((0, 2, 1)), apply(Reshape((1, 4, 64)), v))
    v = apply(LayerNorm(2, 1e-5), v, weights(4), weights(4))
    g = Graph((x,), (v,), ("x",), ("y",))
    new = optimize(g, PassContext(verify=True))
    assert len(transposes(new)) == 1
    numbers_agree(g, new)


def test_an_output_in_both_orders_costs_one_transpose():
    x = apply(Input(TensorType(DType.F32, (1, 3, 4, 4))))
    v = apply(Softmax(1), conv(x, 4))
    g = Graph((x,), (v, conv(v, 2), apply(ArgReduce("argmax", 1, False), v)), ("x",), ("a", "b", "c"))
    new = optimize(g, PassContext(verify=True))
    assert moved_elements(new) == 48 + 64 + 32
    numbers_agree(g, new)


def test_must_not_fire():
    x = apply(Input(TensorType(DType.F32, (2, 3, 4))))
    t = apply(Transpose((0, 2, 1)), x)
    graphs = [
        Graph((x,), (apply(Relu(), t),), ("x",), ("y",)),  # nothing gained by going first
        Graph((x,), (apply(LayerNorm(2, 1e-5), t, weights(3), weights(3)),), ("x",), ("y",)),
        Graph((x,), (apply(Reshape((2, 12)), t),), ("x",), ("y",)),
        Graph((x,), (apply(Relu(), x),), ("x",), ("y",)),
    ]
    for g in graphs:
        assert SinkTransposes().run(g, PassContext()) is g


def test_small_side_of_an_expand_is_transposed():
    x = apply(Input(TensorType(DType.F32, (1, 3, 4))))
    v = apply(Transpose((0, 2, 1)), apply(Expand((8, 3, 4)), x))
    g = Graph((x,), (v,), ("x",), ("y",))
    new = SinkTransposes().run(g, PassContext())
    assert moved_elements(new) == 12
    numbers_agree(g, new)


def test_axis_groups():
    b, s = sym("B"), sym("S")
    assert axis_groups((2, 12, 5), (2, 3, 4, 5)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert axis_groups((b, s, 8), (b * s, 8)) == [([0, 1], [0]), ([2], [1])]
    assert axis_groups((b * s, 8), (b, s, 2, 4)) == [([0], [0, 1]), ([1], [2, 3])]
    assert axis_groups((2, 1, 3), (6, 1)) == [([0, 2], [0])]
    assert axis_groups((0, 3), (3, 0)) is None


@given(st.permutations(range(3)), st.sampled_from([((2, 12, 5), (2, 3, 4, 5)), ((2, 1, 6), (2, 6)), ((4, 2, 3), (4, 6))]))
def test_reshape_perm(perm, shapes):
    src, dst = shapes
    found = reshape_perm(src, dst, tuple(perm))
    if found is not None:
        x = np.arange(np.prod(src)).reshape(src)
        want = x.reshape(dst).transpose(found)
        np.testing.assert_array_equal(x.transpose(perm).reshape(want.shape), want)


def instance_norm(x):
    mean = apply(Reduce("mean", (2, 3), True), x)
    d = apply(Sub(), x, mean)
    var = apply(Reduce("mean", (2, 3), True), apply(Mul(), d, d))
    return apply(Mul(), d, apply(Reciprocal(), apply(Sqrt(), apply(Add(), var, const(np.float32(1e-5))))))


def test_norms_over_pixels_follow_the_convolutions_around_them():
    x = apply(Input(TensorType(DType.F32, (2, 4, 6, 8))))
    v = conv(apply(Relu(), instance_norm(conv(x, 4))), 5)
    graph = verify(Graph((x,), (v,), ("x",), ("y",)))
    new = optimize(graph, PassContext())
    assert [n.inputs[0].shape for n in transposes(new)] == [(2, 4, 6, 8), (2, 6, 8, 5)]  # at the border only
    assert not any(isinstance(n.op, LayerNorm) for n in new.nodes)
    numbers_agree(graph, new)


def test_norms_over_pixels_without_convolutions_are_one_op():
    x = apply(Input(TensorType(DType.F32, (2, 4, 6, 8))))
    graph = verify(Graph((x,), (apply(Relu(), instance_norm(x)),), ("x",), ("y",)))
    assert [n.op.name for n in optimize(graph, PassContext()).nodes if n.inputs] == ["layernorm", "relu"]
