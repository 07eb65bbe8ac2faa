"""Windows over planes, in vectors along their lines: borders in any lane, strides, symbolic sizes, against the references."""

from __future__ import annotations

import numpy as np
import pytest
from lowering import ap, bind, graph, random, run, tensor
from mlc.codegen.lower import lower
from mlc.codegen.plan import Plan
from mlc.ir import DType, TensorType, Value, evaluate, sym
from mlc.ir.ops import PlaneConv, Pool, Relu
from running import TARGETS, execute

RNG = np.random.default_rng(5)
# spatial, kernel, strides, pads below and above, dilations
WINDOWS = {
    "3x3": ((9, 70), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "one vector": ((6, 16), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "short": ((5, 5), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "stride 2": ((11, 75), (3, 3), (2, 2), (1, 1), (1, 0), (1, 1)),
    "stride 3": ((9, 131), (2, 5), (1, 3), (0, 2), (1, 2), (1, 1)),
    "stride 5": ((7, 90), (3, 3), (2, 5), (1, 1), (1, 1), (1, 1)),
    "dilated": ((9, 50), (3, 3), (1, 1), (2, 8), (2, 8), (2, 8)),
    "7x7": ((13, 40), (7, 7), (1, 1), (3, 3), (3, 3), (1, 1)),
    "no border": ((4, 37), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
    "mostly border": ((2, 3), (5, 9), (1, 1), (4, 20), (2, 20), (1, 1)),
    "line": ((67,), (5,), (2,), (2,), (1,), (1,)),
    "3d": ((3, 4, 21), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 0, 1), (1, 1, 1)),
}


def results(v: Value, inputs: list[Value], target: str, **bindings: int) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels for `target` make of random inputs, and the reference."""
    g = graph(inputs, v)
    plan: Plan = lower(g)
    (step,) = plan.steps
    given = [random(x, RNG, bindings) for x in inputs]
    out = np.full([evaluate(d, bindings) for d in v.shape], 7, np.float32)
    buffers = []
    for b in step.buffers:
        buffer = plan.buffers[b]
        of = plan.buffers[buffer.of] if buffer.kind == "alias" else buffer
        buffers.append(given[of.index] if of.kind == "input" else out if of.kind == "output" else plan.constants[b])
    execute(step.kernel, buffers, target, bindings, parts=2)
    return out, bind(g, bindings).evaluate(*given)[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", WINDOWS)
def test_every_plane_by_its_filter(name, target):
    spatial, kernel, strides, lo, hi, dilations = WINDOWS[name]
    x, w = tensor(2, 3, *spatial), tensor(3, 1, *kernel)
    got, want = results(ap(Relu(), ap(PlaneConv(strides, lo, hi, dilations, 3), x, w)), [x, w], target)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# channels, filters, groups
FILTERS = {"dense": (3, 5, 1), "one channel": (1, 8, 1), "one filter": (4, 1, 1), "groups": (6, 8, 2), "several a channel": (3, 6, 3)}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("window", ["3x3", "short", "stride 2", "stride 3", "dilated", "mostly border", "line", "3d"])
def test_filters_of_several_channels(name, window):
    channels, filters, groups = FILTERS[name]
    spatial, kernel, strides, lo, hi, dilations = WINDOWS[window]
    x, w = tensor(2, channels, *spatial), tensor(filters, channels // groups, *kernel)
    for target in TARGETS if window == "3x3" else TARGETS[:1]:
        got, want = results(ap(Relu(), ap(PlaneConv(strides, lo, hi, dilations, groups), x, w)), [x, w], target)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("name", WINDOWS)
def test_pooling(name, kind):
    spatial, kernel, strides, lo, hi, dilations = WINDOWS[name]
    if any(p >= k for p, k in zip((*lo, *hi), (*kernel, *kernel), strict=True)):
        return  # windows without an element are not defined
    x = tensor(3, *spatial, 1)
    for padded in (False, True):
        got, want = results(ap(Pool(kind, kernel, strides, lo, hi, dilations, count_include_pad=padded), x), [x], "cpu")
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (10, 64)])
def test_symbolic_sizes(size):
    sizes = {"H": size[0], "W": size[1]}
    x, w = tensor(2, 3, sym("H"), sym("W")), tensor(3, 1, 3, 3)
    v = ap(PlaneConv((1, 2), (1, 1), (1, 1), (1, 1), 3), x, w)
    run(graph([x, w], v), **sizes)
    got, want = results(v, [x, w], "cpu", **sizes)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_reference_is_that_of_separate_convolutions():
    x, w = RNG.standard_normal((1, 2, 5, 6)), RNG.standard_normal((2, 1, 3, 3))
    op = PlaneConv((1, 1), (1, 0), (1, 0), (1, 1), 2)
    (y,) = op.reference(x, w)
    assert op.infer([TensorType(DType.F64, a.shape) for a in (x, w)])[0].shape == y.shape == (1, 2, 5, 4)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    want = sum(padded[:, :, a : a + 5, b : b + 4] * w[:, 0, a, b, None, None] for a in range(3) for b in range(3))
    np.testing.assert_allclose(y, want, rtol=1e-12)
