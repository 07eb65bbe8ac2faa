"""Positions, sorting, suppression and running sums, compiled, against the references of their ops."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.lower import LowerOptions
from mlc.compiler.stages import compile_graph
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
    for n in (0, 1, 2, 3, 32, 33, 129):
        data = RNG.integers(0, 9, (3, n)).astype(dtype.np)
        if dtype.is_float and n:
            data[1, RNG.integers(0, n)] = np.nan
            data[2, 0] = np.inf
        elif dtype is DType.U64:
            data = data * np.uint64(2**61)
        want = Sort(descending).reference(data)
        np.testing.assert_array_equal(compiled(g, data)[0], want[0])
        run(g, [data], want, N=n)


def _keys(dtype, *shape):
    """Many equal ones, and whatever has an order of its own."""
    if not dtype.is_float:
        ends = np.iinfo(dtype.np)
        data = RNG.integers(0, 20, shape).astype(dtype.np)
        data.reshape(-1)[:: max(1, data.size // 7)] = ends.max
        data.reshape(-1)[3 :: max(1, data.size // 5)] = ends.min
        return data
    data = np.round(RNG.standard_normal(shape), 1).astype(dtype.np)
    flat = data.reshape(-1)
    for j, odd in enumerate((np.nan, np.inf, -np.inf, -0.0, np.nan)):
        flat[j * 5 :: 91] = odd
    return data


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.I8, DType.I32, DType.I64, DType.U8, DType.U64], ids=str)
@pytest.mark.parametrize("largest", [False, True])
def test_first_k_of_rows_of_any_length(dtype, largest):
    """Kept in vectors of 8 or 16, of which some are part of one; more than `KEPT` are sorted from candidates."""
    jobs = [(n, k) for n in (1, 5, 16, 33, 128) for k in (1, 2, 9, 17, 128) if k <= n] + [(700, 1), (700, 100), (700, 300), (3000, 129)]
    xs = [tensor(3, n, dtype=dtype) for n, _ in jobs]
    data = [_keys(dtype, 3, n) for n, _ in jobs]
    nodes = [ap(TopK(1, k, largest), x).node for x, (_, k) in zip(xs, jobs, strict=True)]
    got = compiled(graph(xs, *(v for node in nodes for v in node.outputs)), *data)
    for j, ((n, k), keys) in enumerate(zip(jobs, data, strict=True)):
        for part, want in zip(got[2 * j : 2 * j + 2], TopK(1, k, largest).reference(keys), strict=True):
            np.testing.assert_array_equal(part, want, err_msg=f"{k} of {n}")


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.I8, DType.I32, DType.I64, DType.U8, DType.U64], ids=str)
@pytest.mark.parametrize("largest", [False, True])
def test_first_k_of_lines_side_by_side(dtype, largest):
    """In lanes of whole vectors and of parts, of few short lines, and of rows that are turned for it; by turns equal keys."""
    jobs = [
        ((2, 9, 16), 1, 3),
        ((2, 40, 37), 1, 5),
        ((200, 3), 0, 128),
        ((3, 17, 3), 1, 17),
        ((41, 11), 1, 4),
        ((5, 7, 60), 2, 2),
        ((1, 33), 0, 1),
    ]
    xs = [tensor(*shape, dtype=dtype) for shape, _, _ in jobs]
    data = [_keys(dtype, *shape) for shape, _, _ in jobs]
    ops = [TopK(axis, k, largest) for _, axis, k in jobs]
    g = graph(xs, *(v for op, x in zip(ops, xs, strict=True) for v in ap(op, x).node.outputs))
    want = [a for op, keys in zip(ops, data, strict=True) for a in op.reference(keys)]
    for got, expected in zip(compiled(g, *data), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    run(g, data, want, options=LowerOptions(abreast=True))


def test_first_k_of_lines_of_any_number():
    x = tensor(sym("A", 1), N, sym("C", 1), dtype=DType.F32)
    module = compile_graph(graph([x], *ap(TopK(1, 3, True), x).node.outputs), threads=2)
    for shape in ((1, 3, 1), (2, 50, 1), (3, 8, 15), (2, 4, 33), (300, 5, 2)):
        data = _keys(DType.F32, *shape)
        for got, want in zip(module(data), TopK(1, 3, True).reference(data), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [DType.F32, DType.I64], ids=str)
def test_candidates_of_keys_far_apart(dtype):
    """Nearly all keys in one bucket of the first rounds, or all the same."""
    data = RNG.integers(0, 3000, (4, 5000)).astype(dtype.np)
    data[0, 0], data[1], data[2, ::2] = 2**40, 7, -(2**50)
    x = tensor(4, 5000, dtype=dtype)
    for largest in (False, True):
        node = ap(TopK(1, 200, largest), x).node
        for got, want in zip(compiled(graph([x], *node.outputs), data), TopK(1, 200, largest).reference(data), strict=True):
            np.testing.assert_array_equal(got, want)


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


@pytest.mark.parametrize(("dtype", "shape"), [
    (DType.F32, (200, 3)), (DType.I64, (9, 7)), (DType.F64, (100,)), (DType.F32, (300,)), (DType.I32, (2, 65)), (DType.F32, (40, 1)),
    (DType.F32, (9, 28)), (DType.F64, (7, 100)), (DType.F32, (5, 2, 130)), (DType.F32, (3, 300)),
])  # fmt: skip
def test_running_sums_of_sizes_known_at_once(dtype, shape):
    """Rows shorter than a vector, rows that are no whole vectors, columns side by side; in the order of vectors and of elements."""
    data = RNG.integers(-4, 5, shape).astype(dtype.np)
    x = tensor(*shape, dtype=dtype)
    ops = [CumSum(axis, *order) for axis in range(len(shape)) for order in ((False, False), (True, True), (False, True))]
    for op, got in zip(ops, compiled(graph([x], *(ap(op, x) for op in ops)), data), strict=True):
        np.testing.assert_array_equal(got, op.reference(data)[0])


@pytest.mark.parametrize(("dtype", "shape"), [(DType.F32, (40, 333)), (DType.F64, (3, 50, 150)), (DType.F32, (33, 70_000))])
@pytest.mark.parametrize("threads", [1, 2])
def test_running_sums_that_go_on_from_lines_of_memory(dtype, shape, threads):
    """Lines of more vectors than registers hold, of neighbouring units as one, and longer than what is walked at once."""
    x = tensor(*shape, dtype=dtype)
    ops = [CumSum(len(shape) - 2, *order) for order in ((False, False), (True, True))]
    data = RNG.integers(-4, 5, shape).astype(dtype.np)
    module = compile_graph(graph([x], *(ap(op, x) for op in ops)), threads=threads)
    for op, got in zip(ops, module(data), strict=True):
        np.testing.assert_array_equal(got, op.reference(data)[0])


@pytest.mark.parametrize("axis", [0, 1])
def test_running_sums_of_nothing_and_of_one(axis):
    x = tensor(N, N, dtype=DType.F32)
    module = compile_graph(graph([x], ap(CumSum(axis, False, False), x)), threads=1)
    for n in (0, 1, 2, 40, 150):
        data = RNG.integers(-4, 5, (n, n)).astype("f")
        np.testing.assert_array_equal(module(data), data.cumsum(axis))


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
    for n, most, least in ((60, 5, 0.3), (60, 100, -np.inf), (60, 100, 2.0), (0, 3, 0.0), (1, 0, 0.0), (300, 300, 0.0)):
        b = RNG.uniform(0, 4 if n < 100 else 40, (2, n, 4)).astype(np.float32)
        b[:, ::7, 2:] = b[:, ::7, :2]  # without an area
        s = (RNG.integers(0, 20, (2, 3, n)) / 20).astype(np.float32)  # with ties
        args = [b, s, np.array(most), np.array(0.3, np.float32), np.array(least, np.float32)]
        taken, count = compiled(g, *args)
        want, number = Suppress(center).reference(*args)
        np.testing.assert_array_equal(count, number)
        for i, j in np.ndindex(2, 3):
            np.testing.assert_array_equal(taken[i, j, : number[i, j]], want[i, j, : number[i, j]])
