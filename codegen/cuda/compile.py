"""Kernels to machine code: cubins and PTX, side by side in threads, cached on disk by content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import CodegenError
from .nvrtc import header, nvrtc
from .target import CudaTarget

_MAGIC = b"mlccub1\n"


def compile_all(sources: Mapping[str, str], target: CudaTarget, done: Callable[[str], None] = lambda symbol: None,
                workers: int | None = None) -> dict[str, dict[str, bytes]]:  # fmt: skip
    """symbol -> architecture -> code: a cubin for each of the target's, and PTX for its virtual one.

    Raises CodegenError naming the kernel that NVRTC refuses, TargetError when there is no NVRTC.
    """
    nvrtc()
    archs = (*target.archs, target.ptx)
    count = workers or max(1, len(os.sched_getaffinity(0)))

    def build(symbol: str) -> tuple[str, dict[str, bytes]]:
        try:
            code = {a: compile_source(sources[symbol], a) for a in archs}
        except CodegenError as e:
            raise CodegenError(f"kernel {symbol}: {e.found}", expected=e.expected, remedy=e.remedy) from None
        done(symbol)
        return symbol, code

    # Longest first: the last job to finish is then a short one.
    order: Iterable[str] = sorted(sources, key=lambda s: -len(sources[s]))
    with ThreadPoolExecutor(count) as pool:
        return dict(pool.map(build, order))


def compile_source(source: str, arch: str) -> bytes:
    """Code for one architecture, from the cache in `$XDG_CACHE_HOME/mlc` if it is there (`MLC_NO_CACHE=1` turns that off)."""
    version = nvrtc().version
    key = hashlib.sha256("\0".join((source, header(), arch, str(version))).encode()).hexdigest()
    path = _folder() / key[:2] / f"{key}.cubin"
    use_cache = not os.environ.get("MLC_NO_CACHE")
    if use_cache and (data := _read(path)) is not None:
        return data
    data = nvrtc().compile(source, arch)
    if use_cache:
        _write(path, data)
    return data


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")) / "mlc"


def _read(path: Path) -> bytes | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    data = raw[head:]
    return data if raw[: len(_MAGIC)] == _MAGIC and hashlib.sha256(data).digest() == raw[len(_MAGIC) : head] else None


def _write(path: Path, data: bytes) -> None:
    # A cache that cannot be written costs time, nothing else.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as f:
            f.write(_MAGIC + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except OSError:
        return
