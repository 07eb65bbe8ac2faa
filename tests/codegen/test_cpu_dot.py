"""Dot-product contractions against the interpreter, bit for bit: every instruction row, tails, borders, groups, epilogues."""

import ctypes
import itertools

import llvmlite.binding as llvm
import numpy as np
import pytest
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.dot.emit import emit_dot_contract
from mlc.codegen.cpu.dot.instructions import dot_kind, instruction
from mlc.codegen.cpu.dot.schedule import schedule_dot
from mlc.codegen.cpu.target import CpuTarget, host, missing_features, parse
from mlc.codegen.expr import Acc, Axis, Call, Cast, Load, Num, quantizing
from mlc.codegen.interpret import run_kernel
from mlc.codegen.kernel import ContractKernel, ConvGeometry, Operand
from mlc.codegen.packing import pack_b, packed_size, unpack_b
from mlc.errors import CodegenError
from mlc.ir import DType, evaluate, sym

PANEL = 32
GUARD = 64


def _targets() -> list[CpuTarget]:
    """The host, the host without tiles, and what of AVX2 and the baseline it can run: one for every instruction row."""
    here = host()
    flat = CpuTarget(here.triple, here.cpu, frozenset(f for f in here.features if not f.startswith("amx")), here.vector_bits)
    wide = CpuTarget(here.triple, "x86-64-v4", parse("cpu:x86-64-v4").features, 512)
    half = CpuTarget(here.triple, "x86-64-v3", parse("cpu:x86-64-v3").features | {"avxvnni"}, 256)
    more = [here, flat, wide, half, parse("cpu:x86-64-v3"), parse("cpu:x86-64-v2")]
    return [t for t in more if not missing_features(t.triple, t.features)]


TARGETS = _targets()


def execute(kernel, buffers, target, bindings=None, parts=1):
    e = emit_dot_contract(kernel, target)
    machine = llvm.Target.from_triple(target.triple).create_target_machine(cpu=target.cpu, features=target.llvm_features, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(compile_ir(e.ir_text, target)))
    engine.finalize_object()
    fn = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)(engine.get_function_address(e.symbol))
    dims = (ctypes.c_int64 * len(e.dims))(*[evaluate(d, bindings or {}) for d in e.dims])
    pointers = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
    cuts = np.linspace(0, evaluate(e.units, bindings or {}), parts + 1).astype(int)
    for lo, hi in reversed(list(itertools.pairwise(cuts))):
        fn(pointers, dims, int(lo), int(hi))


def compare(kernel, arrays, shape, target, bindings=None, parts=1):
    """The emitted kernel and the interpreter write the same integers, floats as near as float32 is, and nothing behind the result."""
    dtype = kernel.operands[-1].dtype
    got, want = (np.full(int(np.prod(shape)) + GUARD, 7, dtype.np) for _ in range(2))
    run_kernel(kernel, [*arrays, want], bindings)
    execute(kernel, [*arrays, got], target, bindings, parts)
    if dtype.is_float:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, want)
    assert (got[-GUARD:] == 7).all()


def operands(*arrays, out=DType.I32, numel=0):
    return (*(Operand(DType.from_numpy(a.dtype), a.size) for a in arrays), Operand(out, numel + GUARD, True))


def bytes_of(shape, dtype, seed=0):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def matmul(m, n, k, target, batch=1, dims=None, bindings=None, epilogue=None, extra=(), out=DType.I32, parts=1):
    a, b = bytes_of((batch, m, k), np.uint8), bytes_of((batch, k, n), np.int8, 1)
    packed = pack_b(b, PANEL, 4)
    dm, dn, dk = dims or (m, n, k)
    kernel = ContractKernel(
        batch, dm, dn, dk, operands(a, packed, *extra, out=out, numel=batch * m * n), dk, dm * dk, packed_size(dk, dn, PANEL, 4), dn,
        dm * dn, epilogue or Acc(dtype=DType.I32), panel=PANEL, group=4,
    )  # fmt: skip
    compare(kernel, [a.reshape(-1), packed, *extra], (batch, m, n), target, bindings, parts)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.cpu}-{instruction(dot_kind(DType.U8, DType.I8), t)}")
