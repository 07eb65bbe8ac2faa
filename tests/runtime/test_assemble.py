"""From plans to parts: live ranges across branches and loops, shared constants, aliases, contradictions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from mlc.codegen.plan import Branch, Buffer, Repeat
from mlc.errors import CodegenError, InputError
from mlc.ir import DType, sym
from mlc.runtime.module import Module

ADD, MUL = "%z = fadd float %x, %y", "%z = fmul float %x, %y"
COPY = "%z = fadd float %x, 0.0"


def live(parts, i):
    b = parts.manifest.buffers[i]
    return b.first, b.last


def overlap(parts, i, j):
    a, b = live(parts, i), live(parts, j)
    return a[0] <= b[1] and b[0] <= a[1]


def test_straight_line_reuses_memory(builder):
    b = builder
    x, y = b.io("input", "x", (64,)), b.io("output", "y", (64,))
    t = [b.arena((64,)) for _ in range(6)]
    chain = [x, *t, y]
    parts = b.parts(*(b.step(ADD, p, x, q, 64) for p, q in pairwise(chain)))
    assert parts.manifest.layout[1] == 512
    assert not overlap(parts, t[0], t[2]) and overlap(parts, t[0], t[1])
    np.testing.assert_array_equal(Module(parts)(np.ones(64, np.float32)), np.full(64, 8, np.float32))


def test_values_used_in_a_loop_live_through_it(builder):
    b = builder
    x, n, y = b.io("input", "x", ()), b.io("input", "n", (), DType.I64), b.io("output", "y", ())
    before, inside, carried, after = (b.arena(()) for _ in range(4))
    k1, k2 = b.arena((), DType.I64), b.arena((), DType.I64)
    # y = x · (2x + … ): each inner turn adds 2x, the loops run n and n·n times
    parts = b.parts(
        b.step(ADD, x, x, before, 1),
        b.step("%z = fsub float %x, %y", x, x, carried, 1),
        Repeat(n, -1, k1, (
            Repeat(n, -1, k2, (b.step(ADD, carried, before, inside, 1), b.step(COPY, inside, inside, carried, 1))),
        )),
        b.step(MUL, carried, x, after, 1),
        b.step(COPY, after, after, y, 1),
    )  # fmt: skip
    for i in (before, inside, carried, k1, k2):
        for j in (before, inside, carried, k1, k2):
            assert overlap(parts, i, j)
    assert not overlap(parts, before, after)
    module = Module(parts)
    for turns in range(4):
        assert module(np.float32(3), np.int64(turns)) == 3 * 6 * turns**2


def test_branches_nest(builder):
    b = builder
    c1, c2 = b.io("input", "c1", (), DType.BOOL), b.io("input", "c2", (), DType.BOOL)
    x, y = b.io("input", "x", ()), b.io("output", "y", ())
    one, two, three = (b.const(np.float32(v).reshape(())) for v in (1, 2, 3))
    t = b.arena(())

    def add(v):
        return b.step(ADD, t, v, y, 1)

    parts = b.parts(
        b.step(COPY, x, x, t, 1),
        Branch(
            c1,
            (Branch(c2, (add(one),), (add(two),)),),
            (Branch(c2, (add(three),), ()), Branch(c2, (), (b.step(COPY, x, x, y, 1),))),
        ),
        Branch(c1, (), ()),
        Branch(c1, (b.step(ADD, y, x, y, 1),), ()),
    )
    module = Module(parts)
    results = {(p, q): float(module(np.bool_(p), np.bool_(q), np.float32(10))) for p in (0, 1) for q in (0, 1)}
    assert results == {(1, 1): 21, (1, 0): 22, (0, 1): 13, (0, 0): 10}


def test_equal_constants_are_stored_once(builder):
    b = builder
    x, y = b.io("input", "x", (256,)), b.io("output", "y", (256,))
    w = [b.const(np.full(256, v, np.float32)) for v in (1, 2, 1, 2)]
    t = [b.arena((256,)) for _ in range(3)]
    chain = [x, *t, y]
    parts = b.parts(*(b.step(ADD, chain[i], w[i], chain[i + 1], 256) for i in range(4)))
    assert parts.weights.nbytes == 2048
    assert len(parts.manifest.dims.slots) < 40
    np.testing.assert_array_equal(Module(parts)(np.zeros(256, np.float32)), np.full(256, 6, np.float32))


def test_aliases(builder):
    b, n = builder, sym("N", 1)
    x, y = b.io("input", "x", (n, 4)), b.io("output", "y", (n, 4))
    w = b.const(np.arange(8, dtype=np.float32))
    tail = b.add(Buffer("alias", DType.F32, (4,), of=w, shift=4))
    last = b.add(Buffer("alias", DType.F32, (1,), of=tail, shift=3))  # the element 7
    flat_x = b.add(Buffer("alias", DType.F32, (4 * n,), of=x))
    head = b.add(Buffer("alias", DType.F32, (4 * n - 4,), of=y))
    row = b.add(Buffer("alias", DType.F32, (4,), of=y, shift=4 * n - 4))
    parts = b.parts(b.step(ADD, flat_x, last, head, 4 * n - 4, 0), b.step(COPY, tail, tail, row, 4))
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(Module(parts)(x), [[8] * 4, [8] * 4, [4, 5, 6, 7]])


def test_sizes_that_cannot_be(builder):
    b, n, m = builder, sym("N"), sym("M")
    x, z, y = b.io("input", "x", (n,)), b.io("input", "z", (m,)), b.io("output", "y", (n - 2,))
    module = Module(b.parts(b.step(ADD, x, z, y, n - 2), equal=[(n, m)]))

    def ones(k):
        return np.ones(k, np.float32)

    np.testing.assert_array_equal(module(ones(5), ones(5)), 2 * ones(3))
    with pytest.raises(InputError, match="N = 3 differs from M = 4"):
        module(ones(3), ones(4))
    with pytest.raises(InputError, match="dimension of -1"):
        module(ones(1), ones(1))


def test_no_steps(builder):
    builder.io("input", "x", (sym("N"),))
    module = Module(builder.parts())
    assert module.run({"x": np.ones(3, np.float32)}) == {}


def test_contradictions(builder):
    b = builder
    x, y, w = b.io("input", "x", (4,)), b.io("output", "y", (4,)), b.const(np.zeros(4, np.float32))
    for written, kind in ((x, "input"), (w, "const")):
        with pytest.raises(CodegenError, match=f"writes the {kind}"):
            b.parts(b.step(ADD, x, x, written, 4))
    b.constants[w] = np.zeros(3, np.float32)
    with pytest.raises(CodegenError, match="constant 2"):
        b.parts(b.step(ADD, x, w, y, 4))
    b.constants[w] = np.zeros(4, np.float32)
    loop = b.add(Buffer("alias", DType.F32, (4,), of=len(b.buffers)))
    with pytest.raises(CodegenError, match="circle"):
        b.parts(b.step(ADD, loop, w, y, 4))
