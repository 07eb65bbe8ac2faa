"""Bytes that follow from one byte: lookups in registers where the target has them, the same numbers everywhere."""

import numpy as np
import pytest
from mlc.codegen.cpu.loops.emit import emit_loop
from mlc.codegen.cpu.tabulated import tabulated
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.codegen.expr import Axis, Call, Cast, ExprScalars, Load, Num, Reduced, Table
from mlc.codegen.interpret.kernels import run_kernel
from mlc.codegen.kernel import LoopKernel, Operand, Reduction, Store
from mlc.ir import DType, S
from mlc.ir.ops import Dequantize, Quantize
from running import TARGETS, execute

s = S(ExprScalars())
ICE = parse("cpu:icelake-server")


def number(value, dtype=DType.F32):
    return Num(value, dtype=dtype)


def silu(x, y, out=DType.U8):
    """quantize(dequantize(x) · sigmoid(dequantize(y)))"""
    a, b = (Dequantize().body(s, v, number(0.05), number(3, v.dtype)) for v in (x, y))
    gate = s.div(number(1.0), s.add(s.exp(s.neg(b)), 1.0))
    return Quantize(out).body(s, s.mul(a, gate), number(0.02), number(17, out))


def kernel(shape, offset, value, inputs, out=DType.U8):
    numel = int(np.prod(shape))
    operands = (*(Operand(d, numel) for d in inputs), Operand(out, numel, True))
    return LoopKernel(shape, (), operands, (), (Store(len(inputs), offset, value),))


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("out", [DType.U8, DType.I8])
@pytest.mark.parametrize("n", [1, 15, 64, 200, 5000])
def test_function_of_one_byte(n, dtype, out):
    """The byte is read twice, by two loads of one offset."""
    at = Axis(0)
    k = kernel((n,), at, silu(Load(0, at, dtype=dtype), Load(0, Axis(0), dtype=dtype), out), [dtype], out)
    assert isinstance(tabulated(k, ICE).stores[0].value, Table)
    x = np.resize(np.arange(256, dtype=np.uint8), n).view(dtype.np)
    want = np.zeros(n, out.np)
    run_kernel(k, [x, want])
    for target in TARGETS:
        got = np.zeros(n, out.np)
        execute(k, [x, got], target, parts=2)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n", [7, 64, 300])
def test_behind_a_sum(n):
    """A sum is quantized, and what follows from that byte is looked up."""
    terms = Load(0, Call("add", (Call("mul", (Axis(1), Num(n))), Axis(0))), dtype=DType.F32)
    level = Quantize(DType.U8).body(s, Reduced(0, dtype=DType.F32), number(0.02), number(128, DType.U8))
    operands = Operand(DType.F32, 3 * n), Operand(DType.U8, n, True)
    k = LoopKernel((n,), (3,), operands, (Reduction("sum", terms),), (Store(1, Axis(0), silu(level, level)),))
    assert isinstance(tabulated(k, ICE).stores[0].value, Table)
    x = np.random.default_rng(1).standard_normal(3 * n).astype(np.float32)
    want = np.zeros(n, np.uint8)
    run_kernel(k, [x, want])
    for target in TARGETS:
        got = np.zeros(n, np.uint8)
        execute(k, [x, got], target)
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1 and (got == want).mean() > 0.98


def test_turned():
    """Lookups behind a transposition."""
    rows, columns = 37, 70
    at = Call("add", (Call("mul", (Axis(1), Num(rows))), Axis(0)))
    x = Load(0, at, dtype=DType.U8)
    k = kernel((rows, columns), Call("add", (Call("mul", (Axis(0), Num(columns))), Axis(1))), silu(x, x), [DType.U8])
    data = np.random.default_rng(0).integers(0, 256, rows * columns).astype(np.uint8)
    want, got = np.zeros(rows * columns, np.uint8), np.zeros(rows * columns, np.uint8)
    run_kernel(k, [data, want])
    execute(k, [data, got])
    np.testing.assert_array_equal(got, want)


def test_not_a_table():
    x, y = (Load(i, Axis(0), dtype=DType.U8) for i in (0, 1))
    both = kernel((64,), Axis(0), silu(x, y), [DType.U8, DType.U8])
    assert tabulated(both, ICE) is both
    moved = kernel((64,), Axis(0), silu(x, Load(0, Call("sub", (Num(63), Axis(0))), dtype=DType.U8)), [DType.U8])
    assert tabulated(moved, ICE) is moved
    cheap = kernel((64,), Axis(0), s.max(x, number(7, DType.U8)), [DType.U8])
    assert tabulated(cheap, ICE) is cheap
    wide = kernel((64,), Axis(0), silu(Cast(Load(0, Axis(0), dtype=DType.I16), dtype=DType.I8), x), [DType.I16, DType.U8])
    assert tabulated(wide, ICE) is wide
    one = kernel((64,), Axis(0), silu(x, x), [DType.U8])
    assert tabulated(one, parse("cpu:cascadelake")) is one


@pytest.mark.skipif(bool(missing_features(host().triple, {"avx512vbmi"})), reason="no byte permutations here")
def test_lookups_are_permutations():
    x = Load(0, Axis(0), dtype=DType.U8)
    text = emit_loop(kernel((4096,), Axis(0), silu(x, x), [DType.U8]), host()).ir_text
    assert "vpermi2var.qi.512" in text and "float" not in text
