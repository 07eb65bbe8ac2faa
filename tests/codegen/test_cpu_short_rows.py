"""Short rows side by side, reduced in lanes of rows: against the interpreter, whole vectors of rows and those at the end."""

import numpy as np
import pytest
from loop_kernels import call, check, index, kernel, load, random
from mlc.codegen.cpu.loops.short_rows import short_rows
from mlc.codegen.cpu.target import host
from mlc.codegen.expr import Axis, Reduced
from mlc.codegen.kernel import Reduction, Store
from mlc.ir import DType, sym

F = DType.F32
HOST = host()


def softmax(rows, size, dtype=F, log=False):
    """Of x[rows, size], scaled by a vector along each of the axes."""
    x, scale, bias = random(rows, size, dtype=dtype), random(rows, dtype=dtype), random(size, dtype=dtype)
    e = call("add", call("mul", load(0, (0, size), (1, 1), dtype=dtype), load(1, (0, 1), dtype=dtype)), load(2, (1, 1), dtype=dtype))
    shifted = call("sub", e, Reduced(0, dtype=dtype))
    power = call("exp", shifted)
    total = Reduced(1, dtype=dtype)
    result = call("sub", shifted, call("log", total)) if log else call("div", power, total)
    store = Store(3, index((0, size), (1, 1)), result, per_element=True)
    k = kernel([rows], [size], [x, scale, bias], [(dtype, rows * size)], [Reduction("max", e), Reduction("sum", power)], [store])
    return k, [x, scale, bias]


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 9, 16, 21, 32])
def test_softmax(size):
    for rows in (32, 45):
        k, inputs = softmax(rows, size, log=rows == 45)
        assert short_rows(k, HOST) is not None or HOST.vector_bits < 256
        check(k, inputs, tolerance=2e-6)


@pytest.mark.parametrize("dtype, tolerance", [(DType.F64, 1e-12), (DType.F16, 2e-3), (DType.BF16, 2e-2)])
def test_other_types(dtype, tolerance):
    for size in (3, 10, 19):
        k, inputs = softmax(41, size, dtype)
        check(k, inputs, tolerance=tolerance)


@pytest.mark.parametrize("fn", ["sum", "max", "argmax", "argmin"])
@pytest.mark.parametrize("size", [9, 13, 32])
def test_one_result_per_row(fn, size):
    x = np.round(random(67, size) * 2).reshape(67, size)  # with ties
    x[3], x[5, 2], x[66, 1:] = -np.inf, np.nan, np.nan
    out = DType.I64 if fn.startswith("arg") else F
    value = Reduction(fn, load(0, (0, size), (1, 1)))
    k = kernel([67], [size], [x.ravel()], [(out, 67)], [value], [Store(1, Axis(0), Reduced(0, dtype=out))])
    check(k, [x.ravel()])


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 50])
def test_rows_known_in_the_run_and_outer_axes(rows):
    n = sym("N")
    for size in (5, 11):
        x = random(3, rows + 1, size)  # a row of each plane is left out, so that the axes do not merge
        value = load(0, (0, (n + 1) * size), (1, size), (2, 1))
        store = Store(1, index((0, n * size), (1, size), (2, 1)), call("sub", value, Reduced(0, dtype=F)), per_element=True)
        k = kernel([3, n], [size], [x.ravel()], [(F, 3 * n * size)], [Reduction("max", value)], [store])
        check(k, [x.ravel()], bindings={"N": rows})


def test_where_it_does_not_go():
    assert short_rows(softmax(20, 10)[0], HOST) is None  # few rows
    assert short_rows(softmax(100, 33)[0], HOST) is None  # long ones
    x = random(100, 12)
    apart = kernel([100], [10], [x], [(F, 100)], [Reduction("sum", load(0, (0, 12), (1, 1)))], [Store(1, Axis(0), Reduced(0, dtype=F))])
    assert short_rows(apart, HOST) is None
