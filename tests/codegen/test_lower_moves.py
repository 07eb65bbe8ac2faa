"""Elementwise and data movement: results, and what must or must not fuse."""

from __future__ import annotations

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.target import host
from mlc.codegen.lower.state import axes_merged
from mlc.ir import Dim, DType, Node, Value, const, sym
from mlc.ir.ops import (
    Add,
    Cast,
    Concat,
    DimTensor,
    Exp,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Mul,
    OneHot,
    Pad,
    Relu,
    Reshape,
    Resize,
    ScatterElements,
    ScatterND,
    Sigmoid,
    Slice,
    Sub,
    Tanh,
    TopK,
    Transpose,
    Where,
)  # fmt: skip

B = sym("B", 1)


def test_chain_is_one_kernel() -> None:
    x, y = tensor(2, 3, 4), tensor(4)
    z = ap(Relu(), ap(Mul(), ap(Add(), x, y), ap(Sigmoid(), x)))
    plan = run(graph([x, y], z))
    assert len(plan.steps) == 1


def test_flat_axes_collapse() -> None:
    x = tensor(2, 3, B)
    plan = run(graph([x], ap(Relu(), x)), B=4)
    assert plan.steps[0].kernel.axes == (6 * B,)


def test_parts_that_are_outputs_are_copied_by_one_kernel() -> None:
    """Of an input, and of a value that is stored; where they begin is no part of the text. Those from behind are read as they are."""
    x = tensor(B, 12)
    for of in (x, ap(Concat(0), x, x)):
        plan = run(graph([x], *(ap(Slice((0, at), (of.shape[0], 2), (1, 3)), of) for at in (0, 2, 6, 8))), B=3)
        assert len({emit(step.kernel, host()).symbol for step in plan.steps[-4:]}) == 1
    run(graph([x], ap(Slice((0, 11), (B, 6), (1, -2)), x)), B=3)


def test_shared_value_is_stored_once() -> None:
    x = tensor(3, 4)
    e = ap(Exp(), x)
    plan = run(graph([x], ap(Relu(), e), ap(Transpose((1, 0)), e)))
    assert len(plan.steps) == 3


def test_diamond_fuses() -> None:
    x = tensor(3, 4)
    e = ap(Exp(), x)
    plan = run(graph([x], ap(Mul(), ap(Relu(), e), ap(Tanh(), e))))
    assert len(plan.steps) == 1


def test_broadcast_does_not_repeat_math() -> None:
    x, y = tensor(8), tensor(16, 8)
    plan = run(graph([x, y], ap(Add(), ap(Exp(), x), y)))
    assert len(plan.steps) == 2


def test_long_chain_is_cut() -> None:
    x = tensor(5)
    y = x
    for _ in range(200):
        y = ap(Add(), y, x)
    plan = run(graph([x], y))
    assert 4 <= len(plan.steps) <= 12


def test_reshape_is_free() -> None:
    x = tensor(2, 6)
    e = ap(Exp(), x)
    plan = run(graph([x], ap(Reshape((3, 4)), e)))
    assert len(plan.steps) == 1
    assert run(graph([x], ap(Relu(), ap(Reshape((3, 4)), e)))).steps


def test_moves() -> None:
    x = tensor(2, 3, 4)
    t = ap(Transpose((2, 0, 1)), x)
    run(graph([x], t))
    run(graph([x], ap(Reshape((8, 3)), t)))
    run(graph([x], ap(Slice((1, 2, 0), (1, 2, 2), (1, -1, 3)), x)))
    run(graph([x], ap(Expand((5, 2, 3, 4)), x)))
    run(graph([x], ap(Relu(), ap(Transpose((0, 2, 1)), ap(Slice((0, 1, 0), (2, 2, 4), (1, 1, 1)), ap(Exp(), x))))))
    run(graph([x], x, x))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str) -> None:
    x = tensor(3, B)
    value = const(np.float32(1.5))
    run(graph([x], ap(Pad((1, 2), (2, 1), mode), x, value)), B=4)
    run(graph([x], ap(Exp(), ap(Pad((1, -1), (-1, 2), mode), x, value))), B=4)


