"""Thin conveniences over IRBuilder: loops in SSA, vectors, masks, the params table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ...errors import CodegenError
from ...ir import Dim, DType
from ..expr import Param
from . import llvm_ir as ir
from .emitted import PLACEHOLDER

I1, I8, I16, I32, I64 = (ir.IntType(w) for w in (1, 8, 16, 32, 64))
PTR = ir.PointerType()
_LLVM = {DType.F32: ir.FloatType(), DType.F64: ir.DoubleType(), DType.F16: ir.HalfType(), DType.BF16: I16,
         DType.I8: I8, DType.U8: I8, DType.BOOL: I8, DType.I16: I16, DType.U16: I16, DType.I32: I32, DType.U32: I32,
         DType.I64: I64, DType.U64: I64, DType.C64: I64, DType.C128: ir.IntType(128),
         **dict.fromkeys((DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1,
                          DType.I4, DType.U4, DType.I2, DType.U2), I8)}  # fmt: skip


def storage(dtype: DType) -> Any:
    """LLVM type of one element in memory: bfloat16, smaller floats and complex numbers as their bits."""
    try:
        return _LLVM[dtype]
    except KeyError:
        raise CodegenError(f"element type {dtype} on the CPU") from None


@cache
def vec(t: Any, lanes: int) -> Any:
    return ir.VectorType(t, lanes)


def intrinsic(module: ir.Module, name: str, result: Any, args: Sequence[Any]) -> ir.Function:
    """Declare an LLVM function once."""
    found = module.globals.get(name)
    if found is None:
        return ir.Function(module, ir.FunctionType(result, args), name)
    assert isinstance(found, ir.Function)
    return found


def mangle(t: Any) -> str:
    """How the name of an overloaded intrinsic spells a type."""
    mangled: str = t.mangled
    return mangled


def kernel_function(module: ir.Module) -> Builder:
    """void name(bufs, dims, begin, end): units [begin, end) of a kernel."""
    return Builder(ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER))


def subroutine(module: ir.Module, name: str, args: Sequence[Any], result: Any = None) -> Builder:
    """A function that the kernel's calls, void unless it has a `result`. It stays one: inlined, tiles would fill the caller."""
    fn = ir.Function(module, ir.FunctionType(ir.VoidType() if result is None else result, args), f"{PLACEHOLDER}.{name}")
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    return Builder(fn)


class Params:
    """The table of sizes a kernel reads: index by order of first use, values kept for `Emitted.dims`."""

    def __init__(self) -> None:
        self.dims: list[Dim] = []

    def add(self, dim: Dim) -> int:
        self.dims.append(dim)
        return len(self.dims) - 1

    def add_number(self, number: Param) -> int:
        """A float32 as its bits, or an integer."""
        value = number.value
        return self.add(int(np.float32(value).view(np.uint32)) if number.dtype is DType.F32 else int(value))


