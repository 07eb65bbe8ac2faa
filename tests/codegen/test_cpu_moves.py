"""Moves of elements between axes on the CPU against NumPy: tiles turned in registers, rows woven, strides shuffled."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from lowering import ap, graph, tensor
from mlc.codegen.cpu.loops import transpose
from mlc.codegen.cpu.loops.emit import emit_loop
from mlc.codegen.cpu.loops.interior import interior
from mlc.codegen.cpu.loops.merge import merge_axes
from mlc.codegen.cpu.loops.periods import with_periods
from mlc.codegen.cpu.loops.segments import segments
from mlc.codegen.cpu.loops.transpose import Turn, Weave, moving
from mlc.codegen.cpu.loops.wider import wider
from mlc.codegen.cpu.loops.words import as_words
from mlc.codegen.cpu.target import host, parse
from mlc.codegen.expr import Axis, Call, Cast, DimParam, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.codegen.lower import lower
from mlc.compiler.stages import compile_graph
from mlc.ir import Const, DType, prod, sym
from mlc.ir.ops.move import Gather, GatherElements, Pad, ScatterND
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
    [
        (70, 67),
        (130, 3),
        (3, 130),
        (131, 4),
        (70, 8),
        (7, 200),
        (200, 7),
        (9, 90),
        (16, 65),
        (65, 17),
        (80, 2),
        (6, 70),
        (4, 40),
        (3, 9),
        (90, 5),
        (66, 6),
    ],
)
def test_matrices(dtype, shape):
    x = elements(dtype, *shape)
    agree(*_args(transposed(x, (1, 0)), x), targets=TARGETS if shape[0] in (70, 3) else TARGETS[:1])


def test_matrices_ask_for_lines_ahead():
    """Those that will be written, and of large ones those that will be read; also behind the last row, where a request for memory that
    is not there does nothing."""
    for shape, far in (((1100, 1001), True), ((200, 301), False)):
        x = elements(DType.F32, *shape)
        kernel, want = transposed(x, (1, 0))
        asked = [line for line in emit_loop(kernel, host()).ir_text.splitlines() if "call void @llvm.prefetch" in line]
        assert {"i32 1, i32" in line for line in asked} == ({True, False} if far else {True})
        agree(kernel, x, want, targets=TARGETS[:1])


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", [(5, 19, 33), (17, 34, 2)])
def test_permutations(perm, shape):
    for dtype in (DType.U8, DType.F32):
        x = elements(dtype, *shape)
        agree(*_args(transposed(x, perm), x), targets=TARGETS[:1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("run", [2, 4, 8, 3])
def test_short_runs_move_as_words(dtype, run):
    x = elements(dtype, 20, 37, run)
    kernel, want = transposed(x, (1, 0, 2))
    word = run * x.itemsize in (2, 4, 8)
    assert (len(wider(kernel).axes) == 2) == word
    agree(kernel, x, want, targets=TARGETS[:2])


@pytest.mark.parametrize("fill", [False, True])
def test_truths_that_are_moved_are_bytes(fill):
    """Rows of 60 truths in rows of 70, the others constant."""
    x = elements(DType.U8, 20, 60) > 99
    inside = Call(
        "and_", (Call("ge", (Axis(1), Num(4)), dtype=DType.BOOL), Call("lt", (Axis(1), Num(64)), dtype=DType.BOOL)), dtype=DType.BOOL
    )
    place = Call("min", (Call("max", (Call("add", (Axis(1), Num(-4))), Num(0))), Num(59)))
    load = Load(0, Call("add", (Call("mul", (Axis(0), Num(60))), place)), dtype=DType.BOOL)
    value = Call("select", (inside, load, Num(fill, dtype=DType.BOOL)), dtype=DType.BOOL)
    operands = (Operand(DType.BOOL, 1200), Operand(DType.BOOL, 1400, written=True))
    kernel = LoopKernel((20, 70), (), operands, (), (Store(1, offset(70, 1), value),))
    assert as_words(kernel).operands[1].dtype is DType.U8
    want = np.pad(x, ((0, 0), (4, 6)), constant_values=fill)
    for target in TARGETS:
        out = np.zeros(want.shape, bool)
        execute(kernel, [x, out], target)
        np.testing.assert_array_equal(out, want)
    other = Load(0, offset(60, 0), dtype=DType.BOOL)
    both = Call("select", (other, load, Num(fill, dtype=DType.BOOL)), dtype=DType.BOOL)
    assert as_words(k := replace(kernel, stores=(replace(kernel.stores[0], value=both),))) is k
    itself = Call("select", (load, load, Num(fill, dtype=DType.BOOL)), dtype=DType.BOOL)
    assert as_words(k := replace(kernel, stores=(replace(kernel.stores[0], value=itself),))) is k
    inverted = Call("not_", (load,), dtype=DType.BOOL)
    assert as_words(k := replace(kernel, stores=(replace(kernel.stores[0], value=inverted),))) is k


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F8E4M3FN])
def test_small_floats_that_are_moved_keep_their_bits(dtype):
    """Chosen between rows of 19 and a constant, by way of float32, as lowering writes it; all bits, a signalling NaN's too."""
    word = np.dtype(f"u{dtype.itemsize}")
    x = np.random.default_rng(0).integers(0, 256**dtype.itemsize, (9, 19)).astype(word).view(dtype.np)
    inside = Call("lt", (Axis(1), Num(19)), dtype=DType.BOOL)
    load = Load(0, Call("add", (Call("mul", (Axis(0), Num(19))), Call("min", (Axis(1), Num(18))))), dtype=dtype)
    value = Cast(Call("select", (inside, Cast(load, dtype=DType.F32), Num(-1.5, dtype=DType.F32)), dtype=DType.F32), dtype=dtype)
    kernel = LoopKernel((9, 24), (), (Operand(dtype, 171), Operand(dtype, 216, written=True)), (), (Store(1, offset(24, 1), value),))
    assert as_words(kernel).operands[1].dtype.np == word
    want = np.pad(x.view(word), ((0, 0), (0, 5)), constant_values=np.asarray(-1.5, dtype.np).view(word))
    for target in TARGETS:
        out = np.zeros(want.shape, dtype.np)
        execute(kernel, [x, out], target)
        np.testing.assert_array_equal(out.view(word), want)
    changed = replace(kernel.stores[0], value=Cast(Call("neg", (value.arg,), dtype=DType.F32), dtype=dtype))
    assert as_words(k := replace(kernel, stores=(changed,))) is k


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("times", "size"), [(70, 7), (40, 9), (33, 2), (16, 15), (3, 9), (5, 3), (90, 17)])
def test_rows_that_repeat(dtype, times, size):
    """The last axis says ⌊i / size⌋; many repeats of a short row are woven once, and few of a longer one are its pieces."""
    x = elements(dtype, 6, size)
    row = Call("add", (Call("mul", (Axis(0), Num(size))), Axis(1)))
    place = Call("add", (row, Call("mul", (Call("div", (Axis(1), Num(size))), Num(-size)))))
    kernel = moved((6, times * size), (size, 1), x, dtype)
    kernel = replace(kernel, stores=(replace(kernel.stores[0], value=Load(0, place, dtype=dtype)),))
    assert with_periods(kernel).axes == (6, times, size)
    if times == 40 and dtype is not DType.I64:  # nine eight-byte elements are more than a vector
        assert isinstance(moving(with_periods(kernel), parse("cpu:x86-64-v4")), Weave)
    if times == 3:
        assert segments(kernel, parse("cpu:x86-64-v4")) is not None
    agree(kernel, x, np.tile(x, (1, times)))


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_one_number(dtype):
    """A kernel that reads nothing."""
    kernel = LoopKernel((9, 5), (), (Operand(dtype, 45, written=True),), (), (Store(0, offset(5, 1), Num(3, dtype=dtype)),))
    for target in TARGETS:
        out = np.zeros(45 + PAD, dtype.np)
        execute(kernel, [out], target)
        assert (out[:45] == 3).all() and not out[45:].any()


