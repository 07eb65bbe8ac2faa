"""Contractions on the CPU against NumPy: shapes with tails, groups, pads, batches, symbolic sizes, epilogues, targets."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu import compile as compiling
from mlc.codegen.cpu.contract.schedule import schedule_contract
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.codegen.expr import Acc, Axis, Call, Cast, DimParam, Load, Num
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import ContractKernel, ConvGeometry, Operand, Planes
from mlc.codegen.packing import last_panel, pack_b, packed_size, unpack_b
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate, prod, sym
from running import TARGETS, close, execute

F = DType.F32
ACC = Acc(dtype=F)
PAD = 64  # guard elements behind every written buffer


def matmul(
    m,
    n,
    k,
    *,
    batch=1,
    target="cpu",
    epilogue=ACC,
    extra=(),
    dims=None,
    bindings=None,
    seed=0,
    dtype=F,
    parts=1,
    rows=False,
    panel=64,
    own_last=False,
):
    r = np.random.default_rng(seed)

    def array(*shape):
        if dtype.is_int:
            return r.integers(-50, 50, shape).astype(dtype.np)
        return r.standard_normal(shape, dtype=np.float32).astype(dtype.np)

    a, b = array(batch, m, k), array(batch, k, n)
    last = last_panel(n, panel) if own_last else 0
    packed = pack_b(b, panel, last=last)
    c = np.full(batch * m * n + PAD, 7, dtype.np)
    dm, dn, dk, db = dims or (m, n, k, batch)
    if rows:  # B where it is, its rows apart
        packed = np.full((batch, k, n + 3), np.nan if dtype.is_float else 9, dtype.np)
        packed[:, :, :n] = b
    operands = (
        Operand(dtype, a.size),
        Operand(dtype, packed.size),
        *(Operand(F, x.size) for x in extra),
        Operand(dtype, c.size, True),
    )
    b_batch = packed_size(dk, dn, panel, last=last)
    kernel = ContractKernel(db, dm, dn, dk, operands, dk, dm * dk, b_batch, dn, dm * dn, epilogue, panel=panel, last=last)
    if rows:
        kernel = replace(kernel, b_batch=dk * (dn + 3), b_row=dn + 3)
    e = execute(kernel, [a, packed, *extra, c], target, bindings, parts)
    assert (c[-PAD:] == 7).all(), "wrote past the end"
    return a.astype(np.float64) @ b.astype(np.float64), c[:-PAD].reshape(batch, m, n), e


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "m,n,k", [(1, 1, 1), (1, 300, 70), (2, 257, 33), (3, 64, 64), (7, 100, 5), (17, 31, 130), (40, 16, 600), (1, 513, 1030)]
)
def test_b_in_place(m, n, k, target):
    """Columns behind a row are NaN: nothing there may take part."""
    want, got, _ = matmul(m, n, k, batch=2, target=target, rows=True, parts=2)
    close(got, want)
    n_, m_ = sym("N", 1, 999), sym("M", 1, 99)
    want, got, _ = matmul(m, n, k, target=target, rows=True, dims=(m_, n_, k, 1), bindings={"N": n, "M": m})
    close(got, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [F, DType.F64, DType.I32], ids=str)
@pytest.mark.parametrize(
    "m, n, k, batch",
    [(1, 4500, 130, 2), (2, 301, 1753, 1), (3, 4500, 64, 1), (3, 4500, 68, 2), (5, 700, 610, 1), (5, 700, 611, 1), (8, 528, 509, 2)],
)
def test_long_rows_of_b_in_place(m, n, k, batch, dtype, target):
    """From end to end, or cut for several threads in the middle of a batch."""
    want, got, e = matmul(m, n, k, batch=batch, target=target, dtype=dtype, epilogue=Acc(dtype=dtype), rows=True, parts=3)
    close(got, want)
    assert e.shared, "kept in strips"
    if dtype is F:
        x = np.random.default_rng(1).standard_normal(n, dtype=np.float32)
        y = Call("max", (Call("add", (ACC, Load(2, Axis(2), dtype=F)), dtype=F), Num(0.5, dtype=F)), dtype=F)
        want, got, _ = matmul(m, n, k, batch=batch, target=target, rows=True, epilogue=y, extra=(x,))
        close(got, np.maximum(want + x, 0.5))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 1), (1, 100, 33), (2, 64, 7), (4, 200, 64), (5, 16, 3), (7, 65, 10), (13, 48, 129), (29, 31, 5),
                (49, 130, 100), (126, 64, 64), (37, 24, 16), (61, 80, 6), (3, 129, 1), (64, 8, 27)],
)  # fmt: skip
def test_matmul_sizes(m, n, k, target):
    want, got, _ = matmul(m, n, k, target=target)
    close(got, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m, n, k", [(5, 70, 9), (13, 90, 40), (30, 110, 33), (64, 80, 64), (183, 67, 20), (301, 99, 8), (64, 80, 2100)])
def test_narrow_last_strip(m, n, k, target):
    """Its register tiles are taller; those of a block of rows cut it with at most a row a tile to spare."""
    want, got, _ = matmul(m, n, k, target=target, parts=3)
    close(got, want)
    s = schedule_contract(ContractKernel(1, m, n, k, (Operand(F, 1),) * 3, k, 0, 0, n, 0, ACC), parse("cpu:x86-64-v4"))
    assert s.lanes * s.vectors == 64 and max(s.tail_tiles) > max(s.tiles) - (m == 5)
    high = max(s.tail_tiles)
    assert -(-s.block // high) * high - s.block <= -(-s.block // high)


@pytest.mark.parametrize("target", ["cpu:x86-64-v4", "cpu:znver4"])
@pytest.mark.parametrize("m, k, batch", [(5, 9, 1), (37, 130, 3), (100, 2050, 1)])
@pytest.mark.parametrize("n, last", [(100, 48), (69, 80), (95, 96), (325, 80), (274, 96), (357, 48), (184, 0), (64, 0)])
def test_the_last_panel_has_its_own_width(n, last, m, k, batch, target):
    """Its strip is narrower, or wider by one or two vectors, also where rows are not known and steps are in pieces."""
    if missing_features(host().triple, parse(target).features):
        pytest.skip("needs AVX-512 with BF16 and VBMI")
    assert last_panel(n, 64) == last
    for dims in (None, (sym("M", 1), n, k, batch)):
        want, got, e = matmul(m, n, k, batch=batch, target=target, parts=3, own_last=True, dims=dims, bindings={"M": m})
        close(got, want)
        assert ("x4(" in e.texts[e.symbol]) == (n != 69 and n != 95)  # no tiles of whole strips that are not there


def test_packing_a_last_panel_of_its_own_goes_both_ways():
    b = np.random.default_rng(0).standard_normal((2, 7, 150), dtype=np.float32)
    packed = pack_b(b, 64, last=last_panel(150, 64))
    one = packed_size(7, 150, 64, last=96)
    assert packed.size == 2 * one == 2 * 7 * 160
    for x, y in zip(b, packed.reshape(2, one), strict=True):
        np.testing.assert_array_equal(unpack_b(y, 7, 150, 64, last=96), x)


@pytest.mark.parametrize(
    "m, n, k, blocks",
    [(47, 32, 2208, 2), (30, 20, 2000, 2), (20, 64, 1500, 2), (13, 16, 200, 1), (6, 64, 4000, 1), (64, 64, 64, 2), (56, 64, 64, 1)],
)
def test_a_single_strip_of_few_rows_is_halved(m, n, k, blocks):
    kernel = ContractKernel(1, m, n, k, (Operand(F, 1),) * 3, k, 0, 0, n, 0, ACC)
    s = schedule_contract(kernel, parse("cpu:x86-64-v4"))
    assert (s.blocks, s.whole_blocks) == (blocks, 1)
    want, got, _ = matmul(m, n, k, target="cpu:x86-64-v4", parts=2)
    close(got, want)


@pytest.mark.parametrize(
    "m, n, k, rows", [(1500, 1500, 64, 48), (2000, 512, 128, 96), (1500, 1500, 300, 120), (300, 1500, 64, 126), (2000, 64, 64, 252)]
)
def test_units_store_to_few_pages(m, n, k, rows):
    """Where C is large and sums are short; else units have the rows that suit A and B."""
    kernel = ContractKernel(1, m, n, k, (Operand(F, m * k), Operand(F, n * k), Operand(F, m * n, True)), k, 0, 0, n, 0, ACC)
    s = schedule_contract(kernel, parse("cpu:x86-64-v4"))
    assert s.whole_block <= rows if rows in (48, 96) else s.whole_block >= rows, s
    symbolic = schedule_contract(replace(kernel, m=sym("M", 1)), parse("cpu:x86-64-v4"))
    blocks = [evaluate(symbolic.whole_block, {"M": size}) for size in (1, 47, 95, 1000, m)]
    assert rows not in (48, 96) or max(blocks) <= rows, blocks
    want, got, _ = matmul(m // 4, n, k, target="cpu:x86-64-v4", parts=3, dims=(sym("M", 1), n, k, 1), bindings={"M": m // 4})
    close(got, want)


@pytest.mark.parametrize("m, n, k", [(1, 48, 7), (9, 33, 20), (50, 40, 100), (77, 48, 31)])
def test_strips_of_three_vectors(m, n, k):
    want, got, _ = matmul(m, n, k, target="cpu:x86-64-v4", panel=48, parts=2)
    close(got, want)


@pytest.mark.parametrize("k", [40, 64, 2048])
def test_what_the_epilogue_waits_for_is_asked_for(k):
    """A line of C, and of an operand that has such rows, for each vector of a register tile; a bias stays in the cache. A row at a time
    where the steps of k (of which 2048 are in pieces) are many, with a line of each of the rows of A that follow."""
    m, n = 100, 64
    bias, more = (np.random.default_rng(x).standard_normal(x, dtype=np.float32) for x in (n, m * n))
    row = Call("add", (Call("mul", (Axis(1), Num(n, dtype=DType.I64)), dtype=DType.I64), Axis(2)), dtype=DType.I64)
    both = Call("add", (Load(2, Axis(2), dtype=F), Load(3, row, dtype=F)), dtype=F)
    want, got, e = matmul(m, n, k, epilogue=Call("add", (ACC, both), dtype=F), extra=(bias, more), target="cpu:x86-64-v4")
    close(got, want + bias + more.reshape(m, n))
    asked = re.findall(r"call void @llvm.prefetch.p0\(ptr [^,]+, i32 ([01]), i32 3,", e.texts[e.symbol])
    assert asked.count("1") == asked.count("0") == 4 * (6 + 5 if k == 40 else 2)


@pytest.mark.parametrize(("cpu", "asks"), [("znver4", False), ("x86-64-v4", True)])
def test_one_register_tile_leaves_memory_to_streams_of_the_hardware(cpu, asks):
    m, n, k = 5, 512, 512
    kernel = ContractKernel(1, m, n, k, (Operand(F, m * k), Operand(F, n * k), Operand(F, m * n, True)), k, 0, 0, n, 0, ACC)
    assert schedule_contract(kernel, parse(f"cpu:{cpu}")).prefetch is asks


def test_zen_keeps_sums_in_registers():
    """LLVM's own model of it moves loads of later steps ahead, and a good part of the 24 sums to the stack."""
    row = Call("add", (Call("mul", (Axis(1), Num(32, dtype=DType.I64)), dtype=DType.I64), Axis(2)), dtype=DType.I64)
    more = np.ones(600 * 32, np.float32)
    e = matmul(600, 32, 256, epilogue=Call("add", (ACC, Load(2, row, dtype=F)), dtype=F), extra=(more,), target="cpu:x86-64-v4", panel=32)[
        2
    ]
    zen, other = (len(compiling._compile(e.texts[e.symbol], parse(f"cpu:{name}"))) for name in ("znver4", "x86-64-v4"))
    assert zen < 1.02 * other  # 1.08 with what goes to the stack and back


