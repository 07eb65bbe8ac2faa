"""Kernels to machine code: cubins and PTX, side by side in threads, cached on disk by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

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
            code = {a: compile_source(sources[symbol], a) for a in archs(symbol)}
        except CodegenError as e:
            raise CodegenError(f"kernel {symbol}: {e.found}", expected=e.expected, remedy=e.remedy) from None
        done(symbol)
        return symbol, code

    # Longest first: the last job to finish is then a short one.
    order: Iterable[str] = sorted(sources, key=lambda s: -len(sources[s]))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(pool.map(build, order))


def compile_source(source: str, arch: str) -> bytes:
    """Code for one architecture, from the cache in `$XDG_CACHE_HOME/mlc` if it is there (`MLC_NO_CACHE=1` turns that off)."""
    version = nvrtc().version
    key = hashlib.sha256("\0".join((source, *headers().values(), arch, str(version))).encode()).hexdigest()
    path = cache_dir() / key[:2] / f"{key}.cubin"
    use_cache = not switch("MLC_NO_CACHE")
    if use_cache and (data := read_checked(path)) is not None:
        return data
    data = nvrtc().compile(source, arch)
    if use_cache:
        write_checked(path, data)
    return data