def test_runs_that_start_anywhere_stay():
    x = elements(DType.U8, 20, 38, 2)
    shape, strides = (37, 20, 2), [2, 76, 1]
    for start in (1, 2):  # of a word in the second case only
        kernel = moved(shape, strides, x, DType.U8, start)
        assert (len(wider(kernel).axes) == 2) == (start == 2)
        want = np.lib.stride_tricks.as_strided(x.reshape(-1)[start:], shape, strides)
        agree(kernel, x, np.ascontiguousarray(want), targets=TARGETS[:1])
    assert wider(k := moved((5, 4), [4, 2], x, DType.U8)) is k
    half = moved((37, 20, 2), [2, 74, 1], elements(DType.F16, 20, 37, 2), DType.F16)
    there = replace(half.stores[0], value=Cast(Cast(half.stores[0].value, dtype=DType.F32), dtype=DType.F16))
    assert len(wider(as_words(replace(half, stores=(there,)))).axes) == 2


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


def padded(shape, low, high, mode, dtype):
    """Pads of the last two axes of [n, h, w] by the index functions that lowering makes of them."""
    n, h, w = shape
    x = elements(dtype, n, h, w)
    index, inside = [], Num(True, dtype=DType.BOOL)
    for axis, size in ((1, h), (2, w)):
        at = Call("sub", (Axis(axis), Num(low)))
        if mode == "wrap":
            at = Call("mod", (at, Num(size)))
        elif mode == "reflect":
            r = Call("sub", (Call("mod", (at, Num(2 * size - 2))), Num(size - 1)))
            at = Call("sub", (Num(size - 1), Call("max", (r, Call("neg", (r,))))))
        else:
            for fn, bound in (("ge", 0), ("lt", size)):
                inside = Call("and_", (inside, Call(fn, (at, Num(bound)), dtype=DType.BOOL)), dtype=DType.BOOL)
            at = Call("min", (Call("max", (at, Num(0))), Num(size - 1)))
        index.append(at)
    value = Load(
        0, Call("add", (Call("add", (Call("mul", (Axis(0), Num(h * w))), Call("mul", (index[0], Num(w))))), index[1])), dtype=dtype
    )
    if mode == "constant":
        value = Call("select", (inside, value, Num(9, dtype=dtype)), dtype=dtype)
    out = (n, h + low + high, w + low + high)
    operands = (Operand(dtype, x.size), Operand(dtype, prod(out), written=True))
    kernel = LoopKernel(out, (), operands, (), (Store(1, offset(*row_major(out)), value),))
    extra = {"constant_values": 9} if mode == "constant" else {}
    return kernel, x, np.pad(x, [(0, 0), (low, high), (low, high)], mode=mode, **extra)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(("shape", "low", "high"), [((3, 5, 60), 2, 3), ((40, 4, 33), 1, 0), ((1, 30, 300), 20, 20), ((2, 50, 3), 2, 1)])
