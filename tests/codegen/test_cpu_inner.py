"""Products of rows by columns that both lie along k, on the CPU: sizes with tails, strides, symbolic sizes, epilogues, targets."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.hints import candidates
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Acc, Axis, Call, Load
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import ContractKernel, Operand
from mlc.errors import CodegenError
from mlc.ir import DType, sym
from running import TARGETS, close, execute

F = DType.F32
GAP = 3  # NaN between neighbouring rows and columns: nothing there may take part


def product(m, n, k, *, batch=2, target="cpu", dtype=F, dims=None, bindings=None, parts=1, bias=False, interpret=False):
    r = np.random.default_rng(m + n + k)
    a, b = (np.full((batch, size, k + GAP), np.nan, dtype.np) for size in (m, n))
    a[:, :, :k], b[:, :, :k] = r.standard_normal((batch, m, k)), r.standard_normal((batch, n, k))
    extra = [r.standard_normal(n).astype(dtype.np)] if bias else []
    c = np.full((batch, m + 1, n + 2), 7, dtype.np)
    dm, dn, dk = dims or (m, n, k)
    epilogue = Acc(dtype=dtype)
    if bias:
        epilogue = Call(
            "max", (Call("add", (epilogue, Load(2, Axis(2), dtype=dtype)), dtype=dtype), Load(2, Axis(2), dtype=dtype)), dtype=dtype
        )
    operands = tuple(Operand(dtype, x.size, x is c) for x in (a, b, *extra, c))
    kernel = ContractKernel(
        batch, dm, dn, dk, operands, dk + GAP, dm * (dk + GAP), dn * (dk + GAP), dn + 2, (dm + 1) * (dn + 2), epilogue, b_column=dk + GAP
    )
    if interpret:
        run_kernel(kernel, [x.reshape(-1) for x in (a, b, *extra, c)], bindings or {})
    else:
        execute(kernel, [a, b, *extra, c], target, bindings, parts)
    assert (c[:, m:] == 7).all() and (c[:, :, n:] == 7).all(), "wrote past a row"
    want = a[:, :, :k].astype("d") @ b[:, :, :k].astype("d").swapaxes(1, 2)
    if bias:
        want = np.maximum(want + extra[0], extra[0])
    close(c[:, :m, :n], want)
    return kernel


SIZES = [(1, 1, 1), (2, 17, 16), (3, 16, 15), (4, 33, 64), (5, 5, 100), (7, 64, 31), (8, 31, 48), (15, 18, 7), (16, 17, 224), (32, 40, 33)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m, n, k", SIZES)
def test_sizes(m, n, k, target):
    product(m, n, k, target=target, parts=2)
    m_, n_, k_ = sym("M", 1, 99), sym("N", 1, 99), sym("K", 1, 999)
    product(m, n, k, target=target, dims=(m_, n_, k_), bindings={"M": m, "N": n, "K": k}, bias=True)


@pytest.mark.parametrize("target", TARGETS)
def test_float64(target):
    product(6, 11, 37, target=target, dtype=DType.F64, bias=True)


def test_interpreter():
    product(5, 9, 12, interpret=True, bias=True)


def test_refusals():
    kernel = product(2, 3, 4)
    target = parse("cpu:x86-64-v4")
    assert candidates(kernel, target) == []
    halves = tuple(replace(o, dtype=DType.F16) for o in kernel.operands)
    with pytest.raises(CodegenError, match="float32 or float64"):
        emit(replace(kernel, operands=halves), target)