@pytest.mark.skipif(bool(missing_features(host().triple, parse("cpu:znver4").features)), reason="needs AVX-512 with BF16 and VBMI")
@pytest.mark.parametrize("n", [5, 8, 24, 40, 120, 25])
def test_half_of_a_last_vector(n):
    """Where it has no more columns, and multiply-adds of half a register take half the time: with k in pieces, too."""
    for m, k in ((61, 33), (200, 2049)):
        kernel = ContractKernel(1, m, n, k, (Operand(F, m * k), Operand(F, n * k), Operand(F, m * n, True)), k, 0, 0, n, 0, ACC)
        schedule = schedule_contract(kernel, parse("cpu:znver4"))
        assert schedule.half == (n != 25)
        if schedule.half and schedule.tail == 2:  # sums of taller ones would not stay in registers
            assert schedule.tail_tiles == (8, 7)
        assert not schedule_contract(kernel, parse("cpu:x86-64-v4")).half
        bias = np.arange(n, dtype=np.float32)
        add = Call("add", (ACC, Load(2, Axis(2), dtype=F)), dtype=F)
        want, got, _ = matmul(m, n, k, target="cpu:znver4", parts=2, epilogue=add, extra=(bias,))
        close(got, want + bias)


@pytest.mark.parametrize("m, n, k", [(8, 16, 16), (61, 24, 96), (200, 144, 24), (15, 65, 1)])
def test_one_vector_of_short_sums(m, n, k):
    """Where one multiply-add a cycle is all there is; not of few rows, whose sums would wait for each other."""
    for target, rows, vectors in (("cpu:znver4", m, 1), ("cpu:znver4", 7, 4), ("cpu:x86-64-v4", m, 4), ("cpu:sapphirerapids", m, 4)):
        kernel = ContractKernel(1, rows, 70, k, (Operand(F, m * k), Operand(F, 70 * k), Operand(F, m * 70, True)), k, 0, 0, 70, 0, ACC)
        assert schedule_contract(kernel, parse(target)).vectors == vectors
    bias = np.arange(n, dtype=np.float32)
    want, got, _ = matmul(
        m, n, k, target="cpu:znver4", parts=2, epilogue=Call("add", (ACC, Load(2, Axis(2), dtype=F)), dtype=F), extra=(bias,)
    )
    close(got, want + bias)


