"""Positions, sorting, suppression and running sums, compiled, against the references of their ops."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.compiler.api import compile_graph
from mlc.ir import DType, sym
from mlc.ir.ops import CumSum, Positions, Sort, Suppress, TopK

RNG = np.random.default_rng(11)
N = sym("N")


def compiled(g, *arrays):
    """What the compiled graph gives; the interpreter has to agree with the references too."""
    module = compile_graph(g, threads=2)
    got = module(*arrays)
    return got if isinstance(got, tuple) else (got,)


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_positions(n):
    x = tensor(N, dtype=DType.BOOL)
    mask = RNG.random(n) < 0.3
    node = ap(Positions(), x).node
    at, count = compiled(graph([x], *node.outputs), mask)
    want = np.flatnonzero(mask)
    assert count == [len(want)] and np.array_equal(at[: len(want)], want)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.I8, DType.I64, DType.U8, DType.U64])
@pytest.mark.parametrize("descending", [False, True])
def test_sort(dtype, descending):
    x = tensor(3, N, dtype=dtype)
    g = graph([x], ap(Sort(descending), x))
    for n in (0, 1, 2, 3, 64, 129):
        data = RNG.integers(0, 9, (3, n)).astype(dtype.np)
        if dtype.is_float and n:
            data[1, RNG.integers(0, n)] = np.nan
            data[2, 0] = np.inf
        elif dtype is DType.U64:
            data = data * np.uint64(2**61)
        want = Sort(descending).reference(data)
        np.testing.assert_array_equal(compiled(g, data)[0], want[0])
        run(g, [data], want, N=n)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_top_k_of_long_rows(largest, axis):
    data = RNG.standard_normal((300, 200)).astype(np.float32)
    data[5, 5] = np.nan
    x = tensor(300, 200)
    node = ap(TopK(axis, 7, largest), x).node
    want = TopK(axis, 7, largest).reference(data)
    for got, w in zip(compiled(graph([x], *node.outputs), data), want, strict=True):
        np.testing.assert_array_equal(got, w)
    half = tensor(300, 200, dtype=DType.F16)
    node = ap(TopK(axis, 7, largest), half).node
    got = compiled(graph([half], *node.outputs), data.astype(np.float16))
    np.testing.assert_array_equal(got[0], TopK(axis, 7, largest).reference(data.astype(np.float16))[0])


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16, DType.F64, DType.I32, DType.I64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_running_sums(dtype, axis):
    data = RNG.integers(-4, 5, (3, 5, 70)).astype(dtype.np)
    x = tensor(3, N, 70, dtype=dtype)
    for exclusive in (False, True):
        for reverse in (False, True):
            op = CumSum(axis, exclusive, reverse)
            np.testing.assert_array_equal(compiled(graph([x], ap(op, x)), data)[0], op.reference(data)[0])


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.I8, DType.I32, DType.I64, DType.U8, DType.U32, DType.U64])
@pytest.mark.parametrize("largest", [False, True])
def test_top_k_of_rows_of_any_size(dtype, largest):
    for k in (1, 5, 128, 150):
        x = tensor(4, N, dtype=dtype)
        node = ap(TopK(1, k, largest), x).node
        module = compile_graph(graph([x], *node.outputs), threads=1)
        for n in (k, k + 1, 200, 1003):
            data = RNG.integers(0, 60, (4, n)).astype(dtype.np)
            if dtype.is_float:
                data[1, RNG.integers(0, n, 3)] = np.nan
                data[2, 0], data[2, -1] = -np.inf, np.inf
                data[3] = -data[3]  # −0 among them
                data[3, ::2] = 0
            for got, want in zip(module(data), TopK(1, k, largest).reference(data), strict=True):
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("center", [False, True])
def test_suppression(center):
    boxes, scores = tensor(2, N, 4), tensor(2, 3, N)
    scalars = [tensor(dtype=DType.I64), tensor(), tensor()]
    node = ap(Suppress(center), boxes, scores, *scalars).node
    g = graph([boxes, scores, *scalars], *node.outputs)
    for n, most, least in ((60, 5, 0.3), (60, 100, -np.inf), (60, 100, 2.0), (0, 3, 0.0), (1, 0, 0.0)):
        b = RNG.uniform(0, 4, (2, n, 4)).astype(np.float32)
        s = (RNG.integers(0, 20, (2, 3, n)) / 20).astype(np.float32)  # with ties
        args = [b, s, np.array(most), np.array(0.3, np.float32), np.array(least, np.float32)]
        taken, count = compiled(g, *args)
        want, number = Suppress(center).reference(*args)
        np.testing.assert_array_equal(count, number)
        for i, j in np.ndindex(2, 3):
            np.testing.assert_array_equal(taken[i, j, : number[i, j]], want[i, j, : number[i, j]])
