"""Reductions, softmax and norms on the CPU against the interpreter of kernels: every dtype, tails, symbolic and empty sizes."""

from dataclasses import replace

import numpy as np
import pytest
from loop_kernels import F, call, check, index, kernel, load, random, s, softmax
from mlc.codegen.cpu.loops.schedule import schedule
from mlc.codegen.cpu.loops.softmax import shifts
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Axis, Call, Num, Reduced
from mlc.codegen.kernel import LoopKernel, Operand, Reduction, Store
from mlc.ir import DType, prod, sym
from running import TARGETS
from running import execute as native


@pytest.mark.parametrize("terms, step, axis", [(10, 5, 0), (8, 4, 0), (4, 4, 0), (64, 5, 1), (64, 64, 1)])
def test_short_sums_are_vectors_of_results(terms, step, axis):
    """To add up the lanes of a vector costs more than to load elements `step` apart, unless it has many terms."""
    rows = 100
    x, w = random(rows * step + terms), random(terms)
    product = call("mul", load(0, (0, step), (1, 1)), load(1, (1, 1)))
    k = kernel([rows], [terms], [x, w], [(F, rows)], [Reduction("sum", product)], [Store(2, Axis(0), Reduced(0, dtype=F))])
    assert schedule(k, parse("cpu:x86-64-v4")).axis == axis
    check(k, [x, w], tolerance=1e-4)  # sums of 64 in another order


@pytest.mark.parametrize("fn", ["sum", "max", "min", "prod", "argmax", "argmin"])
@pytest.mark.parametrize("rows, columns", [(3, 1), (2, 5), (4, 16), (5, 33), (2, 200), (1, 1000)])
def test_reduce_rows_and_columns(fn, rows, columns):
    x = random(rows, columns)
    if fn == "prod":
        x = np.abs(x) + 0.5
    out = DType.I64 if fn.startswith("arg") else F
    for results, terms, strides in ((rows, columns, ((0, columns), (1, 1))), (columns, rows, ((1, columns), (0, 1)))):
        reduction, store = Reduction(fn, load(0, *strides)), Store(1, Axis(0), Reduced(0, dtype=out))
        check(kernel([results], [terms], [x], [(out, results)], [reduction], [store]), [x], tolerance=1e-5)


@pytest.mark.parametrize("dtype", [DType.I32, DType.I64, DType.U8, DType.I8, DType.F64, DType.F16, DType.BF16])
def test_reduce_dtypes(dtype):
    x = random(3, 75, dtype=dtype)
    for fn in ("sum", "max", "min", "argmax"):
        out = DType.I64 if fn == "argmax" else dtype
        k = kernel(
            [3],
            [75],
            [x],
            [(out, 3)],
            [Reduction(fn, load(0, (0, 75), (1, 1), dtype=dtype))],
            [Store(1, Axis(0), Reduced(0, dtype=out))],
        )
        step = {DType.F16: 2**-10, DType.BF16: 2**-7}.get(dtype, 1e-5)  # sums are in float32, and rounded once
        check(k, [x], tolerance=step, targets=TARGETS[:2])


def test_reduce_bool_and_everything_to_a_scalar():
    x = random(300, dtype=DType.BOOL)
    for fn in ("and", "or"):
        k = kernel(
            [],
            [300],
            [x],
            [(DType.BOOL, 1)],
            [Reduction(fn, load(0, (0, 1), dtype=DType.BOOL))],
            [Store(1, Num(0), Reduced(0, dtype=DType.BOOL))],
        )
        check(k, [x])


def test_arg_of_ties_nan_and_infinity():
    x = np.float32([[1, 3, 3, 2], [np.nan, 9, np.nan, 1], [-np.inf, -np.inf, -np.inf, -np.inf], [np.inf, 1, np.inf, -np.inf]])
    x = np.tile(x, (1, 10)).ravel()
    for fn in ("argmax", "argmin"):
        k = kernel([4], [40], [x], [(DType.I64, 4)], [Reduction(fn, load(0, (0, 40), (1, 1)))], [Store(1, Axis(0), Reduced(0))])
        check(k, [x])
        columns = np.ascontiguousarray(x.reshape(4, 40).T).ravel()
        k = kernel([4], [40], [columns], [(DType.I64, 4)], [Reduction(fn, load(0, (0, 1), (1, 4)))], [Store(1, Axis(0), Reduced(0))])
        check(k, [columns])


