"""What this machine can do at most: loops of nothing but multiply-adds, and of nothing but loads, as LLVM text."""

from __future__ import annotations

from dataclasses import dataclass

from .target import CpuTarget

_CHAINS = {16: 12, 32: 16}  # independent sums by vector registers: two units of four cycles' latency need eight
_LOADS = 8  # vectors of a step


@dataclass(frozen=True, slots=True)
class Probe:
    """`void symbol(ptr data, i64 steps, i64 mask)`; a step does `flops` or reads `bytes`, at step·bytes & mask of data.

    The first vector of data is written.
    """

    ir_text: str
    symbol: str
    flops: int
    bytes: int


def multiply_adds(target: CpuTarget) -> Probe:
    """float32 fused multiply-adds in registers (a multiplication and an addition where there are none)."""
    lanes = target.lanes(4)
    vector = f"<{lanes} x float>"
    fn = f"llvm.fmuladd.v{lanes}f32"
    names = range(_CHAINS[target.vector_registers])
    body = [f"  %next{j} = call {vector} @{fn}({vector} %sum{j}, {vector} %factor, {vector} %term)" for j in names]
    text = _loop(
        "mlc_probe_flops",
        declare=f"declare {vector} @{fn}({vector}, {vector}, {vector})",
        start=[f"  %factor = load {vector}, ptr %data, align 4", f"  %term = fmul {vector} %factor, %factor"],
        carried=[(vector, f"%sum{j}", "%factor", f"%next{j}") for j in names],
        body=body,
    )
    return Probe(text, "mlc_probe_flops", 2 * lanes * len(names), 0)


def loads(target: CpuTarget) -> Probe:
    """Reads data in order, again and again when it is smaller (a power of two, in bytes: mask + 1) than steps·bytes."""
    lanes = target.vector_bits // 64
    vector = f"<{lanes} x i64>"
    body = [f"  %far = mul i64 %i, {_LOADS * lanes * 8}", "  %base = and i64 %far, %mask"]
    for j in range(_LOADS):
        body += [
            f"  %offset{j} = add i64 %base, {j * lanes * 8}",
            f"  %at{j} = getelementptr i8, ptr %data, i64 %offset{j}",
            f"  %read{j} = load {vector}, ptr %at{j}, align 8",
            f"  %next{j} = xor {vector} %sum{j}, %read{j}",
        ]
    text = _loop(
        "mlc_probe_loads",
        declare="",
        start=[],
        carried=[(vector, f"%sum{j}", "zeroinitializer", f"%next{j}") for j in range(_LOADS)],
        body=body,
    )
    return Probe(text, "mlc_probe_loads", 0, 8 * lanes * _LOADS)


def _loop(name: str, *, declare: str, start: list[str], carried: list[tuple[str, str, str, str]], body: list[str]) -> str:
    """`steps` rounds of `body`; what is carried is combined at the end and kept, so that none of it is dead."""
    vector = carried[0][0]
    phis = [f"  {phi} = phi {t} [ {first}, %entry ], [ {following}, %loop ]" for t, phi, first, following in carried]
    ends, total = [], carried[0][3]
    integer = "i64" in vector
    for k, (_, _, _, value) in enumerate(carried[1:]):
        ends.append(f"  %total{k} = {'xor' if integer else 'fadd'} {vector} {total}, {value}")
        total = f"%total{k}"
    lines = [
        declare,
        f"define void @{name}(ptr %data, i64 %steps, i64 %mask) {{",
        "entry:",
        *start,
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %following, %loop ]",
        *phis,
        *body,
        "  %following = add i64 %i, 1",
        "  %more = icmp slt i64 %following, %steps",
        "  br i1 %more, label %loop, label %end",
        "end:",
        *ends,
        f"  store {vector} {total}, ptr %data, align {8 if integer else 4}",
        "  ret void",
        "}",
    ]
    return "\n".join(lines) + "\n"
