"""The GPU tests without a GPU: cupy and the driver are stand-ins that run kernels by the emulation, NVRTC hands sources through.

`MLC_GPU_REHEARSAL=1 python -m pytest tests/gpu` shows that the tests themselves are sound, and how hangs and faults are reported
(`MLC_GPU_REHEARSAL=hang:NAME` or `fault:NAME` plants one in kernels of tests whose name holds NAME). It says nothing of a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cupy import RuntimeFault
from fake_driver import MAP_BYTES, EmulatingCupy, parameters
from mlc.codegen.cuda import nvrtc as nvrtc_module
from mlc.codegen.cuda.emulate.compiler import build
from mlc.runtime.cuda import cupy_device

_ELF = b"\x7fELF"


class RehearsingCupy(EmulatingCupy):
    """Modules are compiled by g++ when they are loaded; `planted` is what happens instead of a launch."""

    def __init__(self) -> None:
        super().__init__({})
        self.libraries: dict[str, Any] = {}
        self.lost = False
        fake = self

        class Module:
            def load(self, cubin: bytes) -> None:
                assert type(cubin) is bytes
                self.source = cubin.removeprefix(_ELF).decode()
                fake.contexts.add(threading.get_ident())

            def get_function(self, name: str) -> Any:
                symbol = name
                if symbol not in fake.libraries:
                    fake.libraries[symbol] = build({symbol: self.source})
                    fake.symbols.append(symbol)
                    fake.limits[symbol] = 48 << 10
                    fake.sizes[symbol] = [MAP_BYTES if "TensorMap" in p else 8 for p in parameters(self.source, symbol)]
                return SimpleNamespace(ptr=fake.symbols.index(symbol) + 1)

        self.cuda.function = SimpleNamespace(Module=Module)
        self.library = self
        self.cuda.runtime.deviceSynchronize = lambda: None
        self.random = SimpleNamespace(standard_normal=lambda shape, dtype: np.zeros(shape, dtype))
        self.matmul, self.empty = np.matmul, np.empty

    def asarray(self, array: np.ndarray) -> Any:
        return _Array(self._alloc(max(1, array.nbytes)), array)

    def run(self, symbol: str, *args: Any) -> None:
        """As a library does."""
        what, _, name = os.environ.get("MLC_GPU_REHEARSAL", "").partition(":")
        if what in ("hang", "fault") and name in os.environ.get("PYTEST_CURRENT_TEST", ""):
            if what == "hang":
                time.sleep(10_000)
            self.lost = True
        if self.lost:
            raise RuntimeFault("cudaErrorIllegalAddress: an illegal memory access was encountered")
        self.libraries[symbol].run(symbol, *args)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        if self.lost:
            raise RuntimeFault("cudaErrorIllegalAddress: an illegal memory access was encountered")
        super()._copy(to, source, size, kind, stream)


class _Array:
    """What `cupy.asarray` makes."""

    def __init__(self, memory: Any, array: np.ndarray) -> None:
        self.memory, self.dtype = memory, array.dtype
        ctypes.memmove(memory.ptr, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self._interface = {"shape": array.shape, "typestr": array.dtype.str, "data": (memory.ptr, False), "version": 3, "stream": 1}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._interface


def begin(replace: Callable[[Any, str, Any], None] = setattr) -> RehearsingCupy:
    """Put the stand-ins in place, by `replace(module, name, value)`: for this process, unless that says otherwise."""
    fake = RehearsingCupy()
    replace(cupy_device, "_cupy", lambda: fake)
    replace(cupy_device, "_driver", fake.driver)
    os.environ["MLC_NO_CACHE"] = "1"

    def compile(self: Any, source: str, arch: str) -> bytes:
        assert re.fullmatch(r"(sm|compute)_\d+a?", arch)
        return _ELF * arch.startswith("sm_") + source.encode()

    def compile_both(self: Any, source: str, arch: str) -> tuple[bytes, bytes]:
        return compile(self, source, arch), compile(self, source, arch.replace("sm_", "compute_"))

    replace(nvrtc_module.Nvrtc, "compile", compile)
    replace(nvrtc_module.Nvrtc, "compile_both", compile_both)
    return fake
