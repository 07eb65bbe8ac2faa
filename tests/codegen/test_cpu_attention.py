"""Attention on the CPU against the kernel interpreter: odd sizes, tails, masks, grouped heads, strides, symbolic sizes, targets."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.attention.emit import emit_attention
from mlc.codegen.cpu.attention.schedule import Products, schedule_attention
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import AttentionKernel, Operand
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate, sym
from running import TARGETS, execute

F = DType.F32
PAD = 64  # guard elements behind the result


def make(b, h, s, l, d, dv, *, group=1, scale=0.3, causal=False, mask=None, merged=True, symbols=None, seed=0):
    """(kernel, buffers): rows of all heads side by side if `merged`, else a matrix per head. `mask`: (array, its strides)."""
    r = np.random.default_rng(seed)
    kv = h // group

    def strides(heads, rows, size):
        return (rows * heads * size, size, heads * size) if merged else (heads * rows * size, rows * size, size)

    q, k, v = (r.standard_normal(n, dtype=np.float32) for n in (b * h * s * d, b * kv * l * d, b * kv * l * dv))
    out = np.full(b * h * s * dv + PAD, 7, np.float32)
    buffers = [q, k, v, *([] if mask is None else [mask[0]]), out]
    operands = tuple(Operand(F, x.size, x is out) for x in buffers)
    sb, ss, sl = symbols or (b, s, l)
    kernel = AttentionKernel(
        sb, h, group, ss, sl, d, dv, scale, causal, operands, strides(h, ss, d), strides(kv, sl, d), strides(kv, sl, dv),
        strides(h, ss, dv), None if mask is None else mask[1],
    )  # fmt: skip
    return kernel, buffers


def check(kernel, buffers, target="cpu", bindings=None, parts=1, tolerance=2e-6):
    want = [x.copy() for x in buffers]
    run_kernel(kernel, want, bindings)
    execute(kernel, buffers, target, bindings, parts)
    got, want = buffers[-1].astype(np.float64), want[-1].astype(np.float64)
    assert (got[-PAD:] == 7).all(), "wrote past the end"
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    fine = ~np.isnan(want)
    assert np.linalg.norm((got - want)[fine]) <= tolerance * max(np.linalg.norm(want[fine]), 1e-30)


def cut(kernel, buffers, parts):
    """The same with its keys in parts: room for their results, and for maxima and sums before it."""
    b, s, count = (evaluate(d, {}) for d in (kernel.batch, kernel.rows, parts))
    h, dv = kernel.heads, kernel.value_size
    stats = np.full(2 * count * b * h * s, 7, np.float32)
    out = np.full(count * b * h * s * dv + PAD, 7, np.float32)
    operands = (*kernel.operands[:-1], Operand(F, stats.size, True), Operand(F, out.size, True))
    kernel = replace(kernel, operands=operands, out_strides=(h * s * dv, s * dv, dv), parts=parts)
    return kernel, [*buffers[:-1], stats, out]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("s, l, parts", [(1, 9, 2), (1, 40, 3), (2, 300, 4), (5, 33, 3), (20, 70, 2), (70, 200, 5), (1, 5, 7), (3, 0, 2)])
def test_parts(s, l, parts, target):
    """Also parts without a key, and keys that all queries of a part are blind to."""
    for causal in (False, True):
        kernel, buffers = cut(*make(2, 2, s, l, 24, 20, causal=causal, group=1 + causal), parts)
        want = [x.copy() for x in buffers]
        run_kernel(kernel, want)
        check(kernel, buffers, target, parts=3)
        np.testing.assert_allclose(buffers[-2], want[-2], rtol=1e-5, atol=1e-6)


def test_parts_with_masks():
    r = np.random.default_rng(3)
    mask = np.where(r.random((2, 50, 3)) < 0.4, -np.inf, r.standard_normal((2, 50, 3))).astype(np.float32)
    mask[0, :30, 1] = -np.inf  # a part of which a query sees nothing
    for s in (1, 3):
        own = np.ascontiguousarray(mask[:, :, :s])
        kernel, buffers = cut(*make(2, 2, s, 50, 16, 16, mask=(own.ravel(), (50 * s, 0, s, 1))), 4)
        want = [x.copy() for x in buffers]
        run_kernel(kernel, want)
        check(kernel, buffers, parts=2)
        np.testing.assert_allclose(buffers[-2], want[-2], rtol=1e-5, atol=1e-6)


SHAPES = [(1, 1, 1, 1, 1), (2, 3, 17, 5, 4), (1, 2, 49, 49, 32), (1, 1, 64, 64, 64), (1, 2, 128, 70, 64), (1, 1, 197, 197, 40),
          (1, 1, 1, 300, 80), (2, 1, 7, 513, 16), (1, 1, 33, 129, 100)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", TARGETS)
def test_shapes(shape, target):
    b, h, s, l, d = shape
    for merged, causal in ((True, False), (False, True)):
        check(*make(b, h, s, l, d, d, merged=merged, causal=causal), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dv", [1, 8, 31, 72, 130])
def test_value_sizes_of_their_own(dv, target):
    check(*make(1, 2, 21, 40, 12, dv), target, parts=3)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads(group, causal):
    check(*make(2, 4, 19, 23, 8, 8, group=group, causal=causal), parts=4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 1), (2, 1, 5), (2, 3, 5)])
@pytest.mark.parametrize("target", TARGETS)
def test_masks(shape, target):
    """[B or 1, H or 1, L, S or 1], with hidden keys, hidden rows, and the lowest finite number as some exporters write it."""
    b, h, s, l = 2, 3, 5, 150
    mb, mh, ms = shape
    m = np.random.default_rng(1).standard_normal((mb, mh, l, ms)).astype(np.float32)
    m[:, :, ::3] = -np.inf
    m[0, 0, :, 0] = -np.inf
    m[-1, -1, :, -1] = np.finfo(np.float32).min
    steps = [0 if n == 1 else x // 4 for n, x in zip(m.shape, m.strides, strict=True)]
    steps[2] = ms
    check(*make(b, h, s, l, 16, 16, mask=(m.reshape(-1), tuple(steps))), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("s, l", [(5, 150), (49, 49), (33, 300), (100, 513), (3, 70), (17, 16), (300, 77)])
def test_masks_whose_keys_are_next_to_each_other(s, l, target):
    """Turned in registers; also with scores that later blocks of keys raise, so that their weights have to be found again."""
    r = np.random.default_rng(1)
    for shape, causal in (((1, 1, s, l), False), ((2, 3, s, l), True)):
        m = r.standard_normal(shape).astype(np.float32)
        m[:, :, ::2] += np.linspace(0, 40, l, dtype=np.float32)
        m[:, :, :, ::3] = -np.inf
        m[0, 0, 0] = -np.inf
        m[-1, -1, -1] = np.finfo(np.float32).min
        steps = (*(0 if n == 1 else x // 4 for n, x in zip(shape[:2], m.strides, strict=False)), 1, l)
        check(*make(2, 3, s, l, 20, 24, mask=(m.reshape(-1), steps), causal=causal), target, parts=3, tolerance=6e-6)
    check(*cut(*make(2, 3, s, l, 20, 24, mask=(m.reshape(-1), steps)), 3), target, tolerance=6e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "rows,keys,d,dv",
    [(1, 1, 1, 1), (1, 1000, 64, 64), (2, 37, 20, 130), (1, 400, 17, 8), (2, 770, 128, 72), (3, 70, 33, 40), (4, 700, 64, 64)],
)
def test_few_queries(rows, keys, d, dv, target):
    """Decoding: a path of its own, here with masks of every kind too."""
    for merged, causal in ((True, False), (False, True)):
        check(*make(2, 3, rows, keys, d, dv, merged=merged, causal=causal), target, parts=2)
    m = np.random.default_rng(1).standard_normal((2, keys, rows)).astype(np.float32)
    m[:, ::3] = -np.inf
    check(*make(2, 3, rows, keys, d, dv, mask=(m.ravel(), (keys * rows, 0, rows, 1))), target)
    check(*make(2, 3, rows, keys, d, dv, mask=(m[:, :, 0].ravel().copy(), (keys, 0, 1, 0))), target)
    check(*make(2, 3, rows, keys, d, dv, mask=(np.full(keys, -np.inf, np.float32), (0, 0, 1, 0))), target)


@pytest.mark.parametrize("causal", [False, True])
def test_symbolic_sizes(causal):
    symbols = sym("B", 1, 9), sym("S", 1, 999), sym("L", 0, 999)
    for b, s, l in ((1, 1, 1), (2, 1, 500), (1, 2, 0), (1, 3, 2), (2, 17, 40), (1, 64, 0), (1, 70, 300), (3, 100, 20), (0, 4, 4)):
        kernel, buffers = make(b, 2, s, l, 20, 24, causal=causal, symbols=symbols)
        check(kernel, buffers, bindings={"B": b, "S": s, "L": l}, parts=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("causal, d", [(False, 64), (True, 40), (False, 130)])
def test_last_blocks_of_few_keys(causal, d, target):
    """Sums so far come back where less than four keys are left, as they are or faded."""
    symbols = sym("B"), sym("S"), sym("L")
    block = schedule_attention(make(1, 1, 70, 9, d, d, symbols=symbols)[0], parse(target)).block
    for more, scale in ((1, 0.1), (2, 0.1), (3, 2.0), (4, 0.1), (5, 2.0), (7, 0.1)):
        kernel, buffers = make(1, 1, 70, 2 * block + more, d, d, causal=causal, scale=scale, symbols=symbols, seed=more)
        check(kernel, buffers, target, {"B": 1, "S": 70, "L": 2 * block + more}, tolerance=5e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_groups_of_strips(causal, target):
    """Strips of several widths that share blocks of keys, copied together where rows lie a multiple of 4 KiB apart."""
    for b, h, s, l, d in ((2, 4, 300, 130, 20), (2, 8, 290, 70, 64), (1, 8, 300, 97, 128)):
        kernel, buffers = make(b, h, s, l, d, d, causal=causal)
        schedule = schedule_attention(kernel, parse(target))
        assert schedule.together > 1 and schedule.copied_keys == (h * d % 1024 == 0)
        check(kernel, buffers, target, parts=2)


def test_symbolic_sizes_share_blocks_of_keys_too():
    kernel, buffers = make(2, 8, 290, 70, 64, 64, causal=True, symbols=(sym("B"), sym("S"), sym("L")))
    together = schedule_attention(kernel, parse("cpu")).together
    assert evaluate(together, {"B": 2, "S": 290}) == 5 and evaluate(together, {"B": 1, "S": 16}) == 1
    check(kernel, buffers, bindings={"B": 2, "S": 290, "L": 70})


def test_not_a_number_spreads_over_its_row_only():
    kernel, buffers = make(1, 1, 20, 200, 8, 8, merged=False)
    buffers[0][3 * 8] = np.nan
    check(kernel, buffers)
    assert np.isnan(buffers[-1]).sum() == 8


def test_great_scores_do_not_overflow():
    check(*make(1, 1, 30, 400, 64, 16, scale=40.0), tolerance=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rate", [0.01, 0.3, 2.0, -0.5])
def test_scores_that_grow_along_keys(rate, target):
    """Weights by the maximum of earlier blocks are as exact, up to where they would be too large."""
    for rows in (20, 70):
        kernel, buffers = make(1, 1, rows, 500, 8, 8, scale=1.0)
        keys = buffers[1].reshape(500, 8)
        keys[:, 0] = rate * np.arange(500)
        buffers[0].reshape(rows, 8)[:, 0] = np.where(np.arange(rows) % 3 == 0, 1, 0.01)
        check(kernel, buffers, target, tolerance=2e-5)


@pytest.mark.parametrize("unusual", [np.inf, -np.inf, np.nan])
def test_unusual_scores_of_later_keys(unusual):
    kernel, buffers = make(1, 1, 40, 500, 8, 8, merged=False)
    buffers[1][450 * 8] = unusual
    with np.errstate(invalid="ignore"):
        check(kernel, buffers)


@pytest.mark.parametrize("rows", [5, 8, 17, 20, 24])
def test_strips_of_half_vectors(rows):
    """Where one vector is multiplied in a cycle, and more lanes of whole ones would be empty."""
    mask, target = np.random.default_rng(1).standard_normal((rows, 300), np.float32), "cpu:znver4"
    assert schedule_attention(make(1, 1, rows, 300, 16, 24)[0], parse(target)).lanes == 8
    assert schedule_attention(make(1, 1, rows + 25, 300, 16, 24)[0], parse(target)).lanes == 16
    if missing_features(parse(target).triple, parse(target).features):
        pytest.skip("not of this processor")
    check(*make(2, 2, rows, 300, 16, 24, causal=True), target=target)
    check(*make(1, 2, rows, 300, 20, 12, mask=(np.ascontiguousarray(mask.T).ravel(), (0, 0, rows, 1))), target=target)


def test_equal_sizes_share_code_and_others_too():
    t = parse("cpu")
    a, b = (emit_attention(make(1, h, s, s, 64, 64)[0], t) for h, s in ((2, 128), (12, 256)))
    assert a.symbol == b.symbol and a.dims != b.dims


def test_few_queries_are_taken_one_by_one():
    """As many as cost less than a vector of them, which is as many again where a core multiplies one vector in a cycle; hardware that is
    good at streams is left alone with rows that follow each other."""
    for name, most in (("cpu:sapphirerapids", 2), ("cpu:znver4", 4), ("cpu:x86-64-v3", 2)):
        for rows in range(1, 6):
            for merged in (False, True):
                kernel, _ = make(1, 2, rows, 300, 64, 64, merged=merged)
                assert schedule_attention(kernel, parse(name)).narrow == (most if rows <= most else 0)
                if rows <= most:
                    assert ("llvm.prefetch" in emit_attention(kernel, parse(name)).ir_text) == (merged or name != "cpu:znver4")


def test_strips_are_dealt_evenly():
    s = schedule_attention(make(1, 1, 197, 197, 64, 64)[0], parse("cpu:x86-64-v4"))
    assert (s.widths, s.strips, s.block) == ((3, 4), 4, 66)


def test_other_dtypes_are_refused():
    kernel, _ = make(1, 1, 2, 2, 4, 4)
    half = tuple(Operand(DType.F16, o.numel, o.written) for o in kernel.operands)
    with pytest.raises(CodegenError, match="f16"):
        emit_attention(AttentionKernel(*[half if n == "operands" else getattr(kernel, n) for n in kernel.__slots__]), parse("cpu"))


ROUNDED = [
    (1, 1, 8, 1, 1, 1),
    (1, 2, 64, 64, 64, 64),
    (2, 3, 17, 5, 4, 7),
    (1, 1, 197, 197, 40, 72),
    (1, 1, 33, 600, 32, 33),
    (1, 2, 70, 513, 100, 16),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", ROUNDED)
def test_rounded_operands(shape, causal):
    """Tile registers or dot products where the machine has them: as near as bfloat16 is, in several parts."""
    kernel, buffers = make(*shape, causal=causal, merged=shape[0] == 1)
    kernel = replace(kernel, rounded=True)
    check(kernel, buffers, parts=3, tolerance=1e-2)
    if schedule_attention(kernel, host()).products is not Products.FLOATS and not causal and shape[2] > 8:
        with pytest.raises(AssertionError):
            check(kernel, buffers, tolerance=1e-5)  # it does round


def test_rounded_operands_are_multiplied_as_the_processor_does_it_fastest():
    """Cooper Lake's dot products do no more in a cycle than its multiply-adds."""
    kernel = replace(make(1, 2, 64, 64, 64, 64)[0], rounded=True)
    want = {"znver4": Products.DOTS, "znver5": Products.DOTS, "sapphirerapids": Products.TILES, "cooperlake": Products.FLOATS}
    assert {cpu: schedule_attention(kernel, parse(f"cpu:{cpu}")).products for cpu in want} == want


