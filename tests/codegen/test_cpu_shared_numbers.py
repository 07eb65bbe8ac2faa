"""Kernels that only constants tell apart: one text, the constants in the table of sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.shared_numbers import share_numbers
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Acc, Axis, Call, Cast, Load, Num, Param, postorder
from mlc.codegen.kernel import ContractKernel, LoopKernel, Operand, Store
from mlc.codegen.packing import pack_b
from mlc.ir import DType
from running import TARGETS, close, execute

F = DType.F32
PAIRS = [(0.75, -2.0), (1.5, 0.1), (1.5, 3e-41)]


def call(fn, *args, dtype=F):
    return Call(fn, args, dtype=dtype)


def scaled(x, scale, offset):
    return call("add", call("mul", x, Num(scale, dtype=F)), Num(offset, dtype=F))


def loop(n, scale, offset, dtype=F, outer=lambda x: x):
    value = outer(scaled(Load(0, Axis(0), dtype=F), scale, offset))
    return LoopKernel((n,), (), (Operand(F, n), Operand(dtype, n, True)), (), (Store(1, Axis(0), value),))


def product(m, n, k, epilogue):
    operands = Operand(F, m * k), Operand(F, -(-n // 64) * 64 * k), Operand(F, m * n, True)
    return ContractKernel(1, m, n, k, operands, k, 0, 0, n, 0, epilogue)


def symbols(kernels, target="cpu"):
    return len({emit(k, parse(target)).symbol for k in kernels})


@pytest.mark.parametrize("target", TARGETS)
def test_one_text_many_results(target):
    kernels = [loop(1003, *pair) for pair in PAIRS]
    shared = share_numbers(kernels)
    assert symbols(kernels, target) == len(PAIRS) and symbols(shared.values(), target) == 1
    x = np.random.default_rng(0).standard_normal(1003, dtype=np.float32)
    for (scale, offset), k in zip(PAIRS, kernels, strict=True):
        y = np.zeros_like(x)
        execute(shared[id(k)], [x, y], target)
        close(y, x * np.float32(scale) + np.float32(offset))


@pytest.mark.parametrize("target", TARGETS)
def test_products_of_several_sizes(target):
    r = np.random.default_rng(1)
    sizes = [(70, 96, 40), (200, 160, 72), (70, 96, 40)]
    kernels = [product(*size, scaled(Acc(dtype=F), *pair)) for size, pair in zip(sizes, PAIRS, strict=True)]
    shared = share_numbers(kernels)
    assert symbols(shared.values(), target) < symbols(kernels, target)
    for (m, n, k), (scale, offset), kernel in zip(sizes, PAIRS, kernels, strict=True):
        a, b = r.standard_normal((1, m, k), dtype=np.float32), r.standard_normal((1, k, n), dtype=np.float32)
        c = np.zeros((m, n), np.float32)
        execute(shared[id(kernel)], [a, pack_b(b, 64), c], target)
        close(c, (a[0].astype(np.float64) @ b[0]) * scale + offset)


STEPS = [(0.03, 120), (0.7, 131), (-0.11, 7)]  # of quantizing and its zero point
_BOUNDS = {DType.U8: (0.0, 255.0), DType.U16: (0.0, 65535.0)}


def quantized(x, step, zero, dtype):
    """x in steps, and the number that is."""
    point = Num(zero, dtype=dtype)
    low, high = (Num(end, dtype=F) for end in _BOUNDS[dtype])
    level = call("add", call("round", call("div", x, Num(step, dtype=F))), Cast(point, dtype=F))
    level = Cast(call("min", call("max", level, low), high), dtype=dtype)
    from_zero = call("sub", Cast(level, dtype=DType.I32), Cast(Num(zero, dtype=dtype), dtype=DType.I32), dtype=DType.I32)
    return level, call("mul", Cast(from_zero, dtype=F), Num(step, dtype=F))


@pytest.mark.parametrize("dtype", _BOUNDS)
@pytest.mark.parametrize("target", TARGETS)
def test_quantizing_by_other_steps(target, dtype):
    """The same bits as by constants, at the ends of the range, too."""

    def kernel(step, zero):
        level, x = quantized(Load(0, Axis(0), dtype=F), step, zero, dtype)
        stores = Store(1, Axis(0), level), Store(2, Axis(0), x), Store(3, Axis(0), call("div", x, Num(step, dtype=F)))
        operands = Operand(F, 1003), Operand(dtype, 1003, True), Operand(F, 1003, True), Operand(F, 1003, True)
        return LoopKernel((1003,), (), operands, (), stores)

    kernels = [kernel(*s) for s in STEPS]
    shared = share_numbers(kernels)
    assert symbols(kernels, target) == len(STEPS) and symbols(shared.values(), target) == 1
    x = (np.random.default_rng(0).standard_normal(1003, dtype=np.float32) * 20).clip(-50, 50)
    x[:4] = 3e38, -3e38, np.inf, -np.inf
    for k in kernels:
        got, want = ([np.zeros(1003, d) for d in (dtype.np, np.float32, np.float32)] for _ in range(2))
        execute(shared[id(k)], [x, *got], target)
        execute(k, [x, *want], target)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)) and len(np.unique(got[0])) > 10


@pytest.mark.parametrize("target", TARGETS)
def test_products_quantized_by_other_steps(target):
    r = np.random.default_rng(1)
    kernels = [product(70, 96, 40, quantized(Acc(dtype=F), *s, DType.U16)[1]) for s in STEPS]
    shared = share_numbers(kernels)
    assert symbols(kernels, target) == len(STEPS) and symbols(shared.values(), target) == 1
    a, b = r.standard_normal((1, 70, 40), dtype=np.float32), r.standard_normal((1, 40, 96), dtype=np.float32)
    for k in kernels:
        got, want = np.zeros((70, 96), np.float32), np.zeros((70, 96), np.float32)
        execute(shared[id(k)], [a, pack_b(b, 64), got], target)
        execute(k, [a, pack_b(b, 64), want], target)
        assert np.array_equal(got, want) and got.any()


def test_what_is_the_same_in_all_stays_a_constant():
    kernels = [loop(64, scale, 0.25) for scale in (0.5, 3.0)]
    for k in share_numbers(kernels).values():
        nodes = postorder(k.roots)
        assert sum(isinstance(e, Param) for e in nodes) == 1 and any(isinstance(e, Num) and e.value == 0.25 for e in nodes)


@pytest.mark.parametrize("target", TARGETS)
def test_tables_of_bytes(target):
    """Lookups of what follows from one byte, by other steps and zero points, behind sums and of bytes in memory."""

    def value(x, step, zero):
        return quantized(call("tanh", call("mul", quantized(x, step, zero, DType.U8)[1], Num(step, dtype=F))), step / 64, zero, DType.U8)[0]

    def looked_up(step, zero):
        x = call("mul", Cast(Load(0, Axis(0), dtype=DType.U8), dtype=F), Num(step, dtype=F))
        operands = (Operand(DType.U8, 256), Operand(DType.U8, 256, True))
        return LoopKernel((256,), (), operands, (), (Store(1, Axis(0), quantized(call("tanh", x), step / 9, zero, DType.U8)[0]),))

    steps = [(0.03, 3), (0.04, 128)]
    loops = [looked_up(*s) for s in steps]
    floats = Operand(F, 280), Operand(F, 64 * 40)
    products = [replace(product(7, 40, 40, value(Acc(dtype=F), *s)), operands=(*floats, Operand(DType.U8, 280, True))) for s in steps]
    r = np.random.default_rng(1)
    a, b = r.standard_normal((1, 7, 40), dtype=np.float32), r.standard_normal((1, 40, 40), dtype=np.float32)
    for kernels, inputs, shape in ((loops, [np.arange(256, dtype=np.uint8)], 256), (products, [a, pack_b(b, 64)], (7, 40))):
        shared = share_numbers(kernels)
        assert symbols(shared.values(), target) == 1
        for k in kernels:
            got, want = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            execute(shared[id(k)], [*inputs, got], target)
            execute(k, [*inputs, want], target)
            assert np.array_equal(got, want) and len(set(got.ravel())) > 8


def test_what_stays_as_it_is():
    """Other structures and sizes of loops, divisors without a correctable quotient, and bounds."""

    def clipped(high):
        return lambda x: call("min", call("div", x, Num(high, dtype=F)), Num(6.0, dtype=F))

    kernels = [loop(64, 0.5, 0.25), loop(65, 0.75, 0.25), loop(64, 0.5, 0.125, outer=lambda x: call("neg", x))]
    kernels += [loop(32, 0.5, 0.25, outer=clipped(high)) for high in (2.0, 4.0)]
    shared = share_numbers(kernels)
    assert all(shared[id(k)] is k for k in kernels)
