"""float32 products on tile registers: tails, batches, epilogues, units; as exact as float32; infinities and NaN; when they are chosen."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.target import host, parse
from mlc.codegen.cpu.triple.schedule import schedule_triple
from mlc.codegen.expr import Acc, Axis, Call, Load, Num
from mlc.codegen.kernel import ContractKernel, ConvGeometry, Operand
from mlc.codegen.packing import pack_b
from mlc.ir import DType, sym
from running import execute

F = DType.F32
ACC = Acc(dtype=F)
PAD = 64
TILES = parse("cpu:sapphirerapids")
needs_tiles = pytest.mark.skipif("amx-bf16" not in host().features, reason="no tile registers here")


def kernel_of(m, n, k, *, batch=1, lda=None, ldc=None, epilogue=ACC, extra=0, out=F, shared=False) -> ContractKernel:
    """A product with rows of A and C apart by lda and ldc."""
    lda, ldc, panels = lda or k, ldc or n, -(-n // 64) * k * 64
    sizes = [batch * m * lda, panels * (1 if shared else batch), *[extra] * (extra > 0), batch * m * ldc + PAD]
    kinds = [F] * (len(sizes) - 1) + [out]
    operands = tuple(Operand(d, s, x == len(sizes) - 1) for x, (d, s) in enumerate(zip(kinds, sizes, strict=True)))
    return ContractKernel(batch, m, n, k, operands, lda, m * lda, 0 if shared else panels, ldc, m * ldc, epilogue)


def run(kernel, a, w, *extra, parts=1):
    """(result [batch, m, n], Emitted); what lies between rows and behind the last stays as it was."""
    batch, m, n = kernel.batch, kernel.m, kernel.n
    rows = np.full((batch, m, kernel.lda), np.nan, np.float32)
    rows[..., : kernel.k] = a
    out = np.full(batch * m * kernel.ldc + PAD, 7, kernel.operands[-1].dtype.np)
    e = execute(kernel, [rows, pack_b(w, 64), *extra, out], parts=parts)
    found = out[:-PAD].reshape(batch, m, kernel.ldc)
    assert (out[-PAD:] == 7).all() and (found[..., n:] == 7).all()
    return found[..., :n], e


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def error(got, want) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@needs_tiles
@pytest.mark.parametrize(
    ("m", "n", "k", "parts"),
    [(112, 192, 192, 1), (128, 768, 256, 2), (113, 193, 193, 1), (143, 200, 224, 3), (257, 321, 416, 5), (300, 1100, 200, 4),
     (785, 230, 300, 7), (97, 256, 192, 1), (1367, 256, 96, 1), (98, 300, 1100, 3), (270, 1030, 700, 2), (5407, 64, 97, 2), (700, 70, 1060, 3),
     (2100, 200, 530, 2), (1990, 33 * 20, 96, 4), (256, 2000, 1100, 9), (2500, 130, 1100, 11)],
)  # fmt: skip
def test_sizes(m, n, k, parts) -> None:
    """Tails of tiles, strips, steps and blocks of k; units in one call and in several. Errors as small as those of float32."""
    a, w = random(1, m, k), random(1, k, n, seed=1)
    got, e = run(kernel_of(m, n, k), a, w, parts=parts)
    want = a.astype(np.float64) @ w.astype(np.float64)
    assert any("tdpbf16ps" in text for text in e.texts.values())
    assert error(got, want) <= max(3e-7, 1.5 * error(a @ w, want))


@pytest.mark.parametrize(
    ("m", "n", "k", "tiles"), [(1365, 256, 96, False), (1366, 256, 96, True), (200, 112, 672, False), (200, 192, 192, True)]
)
def test_narrow_products_are_of_many_rows(m, n, k, tiles) -> None:
    """What each thread splits for itself must be little of its time."""
    assert (schedule_triple(kernel_of(m, n, k), TILES) is not None) == tiles


@needs_tiles
def test_rows_apart_and_batches() -> None:
    a, w = random(3, 120, 200), random(3, 200, 210, seed=1)
    got, _ = run(kernel_of(120, 210, 200, batch=3, lda=207, ldc=230), a, w, parts=4)
    assert error(got, a.astype(np.float64) @ w) < 3e-7
    got, _ = run(kernel_of(120, 210, 200, batch=3, shared=True), a, w[:1], parts=2)
    assert error(got, a.astype(np.float64) @ w[:1]) < 3e-7


@needs_tiles
@pytest.mark.parametrize(
    ("symbol", "step", "times"), [("N", 130, 1), ("N", 130, 3), ("M", 1, 5), ("M", 1, 106), ("M", 1, 107), ("M", 1, 333)]
)
def test_symbolic_rows(symbol, step, times) -> None:
    """One text for any number of blocks; where rows may be few, it has vectors' code, too, for these."""
    rows = step * times
    a, w, bias = random(rows, 200), random(1, 200, 192, seed=1), random(192, seed=2)
    epilogue = Call("add", (ACC, Load(2, Axis(2), dtype=F)), dtype=F)
    kernel = replace(kernel_of(rows, 192, 200, epilogue=epilogue, extra=192), m=step * sym(symbol, 1, 9999))
    out = np.full(rows * 192 + PAD, 7, np.float32)
    e = execute(kernel, [a, pack_b(w, 64), bias, out], bindings={symbol: times}, parts=2)
    assert (out[-PAD:] == 7).all() and any("5x4" in text for text in e.texts.values()) == (step == 1)
    assert error(out[:-PAD].reshape(-1, 192), a.astype(np.float64) @ w[0] + bias) < 4e-7


