"""CPU targets: which processor code is made for, and whether this machine can run it."""

from __future__ import annotations

import ctypes
import functools
import platform
import threading
from dataclasses import dataclass

import llvmlite.binding as llvm

from ...errors import TargetError

_LOCK = threading.Lock()

# Names a user is likely to want, all known to LLVM; the error for an unknown name lists them.
X86_CPUS = (
    "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "haswell", "broadwell", "skylake", "skylake-avx512", "cascadelake",
    "cooperlake", "icelake-client", "icelake-server", "tigerlake", "rocketlake", "alderlake", "sapphirerapids",
    "emeraldrapids", "graniterapids", "znver1", "znver2", "znver3", "znver4", "znver5", "sandybridge", "ivybridge", "nehalem",
)  # fmt: skip
ARM_CPUS = (
    "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "cortex-a78", "cortex-x1", "neoverse-n1",
    "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1", "apple-m2", "apple-m3", "ampere1",
)  # fmt: skip
# What each x86 level guarantees, in LLVM feature names (psABI levels; microarchitectures map to a level plus extras).
_V1 = frozenset({"sse", "sse2", "fxsr", "cx8", "cmov"})
_V2 = _V1 | {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf"}
_V3 = _V2 | {"avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_VNNI = _V4 | {"avx512vnni"}
_VBMI = _VNNI | {"avx512vbmi"}
_BF16 = _VNNI | {"avx512bf16"}
_AMX = _BF16 | {"avx512vbmi", "avx512fp16", "avxvnni", "amx-tile", "amx-int8", "amx-bf16"}
_X86_FEATURES = {
    "x86-64": _V1, "x86-64-v2": _V2, "nehalem": _V2, "sandybridge": _V2 | {"avx"}, "ivybridge": _V2 | {"avx", "f16c"},
    "x86-64-v4": _V4, "skylake-avx512": _V4, "cascadelake": _VNNI, "cooperlake": _BF16, "icelake-client": _VBMI,
    "icelake-server": _VBMI, "tigerlake": _VBMI, "rocketlake": _VBMI, "sapphirerapids": _AMX,
    "emeraldrapids": _AMX, "graniterapids": _AMX,
    "alderlake": _V3 | {"avxvnni"}, "znver4": _BF16 | {"avx512vbmi"}, "znver5": _BF16 | {"avx512vbmi", "avxvnni"},
}  # fmt: skip
_HALVES = frozenset({"znver4", "icelake-client", "tigerlake", "rocketlake"})  # (Fog, microarchitecture.pdf)
_DOTS_TWICE = frozenset({"znver5"})  # measured: 8.5 G of either instruction a second, on whole vectors
_SCALABLE_ONLY = frozenset({"sve", "sve2"})


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """triple, LLVM cpu name, LLVM feature names that are present, and the vector width to use in bits."""

    triple: str
    cpu: str
    features: frozenset[str]
    vector_bits: int

    @property
    def arch(self) -> str:
        return self.triple.split("-", 1)[0]

    @property
    def is_x86(self) -> bool:
        return self.arch == "x86_64"

    @property
    def masked(self) -> bool:
        """Masked loads and stores are single instructions for every element size."""
        return {"avx512bw", "avx512vl"} <= self.features

    @property
    def fma(self) -> bool:
        return "fma" in self.features or not self.is_x86

    @property
    def half(self) -> bool:
        """float16 converts to and from float32 in one instruction."""
        return "f16c" in self.features or not self.is_x86

    @property
    def llvm_features(self) -> str:
        return ",".join(f"+{f}" for f in sorted(self.features))

    @property
    def manifest(self) -> dict[str, object]:
        return {"triple": self.triple, "cpu": self.cpu, "features": sorted(self.features)}

    @property
    def vector_registers(self) -> int:
        return 32 if self.vector_bits >= 512 or not self.is_x86 else 16

    @property
    def halves(self) -> bool:
        """One multiply-add of a whole vector begins in a cycle, in two units of half a vector: half a vector takes half the time."""
        return self.vector_bits == 512 and self.cpu in _HALVES

    @property
    def multiply_adds(self) -> int:
        """Of float32 in a cycle: two vectors, but for processors that put two units of 256 bits together."""
        return self.lanes(4) * (1 if self.halves else 2)

    @property
    def two_dots(self) -> bool:
        """Instructions on vectors of two bfloat16 a lane begin twice in a cycle (Zen 5); elsewhere once."""
        return self.cpu in _DOTS_TWICE

    @property
    def paired_multiply_adds(self) -> int:
        """Of bfloat16 in a cycle, by instructions on vectors of two a lane."""
        return 2 * self.lanes(4) * (2 if self.two_dots else 1)

    @property
    def streams(self) -> bool:
        """What the hardware fetches ahead of a stream comes faster than what instructions ask for: those hold one of 24 lines on
        their way to the first-level cache (Zen 4: 26 GB/s and 17)."""
        return self.cpu.startswith("znver")

    def lanes(self, itemsize: int) -> int:
        """Elements of `itemsize` bytes in one vector register."""
        return self.vector_bits // (8 * itemsize)

    def __str__(self) -> str:
        return f"cpu:{self.cpu}" if self.is_x86 else f"cpu:{self.cpu}({self.triple})"


@functools.cache
def initialize() -> None:
    """Set LLVM up once in a process."""
    with _LOCK:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.initialize_native_asmparser()


@functools.cache
def host() -> CpuTarget:
    """The machine this process runs on."""
    initialize()
    triple = llvm.get_process_triple()
    flags = llvm.get_host_cpu_features()
    features = frozenset(name for name, on in flags.items() if on and name not in _SCALABLE_ONLY)
    if "amx-tile" in features and not request_tiles():
        features = frozenset(f for f in features if not f.startswith("amx"))
    return CpuTarget(triple, llvm.get_host_cpu_name(), features, _vector_bits(triple, features))


@functools.cache
def request_tiles() -> bool:
    """Ask Linux to let this process use AMX tile registers (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA); whether it does."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0


def parse(text: str) -> CpuTarget:
    """A target from "cpu", "cpu:NAME" (x86 or AArch64 processor or psABI level) or "cpu:aarch64".

    Raises TargetError for an unknown name, listing the known ones.
    """
    kind, _, name = text.partition(":")
    if kind != "cpu":
        raise TargetError(f"target {text!r} is unknown", expected="'cpu' or 'cpu:NAME', e.g. 'cpu:x86-64-v3'")
    if name in ("", "native", "host"):
        return host()
    if name in X86_CPUS:
        features = _X86_FEATURES.get(name, _V3)
        triple = host().triple if host().is_x86 else "x86_64-unknown-linux-gnu"
        return CpuTarget(triple, name, features, _vector_bits(triple, features))
    if name in ARM_CPUS or name in ("aarch64", "arm64", "armv8-a"):
        triple = host().triple if host().arch == "aarch64" else "aarch64-unknown-linux-gnu"
        return CpuTarget(triple, name if name in ARM_CPUS else "generic", frozenset({"neon"}), 128)
    raise TargetError(
        f"CPU {name!r} is unknown", expected="one of " + ", ".join((*X86_CPUS, "aarch64", *ARM_CPUS)), remedy="Use 'cpu' for this machine"
    )


def missing_features(triple: str, features: frozenset[str] | set[str]) -> list[str]:
    """Instruction sets that code for (triple, features) needs and this machine lacks, sorted. Another architecture is one."""
    here = host()
    arch = triple.split("-", 1)[0]
    if arch != here.arch:
        return [arch]
    return sorted(f for f in features if f not in here.features)


def _vector_bits(triple: str, features: frozenset[str]) -> int:
    if not triple.startswith("x86_64"):
        return 128
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= features:
        return 512
    return 256 if "avx2" in features else 128