def test_tall_and_deep():
    for m, n, k in [(700, 70, 40), (50, 70, 4100), (8, 129, 2049), (3136, 24, 16)]:
        want, got, _ = matmul(m, n, k, parts=3)
        close(got, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "n", "k"), [(196, 180, 60), (100, 300, 64), (131, 70, 1100)])
def test_threads_have_halves_of_the_rows(m, n, k, target):
    """Several calls cut the rows otherwise than one for everything; both give the same, and so does any number of rows."""
    for dims, bindings in ((None, None), ((sym("M", 0, 4096), n, k, 1), {"M": m})):
        want, got, e = matmul(m, n, k, target=target, dims=dims, bindings=bindings)
        close(got, want)
        units = evaluate(e.units, bindings or {})
        for parts in (2, 5, units):
            want, got, _ = matmul(m, n, k, target=target, dims=dims, bindings=bindings, parts=parts)
            close(got, want)


def test_an_even_number_of_row_blocks():
    def schedule(m, n, k):
        kernel = ContractKernel(
            1, m, n, k, (Operand(F, m * k), Operand(F, -(-n // 64) * 64 * k), Operand(F, m * n, True)), k, 0, 0, n, 0, ACC
        )
        return schedule_contract(kernel, parse("cpu:x86-64-v4"))

    for m, n, k in ((784, 192, 32), (3136, 144, 24), (200, 64, 512)):  # B is small
        s = schedule(m, n, k)
        assert s.blocks % 2 == 0 and s.blocks >= s.whole_blocks and s.block * s.blocks >= m
    for m, n, k in ((64, 1024, 1024), (16, 256, 4096), (40, 64, 64)):  # B is large beside the rows, or there is little to do
        s = schedule(m, n, k)
        assert (s.block, s.blocks) == (s.whole_block, s.whole_blocks)
    assert schedule(49, 320, 960).blocks == 2  # five strips, which two threads could not share evenly
    assert schedule(36, 320, 960).blocks == 1 and schedule(36, 192, 768).blocks == 2  # three are still more uneven
    assert schedule(24, 192, 768).blocks == schedule(36, 192, 4096).blocks == 1 and schedule(0, 192, 768).blocks == 0
    assert schedule(49, 960, 160).block == 25  # nearly a half, as whole register tiles would not be: 30 and 19
    m = sym("M", 0, 100_000)
    s = schedule(m, 768, 768)
    for rows, blocks in ((0, 0), (1, 1), (8, 1), (64, 1), (128, 2), (300, 2), (1000, 4)):
        assert evaluate(s.blocks, {"M": rows}) == blocks
        assert blocks == 0 or evaluate(s.block, {"M": rows}) * blocks >= rows


@pytest.mark.parametrize("m", [1, 2, 6, 11, 30, 41])
def test_symbolic(m):
    B, M, N, K = (sym(s) for s in "BMNK")
    for n, k in [(70, 9), (64, 64)]:
        want, got, e = matmul(m, n, k, batch=3, dims=(M, N, K, B), bindings={"B": 3, "M": m, "N": n, "K": k}, parts=2)
        close(got, want)
    assert M in e.dims and evaluate(e.flops, {"B": 3, "M": m, "N": n, "K": k}) == 2 * 3 * m * n * k


@pytest.mark.parametrize("m, n, k", [(0, 5, 6), (5, 0, 6), (5, 6, 0)])
def test_empty(m, n, k):
    B, M, N, K = (sym(s) for s in "BMNK")
    for dims in (None, (M, N, K, B)):
        want, got, _ = matmul(m, n, k, dims=dims, bindings={"B": 1, "M": m, "N": n, "K": k})
        assert np.array_equal(want, got)


def test_subnormals_cost_nothing():
    """They count as zero, and the caller's mode is back afterwards."""
    tiny = np.float32(1e-40)
    a, c = np.full((6, 8), tiny), np.full(6 * 16, 7, np.float32)
    kernel = ContractKernel(1, 6, 16, 8, (Operand(F, 48), Operand(F, 512), Operand(F, 96, True)), 8, 0, 0, 16, 0, ACC)
    execute(kernel, [a, pack_b(np.full((8, 16), np.float32(1e30)), 64), c])
    assert (c == 0).all() and tiny * np.float32(1) == tiny


def test_equal_text_for_other_sizes():
    assert matmul(126, 64, 64)[2].symbol == matmul(120, 128, 96)[2].symbol


def test_equal_text_for_other_numbers_of_tiles_that_prefetch():
    few, many = (matmul(m, 64, 64, target="cpu:x86-64-v4")[2] for m in (40, 500))
    assert few.symbol == many.symbol and few.dims != many.dims


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue(target):
    m, n, k, batch = 23, 75, 12, 2
    r = np.random.default_rng(1)
    bias, residual, scale = (r.standard_normal(s, dtype=np.float32) for s in ((n,), (batch, m, n), (batch, m)))
    row = Call("add", (Call("mul", (Axis(0), DimParam(m))), Axis(1)))
    at = Call("add", (Call("mul", (row, Num(n))), Axis(2)))
    t = Call("add", (ACC, Load(2, Axis(2), dtype=F)), dtype=F)
    t = Call("max", (t, Num(0.0, dtype=F)), dtype=F)
    t = Call("add", (Call("mul", (t, Load(4, row, dtype=F)), dtype=F), Load(3, at, dtype=F)), dtype=F)
    odd = Call("eq", (Call("mod", (Axis(2), Num(2))), Num(1)), dtype=DType.BOOL)
    t = Call("select", (odd, t, Call("tanh", (t,), dtype=F)), dtype=F)
    want, got, _ = matmul(m, n, k, batch=batch, epilogue=t, extra=(bias, residual, scale), target=target)
    want = np.maximum(want + bias, 0) * scale[..., None] + residual
    close(got, np.where(np.arange(n) % 2 == 1, want, np.tanh(want)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m", [21, 63])
def test_epilogue_per_group_of_rows(m, target):
    """What rows of an image or sequence have in common, and what each of them repeats."""
    rows, n, k = 7, 75, 12
    r = np.random.default_rng(2)
    each, again = r.standard_normal((m // rows, n), dtype=np.float32), r.standard_normal((rows, n), dtype=np.float32)
    image, step = (Call(fn, (Axis(1), Num(rows))) for fn in ("div", "mod"))
    t = ACC
    for operand, at in ((2, image), (3, step)):
        t = Call("add", (t, Load(operand, Call("add", (Call("mul", (at, Num(n))), Axis(2))), dtype=F)), dtype=F)
    want, got, _ = matmul(m, n, k, epilogue=t, extra=(each, again), target=target)
    close(got, want + np.repeat(each, rows, 0) + np.tile(again, (m // rows, 1)))


def test_epilogue_needs_columns():
    with pytest.raises(CodegenError, match="column"):
        matmul(8, 8, 8, epilogue=Load(2, Call("mul", (Axis(2), Num(3))), dtype=F), extra=(np.zeros(64, np.float32),))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [DType.F64, DType.I32, DType.F16, DType.BF16])
def test_dtypes(dtype, target):
    want, got, _ = matmul(19, 70, 21, dtype=dtype, epilogue=Acc(dtype=dtype), target=target)
    close(got, want, {DType.F16: 1e-3, DType.BF16: 8e-3}.get(dtype, 1e-6))


def test_mixed_output():
    want, got, _ = matmul(9, 40, 8, dtype=DType.F64, epilogue=Cast(Cast(Acc(dtype=DType.F64), dtype=F), dtype=DType.F64))
    close(got, want, 1e-6)


def test_unknown_dtype():
    with pytest.raises(CodegenError):
        matmul(4, 4, 4, dtype=DType.I8, epilogue=Acc(dtype=DType.I8))


def conv(
    n, spatial, c, o, kernel, strides, lo, hi, dilations, groups=1, target="cpu", symbolic=False, planes=False, panel=64, own_last=False
):
    r = np.random.default_rng(2)
    rank = len(spatial)
    cg, og = c // groups, o // groups
    x = r.standard_normal((n, *spatial, c), dtype=np.float32)
    w = r.standard_normal((*kernel, cg, o), dtype=np.float32)
    out = tuple(
        (s + a + b - d * (k - 1) - 1) // t + 1 for s, k, t, a, b, d in zip(spatial, kernel, strides, lo, hi, dilations, strict=True)
    )
    padded = np.pad(x, ((0, 0), *zip(lo, hi, strict=True), (0, 0))).astype(np.float64)
    want = np.zeros((n, *out, o))
    for tap in itertools.product(*map(range, kernel)):
        cut = tuple(slice(t * d, t * d + (e - 1) * s + 1, s) for t, d, e, s in zip(tap, dilations, out, strides, strict=True))
        for g in range(groups):
            want[..., g * og : (g + 1) * og] += padded[(slice(None), *cut, slice(g * cg, (g + 1) * cg))] @ w[tap][:, g * og : (g + 1) * og]
    k = cg * int(np.prod(kernel))
    last = last_panel(og, panel) if own_last else 0
    packed = pack_b(np.moveaxis(w.reshape(k, groups, og), 1, 0), panel, last=last)
    gap = 5 if planes else 0  # between images, as in a concatenation
    y = np.full(want.size + gap * n + PAD, 7, np.float32)
    N, S = (sym("N"), tuple(sym(f"S{i}") for i in range(rank))) if symbolic else (n, spatial)
    O = tuple((s + a + b - d * (q - 1) - 1) // t + 1 for s, q, t, a, b, d in zip(S, kernel, strides, lo, hi, dilations, strict=True))
    m = N
    for d in O:
        m = m * d
    operands = (Operand(F, x.size), Operand(F, packed.size), Operand(F, y.size, True))
    geometry = ConvGeometry(S, O, kernel, strides, lo, dilations)
    b_batch = packed_size(k, og, panel, last=last)
    kernel_ = ContractKernel(groups, m, og, k, operands, c, cg, b_batch, o, og, ACC, geometry, panel=panel, last=last)
    bindings = {"N": n, **{f"S{i}": s for i, s in enumerate(spatial)}}
    if planes:
        kernel_ = replace(kernel_, ldc=0, c_batch=0, planes=Planes(pixels := prod(O), pixels, o * pixels + gap))
        slow = y.copy()
        run_kernel(kernel_, [x.reshape(-1), packed.reshape(-1), slow], bindings)
        execute(kernel_, [x, packed, y], target, bindings, parts=2)
        for got in (slow, y):
            assert (got[-PAD:] == 7).all(), "wrote past the end"
            images = got[:-PAD].reshape(n, -1)
            assert (images[:, images.shape[1] - gap :] == 7).all(), "wrote between images"
            close(np.moveaxis(images[:, : images.shape[1] - gap].reshape(n, o, *out), 1, -1), want)
        return
    execute(kernel_, [x, packed, y], target, bindings, parts=2)
    assert (y[-PAD:] == 7).all(), "wrote past the end"
    close(y[:-PAD].reshape(want.shape), want)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("groups, og", [(1, 100), (1, 82), (2, 70)])
@pytest.mark.parametrize("c, kernel", [(32, 3), (3, 7), (40, 1)])
def test_the_last_panel_of_a_convolution_has_its_own_width(c, kernel, groups, og, planes):
    conv(
        2, (9, 8), c * groups, og * groups, (kernel, kernel), (1, 1), (kernel // 2,) * 2, (kernel // 2,) * 2, (1, 1), groups,
        target="cpu:x86-64-v4", planes=planes, own_last=True,
    )  # fmt: skip


CONVS = {
    "3x3": (2, (9, 7), 32, 70, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "stride": (1, (11, 12), 24, 64, (3, 3), (2, 2), (0, 1), (1, 1), (1, 1)),
    "dilated": (1, (12, 10), 26, 40, (3, 2), (1, 2), (2, 2), (2, 2), (2, 3)),
    "taps outside": (1, (9, 21), 26, 40, (3, 3), (1, 1), (18, 18), (18, 18), (18, 18)),
    "taps outside of few channels": (1, (4, 37), 3, 16, (5, 3), (1, 1), (8, 1), (8, 1), (4, 1)),
    "long lines": (1, (3, 50), 16, 24, (3, 3), (1, 3), (1, 1), (1, 1), (1, 1)),
    "1x1": (2, (5, 6), 40, 33, (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    "1x1 stride": (1, (9, 9), 40, 64, (1, 1), (2, 2), (0, 0), (0, 0), (1, 1)),
    "first": (2, (20, 23), 3, 64, (7, 7), (2, 2), (3, 3), (3, 3), (1, 1)),
    "first odd": (1, (8, 9), 1, 20, (5, 4), (1, 3), (2, 1), (2, 2), (2, 1)),
    "all border": (2, (3, 2), 3, 33, (3, 5), (1, 1), (1, 2), (1, 2), (1, 1)),
    "1d": (3, (30,), 80, 96, (3,), (2,), (1,), (1,), (1,)),
    "1d narrow": (1, (40,), 5, 48, (9,), (4,), (4,), (4,), (1,)),
    "3d": (1, (4, 6, 5), 26, 17, (2, 3, 3), (1, 1, 2), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    "3d narrow": (2, (4, 5, 6), 2, 16, (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "groups": (1, (8, 8), 48, 96, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 3),
    "1x1 groups": (2, (3, 4), 32, 64, (1, 1), (1, 1), (0, 0), (0, 0), (1, 1), 2),
    "deep": (1, (4, 4), 512, 64, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", CONVS)
def test_conv(name):
    conv(*CONVS[name])


@pytest.mark.parametrize("name", ["3x3", "first", "groups", "deep"])
@pytest.mark.parametrize("target", TARGETS[1:])
def test_conv_targets(name, target):
    conv(*CONVS[name], target=target)


@pytest.mark.parametrize("name", ["3x3", "1x1", "first", "1d"])
def test_conv_symbolic(name):
    conv(*CONVS[name], symbolic=True)


@pytest.mark.parametrize("name", CONVS)
def test_planes(name):
    conv(*CONVS[name], planes=True)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_planes_targets(target):
    conv(*CONVS["3x3"], target=target, planes=True)
    conv(*CONVS["groups"], target=target, planes=True, symbolic=True)


def test_planes_of_other_types():
    with pytest.raises(CodegenError, match="planes"):
        a, b, c = np.zeros(8, np.float16), np.zeros(64, np.float16), np.zeros(8, np.float16)
        operands = tuple(Operand(DType.F16, x.size, x is c) for x in (a, b, c))
        execute(ContractKernel(1, 8, 1, 1, operands, 1, 0, 0, 0, 0, Acc(dtype=DType.F16), planes=Planes(8, 8, 8)), [a, b, c])


def test_text_depends_on_epilogue_constants():
    low, high = (Call("min", (ACC, Num(v, dtype=F)), dtype=F) for v in (0.5, 6.0))
    for limit, epilogue in ((0.5, low), (6.0, high)):
        want, got, _ = matmul(7, 20, 8, epilogue=epilogue)
        close(got, np.minimum(want, limit))


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "groups, channels, taps, stride", [(2, 16, (3, 3), 1), (4, 5, (3, 2), 2), (7, 16, (3, 3), 2), (9, 24, (2, 3), 1), (4, 70, (5, 7), 1)]
)
def test_groups_of_a_vector(groups, channels, taps, stride, target, planes):
    """Two or three of them are side by side in a register tile, the last one may be alone; taps are outside of the image."""
    where = (stride, 1), (1, 2), (1, 1), (1, 1)
    conv(2, (7, 9), groups * channels, groups * 16, taps, *where, groups=groups, target=target, planes=planes, panel=16)


@pytest.mark.parametrize("axis, abreast", [(2, 2), (0, 1)])
def test_epilogues_of_groups_side_by_side(axis, abreast):
    """What is read along the columns of all groups goes on into the next one; a number of a group does not."""
    r = np.random.default_rng(6)
    groups, each, h, w = 4, 16, 5, 6
    x, bias = r.standard_normal((h, w, groups * each), dtype=np.float32), r.standard_normal(groups * each, dtype=np.float32)
    weights = r.standard_normal((groups, 2 * each, each), dtype=np.float32)
    taps = np.stack([x[:, :-1], x[:, 1:]], 2).astype(np.float64).reshape(h, w - 1, 2, groups, each)
    want = np.einsum("hwtgk,gtko->hwgo", taps, weights.reshape(groups, 2, each, each))
    want = want + (bias.reshape(groups, each) if axis == 2 else bias[:groups, None])
    column = Call("add", (Call("mul", (Axis(0), Num(each))), Axis(2))) if axis == 2 else Axis(0)
    epilogue = Call("add", (ACC, Load(2, column, dtype=F)), dtype=F)
    y = np.full(want.size + PAD, 7, np.float32)
    packed = pack_b(weights, 16)
    operands = (Operand(F, x.size), Operand(F, packed.size), Operand(F, bias.size), Operand(F, y.size, True))
    geometry = ConvGeometry((h, w), (h, w - 1), (1, 2), (1, 1), (0, 0), (1, 1))
    kernel = ContractKernel(groups, h * (w - 1), each, 2 * each, operands, groups * each, each, 2 * each * 16, groups * each, each,
                            epilogue, geometry, panel=16)  # fmt: skip
    assert schedule_contract(kernel, parse("cpu:x86-64-v4")).abreast == abreast
    for target in TARGETS:
        y[:] = 7
        execute(kernel, [x, packed, bias, y], target, parts=2)
        assert (y[-PAD:] == 7).all(), "wrote past the end"
        close(y[:-PAD].reshape(want.shape), want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("inputs, outputs, blocks, batch", [(4, 4, 4, 2), (8, 8, 2, 3), (1, 2, 8, 1), (3, 5, 3, 2), (2, 1, 16, 1)])
def test_block_diagonal(inputs, outputs, blocks, batch, target):
    """Groups of few channels, of which `blocks` make one product."""
    r = np.random.default_rng(4)
    groups, h, w = blocks * batch, 7, 9
    x = r.standard_normal((2, h, w, groups * inputs), dtype=np.float32)
    weights = r.standard_normal((9 * inputs, batch, blocks * outputs), dtype=np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    want = np.zeros((2, h, w, groups * outputs))
    for tap, g in itertools.product(range(9), range(groups)):
        seen = padded[:, tap // 3 : tap // 3 + h, tap % 3 : tap % 3 + w, g * inputs : (g + 1) * inputs]
        part = weights[tap * inputs : (tap + 1) * inputs].reshape(inputs, groups, outputs)[:, g]
        want[..., g * outputs : (g + 1) * outputs] = want[..., g * outputs : (g + 1) * outputs] + seen @ part
    n = blocks * outputs
    packed = pack_b(np.moveaxis(weights, 1, 0), 16)
    y = np.full(want.size + PAD, 7, np.float32)
    operands = (Operand(F, x.size), Operand(F, packed.size), Operand(F, y.size, True))
    geometry = ConvGeometry((h, w), (h, w), (3, 3), (1, 1), (1, 1), (1, 1))
    k = 9 * inputs * blocks
    kernel = ContractKernel(batch, 2 * h * w, n, k, operands, groups * inputs, inputs * blocks, 9 * inputs * 16, groups * outputs, n,
                            ACC, geometry, panel=16, diagonal=blocks)  # fmt: skip
    slow = y.copy()
    run_kernel(kernel, [x.reshape(-1), packed, slow])
    execute(kernel, [x, packed, y], target, parts=2)
    assert (y[-PAD:] == 7).all(), "wrote past the end"
    close(slow[:-PAD].reshape(want.shape), want)
    close(y[:-PAD].reshape(want.shape), want)


@pytest.mark.parametrize("target", TARGETS)
def test_groups_share_the_image_by_rows(target):
    """Threads have halves of the image, whose pixels hold the channels of all groups; one call has it whole."""
    r = np.random.default_rng(5)
    groups, each, h, w = 4, 16, 13, 11
    x = r.standard_normal((2, h, w, groups * each), dtype=np.float32)
    weights = r.standard_normal((groups, 9 * each, each), dtype=np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64).reshape(2, h + 2, w + 2, groups, each)
    taps = np.stack([padded[:, t // 3 : t // 3 + h, t % 3 : t % 3 + w] for t in range(9)], -2)
    want = np.einsum("bhwgk,gko->bhwgo", taps.reshape(2, h, w, groups, 9 * each), weights)
    packed = pack_b(weights, 16)
    y = np.full(want.size + PAD, 7, np.float32)
    operands = (Operand(F, x.size), Operand(F, packed.size), Operand(F, y.size, True))
    geometry = ConvGeometry((h, w), (h, w), (3, 3), (1, 1), (1, 1), (1, 1))
    kernel = ContractKernel(groups, 2 * h * w, each, 9 * each, operands, groups * each, each, 9 * each * 16, groups * each, each,
                            ACC, geometry, panel=16)  # fmt: skip
    s = schedule_contract(kernel, parse("cpu:x86-64-v4"))
    assert (s.block, s.blocks, s.whole_blocks) == (h * w, 2, 1)
    for parts in (1, 2):
        execute(kernel, [x, packed, y], target, parts=parts)
        assert (y[-PAD:] == 7).all(), "wrote past the end"
        close(y[:-PAD].reshape(want.shape), want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(2, 330, 500), (3, 512, 300), (4, 200, 700), (9, 100, 520), (33, 70, 260), (130, 64, 1030), (259, 80, 600)]
)
def test_blocks_of_k(m, n, k, target):
    """Partial sums rest between blocks; few rows have short ones, and B prefetched where it is large."""
    want, got, _ = matmul(m, n, k, target=target, parts=2)
    close(got, want)


def test_what_few_rows_get():
    def schedule(m, n, k):
        kernel = ContractKernel(1, m, n, k, (Operand(F, 1),) * 3, k, 0, 0, n, 0, ACC)
        return schedule_contract(kernel, parse("cpu:x86-64-v4"))

    assert [schedule(m, 1024, 1024).prefetch for m in (1, 2, 4, 9)] == [False, True, True, True]
    assert not schedule(3, 256, 256).prefetch  # B stays in the cache
    assert schedule(33, 1024, 1024).k_block == 128 and not schedule(33, 1024, 200).split
    assert schedule(130, 1024, 1024).k_block == 512 and not schedule(1, 1024, 1024).split
