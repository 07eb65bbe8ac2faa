"""Pooling in passes: as over whole windows, and only where windows are large."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.lower import LowerOptions
from mlc.ir import DType, sym
from mlc.ir.ops import Pool

OPTIONS = LowerOptions(passes=True)


def pool(kind, kernel, strides=None, lo=None, hi=None, dilations=None, **more):
    rank = len(kernel)
    return Pool(kind, kernel, strides or (1,) * rank, lo or (0,) * rank, hi or (0,) * rank, dilations or (1,) * rank, **more)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("op", [
    ((5, 5), (1, 1), (2, 2), (2, 2)), ((5, 7), (2, 1), (0, 3), (2, 3)), ((5, 5), (1, 2), (4, 4), (4, 4), (1, 2)), ((3, 3, 3), (1, 1, 1)),
])  # fmt: skip
@pytest.mark.parametrize("more", [{}, {"ceil_mode": True}, {"count_include_pad": True}], ids=str)
def test_one_axis_after_the_other(kind, op, more):
    rank = len(op[0])
    for sizes, values in ((tuple(range(11, 11 + rank)), {}), ((sym("H"), *range(12, 11 + rank)), {"H": 9})):
        x = tensor(2, *sizes, 3)
        whole = pool(kind, *op, **more)
        array = np.random.default_rng(0).standard_normal((2, *(values.get("H", 11), *range(12, 11 + rank)), 3)).astype(np.float32)
        plan = run(graph([x], ap(whole, x)), [array], whole.reference(array), options=OPTIONS, **values)
        assert len(plan.steps) == rank


def test_nothing_there_and_bytes():
    x = np.random.default_rng(0).integers(0, 255, (1, 9, 9, 2)).astype(np.uint8)
    op = pool("max", (5, 5), lo=(2, 2), hi=(2, 2))
    run(graph([v := tensor(1, 9, 9, 2, dtype=DType.U8)], ap(op, v)), [x], op.reference(x), options=OPTIONS)


@pytest.mark.parametrize("op", [
    pool("max", (3, 3)), pool("max", (4, 4), (4, 4)), pool("max", (1, 9)), pool("argmax", (5, 5)), pool("lp", (5, 5)),
], ids=str)  # fmt: skip
def test_one_kernel_stays(op):
    x = tensor(1, 16, 16, 2)
    assert len(run(graph([x], ap(op, x)), options=OPTIONS).steps) == len(run(graph([x], ap(op, x))).steps)


def test_means_of_halves_are_rounded_once():
    x = tensor(1, 16, 16, 2, dtype=DType.F16)
    assert len(run(graph([x], ap(pool("avg", (5, 5)), x)), tol=2e-3, options=OPTIONS).steps) == 1