def test_arg_over_two_axes_counts_through():
    x = np.random.default_rng(3).integers(0, 9, (3, 5, 37)).astype(np.float32)
    for fn in ("argmax", "argmin"):
        value = load(0, (0, 185), (1, 37), (2, 1))
        k = kernel([3], [5, 37], [x.ravel()], [(DType.I64, 3)], [Reduction(fn, value)], [Store(1, Axis(0), Reduced(0))])
        check(k, [x.ravel()])


def test_reduce_over_two_axes_and_middle_axis():
    x = random(4, 6, 5, 20)
    k = kernel(
        [4],
        [6, 5, 20],
        [x],
        [(F, 4)],
        [Reduction("sum", load(0, (0, 600), (1, 100), (2, 20), (3, 1)))],
        [Store(1, Axis(0), Reduced(0, dtype=F))],
    )
    check(k, [x], tolerance=1e-5)
    k = kernel([4, 20], [6, 5], [x], [(F, 80)], [Reduction("max", load(0, (0, 600), (2, 100), (3, 20), (1, 1)))],
               [Store(1, index((0, 20), (1, 1)), Reduced(0, dtype=F))])  # fmt: skip
    check(k, [x])
    k = kernel([6, 5], [4, 20], [x], [(F, 30)], [Reduction("sum", load(0, (2, 600), (0, 100), (1, 20), (3, 1)))],
               [Store(1, index((0, 5), (1, 1)), Reduced(0, dtype=F))])  # fmt: skip
    check(k, [x], tolerance=1e-5)


def test_empty_reduction_gives_the_neutral_element():
    n = sym("N")
    for fn in ("sum", "max", "prod"):
        k = LoopKernel((3,), (n,), (Operand(F, n * 3), Operand(F, 3, True)), (Reduction(fn, load(0, (0, n), (1, 1))),),
                       (Store(1, Axis(0), Reduced(0, dtype=F)),))  # fmt: skip
        for size in (0, 1, 20, 70):
            check(k, [random(3 * size)], bindings={"N": size}, tolerance=1e-5)


