"""Modules from files, and from parts: of the kind that the target is for."""

from __future__ import annotations

import os

from .artifact import Parts
from .module import Module, prepared


def load(source: str | os.PathLike[str] | bytes, threads: int | None = None, *, verify: bool = True) -> Module:
    """Load a `.mlc` file (or its bytes, in any buffer). `verify=False` skips checking the digests of the weights.

    Other threads check weights of more than 8 MB; the first run waits for them before it computes anything.

    Raises:
        ArtifactError: the file cannot be read, is corrupt, truncated or of a newer format; every run raises it where weights turn
            out to be corrupt that were being checked when `load` returned.
        TargetError: it was compiled for instructions that this machine lacks.
    """
    return prepared(source, open_parts, threads, verify=verify)


def open_parts(parts: Parts, *, threads: int | None = None) -> Module:
    """The module of the kind that the parts are for: `Module` on CPUs, `CudaModule` on GPUs."""
    target = parts.manifest.raw.get("target")
    if isinstance(target, dict) and target.get("kind") == "cuda":
        from .cuda.module import CudaModule

        return CudaModule(parts, threads=threads)
    if parts.manifest.prologue is not None:
        from .prologue_module import PrologueModule

        return PrologueModule(parts, threads=threads)
    return Module(parts, threads=threads)
