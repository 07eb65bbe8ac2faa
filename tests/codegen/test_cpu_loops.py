"""Loop kernels on the CPU against the interpreter of kernels: maps and moves, every dtype, tails, symbolic and empty sizes, targets."""

import numpy as np
import pytest
from loop_kernels import PAD, F, call, check, index, kernel, load, map_kernel, random, s, softmax, window
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.loops.emit import emit_loop
from mlc.codegen.cpu.target import host, parse
from mlc.codegen.expr import Axis, Cast, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.ir import DType, sym
from running import TARGETS
from running import execute as native


@pytest.mark.parametrize("size", [0, 1, 3, 15, 16, 17, 64, 100, 1024, 1025, 3000])
def test_add_sizes(size):
    x, y = random(size), random(size, seed=1)
    k = kernel([size], [], [x, y], [(F, size)], [], [Store(2, Axis(0), s.add(load(0, (0, 1)), load(1, (0, 1))))])
    check(k, [x, y])


def test_symbolic_size_serves_every_binding():
    n = sym("N")
    for size in (0, 1, 7, 16, 31, 500):
        x = random(size)
        k = LoopKernel((n, 3), (), (Operand(F, n * 3), Operand(F, n), Operand(F, n * 3, True)), (), (
            Store(2, index((0, 3), (1, 1)), s.mul(load(0, (0, 3), (1, 1)), load(1, (0, 1)))),))  # fmt: skip
        check(k, [random(size * 3), x], bindings={"N": size})


def test_broadcast_rows_columns_scalar():
    x, row, column, one = random(5, 37), random(37, seed=1), random(5, seed=2), random(1, seed=3)
    at = index((0, 37), (1, 1))
    e = s.add(s.mul(Load(0, at, dtype=F), load(1, (1, 1))), s.sub(load(2, (0, 1)), load(3, 0)))
    check(kernel([5, 37], [], [x, row, column, one], [(F, 185)], [], [Store(4, at, e)]), [x, row, column, one])


@pytest.mark.parametrize("dtype", [F, DType.F64, DType.U8, DType.BOOL, DType.I64, DType.F16])
def test_transpose(dtype):
    x = random(19, 35, dtype=dtype)
    k = kernel([35, 19], [], [x], [(dtype, x.size)], [], [Store(1, index((0, 19), (1, 1)), load(0, (0, 1), (1, 35), dtype=dtype))])
    check(k, [x])


@pytest.mark.parametrize("m, n", [(16, 16), (17, 33), (40, 64), (5, 70), (83, 1060), (1060, 83)])
def test_transpose_fused_with_other_operands(m, n):
    x, y, row, column = random(3, m, n), random(3, n, m, seed=1), random(m, seed=2), random(n, seed=3)
    at = index((0, m * n), (1, m), (2, 1))
    e = s.mul(load(0, (0, m * n), (2, n), (1, 1)), Load(1, at, dtype=F))
    e = s.add(s.add(e, load(2, (2, 1))), load(3, (1, 1)))
    check(kernel([3, n, m], [], [x, y, row, column], [(F, x.size)], [], [Store(4, at, e)]), [x, y, row, column], tolerance=1e-5)


@pytest.mark.parametrize("fixed", [None, 5, 40])
def test_transpose_of_symbolic_sizes(fixed):
    """One kernel for sizes below and above a vector, zero too."""
    m, n = sym("M"), fixed or sym("N")
    for rows, columns in ((0, 3), (1, 100), (3, 15), (16, 16), (17, 1), (70, 33), (600, 67)):
        columns = fixed or columns
        x, row = random(rows, columns), random(rows, seed=1)
        e = s.add(load(0, (0, 1), (1, n)), load(1, (1, 1)))
        operands = (Operand(F, m * n), Operand(F, m), Operand(F, m * n, True))
        k = LoopKernel((n, m), (), operands, (), (Store(2, index((0, m), (1, 1)), e),))
        check(k, [x, row], bindings={"M": rows, "N": columns})