def test_gathers() -> None:
    x, i = tensor(5, 6), tensor(2, 3, dtype=DType.I64)
    run(graph([x, i], ap(Gather(1), x, ap(Sub(), i, const(np.int64(2))))))
    run(graph([x, i], ap(Gather(0), x, i)))
    run(graph([x, i], ap(GatherElements(0), x, i)))
    j = tensor(4, 2, dtype=DType.I64)
    run(graph([x, j], ap(GatherND(0), x, j)))
    k = tensor(5, 1, dtype=DType.I64)
    run(graph([x, k], ap(GatherND(1), x, k)))
    run(graph([i], ap(OneHot(1, 4), i, const(np.array([0.5, 2], np.float32)))))


def test_what_a_scatter_copies_is_computed_there() -> None:
    x, y, j, v = tensor(6, 4), tensor(6, 4), tensor(2, 1, dtype=DType.I64), tensor(2, 4)
    assert len(run(graph([x, y, j, v], ap(ScatterND(), ap(Mul(), x, y), j, v))).steps) == 2
    both = ap(Mul(), x, y)
    assert len(run(graph([x, y, j, v], ap(ScatterND(), both, j, v), both)).steps) == 3


def test_scatters() -> None:
    x, i, u = tensor(5, 6), tensor(3, 6, dtype=DType.I64), tensor(3, 6)
    for reduction in ("none", "add", "mul", "max", "min"):
        run(graph([x, i, u], ap(ScatterElements(0, reduction), x, i, u)))
        j, v = tensor(4, 1, dtype=DType.I64), tensor(4, 6)
        run(graph([x, j, v], ap(ScatterND(reduction), x, j, v)))


def test_concat_writes_in_place() -> None:
    x, y = tensor(2, 3, 4), tensor(2, 3, 5)
    c = ap(Concat(2), ap(Exp(), x), y, ap(Relu(), x))
    plan = run(graph([x, y], c))
    assert len(plan.steps) == 3
    run(graph([x, y], ap(Concat(0), c, c, ap(Tanh(), c))))


def upsampled(x: Value, h: Dim, w: Dim, c: int) -> Value:
    """Pixels [b, h, w, 4·c] as [b, 2·h, 2·w, c]."""
    b = x.shape[0]
    turned = ap(Transpose((0, 1, 3, 2, 4, 5)), ap(Reshape((b, h, w, 2, 2, c)), x))
    return ap(Reshape((b, 2 * h, 2 * w, c)), turned)


@pytest.mark.parametrize("b, h, w", [(1, 4, 5), (3, 1, 2), (B, 4, 5), (2, 3, sym("W")), (sym("Z"), 3, 1)])
def test_pixels_that_are_rearranged_go_right_into_a_concatenation(b: Dim, h: Dim, w: Dim) -> None:
    x, skip = tensor(b, h, w, 24), tensor(b, 2 * h, 2 * w, 3)
    up = upsampled(ap(Exp(), x), h, w, 6)
    sizes = {"B": 2, "W": 4, "Z": 0}
    alone = len(run(graph([x], up), **sizes).steps)
    for parts in ((up, skip), (skip, up)):
        plan = run(graph([x, skip], ap(Concat(3), *parts)), **sizes)
        assert len(plan.steps) == alone + 1  # a copy of the other part
    out = ap(Concat(3), up, skip)
    run(graph([x, skip], out, ap(Transpose((3, 0, 1, 2)), up)), **sizes)  # somebody else reads it, or it is an output
    run(graph([x, skip], out, up), **sizes)
    run(graph([x], ap(Concat(3), up, up)), **sizes)
    run(graph([x, skip], ap(Relu(), ap(Reshape((4 * b * h * w, 9)), out))), **sizes)


def test_axes_that_merge() -> None:
    n = sym("N")
    assert axes_merged((2, 3, 4), (6, 4)) == (0, 0, 1)
    assert axes_merged((n, 2, 1, 5, 1), (2 * n, 5)) == (0, 0, 1, 1, 1)
    assert axes_merged((6, 4), (1, 6, 1, 4)) == (1, 3)
    assert axes_merged((), ()) == () and axes_merged((1,), ()) is None
    for parts, shape in [((6, 4), (2, 3, 4)), ((4, 6), (6, 4)), ((n, 3), (n, 4)), ((2, 3), (2,)), ((0, 2), (0, 3))]:
        found = axes_merged(parts, shape)
        assert found is None or 0 in parts