def test_pads(mode, shape, low, high):
    for dtype in (DType.U8, DType.F32) if low < min(shape) or mode == "edge" else ():
        agree(*padded(shape, low, high, mode, dtype), targets=TARGETS[:2])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads_of_any_size(mode):
    """One kernel for all sizes, whose long middle of a line is moved in vectors."""
    sizes, rng = (sym("h"), sym("w")), np.random.default_rng(0)
    x = tensor(2, *sizes)
    low, high = (0, 1, 3), (0, 2, 18)
    plan = lower(graph([x], ap(Pad(low, high, mode), x, ap(Const(np.float32(9))))))
    (kernel,) = (k for step in plan.steps if isinstance(k := step.kernel, LoopKernel))
    assert interior(merge_axes(kernel), parse("cpu:x86-64-v4")) is not None
    extra = {"constant_values": 9} if mode == "constant" else {}
    for h, w in [(4, 19), (2, 60), (3, 300), (3, 5)]:
        if w < 19 and mode == "reflect":
            continue  # NumPy reflects again
        array = rng.random((2, h, w), np.float32)
        want = np.pad(array, [*zip(low, high, strict=True)], mode=mode, **extra)
        out = np.empty(want.size + PAD, np.float32)
        buffers = [out if o.written else array if o.numel == x.type.numel else np.full(1, 9, np.float32) for o in kernel.operands]
        for target, parts in itertools.product(TARGETS[:2], (1, 3)):
            out[:] = 77
            execute(kernel, buffers, target, {"h": h, "w": w}, parts)
            np.testing.assert_array_equal(out[: want.size].reshape(want.shape), want, err_msg=f"{mode} {h} {w} {target}")
            assert (out[want.size :] == 77).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_pieces_of_a_line(dtype):
    x = elements(dtype, 3, 40)
    tiled = Call("add", (Call("mul", (Axis(0), Num(40))), Call("mod", (Axis(1), Num(40)))))
    rolled = Call("add", (Call("mul", (Axis(0), Num(40))), Call("mod", (Call("add", (Axis(1), Num(13))), Num(40)))))
    for at, want in ((tiled, np.tile(x, (1, 5))), (rolled, np.roll(x, -13, 1))):
        operands = (Operand(dtype, x.size), Operand(dtype, want.size, written=True))
        kernel = LoopKernel(want.shape, (), operands, (), (Store(1, offset(*row_major(want.shape)), Load(0, at, dtype=dtype)),))
        assert segments(kernel, parse("cpu:x86-64-v4")) is not None
        agree(kernel, x, want, targets=TARGETS[:1])