def test_gather_rows_and_elements():
    x, rows = random(20, 33), np.asarray([3, 19, 0, 7], np.int64)
    at = call("add", call("mul", load(1, (0, 1), dtype=DType.I64), Num(33)), Axis(1))
    check(kernel([4, 33], [], [x, rows], [(F, 132)], [], [Store(2, index((0, 33), (1, 1)), Load(0, at, dtype=F))]), [x, rows])
    each = random(50, dtype=DType.U8).astype(np.int64)
    k = kernel([50], [], [x, each], [(F, 50)], [], [Store(2, Axis(0), Load(0, load(1, (0, 1), dtype=DType.I64), dtype=F))])
    check(k, [x, each])


def test_strided_reversed_and_quotient_indices():
    x = random(200)
    for e in (index((0, 3), 5), call("sub", Num(199), Axis(0)), call("div", Axis(0), Num(3)), call("mod", Axis(0), Num(7)),
              call("min", Axis(0), Num(20)), call("add", call("mul", call("div", Axis(0), Num(4)), Num(8)), call("mod", Axis(0), Num(4)))):  # fmt: skip
        check(kernel([60], [], [x], [(F, 60)], [], [Store(1, Axis(0), Load(0, e, dtype=F))]), [x])


def test_concat_by_select_and_guarded_store():
    x, y = random(10), random(23, seed=1)
    cond = call("lt", Axis(0), Num(10))
    left = Load(0, call("min", Axis(0), Num(9)), dtype=F)
    right = Load(1, call("max", call("sub", Axis(0), Num(10)), Num(0)), dtype=F)
    check(kernel([33], [], [x, y], [(F, 33)], [], [Store(2, Axis(0), s.select(cond, left, right))]), [x, y])
    guard = call("ne", call("mod", Axis(0), Num(3)), Num(0))
    check(kernel([33], [], [y[:1]], [(F, 33)], [], [Store(1, Axis(0), load(0, 0), guard=guard)]), [y[:1]])


def test_strided_store():
    x = random(40)
    check(kernel([40], [], [x], [(F, 80)], [], [Store(1, index((0, 2), 1), load(0, (0, 1)))]), [x])


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.U16, DType.I16, DType.I32, DType.U32, DType.I64, DType.U64])
def test_integer_arithmetic(dtype):
    x, y = random(77, dtype=dtype), random(77, dtype=dtype, seed=1)
    a, b = load(0, (0, 1), dtype=dtype), load(1, (0, 1), dtype=dtype)
    for fn in ("add", "sub", "mul", "div", "mod", "fmod", "min", "max", "and_", "or_", "xor"):
        if fn == "fmod":
            y = np.where(y == 0, 1, y).astype(dtype.np)
        check(kernel([77], [], [x, y], [(dtype, 77)], [], [Store(2, Axis(0), call(fn, a, b))]), [x, y], targets=TARGETS[:1])
    for fn in ("eq", "lt", "ge"):
        check(kernel([77], [], [x, y], [(DType.BOOL, 77)], [], [Store(2, Axis(0), call(fn, a, b))]), [x, y], targets=TARGETS[:1])
    three = Num(3, dtype=dtype)
    for fn in ("shl", "shr", "div", "mod"):
        check(map_kernel(x, lambda e, fn=fn: call(fn, e, three)), [x], targets=TARGETS[:1])
    for fn in ("neg", "abs", "not_"):
        check(map_kernel(x, lambda e, fn=fn: call(fn, e)), [x], targets=TARGETS[:1])


def test_bool_logic():
    x, y = random(90, dtype=DType.BOOL), random(90, dtype=DType.BOOL, seed=1)
    a, b = load(0, (0, 1), dtype=DType.BOOL), load(1, (0, 1), dtype=DType.BOOL)
    for e in (s.and_(a, b), s.or_(a, b), s.xor(a, b), s.not_(a), s.eq(a, b), s.ne(a, b)):
        check(kernel([90], [], [x, y], [(DType.BOOL, 90)], [], [Store(2, Axis(0), e)]), [x, y])


_CASTS = [F, DType.F64, DType.F16, DType.BF16, DType.I32, DType.I64, DType.U8, DType.I8, DType.BOOL, DType.U16, DType.U32]


@pytest.mark.parametrize("source", _CASTS)
def test_casts(source):
    x = np.abs(random(70, dtype=source, scale=20)) if source is not DType.BOOL else random(70, dtype=source)
    for to in _CASTS:
        check(map_kernel(x, lambda e, to=to: Cast(e, dtype=to)), [x])


