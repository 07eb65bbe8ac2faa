"""CUDA targets: the architectures that code is made for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import TargetError
from ...ir import DType
from ..lower.options import LowerOptions

# How plans are lowered for CUDA: B by columns, as tensor cores read it; one that lies in rows is read so too. Indices that data
# give are compared with their limits at the end of a run (`late_checks`); until then clamping keeps what reads by them in memory.
FEW = 4  # queries of a head that attention has kernels of its own for, where keys and values are read once
LOWERING = LowerOptions(checks=True, panel=1, in_place=2**62, attention=frozenset({DType.F32, DType.F16, DType.BF16}), ranked=128,
                        divide=True, beside=True, rounds_queries=FEW)  # fmt: skip

# What code may be named for. The "a" of sm_90a: instructions of Hopper alone (wgmma), which no other device runs.
ARCHITECTURES = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120")
WARP_GROUPS = frozenset({"sm_90a"})  # with wgmma, and the bulk copy engine as Hopper has it


@dataclass(frozen=True, slots=True)
class Device:
    """What schedules count with: multiprocessors, and bytes of shared memory that one has for its blocks, each of which takes some more."""

    multiprocessors: int
    shared: int

    def resident(self, shared: int) -> int:
        """Blocks to a multiprocessor, of so many bytes each, as far as shared memory has room."""
        return self.shared // (shared + RESERVED)


RESERVED = 1 << 10
# Large devices of each capability (data sheets; shared memory: CUDA programming guide, "Compute capabilities"). On smaller ones some
# blocks wait for others.
DEVICES = {
    80: Device(108, 164 << 10),  # A100
    86: Device(84, 100 << 10),  # A40, RTX A6000
    87: Device(16, 164 << 10),  # Orin
    89: Device(142, 100 << 10),  # L40S
    90: Device(132, 228 << 10),  # H100, H200
    100: Device(148, 228 << 10),  # B200
    120: Device(188, 100 << 10),  # RTX PRO 6000
}


FLOAT8 = 89  # the first capability whose tensor cores multiply floats of 8 bits


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """`archs`: architectures to make machine code for, in the order of capability.

    `tf32`: products of float32 may be rounded to 10 bits of mantissa, which tensor cores take.
    `clusters`: large products on Hopper are computed by pairs of blocks that bring tiles together. Off until a device has shown that it
    is right and pays.
    """

    archs: tuple[str, ...]
    tf32: bool = False
    clusters: bool = False

    @property
    def base(self) -> str:
        """The least capable architecture: schedules may use what it has."""
        return self.archs[0]

    @property
    def device(self) -> Device:
        """Of the least capable architecture."""
        return DEVICES[capability(self.base)]

    @property
    def warp_groups(self) -> bool:
        """Whether all of them have wgmma."""
        return WARP_GROUPS.issuperset(self.archs)

    @property
    def ptx(self) -> str:
        """The virtual architecture of the PTX, which drivers translate for devices from it on."""
        return self.base.replace("sm_", "compute_").rstrip("a")

    @property
    def all(self) -> tuple[str, ...]:
        """The architectures, and the virtual one last."""
        return (*self.archs, self.ptx)

    @property
    def manifest(self) -> dict[str, object]:
        return {"kind": "cuda", "archs": list(self.archs), "ptx": self.ptx}

    def __str__(self) -> str:
        return "cuda:" + ",".join(self.archs) + "+tf32" * self.tf32 + "+clusters" * self.clusters


def parse(text: str, present: str | None = None) -> CudaTarget:
    """A target from "cuda" (the device `present`, such as "sm_90a"), "cuda:sm_80" or "cuda:sm_80,sm_90a"; "+tf32" and "+clusters" may
    follow.

    Raises TargetError for an unknown architecture, and when none is named nor present.
    """
    text, *options = text.split("+")
    for option in options:
        if option not in ("tf32", "clusters"):
            raise TargetError(f"option {option!r} of a CUDA target", expected="+tf32 or +clusters")
    kind, _, names = text.partition(":")
    if kind != "cuda":
        raise TargetError(f"target {text!r} is unknown", expected="'cuda' or 'cuda:ARCH', e.g. 'cuda:sm_90a'")
    if not names:
        if present is None:
            raise TargetError(
                "target 'cuda' names no architecture, and this machine has no usable CUDA device to take it from",
                expected="an architecture",
                remedy="Name one, as in --target=cuda:sm_90a (any of " + ", ".join(ARCHITECTURES) + "; several by comma).",
            )
        names = nearest(present)
    archs = [n.strip() for n in names.split(",")]
    for a in archs:
        if a not in ARCHITECTURES:
            raise TargetError(f"CUDA architecture {a!r}", expected="one of " + ", ".join(ARCHITECTURES),
                              remedy="e.g. --target=cuda:sm_80,sm_90a")  # fmt: skip
    return CudaTarget(tuple(sorted(set(archs), key=lambda a: (capability(a), a))), "tf32" in options, "clusters" in options)


def nearest(present: str) -> str:
    """What to compile for on a device: its architecture, or the last one known before it, whose machine code or PTX it takes."""
    known = [a for a in ARCHITECTURES if not a.endswith("a") and capability(a) <= capability(present)]
    return present if present in ARCHITECTURES or not known else max(known, key=capability)


def capability(arch: str) -> int:
    """10 · major + minor: 90 of "sm_90a"."""
    found = re.fullmatch(r"(?:sm|compute)_(\d+)a?", arch)
    if found is None:
        raise TargetError(f"CUDA architecture {arch!r}", expected="sm_NN")
    return int(found[1])
