"""LLVM's text as `codegen/cpu/llvm_ir` writes it: LLVM must accept it, and compute what was meant."""

import ctypes
import math
import struct

import llvmlite.binding as llvm
import pytest
from mlc.codegen.cpu import llvm_ir as ir
from mlc.codegen.cpu.build import I1, I32, I64, PTR, Builder, mangle, vec
from mlc.codegen.cpu.target import host, initialize

F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_KEPT = []


def begin(result, *args):
    fn = ir.Function(ir.Module(), ir.FunctionType(result, args), "f")
    return Builder(fn), fn


def call(fn, result, *args):
    """Compile the module of a function of I64 arguments, and call it."""
    t = host()
    machine = llvm.Target.from_triple(t.triple).create_target_machine(cpu=t.cpu, features=t.llvm_features, jit=True)
    module = llvm.parse_assembly(str(fn.module))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _KEPT.append(engine)
    return ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * len(args))(engine.get_function_address("f"))(*args)


OPS = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "sdiv": lambda x, y: x // y,
    "udiv": lambda x, y: x // y, "urem": lambda x, y: x % y, "and_": lambda x, y: x & y, "or_": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y, "shl": lambda x, y: x << y, "lshr": lambda x, y: x >> y, "ashr": lambda x, y: x >> y,
}  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_integers(op):
    b, fn = begin(I64, I64, I64)
    b.ir.ret(getattr(b.ir, op)(*fn.args))
    assert call(fn, ctypes.c_int64, 1234, 5) == OPS[op](1234, 5)


@pytest.mark.parametrize("op", ["<", "<=", "==", "!=", ">", ">="])
def test_comparisons(op):
    b, fn = begin(I64, I64, I64)
    i = b.ir
    x, y = (i.sitofp(a, F64) for a in fn.args)
    signed, unsigned = i.icmp_signed(op, *fn.args), i.icmp_unsigned(op, *fn.args)
    found = [signed, unsigned, i.fcmp_ordered(op, x, y), i.fcmp_unordered(op, x, y)]
    total = b.i64(0)
    for n, bit in enumerate(found):
        total = i.or_(total, i.shl(i.zext(bit, I64), b.i64(n)))
    i.ret(total)
    for pair in ((-3, 4), (4, 4), (5, 4)):
        mask = (1 << 64) - 1
        want = [eval(f"a {op} b", {"a": a, "b": b}) for a, b in (pair, (pair[0] & mask, pair[1] & mask), pair, pair)]
        assert call(fn, ctypes.c_int64, *pair) == sum(w << n for n, w in enumerate(want)), pair


def test_constants_fold():
    b, fn = begin(I64, I64)
    i, (x,), n = b.ir, fn.args, b.i64
    assert i.add(n(2), n(3)).constant == 5 and i.mul(n(2), n(3)).constant == 6 and i.sub(n(2), n(3)).constant == -1
    assert i.add(x, n(0)) is x and i.add(n(0), x) is x and i.sub(x, n(0)) is x and i.mul(x, n(1)) is x and i.mul(n(1), x) is x
    assert i.add(ir.Constant(vec(I64, 2), 1), ir.Constant(vec(I64, 2), 1)).text.startswith("%")  # vectors are LLVM's business
    assert i.sub(n(0), x).text.startswith("%")


def test_control_flow():
    """Σ over i < n of (i odd: 3·i; else, unless i = 4: 1), by a loop, branches and a memory cell taken on entry."""
    b, fn = begin(I64, I64)
    i = b.ir

    def body(k, carried):
        cell = b.alloca_entry(I64, 1, 8)
        odd = i.icmp_signed("==", i.and_(k, b.i64(1)), b.i64(1))
        with i.if_else(odd) as (then, orelse):
            with then:
                i.store(i.mul(k, b.i64(3)), cell, align=8)
            with orelse:
                i.store(b.i64(1), cell)
                with i.if_then(i.icmp_signed("==", k, b.i64(4)), likely=False):
                    i.store(b.i64(0), cell, align=8)
        return [i.add(carried[0], b.load(I64, cell, 8))]

    (total,) = b.loop(b.i64(0), fn.args[0], b.i64(1), [b.i64(0)], body)
    i.ret(total)
    assert "branch_weights" in str(fn.module)
    assert call(fn, ctypes.c_int64, 7) == 3 * (1 + 3 + 5) + 3