class TestEveryInstruction:
    @pytest.mark.parametrize("m,n,k", [(1, 1, 1), (1, 33, 64), (7, 32, 128), (16, 31, 70), (33, 64, 64), (50, 10, 300), (130, 70, 65)])
    def test_products_are_exact(self, m, n, k, target):
        matmul(m, n, k, target, batch=2, parts=2)

    def test_sums_do_not_saturate(self, target):
        a, b = np.full((4, 256), 255, np.uint8), np.full((256, 32), -128, np.int8)
        packed = pack_b(b, PANEL, 4)
        kernel = ContractKernel(1, 4, 32, 256, operands(a, packed, numel=128), 256, 0, 0, 32, 0, Acc(dtype=DType.I32), panel=PANEL, group=4)
        compare(kernel, [a.reshape(-1), packed], (4, 32), target)

    def test_symbolic_sizes(self, target):
        dims = sym("m"), sym("n"), sym("k")
        matmul(37, 45, 83, target, dims=dims, bindings={"m": 37, "n": 45, "k": 83})

    def test_requantised(self, target):
        """u8(round(f32(acc + bias[n])·scale[n]) + 3), scales with ties."""
        bias, scale = np.arange(45, dtype=np.int32) * 7 - 90, np.full(45, 2.0**-9, np.float32)
        n = Axis(2)
        acc = Cast(Call("add", (Acc(dtype=DType.I32), Load(2, n, dtype=DType.I32)), dtype=DType.I32), dtype=DType.F32)
        x = Call("round", (Call("mul", (acc, Load(3, n, dtype=DType.F32)), dtype=DType.F32),), dtype=DType.F32)
        for fn, number in (("add", 3.0), ("max", 0.0), ("min", 255.0)):
            x = Call(fn, (x, Num(number, dtype=DType.F32)), dtype=DType.F32)
        matmul(29, 45, 96, target, epilogue=Cast(x, dtype=DType.U8), extra=(bias, scale), out=DType.U8)

    def test_division_by_a_number(self, target):
        """Of ties too: one rounding, as the interpreter divides. Without a fused multiply-add it is a division."""
        acc = Cast(Acc(dtype=DType.I32), dtype=DType.F32)
        x = Call("round", (Call("div", (acc, Num(0.3, dtype=DType.F32)), dtype=DType.F32),), dtype=DType.F32)
        for fn, number in (("max", -32768.0), ("min", 32767.0)):
            x = Call(fn, (x, Num(number, dtype=DType.F32)), dtype=DType.F32)
        matmul(29, 45, 8, target, epilogue=Cast(x, dtype=DType.I16), out=DType.I16)

    @pytest.mark.parametrize("high", [255.0, 200.0])
    def test_residual_layer(self, high, target):
        """i8(round((u8(round(acc·scale) + 132) − 132 + 2·side) / 0.75) − 5): ties, both bounds, a scale without an inverse."""

        def call(fn, *args, dtype=DType.F32):
            return Call(fn, args, dtype=dtype)

        def f32(x):
            return Cast(x, dtype=DType.F32)

        def quantize(x, zero, low, high):
            x = call("add", call("round", x), f32(Num(zero, dtype=DType.I32)))
            return call("min", call("max", x, Num(low, dtype=DType.F32)), Num(high, dtype=DType.F32))

        side = np.arange(29 * 45, dtype=np.int64).astype(np.uint8)
        x = call("mul", f32(Acc(dtype=DType.I32)), Num(2.0**-9, dtype=DType.F32))
        q = Cast(quantize(x, 132, 0.0, high), dtype=DType.U8)
        x = f32(call("sub", Cast(q, dtype=DType.I32), Num(132, dtype=DType.I32), dtype=DType.I32))
        at = call("add", call("mul", Axis(1), Num(45), dtype=DType.I64), Axis(2), dtype=DType.I64)
        x = call("add", x, call("mul", f32(Load(2, at, dtype=DType.U8)), Num(2.0, dtype=DType.F32)))
        x = quantize(call("div", x, Num(0.75, dtype=DType.F32)), -5, -128.0, 127.0)
        matmul(29, 45, 96, target, epilogue=Cast(x, dtype=DType.I8), extra=(side,), out=DType.I8)

    @pytest.mark.parametrize(
        "c,o,kernel,stride,pad,dilation,groups",
        [
            (3, 20, (3, 3), 2, 1, 1, 1),
            (64, 32, (1, 1), 2, 0, 1, 1),
            (16, 40, (3, 1), 1, 1, 2, 1),
            (24, 8, (5, 3), 1, 2, 1, 2),
            (4, 16, (4, 4), 1, 2, 1, 1),
            (5, 33, (3, 4), 1, 1, 1, 1),
            (8, 9, (1, 8), 1, 1, 1, 1),
            (1, 20, (5, 5), 3, 1, 1, 1),
        ],  # a row is a line
    )
    def test_convolution(self, c, o, kernel, stride, pad, dilation, groups, target):
        x = bytes_of((2, 9, 8, c), np.uint8)
        cg, og = c // groups, o // groups
        w = bytes_of((groups, kernel[0] * kernel[1] * cg, og), np.int8, 1)
        packed = pack_b(w, PANEL, 4)
        out = tuple((s + 2 * pad - dilation * (t - 1) - 1) // stride + 1 for s, t in zip((9, 8), kernel, strict=True))
        m, k = 2 * out[0] * out[1], w.shape[1]
        border = np.asarray([113], np.uint8)
        conv = ConvGeometry((9, 8), out, kernel, (stride,) * 2, (pad,) * 2, (dilation,) * 2)
        kern = ContractKernel(
            groups, m, og, k, operands(x, packed, border, numel=m * o), c, cg, packed_size(k, og, PANEL, 4), o, og,
            Acc(dtype=DType.I32), conv, PANEL, group=4, border=2,
        )  # fmt: skip
        compare(kern, [x.reshape(-1), packed, border], (m, o), target, parts=2)

    @pytest.mark.parametrize(
        "c,spatial,kernel,stride,pad,dilation,groups",
        [
            (64, (11, 9), (3, 3), 1, (1, 1), 1, 1),
            (64, (12, 9), (3, 3), 2, (1, 1), 1, 1),
            (128, (12, 7), (3, 2), 3, (0, 1), 2, 2),
            (64, (13, 10), (5, 3), (1, 2), (2, 0), 1, 1),
            (64, (40,), (3,), 1, (1,), 2, 1),
            (64, (3, 5), (3, 3), 4, (2, 2), 1, 1),
            (20, (9, 21), (3, 3), 1, (1, 1), 1, 1),
            (24, (7, 30), (3, 5), 1, (0, 2), (1, 2), 2),
            (12, (33,), (9,), 1, (4,), 1, 1),
            (36, (10, 24), (2, 3), (1, 2), (0, 1), 1, 1),
        ],
    )
    def test_convolution_in_bands(self, c, spatial, kernel, stride, pad, dilation, groups, target):
        """Channels that fill lines of 64 bytes, or of 4 on vectors; two images, columns that do not fill a strip, several units."""
        o, rank = 40 * groups, len(spatial)
        strides, dilations = (x if isinstance(x, tuple) else (x,) * rank for x in (stride, dilation))
        x = bytes_of((2, *spatial, c), np.uint8)
        w = bytes_of((groups, int(np.prod(kernel)) * c // groups, 40), np.int8, 1)
        packed = pack_b(w, PANEL, 4)
        sizes = zip(spatial, pad, kernel, strides, dilations, strict=True)
        out = tuple((s + 2 * p - d * (t - 1) - 1) // stride + 1 for s, p, t, stride, d in sizes)
        m, k = 2 * int(np.prod(out)), w.shape[1]
        border = np.asarray([113], np.uint8)
        conv = ConvGeometry(spatial, out, kernel, strides, pad, dilations)
        kern = ContractKernel(
            groups, m, 40, k, operands(x, packed, border, numel=m * o), c, c // groups, packed_size(k, 40, PANEL, 4), o, 40,
            Acc(dtype=DType.I32), conv, PANEL, group=4, border=2,
        )  # fmt: skip
        compare(kern, [x.reshape(-1), packed, border], (m, o), target, parts=3)

    @pytest.mark.parametrize("m,n,k", [(1, 33, 7), (40, 32, 64), (17, 70, 129), (35, 160, 1024)])
    def test_bfloat16(self, m, n, k, target):
        r = np.random.default_rng(0)
        a, b = (r.standard_normal(s).astype(np.float32).astype(DType.BF16.np) for s in ((m, k), (k, n)))
        packed = pack_b(b, PANEL, 2)
        kernel = ContractKernel(
            1, m, n, k, operands(a, packed, out=DType.F32, numel=m * n), k, 0, 0, n, 0, Acc(dtype=DType.F32), panel=PANEL, group=2
        )
        compare(kernel, [a.reshape(-1), packed], (m, n), target)


def test_bands_of_an_image():
    """A tall image is cut into bands, whose copies overlap; the batch is symbolic."""
    target = host()
    n = sym("n")
    x, w = bytes_of((2, 90, 33, 64), np.uint8), bytes_of((9 * 64, 32), np.int8, 1)
    packed = pack_b(w, PANEL, 4)
    conv = ConvGeometry((90, 33), (90, 33), (3, 3), (1, 1), (1, 1), (1, 1))
    ops = operands(x, packed, np.zeros(1, np.uint8), numel=2 * 90 * 33 * 32)
    kern = ContractKernel(1, n * 90 * 33, 32, 9 * 64, ops, 64, 64, 0, 32, 32, Acc(dtype=DType.I32), conv, PANEL, group=4, border=2)
    schedule = schedule_dot(kern, target)
    if schedule.window is not None:
        assert isinstance(schedule.rows, int) and schedule.rows < 90 and evaluate(schedule.blocks, {"n": 2}) >= 4
    compare(kern, [x.reshape(-1), packed, np.full(1, 9, np.uint8)], (2, 90, 33, 32), target, {"n": 2}, parts=3)


@pytest.mark.parametrize("k,n", [(384, 384), (384, 1536), (1536, 384)])
def test_products_of_few_rows_are_work_for_several_threads(k, n):
    """Whether or not it is known that they are few; threads read strips of their own."""
    rows, ops = sym("rows"), operands(np.zeros(1, np.uint8), np.zeros(1, np.int8))
    cut = {}
    for m in (64, rows):
        kern = ContractKernel(1, m, n, k, ops, k, 0, 0, n, 0, Acc(dtype=DType.I32), panel=PANEL, group=4)
        schedule = schedule_dot(kern, host())
        cut[m] = evaluate(schedule.chunks, {"rows": 64})
    assert cut[rows] >= 3 and cut[rows] >= cut[64] // 2


@pytest.mark.parametrize("zero,low,high,found", [(3.0, 0.0, 255.0, True), (0.5, 0.0, 255.0, False), (3.0, 0.5, 255.0, False),
                                                 (float("nan"), 0.0, 255.0, False), (3.0, 0.0, 300.0, False)])  # fmt: skip
def test_integers_alone_quantize(zero, low, high, found):
    x = Call("round", (Load(0, Axis(2), dtype=DType.F32),), dtype=DType.F32)
    for fn, number in (("add", zero), ("max", low), ("min", high)):
        x = Call(fn, (x, Num(number, dtype=DType.F32)), dtype=DType.F32)
    got = quantizing(Cast(x, dtype=DType.U8))
    assert (got is not None) == found
    assert got is None or (got.zero, got.low, got.high) == (3, 0, 255)


def test_packing_round_trips():
    b = bytes_of((3, 70, 45), np.int8)
    packed = pack_b(b, PANEL, 4)
    one = packed_size(70, 45, PANEL, 4)
    for i in range(3):
        np.testing.assert_array_equal(unpack_b(packed[i * one : (i + 1) * one], 70, 45, PANEL, 4), b[i])


def test_unknown_operands_are_refused():
    with pytest.raises(CodegenError, match="dot product of i8 by i8"):
        dot_kind(DType.I8, DType.I8)


def test_rows_without_elements_are_left_alone():
    matmul(5, 0, 8, TARGETS[0])
    matmul(0, 5, 8, TARGETS[0])
