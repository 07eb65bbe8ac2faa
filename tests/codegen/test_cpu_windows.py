"""Windows on the CPU against the interpreter of kernels: pools and depthwise convolutions, of guarded and symbolic sizes."""

import math
from dataclasses import replace

import pytest
from loop_kernels import F, call, check, index, kernel, load, random, s, window
from mlc.codegen.cpu.loops.rewrite import transform
from mlc.codegen.cpu.loops.schedule import schedule
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Axis, DimParam, Load, Num, Reduced, rebuilt
from mlc.codegen.kernel import LoopKernel, Operand, Reduction, Store
from mlc.ir import sym
from running import TARGETS


@pytest.mark.parametrize("channels, size, stride", [(64, 7, 1), (20, 9, 2), (3, 5, 1), (1, 6, 1), (130, 4, 2)])
@pytest.mark.parametrize("fn", ["max", "sum"])
def test_guarded_window(channels, size, stride, fn):
    check(window(channels, size, stride, fn), [random(size, size, channels)], tolerance=1e-5)


@pytest.mark.parametrize("dilation, reverse", [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_window_over_a_symbolic_size(dilation, reverse):
    """Taps cut at the border by division (dilation), from either end (a reversed window)."""
    n, channels, taps, pad = sym("N"), 20, 5, 3
    tap = call("sub", Num(taps - 1), Axis(2)) if reverse else Axis(2)
    i = call("sub", call("add", Axis(0), call("mul", tap, Num(dilation))), Num(pad))
    inside = s.and_(call("ge", i, Num(0)), call("lt", i, DimParam(n)))
    clamped = call("max", call("min", i, call("sub", DimParam(n), Num(1))), Num(0))
    x = Load(0, call("add", call("mul", clamped, Num(channels)), Axis(1)), dtype=F)
    operands = (Operand(F, n * channels), Operand(F, n * channels, True))
    for fn, far in (("sum", 0.0), ("max", -math.inf), ("sum", 1.0)):
        value = s.select(inside, x, Num(far, dtype=F))
        k = LoopKernel(
            (n, channels),
            (taps,),
            operands,
            (Reduction(fn, value),),
            (Store(1, index((0, channels), (1, 1)), Reduced(0, dtype=F)),),
        )
        for size in (1, 2, 9, 30):
            check(k, [random(size * channels)], bindings={"N": size}, tolerance=1e-5, targets=TARGETS[:2])


@pytest.mark.parametrize("c, size", [(40, 8), (64, 13), (7, 3), (16, 4), (130, 7)])
def test_depthwise_convolution_with_bias_and_activation(c, size):
    k = window(c, size, 1, "sum")
    weights = Load(1, index((3, 3 * c), (4, c), (2, 1)), dtype=F)
    value = s.mul(k.stages[0].value, weights)
    y = s.max(s.add(Reduced(0, dtype=F), load(2, (2, 1))), 0.0)
    x, w, b = random(size, size, c), random(3, 3, c, seed=1), random(c, seed=2)
    k = kernel(
        k.axes,
        k.reduce_axes,
        [x, w, b],
        [(F, k.operands[1].numel)],
        [Reduction("sum", value)],
        [Store(3, k.stores[0].offset, y)],
    )
    check(k, [x, w, b], tolerance=1e-5)


def window_of_weights(channels, width, taps, stride, pad, fn="sum"):
    """[H=5, W=width, C] by weights [3, taps, C], padded by `pad` columns on each side and by no rows; width may be symbolic."""
    out = (width + 2 * pad - taps) // stride + 1
    row, column = index((0, 1), (3, 1)), index((1, stride), (4, 1), -pad)
    end = Num(width) if isinstance(width, int) else DimParam(width)
    clamped = call("max", call("min", column, call("sub", end, Num(1))), Num(0))
    at = call("add", call("mul", call("add", call("mul", row, end), clamped if pad else column), Num(channels)), Axis(2))
    x = Load(0, at, dtype=F)
    if pad:
        x = s.select(s.and_(call("ge", column, Num(0)), call("lt", column, end)), x, Num(0.0, dtype=F))
    value = s.mul(x, Load(1, index((3, taps * channels), (4, channels), (2, 1)), dtype=F))
    result = Store(2, call("add", call("mul", call("add", call("mul", Axis(0), Num(out) if isinstance(out, int) else DimParam(out)), Axis(1)),
                                       Num(channels)), Axis(2)), Reduced(0, dtype=F))  # fmt: skip
    operands = (Operand(F, 5 * width * channels), Operand(F, 3 * taps * channels), Operand(F, 3 * out * channels, True))
    return LoopKernel((3, out, channels), (3, taps), operands, (Reduction(fn, value),), (result,))


@pytest.mark.parametrize(
    "channels, width, taps, stride, pad",
    [(64, 13, 3, 1, 1), (20, 30, 5, 2, 2), (96, 11, 7, 1, 3), (70, 9, 3, 1, 0), (16, 5, 5, 1, 2), (33, 3, 3, 1, 1), (17, 41, 9, 3, 4)],
)
def test_columns_of_a_window_together(channels, width, taps, stride, pad):
    data = [random(5 * width * channels), random(3 * taps * channels, seed=1)]
    check(window_of_weights(channels, width, taps, stride, pad), data, tolerance=1e-5)
    symbolic = window_of_weights(channels, sym("W"), taps, stride, pad)
    check(symbolic, data, bindings={"W": width}, tolerance=1e-5, targets=TARGETS[:1])


def test_columns_of_a_window_that_only_rows_cut():
    k = window_of_weights(40, 13, 3, 1, 1)
    swap = {0: Axis(1), 1: Axis(0)}
    rows, columns, channels = k.axes
    k = transform(
        k, lambda e, kids: swap.get(e.index, e) if isinstance(e, Axis) else rebuilt(e, kids), (columns, rows + 2, channels), (3, 3)
    )
    k = replace(k, operands=(Operand(F, 7 * 13 * 40), k.operands[1], Operand(F, 5 * 13 * 40, True)))
    check(k, [random(7 * 13 * 40), random(9 * 40, seed=1)], tolerance=1e-5)


def test_columns_leave_registers_for_what_they_share():
    k = window_of_weights(256, 30, 3, 1, 1)
    for name, registers in (("cpu:x86-64-v4", 32), ("cpu:neoverse-n1", 32), ("cpu:x86-64-v3", 16)):
        target = parse(name)
        plan = schedule(k, target)
        assert target.vector_registers == registers and plan.columns > 1
        assert plan.columns * plan.group <= registers // 2
    assert schedule(window(64, 30, 1, "max"), parse("cpu:x86-64-v4")).columns > 1  # elements of windows that overlap
