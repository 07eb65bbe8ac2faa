"""Convolutions whose reader wants channels first store them so; where something else reads them, they do not."""

from __future__ import annotations

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.lower import LowerOptions
from mlc.ir import const, sym
from mlc.ir.ops import Add, Conv, Relu, Transpose

rng = np.random.default_rng(5)
OPTIONS = LowerOptions(planes=True)


def weights(*shape):
    return const(rng.standard_normal(shape).astype(np.float32))


def convolved(x, outputs=8, groups=1, rank=2):
    w = weights(*(3,) * rank, x.shape[-1] // groups, outputs)
    return ap(Conv((1,) * rank, (1,) * rank, (1,) * rank, (1,) * rank, groups), x, w)


def first(v):
    rank = len(v.shape)
    return ap(Transpose((0, rank - 1, *range(1, rank - 1))), v)


def planes(plan):
    return [s.kernel.planes is not None for s in plan.steps if isinstance(s.kernel, ContractKernel)]


@pytest.mark.parametrize("shape", [(1, 5, 6, 4), (2, 7, 6), (2, 3, 4, 5, 3)])
@pytest.mark.parametrize("behind", ["nothing", "before", "after"])
def test_stored_where_it_is_read(shape, behind):
    x = tensor(*shape)
    y = convolved(x, rank=len(shape) - 2)
    if behind == "before":
        y = ap(Relu(), ap(Add(), y, weights(8)))
    y = first(y)
    if behind == "after":
        y = ap(Relu(), y)
    plan = run(graph([x], y), options=OPTIONS)
    assert planes(plan) == [True] and len(plan.steps) == 1


def test_groups_and_symbolic_sizes():
    x = tensor(sym("n", 1), sym("h", 1), 5, 64)
    plan = run(graph([x], first(convolved(x, 96, 2))), options=OPTIONS, n=2, h=3)
    assert planes(plan) == [True] and len(plan.steps) == 1


def test_not_where_channels_last_is_read_too():
    x = tensor(1, 4, 5, 6)
    y = convolved(x)
    assert planes(run(graph([x], first(y), convolved(y)), options=OPTIONS)) == [False, False]
    assert planes(run(graph([x], y), options=OPTIONS)) == [False]


def test_not_few_channels_or_other_orders():
    x = tensor(1, 4, 5, 6)
    assert planes(run(graph([x], first(convolved(x, 2))), options=OPTIONS)) == [False]
    assert planes(run(graph([x], ap(Transpose((0, 2, 3, 1)), convolved(x))), options=OPTIONS)) == [False]
    assert planes(run(graph([x], first(convolved(x))))) == [False]  # a backend without such stores
