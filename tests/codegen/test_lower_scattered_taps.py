"""Convolutions into few channels as products by all taps at once: which ones, and that their plans compute the same."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.kernel import ContractKernel, LoopKernel
from mlc.codegen.lower import LowerOptions
from mlc.codegen.lower.scattered_taps import ScatterCosts
from mlc.ir import const, sym
from mlc.ir.ops import Add, Conv, Tanh

OPTIONS = LowerOptions(scatter=ScatterCosts())


def conv(x, kernel, c, o, lo, hi, dilations=None, strides=None, groups=1, dtype=np.float32):
    w = np.random.default_rng(1).standard_normal((*kernel, c // groups, o)).astype(dtype)
    ones = (1,) * len(kernel)
    return ap(Conv(strides or ones, lo, hi, dilations or ones, groups), x, const(w))


def kinds(plan):
    return [type(s.kernel) for s in plan.steps]


@pytest.mark.parametrize(
    "spatial, kernel, o, lo, hi, dilations",
    [
        ((6, 9), (3, 3), 1, (1, 1), (1, 1), (1, 1)),
        ((6, 9), (3, 3), 3, (0, 2), (1, 0), (1, 1)),
        ((11,), (7,), 2, (3,), (3,), (1,)),
        ((30,), (8,), 1, (7,), (7,), (2,)),
        ((9, 8), (3, 5), 1, (2, 1), (0, 4), (2, 1)),
        ((4, 5, 6), (3, 3, 3), 1, (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        ((1, 1), (3, 3), 1, (1, 1), (1, 1), (1, 1)),
    ],
)
def test_the_same_pixels(spatial, kernel, o, lo, hi, dilations):
    x = tensor(2, *spatial, 64)
    plan = run(graph([x], conv(x, kernel, 64, o, lo, hi, dilations)), options=OPTIONS)
    assert kinds(plan) == [ContractKernel, LoopKernel]


def test_what_follows_is_fused():
    x = tensor(1, 6, 9, 32)
    y = conv(x, (3, 3), 32, 1, (1, 1), (1, 1))
    out = ap(Tanh(), ap(Add(), y, const(np.float32([0.25]))))
    assert kinds(run(graph([x], out), options=OPTIONS)) == [ContractKernel, LoopKernel]


def test_symbolic_sizes():
    n, h, w = sym("N"), sym("H"), sym("W")
    x = tensor(n, h, w, 48)
    g = graph([x], conv(x, (3, 3), 48, 1, (1, 1), (1, 1)))
    for sizes in ({"N": 1, "H": 5, "W": 9}, {"N": 3, "H": 1, "W": 2}):
        array = np.random.default_rng(0).standard_normal((sizes["N"], sizes["H"], sizes["W"], 48)).astype(np.float32)
        assert kinds(run(g, [array], g.evaluate(array), options=OPTIONS, **sizes)) == [ContractKernel, LoopKernel]


@pytest.mark.parametrize(
    "case",
    [
        {"o": 16},
        {"o": 8},
        {"strides": (2, 2)},
        {"kernel": (1, 1), "lo": (0, 0)},
        {"groups": 2, "o": 2},
        {"lo": (3, 3)},  # more than the kernel reaches
        {"dtype": np.float64},
    ],
    ids=str,
)
def test_must_not_fire(case):
    case = {"kernel": (3, 3), "o": 1, "lo": (1, 1)} | case
    dtype = case.get("dtype", np.float32)
    x = tensor(1, 6, 9, 64, dtype=np_type(dtype))
    y = conv(x, case.pop("kernel"), 64, case.pop("o"), case["lo"], case.pop("lo"), **case)
    assert kinds(run(graph([x], y), options=OPTIONS)) == [ContractKernel]


def np_type(dtype):
    return const(np.zeros(1, dtype)).dtype


def test_off_by_default():
    x = tensor(1, 6, 9, 64)
    assert kinds(run(graph([x], conv(x, (3, 3), 64, 1, (1, 1), (1, 1))))) == [ContractKernel]