@needs_tiles
def test_epilogue() -> None:
    """A bias by columns and a residual in place of the result's memory: it is read before anything is stored."""
    m, n, k = 130, 200, 260
    bias = Load(2, Axis(2), dtype=F)
    both = Call("max", (Call("add", (ACC, bias), dtype=F), Num(0.0, dtype=F)), dtype=F)
    a, w, b = random(1, m, k), random(1, k, n, seed=1), random(n, seed=2)
    got, _ = run(kernel_of(m, n, k, epilogue=both, extra=n), a, w, b)
    assert error(got, np.maximum(a.astype(np.float64) @ w + b, 0)) < 3e-7
    kernel = kernel_of(m, n, k)
    at = Call("add", (Call("mul", (Axis(1), Num(n, dtype=DType.I64)), dtype=DType.I64), Axis(2)), dtype=DType.I64)
    kernel = replace(kernel, epilogue=Call("add", (ACC, Load(2, at, dtype=F)), dtype=F))
    out = random(m * n + PAD, seed=3)
    before = out[:-PAD].reshape(m, n).astype(np.float64)
    execute(kernel, [a, pack_b(w, 64), out])
    assert error(out[:-PAD].reshape(m, n), a[0].astype(np.float64) @ w[0] + before) < 3e-7


@needs_tiles
def test_numbers_of_all_sizes() -> None:
    """Wide exponents, and sums that cancel: each within what float32 itself may lose."""
    r = np.random.default_rng(5)
    m, n, k = 112, 192, 320
    a = (random(1, m, k) * np.exp2(r.integers(-20, 20, (1, m, k)))).astype(np.float32)
    w = (random(1, k, n, seed=1) * np.exp2(r.integers(-20, 20, (1, k, n)))).astype(np.float32)
    got, _ = run(kernel_of(m, n, k), a, w)
    want, bound = a.astype(np.float64) @ w, np.abs(a).astype(np.float64) @ np.abs(w)
    assert (np.abs(got - want) <= 2**-20 * bound).all()
    whole = r.integers(-2048, 2048, (1, m, k)).astype(np.float32)
    ones = r.integers(-1, 2, (1, k, n)).astype(np.float32)
    got, _ = run(kernel_of(m, n, k), whole, ones)
    np.testing.assert_array_equal(got, whole @ ones)  # integers that float32 holds are exact
    zero, _ = run(kernel_of(m, n, k), np.zeros_like(a), w)
    assert not zero.any() and not np.signbit(zero).any()


@needs_tiles
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, np.float32(3.4e38)])
def test_special_values(value) -> None:
    """What multiply-adds give: an infinity times numbers of either sign, infinities that meet, sums that overflow."""
    m, n, k = 150, 256, 200
    a, w = random(1, m, k), random(1, k, n, seed=1)
    a[0, 3, 10], a[0, 149, 199], w[0, 20, 30], w[0, 199, 255] = value, value, value, -value
    a[0, 7], w[0, :, 60] = 0, 1
    got, _ = run(kernel_of(m, n, k), a, w, parts=2)
    with np.errstate(all="ignore"):
        want = a[0].astype(np.float64) @ w[0].astype(np.float64)
        finite = np.isfinite(want) & (np.abs(want) < 3e38)
        np.testing.assert_array_equal(np.isnan(got[0]), np.isnan(want))
        big = np.isinf(want) | (np.abs(want) > 3.5e38)
        np.testing.assert_array_equal(got[0][big], np.sign(want[big]) * np.inf)
    np.testing.assert_allclose(got[0][finite], want[finite], rtol=1e-3, atol=1e-4)


