"""Minimal filtering: its matrices, and the emitted kernel against the interpreter and the direct sum."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.target import parse
from mlc.codegen.cpu.winograd.emit import emit_winograd
from mlc.codegen.cpu.winograd.schedule import _units, schedule_winograd
from mlc.codegen.expr import Acc, Axis, Call, Load, Num
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import ConvGeometry, Operand, WinogradKernel
from mlc.codegen.lower.winograd import packed_weights
from mlc.codegen.winograd import filtering, outputs
from mlc.ir import DType, sym
from running import TARGETS, close, execute

F = DType.F32
ACC = Acc(dtype=F)
PAD = 64


@pytest.mark.parametrize("m, r", [(m, r) for r in range(1, 7) for m in outputs(r)])
def test_filtering(m, r):
    f = filtering(m, r)
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(f.n), rng.standard_normal(r)
    want = [d[i : i + r] @ g for i in range(m)]
    np.testing.assert_allclose(f.a @ ((f.g @ g) * (f.b @ d)), want, rtol=1e-12, atol=1e-12)
    for exact in (f.a, f.b):
        np.testing.assert_array_equal(exact, exact.astype(np.float32))


def conv(
    images, spatial, c, o, kernel, tile, lo=1, hi=1, dilations=1, *, target="cpu", symbolic=False, wide=0, parts=1, epilogue=None, groups=1
):
    """x is a slice of `wide` more channels. Compares with the interpreter and with the sum over taps in float64."""
    lo, hi, dilations = ((v,) * len(spatial) if isinstance(v, int) else v for v in (lo, hi, dilations))
    missing = 3 - len(spatial)
    spatial, kernel, tile, dilations = ((*[1] * missing, *v) for v in (spatial, kernel, tile, dilations))
    lo, hi = ((*[0] * missing, *v) for v in (lo, hi))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((images, *spatial, c + wide), dtype=np.float32)
    w = rng.standard_normal((*kernel, c // groups, o), dtype=np.float32)
    out = tuple(s + a + b - (k - 1) * d for s, a, b, k, d in zip(spatial, lo, hi, kernel, dilations, strict=True))
    padded = np.pad(x[..., :c], ((0, 0), *zip(lo, hi, strict=True), (0, 0))).astype(np.float64)
    want = np.zeros((images, *out, o))
    for tap in itertools.product(*map(range, kernel)):
        at = tuple(slice(t * d, t * d + n) for t, d, n in zip(tap, dilations, out, strict=True))
        for g in range(groups):
            inputs, results = slice(g * c // groups, (g + 1) * c // groups), slice(g * o // groups, (g + 1) * o // groups)
            want[..., results] += padded[(slice(None), *at, inputs)] @ w[tap][:, results]
    packed = np.asarray(packed_weights(w, tile, 64, groups))
    names = {"N": images, "D": spatial[0], "H": spatial[1], "W": spatial[2]}
    n, *size = (sym(s) if v != 1 else v for s, v in names.items()) if symbolic else names.values()
    out_size = tuple(s + a + b - (k - 1) * d for s, a, b, k, d in zip(size, lo, hi, kernel, dilations, strict=True))
    bias, residual = rng.standard_normal(o, dtype=np.float32), rng.standard_normal(want.size, dtype=np.float32)
    arrays = [x.reshape(-1), packed]
    body = ACC
    if epilogue:
        arrays += [bias, residual]
        column = Call("add", (Call("mul", (Axis(0), Num(o // groups))), Axis(2)))
        at = Call("add", (Call("mul", (Axis(1), Num(o))), column))
        body = Call("add", (Call("add", (ACC, Load(2, column, dtype=F)), dtype=F), Load(3, at, dtype=F)), dtype=F)
        body = Call("max", (body, Num(0.0, dtype=F)), dtype=F)
        want = np.maximum(want + bias + residual.reshape(want.shape), 0)
    y = np.full(want.size + PAD, 7, np.float32)
    operands = (*(Operand(F, a.size) for a in arrays), Operand(F, y.size, True))
    geometry = ConvGeometry(tuple(size), out_size, kernel, (1, 1, 1), lo, dilations)
    k = WinogradKernel(n, o // groups, c // groups, operands, c + wide, o, body, geometry, tile, groups=groups)
    slow = y.copy()
    run_kernel(k, [*arrays, slow], names)
    close(slow[:-PAD].reshape(want.shape), want)
    execute(k, [*arrays, y], target, names, parts)
    assert (y[-PAD:] == 7).all(), "wrote past the end"
    close(y[:-PAD].reshape(want.shape), want)


CASES = {
    "3x3": (2, (9, 13), 32, 64, (3, 3), (4, 4)),
    "2x2 tiles": (1, (11, 8), 64, 70, (3, 3), (2, 2)),
    "mixed tiles": (1, (7, 10), 16, 16, (3, 3), (2, 4)),
    "odd channels": (1, (6, 5), 17, 3, (3, 3), (4, 4)),
    "tail strip": (1, (14, 14), 130, 96, (3, 3), (4, 4)),
    "many strips": (3, (4, 4), 20, 300, (3, 3), (4, 4)),
    "smaller than a tile": (2, (2, 1), 5, 33, (3, 3), (4, 4)),
    "half of a vector": (1, (9, 10), 24, 40, (3, 3), (4, 4)),
    "half of a vector behind a strip": (1, (6, 7), 36, 72, (3, 3), (2, 2)),
    "three vectors": (1, (9, 9), 16, 48, (3, 3), (4, 4)),
    "row": (2, (1, 21), 24, 40, (1, 3), (1, 4), (0, 1), (0, 1)),
    "column": (1, (21, 5), 24, 40, (3, 1), (4, 1), (1, 0), (1, 0)),
    "5x5": (1, (9, 9), 16, 32, (5, 5), (2, 2), (2, 2), (2, 2)),
    "2x2": (1, (9, 9), 16, 32, (2, 2), (3, 3), (0, 1), (1, 0)),
    "uneven pads": (1, (9, 9), 16, 32, (3, 3), (4, 4), (0, 2), (2, 1)),
    "no pads": (1, (12, 12), 16, 32, (3, 3), (4, 4), (0, 0), (0, 0)),
    "dilated": (2, (9, 14), 20, 40, (3, 3), (4, 2), (2, 3), (2, 3), (2, 3)),
    "dilated beyond the image": (1, (5, 7), 16, 16, (3, 3), (2, 2), 6, 6, 6),
    "dilated row": (1, (50,), 24, 40, (5,), (2,), 0, 16, 4),
    "3x3x3": (2, (5, 6, 9), 20, 40, (3, 3, 3), (2, 4, 4)),
    "3x3x3, small tiles": (1, (3, 5, 4), 33, 130, (3, 3, 3), (2, 2, 2), (0, 1, 2), (2, 1, 0)),
    "planes": (1, (3, 6, 5), 16, 16, (1, 3, 3), (1, 4, 4), (0, 1, 1), (1, 1, 1)),
    "across planes": (2, (9, 2, 3), 16, 70, (3, 1, 1), (4, 1, 1), (1, 0, 0), (1, 0, 0)),
    "dilated in three axes": (1, (7, 6, 5), 17, 20, (3, 3, 3), (2, 2, 4), (2, 1, 3), (2, 1, 3), (2, 1, 3)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_kernel(name, target):
    conv(*CASES[name], target=target)


def test_symbolic_sizes_in_parts():
    conv(*CASES["tail strip"], symbolic=True, parts=2)
    conv(3, (40, 40), 8, 130, (3, 3), (4, 4), symbolic=True, parts=3)
    conv(*CASES["dilated"], symbolic=True, parts=2)
    conv(*CASES["3x3x3"], symbolic=True, parts=2)


def test_epilogue_and_strided_input():
    conv(*CASES["3x3"], wide=5, epilogue=True)
    conv(*CASES["odd channels"], wide=3, epilogue=True, parts=2)


def test_epilogues_share_the_products_and_the_transform_of_the_input():
    geometry = ConvGeometry((1, 16, 16), (1, 16, 16), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1))
    operands = Operand(F, 1), Operand(F, 1), Operand(F, 1, True)
    plain = WinogradKernel(1, 200, 64, operands, 64, 200, ACC, geometry, (1, 4, 4))
    relu = replace(plain, epilogue=Call("max", (ACC, Num(0.0, dtype=F)), dtype=F))
    a, b = (emit_winograd(k, parse("cpu:znver4")) for k in (plain, relu))
    assert a.symbol != b.symbol and a.parts == b.parts and len(a.parts) == 3  # strips of four vectors, and the last
    assert all(symbol in e.ir_text for e in (a, b) for _, symbol in e.parts)


@pytest.mark.parametrize(
    "tiles, channels, strips, units", [(4, 64, 2, 2), (4, 128, 2, 2), (4, 160, 3, 3), (49, 128, 2, 4), (4, 16, 2, 1), (9, 64, 1, 1)]
)
def test_small_maps_are_shared_out(tiles, channels, strips, units):
    """Strips of one block of image tiles, unless they are next to no work."""
    _, blocks, groups = _units(tiles, 36, strips, 2 * 36 * channels * 64 * strips, False, False)
    assert blocks * groups == units


@pytest.mark.parametrize(
    "tiles, strips, slow, units", [(64, 4, False, 8), (64, 4, True, 16), (16, 8, True, 8), (256, 2, False, 8), (256, 2, True, 16)]
)
def test_slow_multiply_adds_let_blocks_be_finer(tiles, strips, slow, units):
    """16 units even out cores of unlike pace, where blocks of 16 image tiles keep multiply-adds above the bandwidth of weights."""
    _, blocks, groups = _units(tiles, 36, strips, 2 * 36 * 256 * 64 * strips, False, slow)
    assert blocks * groups == units


@pytest.mark.parametrize("pixels, share", [(16, 1), (12, 1), (8, 0)])
def test_every_row_tile_asks_for_weights(pixels, share):
    """16, 9 and 4 image tiles are row tiles of 6, 5 and 4; one alone has no time to ask, where the hardware streams faster."""
    geometry = ConvGeometry((1, pixels, pixels), (1, pixels, pixels), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1))
    k = WinogradKernel(1, 256, 256, (Operand(F, 1), Operand(F, 1), Operand(F, 1, True)), 256, 256, ACC, geometry, (1, 4, 4))
    for name in ("sapphirerapids", "znver4"):
        s = schedule_winograd(k, parse(f"cpu:{name}"))
        assert (s.share, s.prefetch) == (share, share > 0 or name == "sapphirerapids")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups, c, o", [(3, 48, 48), (2, 64, 48), (2, 32, 200), (5, 80, 100)])
def test_groups(groups, c, o, target):
    conv(2, (7, 9), c, o, (3, 3), (4, 4), groups=groups, epilogue=True, wide=3, target=target, parts=2)


def test_groups_of_symbolic_sizes():
    conv(2, (3, 7, 9), 48, 60, (3, 3, 3), (2, 2, 4), groups=3, symbolic=True, parts=2)
