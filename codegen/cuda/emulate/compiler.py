"""Kernels to a shared library of the host, by g++; cached on disk by content."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ....errors import CodegenError, TargetError, VerifyError
from ...disk_cache import cache_dir, mark_used, move_in
from ..nvrtc import headers

_FLAGS = ("-std=c++17", "-O1", "-g0", "-DMLC_EMULATE", "-fPIC", "-fwrapv", "-ffp-contract=on", "-Wno-unknown-pragmas", "-Wno-div-by-zero",
          "-fno-strict-aliasing", "-w")  # fmt: skip
_MESSAGE = 256
_EMULATION = tuple(f"emulate{part}.h" for part in ("", "_language", "_fibers", "_rules", "_tensor", "_grid", "_hopper"))
_GRID = "emulate_grid.cpp"
_FIRST = "mlc.cuh"  # what every kernel includes first
_OLD = 7 * 24 * 3600  # seconds after which headers that nobody used go


@dataclass(frozen=True, slots=True)
class EmulateOptions:
    """sanitize: build with the undefined-behaviour sanitizer, and with the address sanitizer if the process has it loaded."""

    sanitize: tuple[str, ...] = ()


class Library:
    """Kernels by symbol, ready to run."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))
        self._lock = threading.Lock()  # the device played is one block at a time

    def run(self, symbol: str, args: Sequence[int], blocks: int, threads: int, shared: int, seed: int = 0) -> None:
        """Run a grid; `args` are addresses and sizes. seed 0 keeps blocks and threads in order.

        Raises VerifyError when threads do not meet at a barrier or collective.
        """
        entry = getattr(self._lib, f"{symbol}_emulated")
        entry.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_int]
        message = ctypes.create_string_buffer(_MESSAGE)
        values = (ctypes.c_int64 * max(1, len(args)))(*args)
        with self._lock:
            failed = entry(ctypes.addressof(values), blocks, threads, shared, seed, message, _MESSAGE)
        if failed:
            raise VerifyError(f"kernel {symbol}: {message.value.decode() or 'no memory'}")


def build(sources: Mapping[str, str], options: EmulateOptions | None = None) -> Library:
    """One library of kernels, given as symbol -> source.

    Raises TargetError when there is no g++, CodegenError when it refuses the source.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise TargetError("no g++ on this machine", expected="g++, which compiles emulated kernels", remedy="Install a C++ compiler.")
    sanitize = (options or EmulateOptions()).sanitize
    # Not optimised: g++ takes longer over instrumented code than that then saves.
    flags = [*_FLAGS, *(f"-fsanitize={s}" for s in sanitize), *(["-fno-sanitize-recover=all", "-O0"] if sanitize else [])]
    text, common, folder = translation_unit(sources), _common(compiler, flags), _cache()
    name = _digest((text, common.name))
    library = cache_dir() / name[:2] / f"{name}.so"
    if library.exists():
        mark_used(library)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, out = Path(work) / "kernels.cpp", Path(work) / "kernels.so"
            source.write_text(text)
            _run(compiler, *flags, "-shared", "-I", common, source, common / f"{_GRID}.o", "-o", out)
            move_in(out, library)
    return Library(library)


def _common(compiler: str, flags: Sequence[str]) -> Path:
    """A folder of what all kernels have in common: headers, the first precompiled, as g++ then finds it, and the code that runs grids."""
    files = {name: _resource(f"emulate/{name}") for name in (*_EMULATION, _GRID)} | headers()
    folder = _cache() / _digest((*files.values(), *flags, compiler))
    if folder.exists():
        mark_used(folder)
    else:
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            made = Path(work) / folder.name
            made.mkdir()
            for name, text in files.items():
                (made / name).write_text(text)
            _run(compiler, *flags, "-c", made / _GRID, "-o", made / f"{_GRID}.o")
            _run(compiler, *flags, "-x", "c++-header", made / _FIRST, "-o", made / f"{_FIRST}.gch")
            try:
                made.rename(folder)
            except OSError:  # another process was first
                if not folder.is_dir():
                    raise
        for other in folder.parent.iterdir():  # of earlier versions, and of processes that were killed
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > _OLD:
                    (shutil.rmtree if other.is_dir() else os.unlink)(other)
    return folder


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CodegenError("g++ refuses generated kernels:\n" + done.stderr[:3000], remedy="This is a bug in mlc.")


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def translation_unit(sources: Mapping[str, str]) -> str:
    """All kernels in one file, each in its own namespace, with an entry that runs a grid of it."""
    names = sorted({line for s in sources.values() for line in s.splitlines() if line.startswith("#include")})
    parts = ["\n".join([f'#include "{_FIRST}"', *names, ""])]  # before the namespaces
    for symbol, source in sources.items():
        parts.append(f"namespace n_{symbol} {{\n{source}\n}}\n")
        parts.append(
            f"static void {symbol}_enter(const int64_t* args) {{ emulate::call(n_{symbol}::{symbol}, args); }}\n"
            f'extern "C" int {symbol}_emulated(const int64_t* args, int64_t blocks, int threads, int64_t shared, uint64_t seed,\n'
            f"    char* message, int size) {{\n"
            f"    return emulate::run_grid({symbol}_enter, args, blocks, threads, shared, seed, message, size);\n}}\n"
        )
    return "".join(parts)


def _resource(name: str) -> str:
    return resources.files(__package__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


def _cache() -> Path:
    folder = cache_dir() / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