@pytest.mark.parametrize(
    ("shape", "axes"), [((90_000, 20), (0,)), ((3, 250_000), (1,)), ((300, 300, 20), (0, 1)), ((300, 20, 300), (0, 2))]
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_long_sums_keep_their_precision(shape, axes, symbolic):
    """Terms of one sign: an accumulator that takes them all would be 1e-5 off and more."""
    sizes = [sym(f"d{i}") if symbolic else d for i, d in enumerate(shape)]
    strides = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    kept = [i for i in range(len(shape)) if i not in axes]
    number = {old: new for new, old in enumerate([*kept, *axes])}
    x = np.random.default_rng(0).random(shape, np.float32)
    out = np.full(prod(shape[i] for i in kept), np.nan, np.float32)
    k = LoopKernel(
        tuple(sizes[i] for i in kept), tuple(sizes[i] for i in axes),
        (Operand(F, prod(sizes)), Operand(F, prod(sizes[i] for i in kept), written=True)),
        (Reduction("sum", load(0, *((number[i], strides[i]) for i in range(len(shape))))),),
        (Store(1, index((0, 1)), Reduced(0, dtype=F)),),
    )  # fmt: skip
    native(k, [x.reshape(-1), out], bindings={f"d{i}": d for i, d in enumerate(shape)})
    want = x.sum(axes, dtype=np.float64).reshape(-1)
    assert np.abs(out / want - 1).max() < 1e-6


@pytest.mark.parametrize("shape", [(3, 4, 40), (2, 7, 5)])
def test_a_store_where_a_reduction_says(shape):
    """y[b, rank(x[b, i, c]), c] = x[b, i, c]: neighbours in the vector go to different rows."""
    b, n, c = shape
    x = np.random.default_rng(0).permutation(prod(shape)).reshape(shape).astype(np.float32)
    own, other = (load(0, (0, n * c), (i, c), (2, 1)) for i in (1, 3))
    one, zero = Num(1), Num(0)
    rank = call("min", Reduced(0, dtype=DType.I64), Num(n - 1))
    at = call("add", index((0, n * c), (2, 1)), Call("mul", (rank, Num(c))))
    k = LoopKernel(
        (b, n, c), (n,), (Operand(F, x.size), Operand(F, x.size, written=True)),
        (Reduction("sum", Call("select", (call("lt", other, own), one, zero), dtype=DType.I64)),), (Store(1, at, own),),
    )  # fmt: skip
    for target in TARGETS:
        out = np.full(x.size, np.nan, np.float32)
        native(k, [x.reshape(-1), out], target)
        assert np.array_equal(out.reshape(shape), np.sort(x, 1))


@pytest.mark.parametrize("columns", [1, 3, 10, 16, 64, 100, 197, 1000])
def test_softmax(columns):
    x = random(7, columns, scale=3)
    check(softmax(7, columns), [x], tolerance=1e-5)
    check(softmax(sym("R"), sym("C")), [x], tolerance=1e-5, bindings={"R": 7, "C": columns}, targets=TARGETS[:2])


@pytest.mark.parametrize("columns", [2, 16, 37, 113])
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_what_is_not_a_number(columns, log):
    """Its row is none either, whether the greatest element knew of it or not; rows beside it stay, −∞ included."""
    x = random(6, columns).reshape(6, columns)
    x[0, 0] = x[1, -1] = x[2, columns // 2] = np.nan
    x[3], x[4, 0] = np.nan, -np.inf
    k = softmax(6, columns)
    assert shifts(k) == {0}
    if log:
        shifted = k.stages[1].value.args[0]
        result = s.sub(shifted, s.log(Reduced(1, dtype=F)))
        k = replace(k, stores=(replace(k.stores[0], value=result),))
        assert shifts(k) == {0}
    check(k, [x.ravel()], tolerance=1e-5)
    both = (*k.stores, Store(1, index((0, columns)), Reduced(0, dtype=F)))
    assert not shifts(replace(k, stores=both))


@pytest.mark.parametrize("columns", [16, 40])
def test_subnormal_weights_of_softmax_cost_nothing(columns):
    """They count as zero, and the caller's mode is back afterwards."""
    x, out, tiny = np.full((2, columns), -95, np.float32), np.ones(2 * columns, np.float32), np.float32(1e-40)
    x[:, 0], x[1, 1:5] = 0, -np.inf
    native(softmax(2, columns), [x.ravel(), out], TARGETS[0])
    assert np.array_equal(out.reshape(2, columns), np.eye(1, columns, dtype=np.float32).repeat(2, axis=0))
    assert tiny * np.float32(1) == tiny


def test_softmax_over_a_strided_axis():
    x = random(3, 10, 40)
    e = load(0, (0, 400), (2, 40), (1, 1))
    power = s.exp(s.sub(e, Reduced(0, dtype=F)))
    k = kernel([3, 40], [10], [x], [(F, 1200)], [Reduction("max", e), Reduction("sum", power)],
               [Store(1, e.offset, s.div(power, Reduced(1, dtype=F)), per_element=True)])  # fmt: skip
    check(k, [x], tolerance=1e-5)


@pytest.mark.parametrize("columns", [5, 64, 100, 384])
def test_layer_norm(columns):
    x, scale, bias = random(6, columns) + 3, random(columns, seed=1), random(columns, seed=2)
    e, count = load(0, (0, columns), (1, 1)), Num(float(columns), dtype=F)
    mean = s.div(Reduced(0, dtype=F), count)
    d = s.sub(e, mean)
    y = s.add(s.mul(s.div(d, s.sqrt(s.add(s.div(Reduced(1, dtype=F), count), 1e-5))), load(1, (1, 1))), load(2, (1, 1)))
    k = kernel([6], [columns], [x, scale, bias], [(F, x.size)], [Reduction("sum", e), Reduction("sum", s.mul(d, d))],
               [Store(3, e.offset, y, per_element=True)])  # fmt: skip
    check(k, [x, scale, bias], tolerance=2e-5)


@pytest.mark.parametrize("terms, block", [(50, 64), (2_000, 32), (9_000, 16)])
@pytest.mark.parametrize("lines", [1, 3])
def test_units_that_take_long_are_of_fewer_elements(terms, block, lines):
    """Or threads could not share them; a call joins those that it has, of the same line."""
    columns = 165
    x = random(lines, terms, columns)
    value = call("abs", load(0, (0, terms * columns), (1, 1), (2, columns)))
    store = Store(1, index((0, columns), (1, 1)), Reduced(0, dtype=F))
    k = kernel([lines, columns], [terms], [x], [(F, lines * columns)], [Reduction("sum", value)], [store])
    plan = schedule(k, parse("cpu:x86-64-v4"))
    assert (plan.axis, plan.block) == (1, block)
    check(k, [x], tolerance=1e-4)
