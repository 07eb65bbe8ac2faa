"""Loop kernels on the CPU against NumPy: maps, rows, windows, every dtype, tails, symbolic and empty sizes, targets."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.affine import children, postorder
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.loops.emit import emit_loop
from mlc.codegen.cpu.loops.rewrite import rebuilt, transform
from mlc.codegen.cpu.loops.schedule import schedule
from mlc.codegen.cpu.loops.softmax import shifts
from mlc.codegen.cpu.target import host, parse
from mlc.codegen.expr import Axis, Call, Cast, DimParam, ExprScalars, Load, Num, Reduced
from mlc.codegen.kernel import LoopKernel, Operand, Reduction, Store
from mlc.ir import COMPARISONS, NUMPY, DType, S, evaluate, prod, sym
from running import TARGETS
from running import execute as native

F = DType.F32
s = S(ExprScalars())
PAD = 64  # guard elements behind every written buffer


def index(*terms):
    """Σ axis·stride from (axis number, stride) pairs or constants."""
    out = None
    for t in terms:
        e = Num(t) if isinstance(t, int) else Axis(t[0])
        if isinstance(t, tuple) and t[1] != 1:
            e = Call("mul", (e, Num(t[1]) if isinstance(t[1], int) else DimParam(t[1])))
        out = e if out is None else Call("add", (out, e))
    return out


def load(operand, *terms, dtype=F):
    return Load(operand, index(*terms), dtype=dtype)


def call(fn, *args):
    return Call(fn, args, dtype=DType.BOOL if fn in COMPARISONS else args[-1].dtype)


def interpret(kernel, buffers, bindings=None):
    """The meaning of a LoopKernel: every expression as one NumPy array over all axes."""
    axes = [evaluate(d, bindings or {}) for d in (*kernel.axes, *kernel.reduce_axes)]
    n, rank = len(kernel.axes), len(axes)
    reduced = []

    def value(root):
        memo = {}
        for e in postorder([root]):
            args = [memo[id(c)] for c in children(e)]
            match e:
                case Axis(index=i):
                    shape = [1] * rank
                    shape[i] = axes[i]
                    out = np.arange(axes[i], dtype=np.int64).reshape(shape)
                case DimParam(dim=d):
                    out = np.asarray(evaluate(d, bindings or {}), np.int64)
                case Num(value=v):
                    out = NUMPY.const(v, e.dtype)
                case Load(operand=o):
                    assert args[0].size == 0 or (args[0].min() >= 0 and args[0].max() < buffers[o].size - PAD * kernel.operands[o].written)
                    out = buffers[o][args[0]]
                case Call(fn=fn):
                    out = NUMPY.ops.call(fn, *args)
                case Cast():
                    out = NUMPY.cast(args[0], e.dtype)
                case Reduced(stage=i):
                    out = reduced[i]
            memo[id(e)] = np.asarray(out)
        return memo[id(root)]

    over = tuple(range(n, rank))
    for stage in kernel.stages:
        x = np.broadcast_to(value(stage.value), axes)
        if stage.fn.startswith("arg"):
            flat = x.reshape(*axes[:n], -1)
            out = getattr(np, stage.fn)(flat, axis=-1).reshape(*axes[:n], *[1] * len(over))
        else:
            wide = x.astype(np.float64) if stage.value.dtype.is_float else x
            fn = {
                "sum": np.add,
                "prod": np.multiply,
                "max": np.maximum,
                "min": np.minimum,
                "and": np.logical_and,
                "or": np.logical_or,
            }
            if stage.fn in ("max", "min"):
                d = stage.value.dtype
                far = -math.inf if d.is_float else np.iinfo(d.np).min if d is not DType.BOOL else False
                if stage.fn == "min":
                    far = math.inf if d.is_float else np.iinfo(d.np).max if d is not DType.BOOL else True
                out = fn[stage.fn].reduce(wide, axis=over, keepdims=True, initial=far)
            else:
                out = fn[stage.fn].reduce(wide, axis=over, keepdims=True, dtype=wide.dtype)
            out = out.astype(x.dtype)
        reduced.append(out)
    for st in kernel.stores:
        shape = axes if st.per_element else [*axes[:n], *[1] * len(over)]
        at, x = np.broadcast_to(value(st.offset), shape), np.broadcast_to(value(st.value), shape)
        keep = np.broadcast_to(True if st.guard is None else value(st.guard), shape)
        buffers[st.operand][at[keep]] = x[keep]


def check(kernel, inputs, *, bindings=None, tolerance=1e-6, targets=TARGETS):
    """Native equals the interpreter on every target, in one part and in several."""
    want = [np.full(evaluate(o.numel, bindings or {}) + PAD, 7).astype(o.dtype.np) for o in kernel.operands if o.written]
    interpret(kernel, [*inputs, *want], bindings)
    for target, parts in itertools.product(targets, (1, 3)):
        got = [np.full(w.shape, 7).astype(w.dtype) for w in want]
        native(kernel, [*inputs, *got], target, bindings, parts)
        for w, g in zip(want, got, strict=True):
            if DType.from_numpy(w.dtype).is_float:
                w, g = w.astype(np.float64), g.astype(np.float64)
                np.testing.assert_array_equal(np.isnan(w), np.isnan(g))
                same = (w == g) | np.isnan(w)
                np.testing.assert_allclose(np.where(same, 0, g), np.where(same, 0, w), rtol=tolerance, atol=tolerance / 10)
            else:
                np.testing.assert_array_equal(g, w)


def random(*shape, dtype=F, seed=0, scale=1.0):
    r = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return r.integers(0, 2, shape).astype(bool).ravel()
    if dtype.is_int:
        return r.integers(0 if not dtype.is_signed else -100, 100, shape).astype(dtype.np).ravel()
    return (r.standard_normal(shape) * scale).astype(dtype.np).ravel()


def kernel(axes, reduce_axes, inputs, outputs, stages, stores):
    """`inputs` are arrays, `outputs` (dtype, numel)."""
    operands = [Operand(DType.from_numpy(x.dtype), x.size) for x in inputs] + [Operand(d, n, True) for d, n in outputs]
    return LoopKernel(tuple(axes), tuple(reduce_axes), tuple(operands), tuple(stages), tuple(stores))


def map_kernel(x, fn, size=None, out=None):
    size = x.size if size is None else size
    e = fn(load(0, (0, 1), dtype=DType.from_numpy(x.dtype)))
    return kernel([size], [], [x], [(out or e.dtype, size)], [], [Store(1, Axis(0), e)])


# --- maps ------------------------------------------------------------------------------------------------------------


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


# --- reductions and rows ---------------------------------------------------------------------------------------------


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
    k = kernel(
        [rows],
        [columns],
        [x],
        [(out, rows)],
        [Reduction(fn, load(0, (0, columns), (1, 1)))],
        [Store(1, Axis(0), Reduced(0, dtype=out))],
    )
    check(k, [x], tolerance=1e-5)
    k = kernel(
        [columns],
        [rows],
        [x],
        [(out, columns)],
        [Reduction(fn, load(0, (1, columns), (0, 1)))],
        [Store(1, Axis(0), Reduced(0, dtype=out))],
    )
    check(k, [x], tolerance=1e-5)


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
        check(k, [x], tolerance=0.05 if dtype.itemsize == 2 else 1e-5, targets=TARGETS[:2])


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


def softmax(rows, columns):
    e = load(0, (0, columns), (1, 1))
    power = s.exp(s.sub(e, Reduced(0, dtype=F)))
    stages = (Reduction("max", e), Reduction("sum", power))
    store = Store(1, index((0, columns), (1, 1)), s.div(power, Reduced(1, dtype=F)), per_element=True)
    return LoopKernel((rows,), (columns,), (Operand(F, rows * columns), Operand(F, rows * columns, True)), stages, (store,))


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


def window(channels, size, stride, fn):
    """3×3 pooling with pad 1 over [H=W=size, C]."""
    out = (size + 2 - 3) // stride + 1
    h = index((0, stride), (3, 1), -1)
    w = index((1, stride), (4, 1), -1)
    inside = None
    for i in (h, w):
        for cond in (call("ge", i, Num(0)), call("lt", i, Num(size))):
            inside = cond if inside is None else s.and_(inside, cond)

    def clamp(i):
        return call("min", call("max", i, Num(0)), Num(size - 1))

    at = call("add", call("mul", call("add", call("mul", clamp(h), Num(size)), clamp(w)), Num(channels)), Axis(2))
    far = Num(-math.inf if fn == "max" else 0.0, dtype=F)
    value = s.select(inside, Load(0, at, dtype=F), far)
    operands = (Operand(F, size * size * channels), Operand(F, out * out * channels, True))
    store = Store(1, index((0, out * channels), (1, channels), (2, 1)), Reduced(0, dtype=F))
    return LoopKernel((out, out, channels), (3, 3), operands, (Reduction(fn, value),), (store,))


@pytest.mark.parametrize("channels, size, stride", [(64, 7, 1), (20, 9, 2), (3, 5, 1), (1, 6, 1), (130, 4, 2)])
@pytest.mark.parametrize("fn", ["max", "sum"])
def test_guarded_window(channels, size, stride, fn):
    check(window(channels, size, stride, fn), [random(size, size, channels)], tolerance=1e-5)


@pytest.mark.parametrize("dilation, reverse", [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_window_over_a_symbolic_size(dilation, reverse):
    """Taps cut at the border by division (dilation), from either end (a reversed window)."""
    n, channels, taps, pad = sym("N"), 20, 5, 3
    tap = call("sub", Num(taps - 1), Axis(2)) if reverse else Axis(2)
    i = call("sub", call("add", Axis(0), call("mul", tap, Num(dilation))), Num(pad))
    inside = s.and_(call("ge", i, Num(0)), call("lt", i, DimParam(n)))
    clamped = call("max", call("min", i, call("sub", DimParam(n), Num(1))), Num(0))
    x = Load(0, call("add", call("mul", clamped, Num(channels)), Axis(1)), dtype=F)
    operands = (Operand(F, n * channels), Operand(F, n * channels, True))
    for fn, far in (("sum", 0.0), ("max", -math.inf), ("sum", 1.0)):
        value = s.select(inside, x, Num(far, dtype=F))
        k = LoopKernel(
            (n, channels),
            (taps,),
            operands,
            (Reduction(fn, value),),
            (Store(1, index((0, channels), (1, 1)), Reduced(0, dtype=F)),),
        )
        for size in (1, 2, 9, 30):
            check(k, [random(size * channels)], bindings={"N": size}, tolerance=1e-5, targets=TARGETS[:2])


@pytest.mark.parametrize("c, size", [(40, 8), (64, 13), (7, 3), (16, 4), (130, 7)])
def test_depthwise_convolution_with_bias_and_activation(c, size):
    k = window(c, size, 1, "sum")
    weights = Load(1, index((3, 3 * c), (4, c), (2, 1)), dtype=F)
    value = s.mul(k.stages[0].value, weights)
    y = s.max(s.add(Reduced(0, dtype=F), load(2, (2, 1))), 0.0)
    x, w, b = random(size, size, c), random(3, 3, c, seed=1), random(c, seed=2)
    k = kernel(
        k.axes,
        k.reduce_axes,
        [x, w, b],
        [(F, k.operands[1].numel)],
        [Reduction("sum", value)],
        [Store(3, k.stores[0].offset, y)],
    )
    check(k, [x, w, b], tolerance=1e-5)


def window_of_weights(channels, width, taps, stride, pad, fn="sum"):
    """[H=5, W=width, C] by weights [3, taps, C], padded by `pad` columns on each side and by no rows; width may be symbolic."""
    out = (width + 2 * pad - taps) // stride + 1
    row, column = index((0, 1), (3, 1)), index((1, stride), (4, 1), -pad)
    end = Num(width) if isinstance(width, int) else DimParam(width)
    clamped = call("max", call("min", column, call("sub", end, Num(1))), Num(0))
    at = call("add", call("mul", call("add", call("mul", row, end), clamped if pad else column), Num(channels)), Axis(2))
    x = Load(0, at, dtype=F)
    if pad:
        x = s.select(s.and_(call("ge", column, Num(0)), call("lt", column, end)), x, Num(0.0, dtype=F))
    value = s.mul(x, Load(1, index((3, taps * channels), (4, channels), (2, 1)), dtype=F))
    result = Store(2, call("add", call("mul", call("add", call("mul", Axis(0), Num(out) if isinstance(out, int) else DimParam(out)), Axis(1)),
                                       Num(channels)), Axis(2)), Reduced(0, dtype=F))  # fmt: skip
    operands = (Operand(F, 5 * width * channels), Operand(F, 3 * taps * channels), Operand(F, 3 * out * channels, True))
    return LoopKernel((3, out, channels), (3, taps), operands, (Reduction(fn, value),), (result,))


@pytest.mark.parametrize(
    "channels, width, taps, stride, pad",
    [(64, 13, 3, 1, 1), (20, 30, 5, 2, 2), (96, 11, 7, 1, 3), (70, 9, 3, 1, 0), (16, 5, 5, 1, 2), (33, 3, 3, 1, 1), (17, 41, 9, 3, 4)],
)
def test_columns_of_a_window_together(channels, width, taps, stride, pad):
    data = [random(5 * width * channels), random(3 * taps * channels, seed=1)]
    check(window_of_weights(channels, width, taps, stride, pad), data, tolerance=1e-5)
    symbolic = window_of_weights(channels, sym("W"), taps, stride, pad)
    check(symbolic, data, bindings={"W": width}, tolerance=1e-5, targets=TARGETS[:1])


def test_columns_of_a_window_that_only_rows_cut():
    k = window_of_weights(40, 13, 3, 1, 1)
    swap = {0: Axis(1), 1: Axis(0)}
    rows, columns, channels = k.axes
    k = transform(
        k, lambda e, kids: swap.get(e.index, e) if isinstance(e, Axis) else rebuilt(e, kids), (columns, rows + 2, channels), (3, 3)
    )
    k = replace(k, operands=(Operand(F, 7 * 13 * 40), k.operands[1], Operand(F, 5 * 13 * 40, True)))
    check(k, [random(7 * 13 * 40), random(9 * 40, seed=1)], tolerance=1e-5)


def test_columns_leave_registers_for_what_they_share():
    k = window_of_weights(256, 30, 3, 1, 1)
    for name, registers in (("cpu:x86-64-v4", 32), ("cpu:neoverse-n1", 32), ("cpu:x86-64-v3", 16)):
        target = parse(name)
        plan = schedule(k, target)
        assert target.vector_registers == registers and plan.columns > 1
        assert plan.columns * plan.group <= registers // 2
    assert schedule(window(64, 30, 1, "max"), parse("cpu:x86-64-v4")).columns > 1  # elements of windows that overlap
    assert schedule(softmax(4, 40), parse("cpu:x86-64-v4")).columns == 1


def test_equal_kernels_have_one_symbol_and_units_cover_the_axes():
    a, b = emit_loop(softmax(4, 40), host()), emit_loop(softmax(4, 40), host())
    assert a == b and a.units == 4
    assert emit_loop(softmax(5, 41), host()).symbol != a.symbol
    assert prod((a.units, 1)) == 4


@pytest.mark.parametrize("target", ["cpu:aarch64", "cpu:neoverse-n1", "cpu:x86-64", "cpu:x86-64-v4"])
def test_cross_compiles(target):
    for k in (softmax(4, 40), window(64, 7, 1, "max")):
        t = parse(target)
        assert compile_ir(emit_loop(k, t).ir_text, t)[:4] == b"\x7fELF"
