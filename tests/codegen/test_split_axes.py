"""Axes that indices divide by sizes known only to a run become two, and those of maps and norms that numbers divide."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.affine import affine
from mlc.codegen.expr import Load, postorder
from mlc.ir import const, sym
from mlc.ir.ops import Add, Conv, LayerNorm, Mul, Reduce, Reshape, Slice, Softmax, Transpose

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


def test_maps_are_taken_apart_by_numbers():
    """Space to depth: four channels of the result are an axis of rows, one of columns, and one of channels."""
    x = tensor(2, 3, 8, 6)
    blocks = ap(Transpose((0, 3, 5, 1, 2, 4)), ap(Reshape((2, 3, 4, 2, 3, 2)), x))
    (step,) = run(graph([x], ap(Reshape((2, 12, 4, 3)), blocks))).steps
    assert all(affine(e.offset) is not None for e in postorder(step.kernel.roots) if isinstance(e, Load))


@pytest.mark.parametrize(("size", "axes"), [(32, 3), (8, 2)])
def test_rows_of_maps_stay_vectors(size, axes):
    x = tensor(4, 3, size)
    flat = ap(Reshape((3, 4 * size)), ap(Transpose((1, 0, 2)), x))
    (step,) = run(graph([x], flat)).steps
    assert len(step.kernel.axes) == axes


@pytest.mark.parametrize(("h", "w", "axes"), [(4, 8, (2, 32)), (2, 3, (12,))])
def test_norms_are_taken_apart_by_numbers_that_leave_vectors(h, w, axes):
    """Factors of channels would be gathered otherwise, or norms of several groups made one vector."""
    plan = run(grouped(h, w))
    assert [s.kernel.reduce_axes for s in plan.steps] == [axes]


@pytest.mark.parametrize(("size", "axes"), [(32, (4, 5, 2, 32)), (8, (4, 5, 16))])
def test_windows_of_channels_that_belong_to_heads(size, axes):
    """A depthwise convolution of one part of what a product made: no vector crosses a head, and nothing is gathered."""
    x = tensor(1, 4, 5, 6 * size)
    part = ap(Slice((0, 0, 0, 0, 2 * size), (1, 4, 5, 2, size), (1, 1, 1, 1, 1)), ap(Reshape((1, 4, 5, 2, 3 * size)), x))
    weights = const(R.standard_normal((3, 3, 1, 2 * size)).astype(np.float32))
    conv = Conv((1, 1), (1, 1), (1, 1), (1, 1), groups=2 * size)
    plan = run(graph([x], ap(conv, ap(Reshape((1, 4, 5, 2 * size)), part), weights)))
    (kernel,) = (s.kernel for s in plan.steps if s.kernel.stages)
    assert (kernel.axes, kernel.reduce_axes) == (axes, (3, 3))


def test_reductions_without_elements_divide_by_known_sizes():
    x, f = tensor(3, 4, 32), tensor(4, 1)
    flat = ap(Reshape((3, 128)), ap(Mul(), x, f))
    plan = run(graph([x, f], ap(Reduce("sum", (1,), False), flat)))
    assert [s.kernel.reduce_axes for s in plan.steps if s.kernel.stages] == [(128,)]


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
