"""Kernels to machine code: cubins and PTX, side by side in threads, cached on disk by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...environment import switch
from ...errors import CodegenError
from ..disk_cache import cache_dir, read_checked, write_checked
from .nvrtc import headers, nvrtc


def compile_all(
    sources: Mapping[str, str], archs: Callable[[str], Iterable[str]], done: Callable[[str], None] = lambda symbol: None
) -> dict[str, dict[str, bytes]]:
    """symbol -> architecture -> code: a cubin, or PTX for a virtual one, for each of `archs(symbol)`.

    Raises CodegenError naming the kernel that NVRTC refuses, TargetError when there is no NVRTC.
    """
    nvrtc()

    def build(symbol: str) -> tuple[str, dict[str, bytes]]:
        try:
            code = compile_source(sources[symbol], archs(symbol))
        except CodegenError as e:
            raise CodegenError(f"kernel {symbol}: {e.found}", expected=e.expected, remedy=e.remedy) from None
        done(symbol)
        return symbol, code

    # Longest first: the last job to finish is then a short one.
    order: Iterable[str] = sorted(sources, key=lambda s: -len(sources[s]))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(pool.map(build, order))


def compile_source(source: str, archs: Iterable[str]) -> dict[str, bytes]:
    """Code by architecture, from the cache in `$XDG_CACHE_HOME/mlc` if it is there (`MLC_NO_CACHE=1` turns that off).

    What is for "compute_NN" and "sm_NN" or "sm_NNa" alike uses nothing of the latter alone: NVRTC translates it once, for "sm_NN".
    """
    found: dict[str, bytes] = {}
    paths = {a: _path(source, a) for a in archs}
    use_cache = not switch("MLC_NO_CACHE")
    if use_cache:
        found = {a: data for a, path in paths.items() if (data := read_checked(path)) is not None}
    for arch in paths:
        if arch in found:
            continue
        general = arch.rstrip("a").replace("compute_", "sm_")
        virtual, real = general.replace("sm_", "compute_"), next((a for a in (general, general + "a") if a in paths), None)
        if virtual in paths and real is not None:
            made = dict(zip((real, virtual), nvrtc().compile_both(source, general), strict=True))
        else:
            made = {arch: nvrtc().compile(source, arch)}
        found |= made
        if use_cache:
            for a, data in made.items():
                write_checked(paths[a], data)
    return found


def _path(source: str, arch: str) -> Path:
    """Where the cache has code."""
    key = hashlib.sha256("\0".join((source, *headers().values(), arch, str(nvrtc().version))).encode()).hexdigest()
    return cache_dir() / key[:2] / f"{key}.cubin"
