"""Backends by the targets that they compile for."""

from __future__ import annotations

from ..codegen.cpu.target import parse as parse_cpu
from ..errors import TargetError
from .backend import Backend
from .cpu_backend import CpuBackend


def backend_of(target: str) -> Backend:
    """The backend that a target's text names. Raises TargetError."""
    match target.partition(":")[0].partition("+")[0]:
        case "cpu":
            return CpuBackend(parse_cpu(target))
        case "cuda":
            from ..codegen.cuda.target import parse
            from ..runtime.cuda.cupy_device import present_architecture
            from .cuda_backend import CudaBackend

            return CudaBackend(parse(target, None if ":" in target else present_architecture()))
    raise TargetError(f"target {target!r}", expected="cpu, cpu:NAME, cuda or cuda:ARCH, such as cuda:sm_90a")