@pytest.mark.parametrize("stride", [0, 1])
def test_rounded_with_a_mask(stride):
    r = np.random.default_rng(1)
    s, l = 45, 70
    mask = np.where(r.random((l, s if stride else 1)) < 0.3, -np.inf, r.standard_normal((l, s if stride else 1))).astype(np.float32)
    mask[:, 0] = -np.inf if stride else mask[:, 0]  # the first query sees nothing
    kernel, buffers = make(1, 2, s, l, 32, 32, mask=(mask.reshape(-1), (0, 0, mask.shape[1], stride)))
    check(replace(kernel, rounded=True), buffers, parts=2, tolerance=1e-2)


def test_rounded_with_symbolic_sizes():
    n, m = sym("n"), sym("m")
    for rows, keys in ((1, 40), (40, 300), (70, 9)):
        kernel, buffers = make(1, 2, rows, keys, 32, 48, symbols=(1, n, m), merged=False)
        check(replace(kernel, rounded=True), buffers, bindings={"n": rows, "m": keys}, tolerance=1e-2)


@pytest.mark.parametrize("target", TARGETS)
def test_rounding_is_allowed_everywhere(target):
    kernel, buffers = make(1, 2, 40, 70, 32, 32)
    check(replace(kernel, rounded=True), buffers, target, tolerance=1e-2)
