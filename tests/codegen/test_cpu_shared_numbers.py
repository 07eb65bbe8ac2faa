"""Kernels that only constants tell apart: one text, the constants in the table of sizes."""

from __future__ import annotations

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


def test_what_is_the_same_in_all_stays_a_constant():
    kernels = [loop(64, scale, 0.25) for scale in (0.5, 3.0)]
    for k in share_numbers(kernels).values():
        nodes = postorder(k.roots)
        assert sum(isinstance(e, Param) for e in nodes) == 1 and any(isinstance(e, Num) and e.value == 0.25 for e in nodes)


def test_what_stays_as_it_is():
    """Other structures and sizes of loops, divisors, bounds, and what is made an integer of few bits."""

    def clipped(high):
        return lambda x: call("min", call("div", x, Num(high, dtype=F)), Num(high, dtype=F))

    def rounded(x):
        whole = call("min", call("max", call("round", x), Num(-128.0, dtype=F)), Num(127.0, dtype=F))
        return Cast(whole, dtype=DType.I8)

    kernels = [loop(64, 0.5, 0.25), loop(65, 0.75, 0.25), loop(64, 0.5, 0.125, outer=lambda x: call("neg", x))]
    kernels += [loop(32, 0.5, 0.25, outer=clipped(high)) for high in (6.0, 4.0)]
    kernels += [loop(48, scale, 1.0, DType.I8, rounded) for scale in (6.0, 4.0)]
    shared = share_numbers(kernels)
    assert all(shared[id(k)] is k for k in kernels)
