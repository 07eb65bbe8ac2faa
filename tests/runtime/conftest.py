"""Tiny modules from hand-written kernels, so that the runtime is tested without the compiler's stages."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
import pytest
from mlc.codegen.cpu.emitted import PLACEHOLDER, Emitted, named
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.codegen.plan import Branch, Buffer, Plan, Repeat, Step
from mlc.compiler.assemble import assemble
from mlc.compiler.program import cpu_code
from mlc.ir import DType, sym
from mlc.runtime import objects
from mlc.runtime.module import Module

# Over units [begin, end): out[i] = a[i] OP b[i * stride], with the stride in dims[0]
BINARY = """
define void @{name}(ptr %bufs, ptr %dims, i64 %begin, i64 %end) {{
entry:
  %a = load ptr, ptr %bufs
  %bp = getelementptr ptr, ptr %bufs, i64 1
  %b = load ptr, ptr %bp
  %op = getelementptr ptr, ptr %bufs, i64 2
  %o = load ptr, ptr %op
  %stride = load i64, ptr %dims
  br label %head
head:
  %i = phi i64 [ %begin, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %body, label %done
body:
  %pa = getelementptr {type}, ptr %a, i64 %i
  %j = mul i64 %i, %stride
  %pb = getelementptr {type}, ptr %b, i64 %j
  %po = getelementptr {type}, ptr %o, i64 %i
  %x = load {type}, ptr %pa
  %y = load {type}, ptr %pb
  {calc}
  store {result} %z, ptr %po
  %next = add i64 %i, 1
  br label %head
done:
  ret void
}}
"""


def compile_text(text: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", jit=True)
    return machine.emit_object(llvm.parse_assembly(text))


class Builder:
    """Collects buffers and steps of a plan."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.constants: dict[int, np.ndarray] = {}
        self.names: dict[str, list[str]] = {"input": [], "output": []}
        self.emitted: dict[int, Emitted] = {}
        self.keep: list[Step] = []

    def io(self, kind: str, name: str, shape: tuple, dtype: DType = DType.F32) -> int:
        self.names[kind].append(name)
        return self.add(Buffer(kind, dtype, shape, index=len(self.names[kind]) - 1))

    def const(self, array: np.ndarray) -> int:
        i = self.add(Buffer("const", DType.from_numpy(array.dtype), array.shape))
        self.constants[i] = array
        return i

    def arena(self, shape: tuple, dtype: DType = DType.F32) -> int:
        return self.add(Buffer("arena", dtype, shape))

    def add(self, buffer: Buffer) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def step(self, calc: str, a: int, b: int, out: int, units, stride=1, *, cost=1, type="float", result=None) -> Step:
        text, symbol = named(BINARY.format(name=PLACEHOLDER, type=type, calc=calc, result=result or type))
        kernel = LoopKernel((units,), (), tuple(Operand(DType.F32, units, w) for w in (False, False, True)), (),
                            (Store(2, Num(0), Num(0.0, dtype=DType.F32)),))  # fmt: skip
        step = Step(kernel, (a, b, out), ("node",))
        self.keep.append(step)
        self.emitted[id(step)] = Emitted(text, symbol, (stride,), units, cost, units, units)
        return step

    def plan(self, *steps) -> Plan:
        return Plan(tuple(self.buffers), steps, dict(self.constants), tuple(self.names["input"]), tuple(self.names["output"]))

    def parts(self, *steps, **options):
        target = parse("cpu")
        functions = {e.symbol: compile_text(e.ir_text) for e in self.emitted.values()}
        code = {i: cpu_code(e) for i, e in self.emitted.items()}
        return assemble(self.plan(*steps), code, functions, objects, target.manifest, **options)


ADD, MUL = "%z = fadd float %x, %y", "%z = fmul float %x, %y"


@pytest.fixture(scope="session")
def static_parts():
    """y = (x + 2) * w for x, w of [4, 8]: one arena buffer, two constants, one alias."""
    b = Builder()
    x = b.io("input", "x", (4, 8))
    y = b.io("output", "y", (4, 8))
    two = b.const(np.array([2.0], np.float32))
    w = b.const(np.arange(32, dtype=np.float32).reshape(4, 8))
    t = b.arena((4, 8))
    flat = b.add(Buffer("alias", DType.F32, (32,), of=t))
    return b.parts(b.step(ADD, x, two, t, 32, 0), b.step(MUL, flat, w, y, 32))


@pytest.fixture(scope="session")
def dynamic_parts():
    """y = x + x·x, z = x·x for x, u of [N, 4], N in 0..1000; u is only checked."""
    n = sym("N", 0, 100_000)
    b = Builder()
    x = b.io("input", "x", (n, 4))
    b.io("input", "u", (n, 4))
    y = b.io("output", "y", (n, 4))
    z = b.io("output", "z", (2 * n, 2))
    t = b.arena((n, 4))
    return b.parts(b.step(MUL, x, x, t, 4 * n, cost=100), b.step(ADD, x, t, y, 4 * n, cost=100), b.step(MUL, x, x, z, 4 * n))


@pytest.fixture(scope="session")
def control_parts():
    """s = x · w^min(trips, while s·w <= 1000) by a loop; y = s + 1 if x > 3 else s * 10."""
    b = Builder()
    x = b.io("input", "x", ())
    trips = b.io("input", "trips", (), DType.I64)
    y = b.io("output", "y", ())
    w = b.const(np.array(2.0, np.float32))
    three, one, ten, limit = (b.const(np.array(v, np.float32)) for v in (3.0, 1.0, 10.0, 1000.0))
    zero = b.const(np.array(0.0, np.float32))
    s, t = b.arena(()), b.arena(())
    big, more = b.arena((), DType.BOOL), b.arena((), DType.BOOL)
    counter = b.arena((), DType.I64)
    greater, below = (f"%z0 = fcmp {c} float %x, %y\n  %z = zext i1 %z0 to i8" for c in ("ogt", "ole"))
    return b.parts(
        b.step(ADD, x, zero, s, 1),
        b.step(greater, x, three, big, 1, result="i8"),
        b.step(below, s, limit, more, 1, result="i8"),
        Repeat(trips, more, counter, (
            b.step(MUL, s, w, t, 1),
            b.step(ADD, t, zero, s, 1),
            b.step(below, s, limit, more, 1, result="i8"),
        )),
        Branch(big, (b.step(ADD, s, one, y, 1),), (b.step(MUL, s, ten, y, 1),)),
    )  # fmt: skip


@pytest.fixture
def builder():
    return Builder()


@pytest.fixture
def static(static_parts):
    return Module(static_parts, threads=2)


@pytest.fixture
def dynamic(dynamic_parts):
    return Module(dynamic_parts, threads=2)