def test_vectors_and_memory():
    b, fn = begin(I64, I64)
    i = b.ir
    x = i.sitofp(i.add(b.splat(fn.args[0], 4), b.iota(4)), vec(F32, 4))
    y = i.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), ir.Constant(vec(I32, 4), [3, 2, 1, 0]))
    y = i.fadd(i.fmul(y, ir.Constant(y.type, 0.5), flags=("contract",)), ir.Constant(y.type, [1, 2, 3, 4]))
    y = i.insert_element(i.fneg(y), i.extract_element(x, ir.Constant(I32, 2)), ir.Constant(I32, 0))
    at = b.alloca(F32, b.i64(4), 16)
    i.store(y, at, align=16)
    second = b.load(F32, b.at(at, b.i64(1), F32), 4)
    whole = i.fptosi(i.fadd(i.fpext(second, F64), i.fpext(b.load(F32, at, 4), F64)), I64)
    i.ret(i.select(b.any(i.fcmp_unordered("uno", y, y)), b.i64(-1), whole))
    assert call(fn, ctypes.c_int64, 10) == int(-(12 * 0.5 + 2) + 12)


@pytest.mark.parametrize("t", [F16, F32, F64], ids=str)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -1e-7, 65504.0, math.inf, -math.inf, math.nan])
def test_float_constants_are_rounded_to_their_type(t, value):
    b, fn = begin(F64, I64)
    c = ir.Constant(t, value)
    i = b.ir
    # through memory, so that nothing is computed from the text alone
    at = b.alloca(t, b.i64(1), 8)
    i.store(c, at, align=8)
    i.ret(i.fpext(b.load(t, at, 8), F64))
    (want,) = struct.unpack(t.rounding, struct.pack(t.rounding, value))
    assert struct.pack("d", call(fn, ctypes.c_double, 0))[-2:] == struct.pack("d", want)[-2:]
    got = call(fn, ctypes.c_double, 0)
    assert got == want or (math.isnan(got) and math.isnan(want))


def test_constants_of_vectors():
    assert ir.Constant(vec(I32, 3), [7, 7, 7]).text == ir.Constant(vec(I32, 3), 7).text == "splat (i32 7)"
    assert ir.Constant(vec(I32, 3), [1, 2, 3]).text == "<i32 1, i32 2, i32 3>"
    assert ir.Constant(vec(F32, 2), None).text == "zeroinitializer" and ir.Constant(PTR, None).text == "null"
    assert ir.Constant(vec(I1, 2), [True, False]).text == "<i1 1, i1 0>"
    with pytest.raises(ValueError, match="2 elements"):
        ir.Constant(vec(I32, 3), [1, 2])
    with pytest.raises(TypeError, match="constant of type ptr"):
        ir.Constant(PTR, 5)


def test_types_are_equal_by_text():
    assert ir.VectorType(ir.IntType(8), 4) == vec(ir.IntType(8), 4) != vec(ir.IntType(8), 8)
    assert [mangle(t) for t in (I32, F16, vec(F64, 2), PTR)] == ["i32", "f16", "v2f64", "p0"]


def test_conversions_to_the_same_type_are_nothing():
    b, fn = begin(I64, I64)
    assert b.ir.zext(fn.args[0], I64) is fn.args[0]


def test_calls_of_functions_of_the_module_and_through_pointers():
    b, fn = begin(I64, I64)
    inner_type = ir.FunctionType(I64, [I64])
    inner = ir.Function(fn.module, inner_type, "g")
    inner.linkage = "internal"
    inner.attributes.add("noinline")
    g = Builder(inner)
    g.ir.ret(g.ir.neg(inner.args[0]))
    x = b.ir.call(inner, [fn.args[0]])
    b.ir.ret(b.ir.call_through(inner_type, inner, [b.call("llvm.smax.i64", I64, x, b.ir.not_(x))]))
    assert call(fn, ctypes.c_int64, 9) == -max(-9, 8)


def test_functions_keep_the_frame_pointer_out_of_address_arithmetic():
    b, fn = begin(I64, *[PTR] * 6, *[I64] * 6)  # enough values at once for all registers that there are
    total = b.ir.mul(fn.args[6], fn.args[7])

    def step(i, sums):
        return [b.ir.add(x, b.load(I64, b.at(p, i, I64), 8)) for x, p in zip(sums, fn.args[:6], strict=True)]

    sums = b.loop(b.i64(0), total, b.i64(1), list(fn.args[6:]), step)
    for s in sums:
        total = b.ir.xor(total, s)
    b.ir.ret(total)
    initialize()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(cpu="x86-64-v3")
    text = machine.emit_assembly(llvm.parse_assembly(str(fn.module)))
    written = [line.split() for line in text.splitlines() if line.rstrip().endswith("%rbp")]
    assert [line for line in written if line[0] not in ("pushq", "popq") and not line[0].startswith(".")] == [["movq", "%rsp,", "%rbp"]]
