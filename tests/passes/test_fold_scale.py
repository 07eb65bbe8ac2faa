"""Scales and shifts move into weights; where they cannot, nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.ir import DType, Graph, Input, TensorType, const
from mlc.ir.ops import Add, Conv, ConvTranspose, Div, MatMul, Mul, Relu, Reshape, Transpose
from mlc.ir.verify import verify
from mlc.passes import PassContext
from mlc.passes.base import apply
from mlc.passes.fold_scale import FoldScale

RNG = np.random.default_rng(0)


def weights(*shape):
    return const(RNG.standard_normal(shape).astype(np.float32) + 2)


def large(*shape):
    return const(np.full(shape, 1e25, np.float32))


def source(*shape):
    return apply(Input(TensorType(DType.F32, shape)))


def conv(x, out=6, groups=1):
    return apply(Conv((1, 1), (1, 1), (1, 1), (1, 1), groups), x, weights(3, 3, x.shape[-1] // groups, out))


def conv_transpose(x, out=6, groups=1):
    op = ConvTranspose((2, 2), (1, 1), (1, 1), (0, 0), (1, 1), groups)
    return apply(op, x, weights(3, 3, out // groups, x.shape[-1]))


def matmul(x, out=6):
    return apply(MatMul(), x, weights(x.shape[-1], out))


IMAGE = (1, 5, 5, 4)
FOLDS = {
    "conv": lambda x: apply(Mul(), conv(x), weights(6)),
    "conv, of rank 4": lambda x: apply(Mul(), weights(1, 1, 1, 6), conv(x)),
    "conv, divided": lambda x: apply(Div(), conv(x), weights(6)),
    "conv, groups": lambda x: apply(Mul(), conv(x, 8, 2), weights(8)),
    "depthwise": lambda x: apply(Mul(), conv(x, 4, 4), weights(4)),
    "conv transpose": lambda x: apply(Mul(), conv_transpose(x), weights(6)),
    "conv transpose, groups, one number": lambda x: apply(Mul(), conv_transpose(x, 6, 2), weights(1)),
    "matmul": lambda x: apply(Mul(), matmul(x), weights(6)),
    "before conv": lambda x: conv(apply(Mul(), x, weights(4))),
    "before matmul": lambda x: matmul(apply(Mul(), weights(4), x)),
    "before conv transpose": lambda x: conv_transpose(apply(Mul(), x, weights(4))),
    "batch norm": lambda x: apply(Add(), apply(Mul(), apply(Add(), conv(x), weights(6)), weights(1, 1, 1, 6)), weights(6)),
    "attention scale behind a move": lambda x: apply(
        Mul(), apply(Transpose((0, 2, 1)), apply(Reshape((25, 2, 3)), apply(Add(), matmul(x), weights(6)))), weights(1)),
    "three sums": lambda x: apply(Add(), apply(Add(), apply(Add(), x, weights(4)), weights(1)), weights(1, 4)),
    "three products": lambda x: apply(Mul(), apply(Mul(), apply(Mul(), x, weights(4)), weights(1)), weights(1, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name, numbers):
    x = source(*IMAGE)
    g = verify(Graph((x,), (FOLDS[name](x),), ("x",), ("y",)))
    new = verify(FoldScale().run(g, PassContext()))
    names = [n.op.name for n in new.nodes]
    assert names.count("mul") + names.count("div") == (1 if name == "three products" else 0)
    assert names.count("add") <= 1
    numbers(g, new, rtol=1e-4)
    assert FoldScale().run(new, PassContext()) is new


def shared(x):
    c = conv(x)
    return apply(Add(), apply(Mul(), c, weights(6)), c)


STAYS = {
    "product used twice": shared,
    "per pixel": lambda x: apply(Mul(), conv(x), weights(5, 1)),
    "not constant": lambda x: apply(Mul(), conv(x), apply(Relu(), conv(x))),
    "groups before": lambda x: conv(apply(Mul(), x, weights(4)), 8, 2),
    "conv transpose with groups": lambda x: apply(Mul(), conv_transpose(x, 6, 2), weights(6)),
    "through a ReLU": lambda x: apply(Mul(), apply(Relu(), conv(x)), weights(6)),
    "constant before a padded sum": lambda x: conv(apply(Add(), x, weights(4))),
    "outer sum of constants": lambda x: apply(Add(), apply(Add(), x, weights(5, 1)), weights(4)),
    "division by zero": lambda x: apply(Div(), conv(x), const(np.zeros(6, np.float32))),
    "weights that would overflow": lambda x: apply(Mul(), apply(MatMul(), x, large(4, 6)), large(1)),
    "weights that would overflow, before": lambda x: apply(MatMul(), apply(Mul(), x, large(1)), large(4, 6)),
    "broadcast up": lambda x: apply(Mul(), conv(x), weights(2, 1, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_stays(name):
    x = source(*IMAGE)
    g = verify(Graph((x,), (STAYS[name](x),), ("x",), ("y",)))
    assert FoldScale().run(g, PassContext()) is g


def test_integers_are_left_alone():
    x = apply(Input(TensorType(DType.I32, (3,))))
    c = const(np.int32(2**30))
    g = Graph((x,), (apply(Mul(), apply(Mul(), x, c), c),), ("x",), ("y",))
    assert FoldScale().run(g, PassContext()) is g