def test_when() -> None:
    good = kernel_of(128, 768, 768)
    s = schedule_triple(good, TILES)
    assert s is not None and not s.rows_pass and s.kept == 128 and s.depth == 768 and s.blocks * s.chunks % 2 == 0
    s = schedule_triple(kernel_of(3136, 64, 2048), TILES)
    assert s is not None and s.rows_pass and s.kept == 64 and s.depth == 1024
    assert schedule_triple(good, parse("cpu:x86-64-v4")) is None and schedule_triple(good, parse("cpu:x86-64-v3")) is None
    for change in (
        {"m": 95}, {"n": 63}, {"k": 95}, {"m": 112, "n": 100}, {"m": sym("M", 1, 95)}, {"panel": 32}, {"b_row": 768}, {"diagonal": 2},
        {"operands": tuple(Operand(DType.F64, o.numel, o.written) for o in good.operands)},
    ):  # fmt: skip
        assert schedule_triple(replace(good, **change), TILES) is None, change
    assert schedule_triple(replace(good, m=197 * sym("N", 1, 99)), TILES) is not None
    conv = ConvGeometry((8, 16), (8, 16), (1, 1), (1, 1), (0, 0), (1, 1))
    assert schedule_triple(replace(good, conv=conv), TILES) is not None
    assert schedule_triple(replace(good, conv=replace(conv, strides=(2, 2))), TILES) is None


@pytest.mark.parametrize(
    ("m", "n", "k"), [(196, 384, 1536), (197, 768, 768), (1024, 1024, 1024), (1500, 384, 1536), (100, 50_000, 9_000), (90_000, 640, 97)]
)
def test_blocks_fit_the_cache(m, n, k) -> None:
    """Rows that fit one block stay together, no block is nearly empty, and parts and waiting sums leave room in the second-level cache."""
    s = schedule_triple(kernel_of(m, n, k), TILES)
    assert s is not None
    stays, blocks = (n, s.chunks) if s.rows_pass else (m, s.blocks)
    assert s.kept * s.depth * 6 <= 704 << 10 and 4 * s.sums <= 704 << 10
    assert blocks == 1 or stays / blocks > 0.75 * s.kept
    assert s.depth >= k or s.sums == s.kept * s.passing * 32


@pytest.mark.parametrize(("m", "n", "k"), [(784, 192, 768), (196, 320, 1280), (300, 352, 256), (160, 1000, 500), (3136, 96, 384)])
def test_threads_have_even_shares(m, n, k) -> None:
    """What passes by is dealt out by single tiles: halves differ by one at most."""
    s = schedule_triple(kernel_of(m, n, k), TILES)
    assert s is not None
    assert s.blocks * s.chunks == (-(-m // 32) * -(-n // s.kept) if s.rows_pass else -(-m // s.kept) * -(-n // 32))


def test_one_text_for_all_sizes() -> None:
    a, b = (emit(kernel_of(*size), TILES) for size in ((128, 768, 768), (112, 256, 320)))
    assert a.ir_text == b.ir_text and emit(kernel_of(128, 768, 770), TILES).ir_text != a.ir_text


def test_epilogues_share_what_multiplies() -> None:
    """Of fixed rows and of unknown ones, which have vectors' code besides: the walk is one text, and whatever is shared is called."""
    epilogues = [ACC, Call("mul", (ACC, Num(0.5, dtype=F)), dtype=F), Call("max", (ACC, Num(0.0, dtype=F)), dtype=F)]
    each = [emit(kernel_of(128, 768, 768, epilogue=e), TILES) for e in epilogues]
    assert len({e.symbol for e in each}) == 3 and len({e.parts for e in each}) == 1
    few = emit(replace(kernel_of(128, 768, 768), m=sym("M", 1, 9999)), TILES)
    assert each[0].texts.items() < few.texts.items() and all(symbol in few.ir_text for symbol in (each[0].symbol, few.parts[0][1]))
