"""Scalar functions on vectors against float64: error in units in the last place over all magnitudes, and special values."""

import numpy as np
import pytest
from mlc.codegen.expr import Axis, Call, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.ir import NUMPY, DType
from running import TARGETS, execute

PAD = 64


def compute(fn, *operands, target="cpu"):
    """fn of arrays of one dtype and size; a number stands for a constant of the kernel."""
    dtype = {np.dtype("f"): DType.F32, np.dtype("d"): DType.F64}[operands[0].dtype]
    arrays = [x for x in operands if isinstance(x, np.ndarray)]
    loads = iter(Load(n, Axis(0), dtype=dtype) for n in range(len(arrays)))
    args = tuple(next(loads) if isinstance(x, np.ndarray) else Num(x, dtype=dtype) for x in operands)
    n = operands[0].size
    out = np.zeros(n + PAD, operands[0].dtype)
    buffers = (*(Operand(dtype, n) for _ in arrays), Operand(dtype, n, written=True))
    kernel = LoopKernel((n,), (), buffers, (), (Store(len(arrays), Axis(0), Call(fn, args, dtype=dtype)),))
    execute(kernel, [*arrays, out], target)
    assert not out[n:].any()
    return out[:n]


def ulps(got, want):
    """Error of float32 numbers in units in the last place of the correctly rounded result; infinities and NaN must agree."""
    with np.errstate(all="ignore"):
        single = want.astype(np.float32)
        assert (np.isnan(got) == np.isnan(single)).all()
        error = np.abs(got - want) / np.spacing(np.abs(single)).astype(np.float64)
    return np.where((got == single) | np.isnan(single), 0.0, error)


# name: (range, ULP bound of float32)
_RANGES = {
    "exp": (-110, 89, 2), "log": (1e-38, 1e6, 2), "tanh": (-12, 12, 6), "erf": (-6, 6, 2), "sin": (-100, 100, 2),
    "cos": (-100, 100, 2), "tan": (-20, 20, 3), "asin": (-1, 1, 3), "acos": (-1, 1, 3), "atan": (-50, 50, 3), "sinh": (-90, 90, 4),
    "cosh": (-90, 90, 4), "asinh": (-100, 100, 1), "acosh": (1, 100, 1), "atanh": (-1, 1, 1), "sqrt": (0, 1e6, 0.51),
    "rsqrt": (1e-6, 1e6, 2), "floor": (-9, 9, 0), "ceil": (-9, 9, 0), "round": (-9, 9, 0), "trunc": (-9, 9, 0), "abs": (-9, 9, 0), "neg": (-9, 9, 0),
}  # fmt: skip


@pytest.mark.parametrize("fn", _RANGES)
@pytest.mark.parametrize("target", TARGETS)
def test_error_in_ulp(fn, target):
    lo, hi, bound = _RANGES[fn]
    r = np.random.default_rng(0)
    spread = np.exp(r.uniform(-20, np.log(max(abs(hi), 1e-3)), 20000)) * r.choice([-1, 1], 20000)
    x = np.clip(np.concatenate([r.uniform(lo, hi, 40000), spread, np.arange(-9, 9, 0.5)]), lo, hi).astype(np.float32)
    with np.errstate(all="ignore"):
        error = ulps(compute(fn, x, target=target), NUMPY.ops.call(fn, x.astype(np.float64)))
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (x[worst], error[worst])


@pytest.mark.parametrize("fn", ["sin", "cos", "tan", "atan", "asinh", "asin", "acos", "atanh", "acosh", "sinh", "cosh"])
@pytest.mark.parametrize("target", TARGETS)
def test_error_over_all_float32(fn, target):
    """Every exponent and sign: subnormals, arguments of many turns, and those where the method changes."""
    bits = np.random.default_rng(1).integers(0, 2**32, 150_000, dtype=np.uint64).astype(np.uint32)
    edges = np.float32([2.0**28, 2.0**-13, 0.5, 1.0, np.pi / 2, np.pi, 1e5, 89.4, 3.4e38, 1e-45])
    near = (edges.view(np.uint32)[:, None] + np.arange(-9, 10)).astype(np.uint32).ravel()
    turns = (np.arange(1, 20000) * (np.pi / 2)).astype(np.float32)  # results near 0
    x = np.concatenate([bits.view(np.float32), near.view(np.float32), -near.view(np.float32), turns])
    with np.errstate(all="ignore"):
        error = ulps(compute(fn, x, target=target), NUMPY.ops.call(fn, x.astype(np.float64)))
    worst = int(np.argmax(error))
    assert error[worst] <= _RANGES[fn][2], (x[worst], error[worst])


