"""Loop kernels on CUDA, by the emulation: maps, reductions, rows, windows, scatters; types, tails, symbolic and empty sizes."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import check, check_all, needs_gxx
from lowering import F, ap, graph, tensor
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.target import parse
from mlc.codegen.lower import lower
from mlc.codegen.plan import Step
from mlc.ir import DType, Graph, const, sym
from mlc.ir import ops as O

pytestmark = needs_gxx
B = sym("B", 0, 1 << 20)
N = sym("N", 1)


def one(op, *inputs, **bindings):
    return graph(inputs, ap(op, *inputs)), None, bindings


def test_maps() -> None:
    x, y, b = tensor(3, 40), tensor(3, 40), tensor(40)
    check_all([
        one(O.Add(), x, y), one(O.Mul(), x, b), one(O.Add(), tensor(7, 5), tensor(7, 1)), one(O.Sub(), tensor(B, 3), tensor(3), B=5),
        one(O.Add(), tensor(B, 3), tensor(3), B=0), one(O.Transpose((1, 0)), tensor(17, 9)), one(O.Transpose((0, 2, 1)), tensor(2, B, 8), B=6),
        one(O.Slice((1, 2), (3, 7), (2, 5)), tensor(8, 40)), one(O.Transpose((2, 0, 1)), tensor(4, 3, 16)),
    ])  # fmt: skip


def test_the_normal_distribution() -> None:
    """To 3e-7, in the tails and of what is no number too."""
    x = np.concatenate([np.linspace(-12, 12, 4001), [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 31, -1e30]]).astype(np.float32)
    check(graph([v := tensor(x.size)], ap(O.NormalCdf(), v)), [x], tol=3e-7)


@pytest.mark.parametrize(
    "dtype", [DType.F16, DType.BF16, DType.F64, DType.I8, DType.U8, DType.I32, DType.I64, DType.U16], ids=lambda d: d.value
)
def test_dtypes(dtype: DType) -> None:
    x, y = tensor(5, 24, dtype=dtype), tensor(5, 24, dtype=dtype)
    small = tensor(5, 21, dtype=dtype)
    check_all([
        (graph([x, y], ap(O.Add(), ap(O.Mul(), x, y), x)), None, {}), one(O.Max(), x, y), one(O.Reduce("sum", (1,), False), x),
        one(O.Reduce("max", (0,), True), small), one(O.Reduce("min", (1,), False), small), one(O.Less(), x, y),
        one(O.Cast(DType.F32), x), one(O.Cast(DType.I64), x), one(O.Cast(DType.BOOL), small), one(O.ArgReduce("argmax", 1, False), x),
    ])  # fmt: skip


def test_bits_and_narrow_integers() -> None:
    """Numbers of 4 and 2 bits wrap; floats wrap into bytes; bits are read as another type."""
    x, i = tensor(3, 20), tensor(3, 20, dtype=DType.I32)
    numbers = np.random.default_rng(0).integers(-300, 300, (3, 20)).astype(np.int32)
    floats = (numbers / 7).astype(np.float32)
    jobs = [(graph([i], ap(O.Cast(DType.I32), ap(O.Cast(d), i))), [numbers], {}) for d in (DType.I4, DType.U4, DType.I2, DType.U2)]
    jobs += [(graph([i], ap(O.Cast(d), i)), [numbers], {}) for d in (DType.I4, DType.U4, DType.I8, DType.U16)]
    jobs += [(graph([x], ap(O.Cast(d), x)), [floats], {}) for d in (DType.I8, DType.U8, DType.I16, DType.I64)]
    jobs += [
        (graph([x], ap(O.BitCast(DType.F32, DType.U32), x)), [floats], {}),
        (graph([i], ap(O.BitCast(DType.I32, DType.F32), i)), [numbers], {}),
    ]
    for d in (DType.I4, DType.I2, DType.U4):
        jobs.append((graph([v := tensor(3, 20, dtype=d)], ap(O.Cast(DType.F32), v)), [numbers.astype(d.np)], {}))
    check_all(jobs)


SMALL_FLOATS = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1)


def test_floats_of_few_bits() -> None:
    """Every code to float32, and floats of every size, ties, what is too large, and NaN back."""
    codes = np.arange(256, dtype=np.uint8)
    bits = np.concatenate(
        [
            np.arange(0, 1 << 32, 99_991, dtype=np.uint64).astype(np.uint32),
            np.uint32(0x3F800000) + np.arange(0, 1 << 24, 4096, dtype=np.uint32),
        ]
    )
    floats = np.concatenate([bits.view(np.float32), np.array([0, -0.0, np.inf, -np.inf, np.nan, 2.0**-127, 3 * 2.0**-128], np.float32)])
    floats = floats[: len(floats) // 16 * 16]
    jobs = []
    for d in SMALL_FLOATS:
        few = codes[:16] if d is DType.F4E2M1 else codes
        small, wide = tensor(len(few), dtype=d), tensor(len(floats))
        jobs.append((graph([small], ap(O.Cast(F), small)), [few.view(d.np)], {}))
        jobs.append((graph([wide], ap(O.Cast(F), ap(O.Cast(d), wide))), [floats], {}))
        jobs.append((graph([small], ap(O.Add(), small, small)), [few.view(d.np)], {}))
    with np.errstate(all="ignore"):
        check_all(jobs)


def test_functions() -> None:
    x = tensor(4, 33)
    unary = [O.Exp, O.Tanh, O.Erf, O.Sigmoid, O.Sqrt, O.Log, O.Floor, O.Ceil, O.Round, O.Sin, O.Cos, O.Abs, O.Neg, O.IsNaN]
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 33)).astype(np.float32) * 3
    data[0, :5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    jobs = [(graph([x], ap(op(), x)), [data], {}) for op in unary]
    i, j = tensor(4, 33, dtype=DType.I32), tensor(4, 33, dtype=DType.I32)
    numbers = [rng.integers(-9, 9, (4, 33)).astype(np.int32) for _ in range(2)]
    jobs += [
        (graph([i, j], ap(op, i, j)), numbers, {}) for op in (O.Div(), O.Mod(), O.Fmod(), O.Add(), O.Min(), O.ShiftLeft(), O.ShiftRight())
    ]
    check_all(jobs)


def test_rows() -> None:
    x, long = tensor(B, 6, 64), tensor(3, 3000)
    check_all([
        one(O.Softmax(2), x, B=2), one(O.Softmax(1), tensor(2, 70, 3)), one(O.Softmax(1), tensor(4, 50)), one(O.Softmax(1), long),
        one(O.Softmax(1), tensor(3, N), N=1), one(O.Softmax(1), tensor(3, N), N=77), one(O.Softmax(1), tensor(2, N), N=1030),
        one(O.LayerNorm(1, 1e-5), tensor(5, 96), tensor(96), tensor(96)), one(O.Reduce("sum", (0, 1), False), tensor(70, 33)),
        one(O.Reduce("prod", (1,), False), tensor(3, 20)), one(O.Reduce("sum", (1,), False), tensor(3, N), N=5),
        one(O.ArgReduce("argmin", 1, True), tensor(4, 2000)), one(O.Reduce("sum", (0,), False), tensor(40, 5000)),
        one(O.Reduce("max", (1,), False), tensor(4, 0)), one(O.Reduce("sum", (1,), False), tensor(0, 4)),
    ])  # fmt: skip


def test_arg_of_ties_and_nan() -> None:
    x = tensor(3, 300)
    data = np.zeros((3, 300), np.float32)
    data[0, [40, 290]] = 5
    data[1, [100, 200]] = np.nan
    for kind in ("argmax", "argmin"):
        check(graph([x], ap(O.ArgReduce(kind, 1, False), x)), [data])


def test_windows() -> None:
    x = tensor(1, 9, 9, 8)
    check_all([
        one(O.Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)), x), one(O.Pool("avg", (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)), x),
        one(O.Pool("avg", (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), tensor(B, 5, 5, 3), B=2), one(O.Reduce("mean", (1, 2), True), tensor(2, 7, 7, 64)),
    ])  # fmt: skip


def test_irregular() -> None:
    x, updates = tensor(6, 5), tensor(3, 5)
    indices = const(np.array([[4], [0], [4]], np.int64))
    elements = const(np.array([[1, 0, 5, 1, 2], [1, 3, 5, 0, 0], [0, 0, 1, 1, 1]], np.int64))
    jobs: list[tuple[Graph, None, dict]] = []
    for reduction in ("none", "add", "max"):
        jobs.append((graph([x, updates], ap(O.ScatterND(reduction), x, indices, updates)), None, {}))
        jobs.append((graph([x, updates], ap(O.ScatterElements(0, reduction), x, elements, updates)), None, {}))
    check_all(jobs)


def test_topk() -> None:
    x = tensor(3, 50)
    data = np.random.default_rng(1).integers(0, 20, (3, 50)).astype(np.float32)
    data[1, 7] = np.nan
    from mlc.ir import Node

    for largest in (True, False):
        node = Node.make(O.TopK(1, 7, largest, True), (x,))
        check(graph([x], *node.outputs), [data])


def test_unaligned_operands() -> None:
    x = tensor(3, 40)
    check(graph([x], ap(O.Relu(), x)), align=4)
    check(graph([x], ap(O.Softmax(1), x)), align=4)


assert F is DType.F32


def sources(g: Graph) -> list[str]:
    """Texts of the kernels of a graph."""
    found = []
    for s in lower(g).steps:
        assert isinstance(s, Step)
        found += [k.source for k in emit(s.kernel, parse("cuda:sm_90a"), [16] * len(s.buffers)).launches]
    return found


def titles(g: Graph) -> list[str]:
    return [s.split("\n")[0] for s in sources(g)]


def test_transposes_go_through_shared_memory() -> None:
    x, b = tensor(70, 33), tensor(33)
    for g in (graph([x], ap(O.Transpose((1, 0)), x)), graph([t := tensor(2, 20, 3, 40)], ap(O.Transpose((0, 3, 2, 1)), t))):
        assert "shared memory" in titles(g)[0]
    rows = graph([t := tensor(2, 20, 3, 40)], ap(O.Transpose((0, 2, 1, 3)), t))
    assert "shared memory" not in titles(rows)[0]
    jobs = [one(O.Transpose(p), tensor(3, 17, 40)) for p in ((0, 2, 1), (2, 0, 1), (2, 1, 0), (1, 2, 0))]
    jobs += [one(O.Transpose((1, 0)), tensor(90, 70, dtype=d)) for d in (DType.F16, DType.I8, DType.BOOL, DType.F64, DType.C128)]
    jobs += [
        (graph([x, y := tensor(33, 70), b], ap(O.Add(), ap(O.Mul(), ap(O.Transpose((1, 0)), x), y), ap(O.Reshape((33, 1)), b))), None, {})
    ]
    jobs += [(graph([x], ap(O.Exp(), ap(O.Transpose((1, 0)), x)), ap(O.Neg(), x)), None, {})]
    s = sym("S", 16)
    jobs += [one(O.Transpose((0, 2, 1)), tensor(B, s, 40), B=2, S=n) for n in (16, 50)] + [
        one(O.Transpose((0, 2, 1)), tensor(B, s, 40), B=0, S=16)
    ]
    check_all(jobs)


def test_reductions_with_few_results_are_split() -> None:
    long = tensor(1, 70_000)
    assert len(titles(graph([long], ap(O.Reduce("sum", (1,), False), long)))) == 2
    for shape, axis, kernels in (((4000, 70), 1, 1), ((4096, 512), 0, 2), ((300, 512), 0, 1)):
        d = tensor(*shape)
        assert len(titles(graph([d], ap(O.Reduce("sum", (axis,), False), d)))) == kernels
    check_all([
        one(O.Reduce("sum", (1,), False), long), one(O.Reduce("max", (0, 1), True), tensor(200, 301)), one(O.Reduce("min", (0,), True), tensor(9000, 5)),
        one(O.Reduce("sum", (0, 2), False), tensor(40, 3, 1000)), one(O.Reduce("max", (0,), False), tensor(1031, 24)), one(O.Reduce("prod", (1,), False), tensor(2, 20_000, dtype=DType.I32)),
        (graph([h := tensor(2, 50_000, dtype=DType.BF16)], ap(O.Reduce("sum", (1,), False), h)), [np.ones((2, 50_000), DType.BF16.np)], {}),
        (graph([long], ap(O.Sqrt(), ap(O.Reduce("sum", (1,), False), ap(O.Mul(), long, long)))), None, {}),
    ], tol=1e-4)  # fmt: skip


@pytest.mark.parametrize("reduction", ["none", "add", "max", "min", "mul"])
def test_scatters_of_many_updates(reduction: str) -> None:
    """Most places are written several times: the last one counts, or all of them do."""
    rng = np.random.default_rng(1)
    jobs = []
    s = sym("S", 0)
    for dtype in (DType.F32, DType.I32, DType.I64, DType.U8):
        for sizes in ((), (s,)):
            x, updates = tensor(12, 5, dtype=dtype), tensor(*(sizes or (40,)), 5, dtype=dtype)
            rows, cells = tensor(*(sizes or (40,)), 1, dtype=DType.I64), tensor(*(sizes or (40,)), 5, dtype=DType.I64)
            given = [
                rng.integers(0, 3, (12, 5)).astype(dtype.np),
                rng.integers(-12, 12, (40, 1)),
                rng.integers(0, 3, (40, 5)).astype(dtype.np),
            ]
            bound = {"S": 40} if sizes else {}
            jobs.append((graph([x, rows, updates], ap(O.ScatterND(reduction), x, rows, updates)), given, bound))
            given = [given[0], rng.integers(0, 12, (40, 5)), given[2]]
            jobs.append((graph([x, cells, updates], ap(O.ScatterElements(0, reduction), x, cells, updates)), given, bound))
    check_all(jobs)
    for dtype in (DType.F32, DType.I32):
        x, rows, updates = tensor(12, 5, dtype=dtype), tensor(40, 1, dtype=DType.I64), tensor(40, 5, dtype=dtype)
        _, *kernels = sources(graph([x, rows, updates], ap(O.ScatterND(reduction), x, rows, updates)))  # behind the copy
        assert len(kernels) == (3 if reduction == "none" else 1)
        combined = reduction in ("add", "max", "min") and dtype is DType.I32
        assert ("atomic_" in "".join(kernels)) == (combined or reduction == "none")