@pytest.mark.parametrize(("size", "times"), [(8, 9), (10, 9), (17, 3), (33, 7), (20, 12)])
def test_short_pieces_of_a_line(size, times):
    """Pieces that do not fill a vector: masked ones, or one by one."""
    for dtype in (DType.U8, DType.F32, DType.F64):
        x = elements(dtype, 4, size)
        want = np.tile(x, (1, times))
        at = Call("add", (Call("mul", (Axis(0), Num(size))), Call("mod", (Axis(1), Num(size)))))
        operands = (Operand(dtype, x.size), Operand(dtype, want.size, written=True))
        kernel = LoopKernel(want.shape, (), operands, (), (Store(1, offset(*row_major(want.shape)), Load(0, at, dtype=dtype)),))
        assert dtype is not DType.F32 or segments(kernel, parse("cpu:x86-64-v4")) is not None
        agree(kernel, x, want, targets=TARGETS[:2])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "perm"), [((1100, 270), (1, 0)), ((2, 1045, 513), (0, 2, 1)), ((1024, 256), (1, 0)), ((1031, 3, 259), (2, 1, 0))]
)
def test_results_past_the_caches(monkeypatch, dtype, shape, perm):
    """Rows that begin anywhere in a line, blocks that end anywhere, and last ones that overlap."""
    monkeypatch.setattr(transpose, "_PAST_CACHES", 0)
    monkeypatch.setattr(transpose, "_PAST_IN_PIECES", 0)
    kernel, want = transposed(x := elements(dtype, *shape), perm)
    assert moving(merge_axes(kernel), parse("cpu:x86-64-v4")).past
    agree(kernel, x, want, targets=TARGETS[:2])


def test_results_past_the_caches_are_large():
    target = parse("cpu:x86-64-v4")
    for shape, past in [
        ((2048, 1024), True),
        ((1024, 1024), False),
        ((1 << 15, 128), True),
        ((1 << 16, 64), False),
        ((64, 1 << 16), False),
    ]:
        kernel, _ = transposed(np.empty(shape, np.float32), (1, 0))
        found = moving(merge_axes(kernel), target)
        assert past == (isinstance(found, Turn) and found.past), shape
    kernel, _ = transposed(np.empty((1024, 1024), np.float16), (1, 0))
    assert moving(merge_axes(kernel), target).past


def test_choice():
    target = parse("cpu:x86-64-v4")
    for shape, dtype, kind in [
        ((64, 64), DType.F32, Turn),
        ((64, 64), DType.U8, Turn),
        ((3, 90), DType.U8, Weave),
        ((4, 32), DType.U8, Weave),  # a panel of bytes for dot instructions
        ((15, 90), DType.F32, Weave),
        ((90, 3), DType.F32, Turn),
        ((90, 3), DType.U8, None),
    ]:
        kernel, _ = transposed(elements(dtype, *shape), (1, 0))
        found = moving(merge_axes(kernel), target)
        assert found is None if kind is None else isinstance(found, kind), (shape, dtype, found)
    kernel = moved((90, 12), (0, 1), elements(DType.F32, 12), DType.F32)  # rows repeated: woven once
    assert isinstance(moving(merge_axes(kernel), target), Weave)


