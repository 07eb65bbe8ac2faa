"""Moves of elements between axes on the CPU against NumPy: tiles turned in registers, rows woven, strides shuffled."""

import itertools

import numpy as np
import pytest
from mlc.codegen.cpu.loop_schedule import merge_axes
from mlc.codegen.cpu.target import parse
from mlc.codegen.cpu.transpose import Turn, Weave, moving
from mlc.codegen.expr import Axis, Call, Cast, DimParam, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.ir import DType, prod, sym
from running import TARGETS, execute

PAD = 64
TYPES = [DType.U8, DType.F16, DType.F32, DType.I64]


def offset(*strides, start=0):
    e = Num(start)
    for axis, stride in enumerate(strides):
        step = Num(stride) if isinstance(stride, int) else DimParam(stride)
        e = Call("add", (e, Call("mul", (Axis(axis), step))))
    return e


def row_major(shape):
    out = [1]
    for d in reversed(shape[1:]):
        out.insert(0, out[0] * d)
    return out


def moved(shape, strides, x, to, start=0):
    """The kernel that makes an array of `shape` from elements of x at start + index·strides."""
    dtype = DType.from_numpy(x.dtype)
    value = Load(0, offset(*strides, start=start), dtype=dtype)
    value = value if to is dtype else Cast(value, dtype=to)
    operands = (Operand(dtype, x.size), Operand(to, prod(shape), written=True))
    return LoopKernel(tuple(shape), (), operands, (), (Store(1, offset(*row_major(shape)), value),))


def elements(dtype, *shape):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype.np)


def agree(kernel, x, want, bindings=None, targets=TARGETS):
    for target, parts in itertools.product(targets, (1, 3)):
        out = np.full(want.size + PAD, 77, want.dtype)
        execute(kernel, [x, out], target, bindings, parts)
        np.testing.assert_array_equal(out[: want.size].reshape(want.shape), want, err_msg=f"{target} {parts}")
        assert (out[want.size :] == 77).all()


def transposed(x, perm, to=None):
    strides = [row_major(x.shape)[p] for p in perm]
    want = np.ascontiguousarray(x.transpose(perm))
    to = to or DType.from_numpy(x.dtype)
    return moved(want.shape, strides, x, to), want.astype(to.np)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape",
    [(70, 67), (130, 3), (3, 130), (131, 4), (7, 200), (200, 7), (9, 90), (16, 65), (65, 17), (80, 2), (6, 70)],
)
def test_matrices(dtype, shape):
    x = elements(dtype, *shape)
    agree(*_args(transposed(x, (1, 0)), x), targets=TARGETS if shape[0] in (70, 3) else TARGETS[:1])


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", [(5, 19, 33), (17, 34, 2)])
def test_permutations(perm, shape):
    for dtype in (DType.U8, DType.F32):
        x = elements(dtype, *shape)
        agree(*_args(transposed(x, perm), x), targets=TARGETS[:1])


@pytest.mark.parametrize(
    ("source", "to"), [(DType.U8, DType.F32), (DType.F32, DType.U8), (DType.F16, DType.F32), (DType.F32, DType.F16), (DType.F32, DType.I64)]
)
@pytest.mark.parametrize("shape", [(90, 3), (3, 90), (40, 50)])
def test_conversions_on_the_way(source, to, shape):
    x = elements(source, *shape)
    agree(*_args(transposed(x, (1, 0), to), x), targets=TARGETS[:2])


def _args(kernel_and_result, x):
    kernel, want = kernel_and_result
    return kernel, x, want


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [(70, 35), (3, 40), (40, 3), (1, 9), (9, 1), (15, 15), (64, 16), (8, 130)])
def test_sizes_known_at_run_time(dtype, sizes):
    n, m = sym("n"), sym("m")
    x = elements(dtype, *sizes)
    operands = (Operand(dtype, n * m), Operand(dtype, n * m, written=True))
    kernel = LoopKernel((m, n), (), operands, (), (Store(1, offset(n, 1), Load(0, offset(1, m), dtype=dtype)),))
    agree(kernel, x, np.ascontiguousarray(x.T), {"n": sizes[0], "m": sizes[1]}, TARGETS[:1])
    few = LoopKernel(
        (n, 3),
        (),
        (Operand(dtype, n * 3), Operand(dtype, n * 3, written=True)),
        (),
        (Store(1, offset(3, 1), Load(0, offset(1, n), dtype=dtype)),),
    )
    x = elements(dtype, 3, sizes[0])
    agree(few, x, np.ascontiguousarray(x.T), {"n": sizes[0]}, TARGETS[:1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stride", [-1, -2, 2, 3, 8, 9])
@pytest.mark.parametrize("count", [5, 131])
def test_strides(dtype, stride, count):
    x = elements(dtype, (count - 1) * abs(stride) + 1)  # nothing behind the last element
    want = np.ascontiguousarray(x[::stride])
    agree(moved((count,), (stride,), x, dtype, start=0 if stride > 0 else x.size - 1), x, want)


def test_choice():
    target = parse("cpu:x86-64-v4")
    for shape, dtype, kind in [
        ((64, 64), DType.F32, Turn),
        ((64, 64), DType.U8, Turn),
        ((3, 90), DType.U8, Weave),
        ((15, 90), DType.F32, Weave),
        ((90, 3), DType.F32, None),
    ]:
        kernel, _ = transposed(elements(dtype, *shape), (1, 0))
        found = moving(merge_axes(kernel), target)
        assert found is None if kind is None else isinstance(found, kind), (shape, dtype, found)
    kernel = moved((90, 12), (0, 1), elements(DType.F32, 12), DType.F32)  # rows repeated: nothing changes places
    assert moving(merge_axes(kernel), target) is None
