"""Helpers of the tests of loop kernels: expressions and kernels by hand, and native code against the interpreter of kernels."""

import itertools
import math

import numpy as np
from mlc.codegen.expr import Axis, Call, DimParam, ExprScalars, Load, Num, Reduced
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import LoopKernel, Operand, Reduction, Store
from mlc.ir import COMPARISONS, DType, S, evaluate
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


def check(kernel, inputs, *, bindings=None, tolerance=1e-6, targets=TARGETS):
    """Native equals the interpreter on every target, in one part and in several."""
    want = [np.full(evaluate(o.numel, bindings or {}) + PAD, 7).astype(o.dtype.np) for o in kernel.operands if o.written]
    run_kernel(kernel, [*inputs, *want], bindings)
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


def softmax(rows, columns):
    e = load(0, (0, columns), (1, 1))
    power = s.exp(s.sub(e, Reduced(0, dtype=F)))
    stages = (Reduction("max", e), Reduction("sum", power))
    store = Store(1, index((0, columns), (1, 1)), s.div(power, Reduced(1, dtype=F)), per_element=True)
    return LoopKernel((rows,), (columns,), (Operand(F, rows * columns), Operand(F, rows * columns, True)), stages, (store,))


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