def test_numbers() -> None:
    x = tensor(B, 3)
    d = ap(DimTensor((B, 3 * B), (2,)))
    i = ap(Iota(B, DType.F32))
    plan = run(graph([x], d, ap(Add(), ap(Reshape((B, 1)), i), x), ap(Cast(DType.F32), d)), B=4)
    assert len(plan.steps) == 3


def test_zero_size() -> None:
    x, y = tensor(0, 3), tensor(2, 3)
    run(graph([x, y], ap(Concat(0), x, y), ap(Relu(), x), ap(Pad((1, 0), (1, 0)), x, const(np.float32(3)))))
    z = tensor(sym("Z"), 3)
    run(graph([z], ap(Exp(), z), ap(Concat(0), z, z)), Z=0)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64, DType.I32, DType.U8, DType.I64])
def test_dtypes(dtype: DType) -> None:
    x, y = tensor(3, 4, dtype=dtype), tensor(4, dtype=dtype)
    step = {DType.F16: 2**-10, DType.BF16: 2**-7}.get(dtype, 1e-5)  # one sum rounds to the next number at most
    run(graph([x, y], ap(Relu(), ap(Add(), x, ap(Mul(), x, y))), ap(Cast(DType.F32), ap(Transpose((1, 0)), x))), tol=step)


def test_where_and_topk() -> None:
    c, x = tensor(3, 1, dtype=DType.BOOL), tensor(3, 7)
    run(graph([c, x], ap(Where(), c, x, const(np.float32(0)))))
    for largest in (True, False):
        from mlc.ir import Node

        values, indices = Node.make(TopK(1, 3, largest), (x,)).outputs
        run(graph([x], values, indices), [np.array([[1, 5, 5, np.inf, -1, 5, 2]] * 3, np.float32)])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coord", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
def test_resize(mode: str, coord: str) -> None:
    x = tensor(1, 4, 5, 3)
    for nearest in ("round_prefer_floor", "floor"):
        op = Resize((1, 8, 9, 3), (1.0, 2.0, None, 1.0), mode, coord, nearest)
        run(graph([x], ap(op, ap(Relu(), x))))
    if mode != "cubic":
        s = tensor(1, B, 5, 3)
        run(graph([s], ap(Resize((1, 2 * B, 9, 3), (1.0, 2.0, None, 1.0), mode, coord), s)), B=4)


@pytest.mark.parametrize("channels, kernels", [(16, 3), (4, 2)])
def test_rows_picked_by_indices_are_computed_as_rows(channels: int, kernels: int) -> None:
    """Turned in the kernel that picks them, long rows would be gathered element by element. One kernel is of the second indices."""
    x, at, w = tensor(9, channels), tensor(5, dtype=DType.I64), tensor(5, 1)
    rows = ap(Mul(), ap(Gather(0), x, at), w)
    plan = run(graph([x, at, w], ap(Transpose((1, 0)), ap(Add(), rows, ap(Gather(0), x, ap(Add(), at, const(np.array(1))))))))
    assert len(plan.steps) == kernels


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("dtype", [DType.F32, DType.U8, DType.F16])
@pytest.mark.parametrize("width", [64, 33, "W"])
def test_copies_of_neighbours_have_an_axis(factor, dtype, width):
    """Images that are made larger by whole factors: the last axis is that of the elements and one of their copies."""
    size = sym("W") if width == "W" else width
    x, y = tensor(2, 3, size, dtype=dtype), tensor(2, 3 * factor, size * factor, dtype=dtype)
    larger = Node.make(
        Resize((2, 3 * factor, size * factor), (1.0, float(factor), float(factor)), "nearest", "asymmetric", "floor"),
        (x,),
    ).out
    g = graph([x, y], ap(Add(), larger, y), ap(Cast(DType.F32), larger))
    rng = np.random.default_rng(0)
    arrays = [(8 * rng.random((2, 3 * f, 70 * f if width == "W" else width * f))).astype(dtype.np) for f in (1, factor)]
    wide = arrays[0].repeat(factor, 1).repeat(factor, 2)
    plan = run(g, arrays, [wide + arrays[1], wide.astype(np.float32)], W=70)
    short = width == 33 and dtype is not DType.F32  # not worth it
    assert short or any(step.kernel.axes[-1] == factor for step in plan.steps)
