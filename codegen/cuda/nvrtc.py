"""NVRTC by ctypes: CUDA C++ text to a cubin or PTX, with no GPU and no driver."""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import os
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import CodegenError, TargetError

_FLAGS = (b"--std=c++17", b"--device-as-default-execution-space", b"-diag-suppress=39,179,550,177,186")
_REMEDY = 'Install it: pip install "mlc[cuda]" (the wheel nvidia-cuda-nvrtc), or a CUDA toolkit.'


class Nvrtc:
    """The library. Calls release the interpreter lock, so threads compile side by side."""

    def __init__(self, path: str) -> None:
        builtins = sorted(glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so*")))
        for b in builtins[:1]:  # NVRTC opens it by name, which only finds what is loaded already
            ctypes.CDLL(b, mode=ctypes.RTLD_GLOBAL)
        self._lib = ctypes.CDLL(path)
        self._lib.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self._check(self._lib.nvrtcVersion(byref(major), byref(minor)), "version")
        self.version = (major.value, minor.value)

    def compile(self, source: str, arch: str) -> bytes:
        """A cubin for "sm_NN", PTX for "compute_NN". Raises CodegenError with the compiler's log."""
        return self._compile(source, arch, (), [_kind(arch)])[0][0]

    def compile_both(self, source: str, arch: str) -> tuple[bytes, bytes]:
        """A cubin for "sm_NN", and the PTX it is made from: that for "compute_NN"."""
        cubin, ptx = self._compile(source, arch, (), ["CUBIN", "PTX"])[0]
        return cubin, ptx

    def messages(self, source: str, arch: str) -> str:
        """What the assembler tells of machine code for "sm_NN": registers, bytes spilled, and what makes it slow."""
        return self._compile(source, arch, (b"--ptxas-options=-v",), [])[1]

    def _compile(self, source: str, arch: str, more: tuple[bytes, ...], kinds: Sequence[str]) -> tuple[list[bytes], str]:
        lib, program = self._lib, c_void_p()
        files = headers()
        texts = (c_char_p * len(files))(*(t.encode() for t in files.values()))
        names = (c_char_p * len(files))(*(n.encode() for n in files))
        status = lib.nvrtcCreateProgram(byref(program), source.encode(), b"kernel.cu", len(files), texts, names)
        self._check(status, "create a program")
        try:
            flags = (f"--gpu-architecture={arch}".encode(), *_FLAGS, *more)
            options = (c_char_p * len(flags))(*flags)
            status = lib.nvrtcCompileProgram(program, len(options), options)
            if status:
                raise CodegenError(f"NVRTC refuses generated code for {arch}:\n{self._log(program)[:3000]}", remedy="This is a bug in mlc.")
            return [self._result(program, kind) for kind in kinds], self._log(program)
        finally:
            lib.nvrtcDestroyProgram(byref(program))

    def _result(self, program: Any, kind: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._lib, f"nvrtcGet{kind}Size")(program, byref(size)), "size the result")
        out = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._lib, f"nvrtcGet{kind}")(program, out), "fetch the result")
        return out.raw if kind == "CUBIN" else out.raw.rstrip(b"\0")

    def _log(self, program: Any) -> str:
        size = c_size_t()
        self._lib.nvrtcGetProgramLogSize(program, byref(size))
        log = ctypes.create_string_buffer(max(1, size.value))
        self._lib.nvrtcGetProgramLog(program, log)
        return log.value.decode(errors="replace")

    def _check(self, status: int, what: str) -> None:
        if status:
            text = self._lib.nvrtcGetErrorString(status)
            raise CodegenError(f"NVRTC cannot {what}: {text.decode() if text else status}", remedy=_REMEDY)


def _kind(arch: str) -> str:
    return "CUBIN" if arch.startswith("sm_") else "PTX"


@functools.cache
def headers() -> dict[str, str]:
    """What kernels include, by name: mlc.cuh, and what it or single kinds of kernels need besides."""
    folder = resources.files(__package__).joinpath("headers")
    return {f.name: f.read_text("utf-8") for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".cuh")}


@functools.cache
def nvrtc() -> Nvrtc:
    """The library of the wheel or of a CUDA toolkit. Raises TargetError when there is none that loads."""
    reason = "it is nowhere on this machine"
    for path in _candidates():
        try:
            return Nvrtc(path)
        except OSError as e:
            reason = str(e)[:200]
    raise TargetError(f"NVRTC, NVIDIA's run-time compiler, does not load: {reason}", expected="libnvrtc", remedy=_REMEDY)


def _candidates() -> list[str]:
    """Paths of libnvrtc: wheels first (newest), then the toolkit, then what the loader knows."""
    found: list[str] = []
    spec = importlib.util.find_spec("nvidia")
    for base in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        found += glob.glob(os.path.join(base, "*", "lib", "libnvrtc.so.*[0-9]"))
    found.sort(key=_suffix, reverse=True)  # beside the one for mlc, torch may have brought one of CUDA 12, in a folder of another name
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for home in homes:
        if home:
            for folder in ("lib64", "lib", "targets/x86_64-linux/lib"):
                found += sorted(glob.glob(str(Path(home) / folder / "libnvrtc.so.*[0-9]")), reverse=True)
    return [f for f in found if "alt" not in os.path.basename(f)] + ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]


def _suffix(path: str) -> tuple[int, ...]:
    """The version in a library's name: (13,) of libnvrtc.so.13."""
    return tuple(int(n) for n in path.rpartition(".so.")[2].split(".") if n.isdigit())