@pytest.mark.parametrize("target", TARGETS)
def test_pow(target):
    r = np.random.default_rng(2)
    x = np.exp(r.uniform(-80, 80, 60000)).astype(np.float32) * r.choice(np.float32([-1, 1]), 60000)
    y = (r.uniform(-1, 1, 60000) * 100 / np.maximum(np.abs(np.log(np.abs(x))), 0.1)).astype(np.float32)
    y[::2] = np.round(y[::2])
    y[1::4] = r.choice(np.float32([3, -2, 7, 0.5, 1 / 3]), y[1::4].size)
    special = np.float32([0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, 2.0**24, 2.0**24 + 2])
    pairs = np.array(np.meshgrid(special, special)).reshape(2, -1)
    x, y = np.concatenate([x, pairs[0]]), np.concatenate([y, pairs[1]])
    got = compute("pow", x, y, target=target)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    error = ulps(got, want)
    worst = int(np.argmax(error))
    assert error[worst] <= 1, (x[worst], y[worst], got[worst], want[worst])
    assert (np.signbit(got) == np.signbit(want))[got == 0].all()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0, 0.5, -0.5, 1.5, 1.7, -7.0])
def test_pow_of_a_constant(exponent):
    r = np.random.default_rng(3)
    x = np.concatenate([np.exp(r.uniform(-8, 8, 20000)) * r.choice([-1, 1], 20000), [0, -0.0, np.inf, -np.inf, np.nan, 1]]).astype(
        np.float32
    )
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), np.full(x.size, np.float32(exponent)).astype(np.float64))  # of a number: √ for 0.5
        got = compute("pow", x, exponent)
    assert ulps(got, want).max() <= 2
    assert (np.signbit(got) == np.signbit(want))[got == 0].all()


@pytest.mark.parametrize("fn", ["exp", "log", "tanh", "sin", "cos"])
@pytest.mark.parametrize("target", TARGETS)
def test_error_of_float64(fn, target):
    """2 ULP of float64 over every exponent, against 80-bit floats."""
    r = np.random.default_rng(5)
    bits = r.integers(0, 2**64, 60_000, dtype=np.uint64).view(np.float64)
    edges = np.array([1.0, 0.625, 2.0**27, 2.0**-1022, 709.78, -745.2, np.pi / 2, np.sqrt(0.5), 1e-5])
    near = (edges.view(np.int64)[:, None] + np.arange(-9, 10)).ravel().view(np.float64)
    plain = [r.uniform(-750, 710, 20_000), r.uniform(-3, 3, 20_000), np.arange(1, 20000) * (np.pi / 2), r.uniform(0.5, 2, 20_000)]
    x = np.concatenate([bits, near, -near, *plain])
    with np.errstate(all="ignore"):
        want = getattr(np, fn)(x.astype(np.longdouble))
        got = compute(fn, x, target=target)
        rounded = want.astype(np.float64)
        error = np.abs(got.astype(np.longdouble) - want) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    # the 80-bit library reduces with π of 66 bits: beyond some turns, and where results are small, the 64-bit one is right
    if fn in ("sin", "cos"):
        with np.errstate(all="ignore"):
            exact = getattr(np, fn)(x[:60_000])
        error[:60_000] = np.where(np.abs(x[:60_000]) > 1e3, np.abs(got[:60_000] - exact) / np.spacing(np.abs(exact)), error[:60_000])
    assert (np.isnan(got) == np.isnan(rounded)).all()
    error = np.where((got == rounded) | np.isnan(rounded), 0, error)
    worst = int(np.argmax(error))
    assert error[worst] <= 2, (x[worst], got[worst], rounded[worst], error[worst])