class Builder:
    """IRBuilder of one function, with `b.<anything of IRBuilder>` at hand as `self.ir`."""

    def __init__(self, fn: ir.Function) -> None:
        self.fn, self.module = fn, fn.module
        self.entry = fn.append_basic_block("entry")
        self.ir: Any = ir.IRBuilder(fn, self.entry)  # Any: emitters handle values and their types alike

    def i64(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def call(self, name: str, result: Any, *args: Any, flags: Sequence[str] = ()) -> Any:
        return self.ir.call(intrinsic(self.module, name, result, [a.type for a in args]), args, flags)

    def at(self, base: Any, index: Any, t: Any) -> Any:
        """&((t*)base)[index]"""
        if isinstance(index, ir.Constant) and index.constant == 0:
            return base
        return self.ir.gep(base, [index], source_etype=t)

    def load(self, t: Any, ptr: Any, align: int = 1, unwritten: bool = False) -> Any:
        return self.ir.load(ptr, t, align, unwritten)

    def alloca(self, t: Any, count: Any, align: int = 64) -> Any:
        """Stack memory; call it in the entry block only."""
        return self.ir.alloca(t, count, align, PTR)

    def alloca_entry(self, t: Any, count: int, align: int = 64) -> Any:
        """Stack memory, from anywhere: it is taken once, on entry."""
        with self.ir.goto_block(self.entry):
            return self.alloca(t, self.i64(count), align)

    def clear(self, ptr: Any, size: Any) -> None:
        """`size` bytes of zeros."""
        self.call("llvm.memset.p0.i64", ir.VoidType(), ptr, ir.Constant(I8, 0), size, ir.Constant(I1, 0))

    def param(self, dims: Any, index: int) -> Any:
        return self.load(I64, self.at(dims, self.i64(index), I64), 8)

    def number(self, dims: Any, index: int, dtype: DType, lanes: int) -> Any:
        """What `Params.add_number` added, in so many lanes."""
        return self.splat(self.load(storage(dtype), self.at(dims, self.i64(index), I64), dtype.itemsize), lanes)

    def params(self, dims: Any, slots: Mapping[str, int]) -> dict[str, Any]:
        """Sizes by name, all in registers."""
        return {name: self.param(dims, at) for name, at in slots.items()}

    def operand(self, bufs: Any, index: int) -> Any:
        return self.load(PTR, self.at(bufs, self.i64(index), PTR), 8)

    def operands(self, bufs: Any, count: int) -> list[Any]:
        """The addresses of the first operands."""
        return [self.operand(bufs, x) for x in range(count)]

    def splat(self, x: Any, lanes: int) -> Any:
        t = vec(x.type, lanes)
        undef = ir.Constant(t, ir.Undefined)
        one = self.ir.insert_element(undef, x, ir.Constant(I32, 0))
        return self.ir.shuffle_vector(one, undef, ir.Constant(vec(I32, lanes), 0))

    def iota(self, lanes: int, start: int = 0) -> ir.Constant:
        return ir.Constant(vec(I64, lanes), list(range(start, start + lanes)))

    def below(self, limit: Any, lanes: int, start: int = 0) -> Any:
        """Mask of lanes with start + lane < limit (signed)."""
        return self.ir.icmp_signed("<", self.iota(lanes, start), self.splat(limit, lanes))

    def column_masks(self, live: Any, lanes: int, vectors: int, masked: bool = True) -> list[Any]:
        """Masks of vectors side by side of which the first `live` lanes are there; None of each unless `masked`."""
        return [self.below(live, lanes, v * lanes) if masked else None for v in range(vectors)]

    def any(self, mask: Any) -> Any:
        """Whether some lane of an i1 vector is set."""
        bits = ir.IntType(mask.type.count)
        return self.ir.icmp_unsigned("!=", self.ir.bitcast(mask, bits), ir.Constant(bits, 0))

    def merge(self, *incoming: tuple[Any, Any]) -> Any:
        """One of several values, by the block that control comes from: (value, block) pairs."""
        phi = self.ir.phi(incoming[0][0].type)
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi

    def masked_load(self, t: Any, ptr: Any, mask: Any, align: int) -> Any:
        zero = ir.Constant(t, None)
        return self.call(f"llvm.masked.load.{mangle(t)}.p0", t, ptr, ir.Constant(I32, align), mask, zero)

    def masked_store(self, value: Any, ptr: Any, mask: Any, align: int) -> None:
        self.call(f"llvm.masked.store.{mangle(value.type)}.p0", ir.VoidType(), value, ptr, ir.Constant(I32, align), mask)

    def fma(self, x: Any, y: Any, z: Any, fused: bool = True) -> Any:
        """x·y + z, rounded once; twice where the target has no such instruction (not `fused`)."""
        if not fused:
            return self.ir.fadd(self.ir.fmul(x, y), z)
        return self.call(f"llvm.fma.{mangle(x.type)}", x.type, x, y, z)

    def prefetch(self, ptr: Any, level: int = 1, write: bool = False) -> None:
        """Ask memory for one line: into the cache of that level and the larger ones; if it will be written, as this core's own."""
        self.call("llvm.prefetch.p0", ir.VoidType(), ptr, *(ir.Constant(I32, x) for x in (int(write), 4 - level, 1)))

    def smin(self, a: Any, b: Any) -> Any:
        return self.call(f"llvm.smin.{mangle(a.type)}", a.type, a, b)

    def smax(self, a: Any, b: Any) -> Any:
        return self.call(f"llvm.smax.{mangle(a.type)}", a.type, a, b)

    def loop(self, start: Any, stop: Any, step: Any, carried: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]) -> list[Any]:
        """for i in range(start, stop, step): carried = body(i, carried); may run zero times. Returns the final `carried`."""

        def turn(state: list[Any]) -> list[Any]:
            out = body(state[0], state[1:])
            return [self.ir.add(state[0], step, flags=("nsw",)), *out]

        return self.during([start, *carried], lambda state: self.ir.icmp_signed("<", state[0], stop), turn)[1:]

    def whole(self, start: Any, stop: Any, step: Any, body: Callable[[Any, list[Any]], Sequence[Any]]) -> ir.Function:
        """All of a function: `body` from start to stop, which carries nothing."""
        self.loop(start, stop, step, [], body)
        self.ir.ret_void()
        return self.fn

    def during(self, carried: Sequence[Any], more: Callable[[list[Any]], Any], body: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
        """while more(carried): carried = body(carried). Returns the final `carried`."""
        b = self.ir
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(v.type) for v in carried]
        b.cbranch(more(list(phis)), inside, after)
        b.position_at_end(inside)
        out = body(list(phis))
        for phi, first, following in zip(phis, carried, out, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(phis)

    def walk(self, start: Any, stop: Any, body: Callable[[Any], Any]) -> None:
        """i = start; while i < stop: i = body(i)."""
        self.during([start], lambda state: self.ir.icmp_signed("<", state[0], stop), lambda state: [body(state[0])])
