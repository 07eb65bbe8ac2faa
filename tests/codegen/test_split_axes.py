"""Axes that indices divide by sizes known only to a run become two."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.ir import const, sym
from mlc.ir.ops import Add, LayerNorm, Mul, Reduce, Reshape, Softmax

H, W = sym("H"), sym("W")
R = np.random.default_rng(5)


def grouped(height, width):
    """A norm over 3 groups of 2 channels, and a factor and a term for each channel."""
    x = tensor(2, 6, height, width)
    flat = ap(Reshape((2, 3, 2 * height * width)), x)
    norm = ap(LayerNorm(2, 1e-5), flat, const(np.float32(1)), const(np.float32(0)))
    scale, bias = (const(R.standard_normal((6, 1, 1)).astype(np.float32)) for _ in range(2))
    return graph([x], ap(Add(), ap(Mul(), ap(Reshape((2, 6, height, width)), norm), scale), bias))


@pytest.mark.parametrize(("h", "w"), [(5, 3), (1, 1), (4, 8), (0, 3)])
def test_norms_of_flattened_groups(h, w):
    plan = run(grouped(H, W), H=h, W=w)
    assert [s.kernel.reduce_axes for s in plan.steps] == [(2, H * W)]


def test_known_sizes_are_divided_by():
    plan = run(grouped(4, 8))
    assert [s.kernel.reduce_axes for s in plan.steps] == [(64,)]


def test_reductions_and_softmax_of_repeated_factors():
    x, f = tensor(3, 4, W), tensor(4, 1)
    flat = ap(Reshape((3, 4 * W)), ap(Mul(), x, f))
    for w in (7, 1, 16):
        plan = run(graph([x, f], ap(Reduce("sum", (1,), False), flat), ap(Softmax(1), flat)), W=w)
        assert all(s.kernel.reduce_axes in ((), (4 * W,), (4, W)) for s in plan.steps)


def test_axes_whose_quotient_is_not_whole_stay():
    """4·W elements are not rows of H."""
    x, y = tensor(3, 4 * W), tensor(3, H)
    plan = run(graph([x, y], ap(Softmax(1), x), ap(Softmax(1), y)), W=3, H=5)
    assert [s.kernel.reduce_axes for s in plan.steps] == [(4 * W,), (H,)]