@pytest.mark.parametrize(
    ("shape", "units"), [((40, 3, 5, 4), 40), ((40, 30, 2, 70), 40 * 2 * 30), ((9, 3, 5, 4), 9 * 5), ((2, 13, 5, 4), 2 * 5 * 13)]
)
def test_units_of_short_rows(shape, units):
    """A unit is several of them, unless there are few."""
    kernel, want = transposed(x := elements(DType.F32, *shape), (0, 2, 1, 3))
    assert emit_loop(kernel, parse("cpu:x86-64-v4")).units == units
    agree(kernel, x, want, targets=TARGETS[:2])


@pytest.mark.parametrize("size", [2, 3])
def test_rows_too_short_for_vectors(size):
    """With a factor of their own, behind an axis that fills half a vector, and one that other factors follow."""
    shape = 6, 5, 7, size
    x, own, other = (elements(DType.F32, *s) for s in (shape, (size,), (5,)))
    factors = Load(1, Axis(3), dtype=DType.F32), Load(2, Axis(1), dtype=DType.F32)
    at = offset(*row_major(shape))
    value = Call("add", (Call("mul", (Load(0, at, dtype=DType.F32), factors[0]), dtype=DType.F32), factors[1]), dtype=DType.F32)
    operands = (*(Operand(DType.F32, a.size) for a in (x, own, other)), Operand(DType.F32, x.size, written=True))
    kernel = LoopKernel(shape, (), operands, (), (Store(3, at, value),))
    assert isinstance(moving(merge_axes(kernel), parse("cpu:x86-64-v4")), Weave)
    want = x * own + other[:, None, None]
    for target in TARGETS[:2]:
        got = np.full(x.size + PAD, 77, x.dtype)
        execute(kernel, [x, own, other, got], target)
        np.testing.assert_array_equal(got[: x.size].reshape(shape), want)
        assert (got[x.size :] == 77).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_rows_that_updates_replace_one_after_another(reduction, target):
    """Of any length, cut for threads or not, with rows that come twice; by one index and by two; for sizes known late."""
    rng, op = np.random.default_rng(5), ScatterND(reduction)
    for shape, depth in (((7, 1029), 1), ((40, 3, 37), 1), ((3, 4, 2100), 2), ((9, 5), 1)):
        x, updates = rng.integers(0, 99, shape).astype("f"), rng.integers(0, 99, (12, *shape[depth:])).astype("f")
        rows = np.stack([rng.integers(0, size, 12) for size in shape[:depth]], 1)
        (want,) = op.reference(x, rows, updates)
        late = [sym(f"S{a}") for a in range(len(shape))]
        for sizes, count in ((shape, 12), (late, sym("U"))):
            inputs = [tensor(*sizes), tensor(count, depth, dtype=DType.I64), tensor(count, *sizes[depth:])]
            module = compile_graph(graph(inputs, ap(op, *inputs)), target=target, threads=2)
            np.testing.assert_array_equal(module(x, rows, updates), want)


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.BOOL, DType.F16, DType.BF16, DType.I16], ids=str)
def test_narrow_elements_gathered_from_anywhere(dtype):
    """By an index for each lane, also from an array that starts in the middle of a word; negative numbers and the last element, too."""
    rng = np.random.default_rng(6)
    sizes = (7, 5, 53), (sym("A"), sym("B"), sym("C"))
    flat = np.zeros(7 * 5 * 53 + 3, dtype.np)
    for start in (0, 1, 3):
        data = flat[start : start + 7 * 5 * 53].reshape(7, 5, 53)
        data[...] = rng.integers(-100, 100, data.shape).astype(dtype.np)
        rows, each = rng.integers(0, 53, 37), rng.integers(0, 53, (7, 5, 37))
        rows[0] = each[-1, -1, -1] = 52
        for shape in sizes if start == 1 else sizes[:1]:
            x, i, j = tensor(*shape, dtype=dtype), tensor(37, dtype=DType.I64), tensor(*shape[:2], 37, dtype=DType.I64)
            got = compile_graph(graph([x, i, j], ap(Gather(2), x, i), ap(GatherElements(2), x, j)), threads=1)(data, rows, each)
            np.testing.assert_array_equal(got[0], data[..., rows])
            np.testing.assert_array_equal(got[1], np.take_along_axis(data, each, 2))
