"""Which convolutions become minimal filtering, and that their plans compute the convolution."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.kernel import ContractKernel, WinogradKernel
from mlc.codegen.lower import LowerOptions
from mlc.codegen.lower.winograd import ConvCosts, choose_tile, conv_costs
from mlc.ir import DType, const, floordiv, sym
from mlc.ir.ops import Add, Conv, Relu

OPTIONS = LowerOptions(winograd=ConvCosts(), diagonal=True)


def conv(x, kernel, c, o, strides=(1, 1), pad=1, dilations=(1, 1), groups=1, dtype=np.float32):
    w = np.random.default_rng(1).standard_normal((*kernel, c // groups, o)).astype(dtype)
    rank = len(kernel)
    pads = tuple((k - 1) // 2 * pad for k in kernel)
    return ap(Conv(strides[:rank], pads, pads, dilations[:rank], groups), x, const(w))


def kinds(plan):
    return [type(s.kernel) for s in plan.steps]


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (3, 1), (5, 5)])
def test_chosen(kernel):
    x = tensor(1, 20, 24, 64)
    plan = run(graph([x], conv(x, kernel, 64, 64)), options=OPTIONS)
    assert kinds(plan) == [WinogradKernel]


def test_one_axis_with_epilogue():
    x, y = tensor(2, 50, 64), tensor(2, 50, 80)
    out = ap(Relu(), ap(Add(), conv(x, (3,), 64, 80), y))
    plan = run(graph([x, y], out), options=OPTIONS)
    assert kinds(plan) == [WinogradKernel]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1), (2, 3, 3)])
def test_three_axes(kernel):
    x = tensor(2, 8, 10, 12, 64)
    plan = run(graph([x], conv(x, kernel, 64, 64, (1, 1, 1), dilations=(1, 1, 1))), options=OPTIONS)
    assert kinds(plan) == [WinogradKernel]


def test_planes_are_images():
    x = tensor(2, 8, 10, 12, 64)
    plan = run(graph([x], conv(x, (1, 3, 3), 64, 64, (1, 1, 1), dilations=(1, 1, 1))), options=OPTIONS)
    assert [s.kernel.images for s in plan.steps] == [16]


def test_unknown_sizes_are_the_smaller_the_more_strides_lie_before_them():
    """Large tiles of 512 channels read 36 MB of weights, for maps that are a 32nd of an image."""
    h, w = sym("H", 1), sym("W", 1)
    tiles = {}
    for stride in (1, 16, 32, 1024):
        x = tensor(1, floordiv(h + stride - 1, stride), floordiv(w + stride - 1, stride), 512)
        tiles[stride] = choose_tile(conv(x, (3, 3), 512, 512).node, ConvCosts())
    assert tiles == {1: (1, 4, 4), 16: (1, 2, 4), 32: (1, 2, 2), 1024: None}


def test_weights_cost_less_where_multiply_adds_take_longer():
    """One vector of 512 bits a cycle, or two of 256, make fewer products worth more weights."""
    small, smaller = (conv(tensor(1, n, n, c), (3, 3), c, c).node for n, c in ((14, 256), (7, 512)))
    assert [choose_tile(node, conv_costs(32)) for node in (small, smaller)] == [(1, 2, 4), None]
    assert [choose_tile(node, conv_costs(16)) for node in (small, smaller)] == [(1, 4, 4), (1, 2, 2)]


def test_dilated():
    x = tensor(1, 20, 24, 64)
    y = conv(x, (3, 3), 64, 64, dilations=(2, 2), pad=2)
    assert kinds(run(graph([x], y), options=OPTIONS)) == [WinogradKernel]
    y = conv(x, (3, 3), 64, 64, dilations=(24, 24), pad=24)  # a pixel a line: nothing that outputs share
    assert kinds(run(graph([x], y), options=OPTIONS)) == [ContractKernel]


@pytest.mark.parametrize("groups", [2, 4])
def test_groups(groups):
    x = tensor(1, 28, 28, 64)
    plan = run(graph([x], ap(Relu(), conv(x, (3, 3), 64, 128, groups=groups))), options=OPTIONS)
    assert kinds(plan) == [WinogradKernel]


def test_symbolic_sizes():
    n, h, w = sym("N"), sym("H"), sym("W")
    x = tensor(n, h, w, 48)
    got = graph([x], conv(x, (3, 3), 48, 64))
    for sizes in ({"N": 1, "H": 9, "W": 14}, {"N": 3, "H": 4, "W": 1}):
        rng = np.random.default_rng(0)
        array = rng.standard_normal((sizes["N"], sizes["H"], sizes["W"], 48)).astype(np.float32)
        want = got.evaluate(array)
        assert kinds(run(got, [array], want, options=OPTIONS, **sizes)) == [WinogradKernel]


@pytest.mark.parametrize(
    "case",
    [
        {"strides": (2, 2)},
        {"groups": 8},
        {"kernel": (7, 7)},
        {"kernel": (1, 1)},
        {"dtype": np.float64},
        {"channels": 3},
    ],
    ids=str,
)
def test_direct(case):
    case = dict(case)
    c = case.pop("channels", 64)
    x = tensor(1, 10, 10, c, dtype=DType.F64 if case.get("dtype") is np.float64 else DType.F32)
    plan = run(graph([x], conv(x, case.pop("kernel", (3, 3)), c, 64, **case)), options=OPTIONS)
    assert kinds(plan) == [ContractKernel]


def test_weights_that_cost_more_than_they_save():
    x = tensor(1, 4, 4, 640)
    plan = run(graph([x], conv(x, (3, 3), 640, 640)), options=OPTIONS, tol=1e-4)
    assert kinds(plan) == [ContractKernel]


def test_off_by_default():
    x = tensor(1, 20, 24, 64)
    assert kinds(run(graph([x], conv(x, (3, 3), 64, 64)))) == [ContractKernel]