@pytest.mark.parametrize("fn", ["fmod", "mod"])
@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("target", TARGETS)
def test_remainders(fn, dtype, target):
    """Exact, also for quotients that rounding takes to the next integer, or that are longer than a mantissa."""
    r = np.random.default_rng(4)
    x, y = (r.standard_normal(3000).astype(dtype) * 3 for _ in range(2))
    whole = r.integers(-(2**20), 2**20, 3000).astype(dtype)
    y[:1000] = np.round(y[:1000] * 5) / 5
    x[:1000] = (y[:1000] * whole[:1000]).astype(dtype)
    x[1000:1500] *= np.exp(r.uniform(-60, 60, 500)).astype(dtype)
    special = np.array([0, -0.0, 1, -1, 2.5, -4, np.inf, -np.inf, np.nan, 1e-40, 3e38, 2.0**24 + 2], dtype)
    pairs = np.array(np.meshgrid(special, special)).reshape(2, -1)
    x, y = np.concatenate([x, pairs[0]]), np.concatenate([y, pairs[1]])
    with np.errstate(all="ignore"):
        want = np.fmod(x, y)
        if fn == "mod":  # as Python: the sign of y
            want = np.where((want != 0) & ((want < 0) != (y < 0)), want + y, want)
    got = compute(fn, x, y, target=target)
    np.testing.assert_array_equal(got, want)
    if fn == "fmod":
        assert (np.signbit(got) == np.signbit(want))[want == 0].all()


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_division_of_integers(dtype, target):
    r = np.random.default_rng(6)
    ends = np.iinfo(dtype.np)
    some = np.array([ends.min, ends.min + 1, ends.max, ends.max - 1, 0, 1, 2, 3, 7, ends.max // 2], dtype.np)
    if dtype.is_signed:
        some = np.concatenate([some, -some[5:]])
    pairs = np.array(np.meshgrid(some, some)).reshape(2, -1)
    x = np.concatenate([pairs[0], r.integers(ends.min, ends.max, 3000, dtype.np, endpoint=True)])
    y = np.concatenate([pairs[1], r.integers(max(ends.min, -99), 100, 3000).astype(dtype.np)])
    out = np.zeros(x.size + PAD, dtype.np)
    for fn in ("div", "fmod", "mod"):
        buffers = (Operand(dtype, x.size), Operand(dtype, x.size), Operand(dtype, x.size, written=True))
        body = Call(fn, tuple(Load(n, Axis(0), dtype=dtype) for n in (0, 1)), dtype=dtype)
        execute(LoopKernel((x.size,), (), buffers, (), (Store(2, Axis(0), body),)), [x, y, out], target)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(out[: x.size], NUMPY.ops.call(fn, x, y), err_msg=fn)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("by", [0.7, -3.0, 3e38, np.inf, 0.0, 1e-30])
def test_division_by_a_number(by, target):
    """Rounded once, and where the quotient is infinite, or what it is divided by, no less than a division."""
    x = np.concatenate([np.random.default_rng(0).standard_normal(999), [3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan, 0.0]])
    x = x.astype(np.float32)
    out = np.zeros(x.size + PAD, np.float32)
    body = Call("div", (Load(0, Axis(0), dtype=DType.F32), Num(by, dtype=DType.F32)), dtype=DType.F32)
    buffers = (Operand(DType.F32, x.size), Operand(DType.F32, x.size, written=True))
    execute(LoopKernel((x.size,), (), buffers, (), (Store(1, Axis(0), body),)), [x, out], target)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out[: x.size], x / np.float32(by))


@pytest.mark.parametrize("target", TARGETS)
def test_normal_distribution_function(target):
    x = np.concatenate([np.linspace(-40, 40, 60001), np.random.default_rng(0).standard_normal(20000) * 1e-3]).astype(np.float32)
    assert np.abs(compute("normcdf", x, target=target) - NUMPY.ops.call("normcdf", x.astype(np.float64))).max() <= 2e-7
    x = x.astype(np.float64)
    np.testing.assert_allclose(compute("normcdf", x, target=target), NUMPY.ops.call("normcdf", x), rtol=1e-12, atol=1e-16)


_ALL = [
    "exp",
    "log",
    "tanh",
    "erf",
    "normcdf",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
]


@pytest.mark.parametrize("fn", _ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", TARGETS)
def test_special_values(fn, dtype, target):
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e-42, 3e38, 1000, 0.5, 1, -1] * 3, dtype)
    with np.errstate(all="ignore"):
        want = NUMPY.ops.call(fn, x.astype(np.float64)).astype(dtype)
    got = compute(fn, x, target=target)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-7 if fn == "normcdf" else 0)
    if fn != "normcdf":
        assert (np.signbit(got) == np.signbit(want))[want == 0].all()