@pytest.mark.parametrize("to", [DType.F16, DType.BF16])
def test_rounding_to_half_is_to_nearest_even(to):
    x = np.concatenate([np.arange(0x3F800000, 0x3F800000 + 300 * 4096, 2048, dtype=np.int32).view(np.float32),
                        np.float32([0, -0.0, 1e-8, 6e-8, 3e-5, 65504, 65519, 65520, 1e9, np.inf, -np.inf, np.nan, 1e-40])])  # fmt: skip
    check(map_kernel(x, lambda e: Cast(e, dtype=to)), [x])
    check(map_kernel(x.astype(to.np), lambda e: Cast(e, dtype=F)), [x.astype(to.np)])


@pytest.mark.parametrize("source", [np.float32, np.float64])
@pytest.mark.parametrize("to", [DType.I32, DType.I64])
@pytest.mark.parametrize("target", TARGETS)
def test_float_to_integer_saturates(source, to, target):
    limits = np.iinfo(to.np)
    x = np.array([1e20, -1e20, 300, -300, 1.9, -1.9, np.inf, -np.inf, np.nan, -0.0, 2.0**30, -(2.0 ** (to.itemsize * 8 - 1))] * 4, source)
    got = np.zeros(x.size + PAD, to.np)
    native(map_kernel(x, lambda e: Cast(e, dtype=to)), [x, got], target)
    assert got[:12].tolist() == [limits.max, limits.min, 300, -300, 1, -1, limits.max, limits.min, 0, 0, 2**30, limits.min]
    assert (got[12:48].reshape(3, 12) == got[:12]).all()


@pytest.mark.parametrize("to", [DType.U8, DType.I8, DType.I16])
@pytest.mark.parametrize("target", TARGETS)
def test_quantizing_by_a_scale_that_is_read(to, target):
    """Quotients exactly halfway go to even ones, those out of range to the ends, not numbers to the lower one; scales of either sign."""
    ends = np.iinfo(to.np)
    for scale, zero in ((0.1, 3), (0.75, ends.max), (3.7e-30, ends.min), (2e30, 1), (-0.3, 7)):
        scale, zero = np.float32([scale]), np.array([zero], to.np)
        steps = np.concatenate([np.arange(-600, 600) / 2, random(200) * 300, [1e8, -1e8]]).astype(np.float32)
        x = np.concatenate([(steps * scale).astype(np.float32), np.float32([np.inf, -np.inf])])
        e = call("add", call("round", call("div", load(0, (0, 1)), load(1, 0))), Cast(load(2, 0, dtype=to), dtype=F))
        e = call("min", call("max", e, Num(float(ends.min), dtype=F)), Num(float(ends.max), dtype=F))
        k = kernel([x.size], [], [x, scale, zero], [(to, x.size)], [], [Store(3, Axis(0), Cast(e, dtype=to))])
        check(k, [x, scale, zero], targets=[target])
        got = np.zeros(20 + PAD, to.np)
        nothing = np.full(20, np.nan, np.float32)
        k = kernel([20], [], [nothing, scale, zero], [(to, 20)], [], [Store(3, Axis(0), Cast(e, dtype=to))])
        native(k, [nothing, scale, zero, got], target)
        assert (got[:20] == (ends.min if scale > 0 else got[0])).all()


def test_min_max_propagate_nan():
    x = np.float32([1, np.nan, 3, np.nan, np.inf, -np.inf] * 5)
    y = np.float32([np.nan, 2, 1, np.nan, 0, 0] * 5)
    for fn in ("min", "max"):
        check(kernel([30], [], [x, y], [(F, 30)], [], [Store(2, Axis(0), call(fn, load(0, (0, 1)), load(1, (0, 1))))]), [x, y])


def test_equal_kernels_have_one_symbol_and_units_cover_the_axes():
    a, b = emit_loop(softmax(4, 40), host()), emit_loop(softmax(4, 40), host())
    assert a == b and a.units == 4
    assert emit_loop(softmax(5, 41), host()).symbol != a.symbol


@pytest.mark.parametrize("target", ["cpu:aarch64", "cpu:neoverse-n1", "cpu:x86-64", "cpu:x86-64-v4"])
def test_cross_compiles(target):
    for k in (softmax(4, 40), window(64, 7, 1, "max")):
        t = parse(target)
        assert compile_ir(emit_loop(k, t).ir_text, t)[:4] == b"\x7fELF"
