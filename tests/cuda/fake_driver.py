"""A driver that runs kernels by the emulation: what `CupyDevice` hands over is read as the real one reads it.

Launch parameters are taken from memory through the array of pointers, tensor maps are made by a C function with the prototype
and the rules of `cuTensorMapEncodeTiled` (CUDA driver API, "Tensor Map Object Management").
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_cupy import DriverFault, FakeCupy, words
from mlc.codegen.cuda.emulate.compiler import build

_STUB = r"""
#include <cstdint>
#include <cstring>
struct Map { uint64_t base; int32_t itemsize, rank; uint64_t sizes[4], strides[4]; int32_t box[4]; };  // emulate_hopper.h
extern "C" int cuTensorMapEncodeTiled(void* map, int type, uint32_t rank, void* address, const uint64_t* sizes, const uint64_t* strides,
                                      const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
    const int bytes = type == 0 ? 1 : type == 1 ? 2 : type == 2 ? 4 : 0;
    const uint64_t at = reinterpret_cast<uint64_t>(address);
    if (reinterpret_cast<uint64_t>(map) % 64 || !bytes || rank < 2 || rank > 4 || !at || at % 16 || interleave || promotion != 3 || fill) return 1;
    Map m{at, bytes, (int32_t)rank, {}, {}, {}};
    for (uint32_t i = 0; i < rank; ++i) {
        if (!sizes[i] || sizes[i] > (1ull << 32) || !box[i] || box[i] > 256 || steps[i] != 1) return 1;
        if (i + 1 < rank && (strides[i] % 16 || strides[i] >= (1ull << 40) || (!strides[i] && sizes[i + 1] > 1))) return 1;
        m.sizes[i] = sizes[i], m.box[i] = (int32_t)box[i];
        if (i) m.strides[i] = strides[i - 1];
    }
    if (swizzle < 1 || swizzle > 3 || box[0] * bytes != 16 << swizzle) return 1;
    std::memset(map, 0, 128);
    std::memcpy(map, &m, sizeof(m));
    return 0;
}
"""
MAP_BYTES = 128


def stub() -> ctypes.CDLL:
    """libcuda.so.1, as far as it is called by ctypes."""
    path = Path(tempfile.gettempdir()) / f"mlc_stub_{hashlib.sha256(_STUB.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "stub.so"
            subprocess.run(["g++", "-x", "c++", "-shared", "-fPIC", "-o", out, "-"], input=_STUB, text=True, check=True)
            path.write_bytes(out.read_bytes())
    return ctypes.CDLL(str(path))


class EmulatingCupy(FakeCupy):
    """cupy's calls, with launches that happen. Graphs record parameters when they are captured, as the driver does."""

    def __init__(self, sources: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self.library = build(sources)
        self.symbols, self.limits = list(sources), dict.fromkeys(sources, 48 << 10)
        # Of each kernel: bytes of its parameters by position.
        self.sizes = {s: [MAP_BYTES if "TensorMap" in p else 8 for p in parameters(text, s)] for s, text in sources.items()}
        self.recording: list[Any] | None = None
        fake, base = self, self.cuda.Stream

        class Module:
            def load(self, cubin: bytes) -> None:
                assert type(cubin) is bytes
                fake.contexts.add(threading.get_ident())

            def get_function(self, name: str) -> Any:
                return SimpleNamespace(ptr=fake.symbols.index(name) + 1)

        class Stream(base):
            def begin_capture(self, mode: int | None = None) -> None:
                super().begin_capture(mode)
                fake.recording = []

            def end_capture(self) -> Any:
                super().end_capture()
                recorded, fake.recording = fake.recording, None
                return SimpleNamespace(launch=fake.call("graph", lambda stream=None: [fake.library.run(*a) for a in recorded]))

        self.cuda.Stream = Stream
        self.cuda.function = SimpleNamespace(Module=Module)

    def _allow(self, function: int, attribute: int, value: int) -> None:
        words(function, attribute, value)
        if attribute != 8 or value > 227 << 10:
            raise DriverFault("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.limits[self.symbols[function - 1]] = value

    def _launch(
        self, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, params: int, extra: int
    ) -> None:
        words(function, gx, gy, gz, bx, by, bz, shared, stream, params, extra)
        symbol = self.symbols[function - 1]
        if threading.get_ident() not in self.contexts:
            raise DriverFault("CUDA_ERROR_INVALID_CONTEXT: invalid device context")
        if not 0 < gx < 1 << 31 or (gy, gz, by, bz, extra) != (1, 1, 1, 1, 0) or not 0 < bx <= 1024 or shared > self.limits[symbol]:
            raise DriverFault("CUDA_ERROR_INVALID_VALUE: invalid argument")
        values, kept = [], []
        for i, size in enumerate(self.sizes[symbol]):
            at = ctypes.c_uint64.from_address(params + 8 * i).value
            kept.append(ctypes.create_string_buffer(ctypes.string_at(at, size), size))  # a launch copies them
            values.append(ctypes.addressof(kept[-1]) if size == MAP_BYTES else ctypes.c_int64.from_buffer(kept[-1]).value)
        call = (symbol, values, gx, bx, shared, 0)
        if stream in self.capturing:
            assert self.recording is not None
            self.recording.append(call)
            self.log.append(kept)  # as long as the graph
            return
        self.library.run(*call)

    def driver(self) -> SimpleNamespace:
        """libcuda.so.1 with launches that have attributes, of which only that of overlapping ones is known; "overlap" is noted."""

        def launch(config: int, function: int, params: int, extra: int | None) -> int:
            size = struct.Struct("@7I P P I")  # CUlaunchConfig: grid, block, shared memory, stream, attributes and their number
            *grid, shared, stream, attributes, count = size.unpack(ctypes.string_at(config, size.size))
            kind, allowed = struct.unpack("@i4xi60x", ctypes.string_at(attributes, 72))  # CUlaunchAttribute
            if (count, kind, allowed) != (1, 6, 1):
                return 1
            self.log.append("overlap")
            self.cuda.driver.launchKernel(function, *grid, shared, stream or 0, params, extra or 0)
            return 0

        kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)
        return SimpleNamespace(cuTensorMapEncodeTiled=stub().cuTensorMapEncodeTiled, cuLaunchKernelEx=kind(launch))


def parameters(source: str, symbol: str) -> list[str]:
    found = re.search(rf"{symbol}\(([^)]*)\)", source)
    assert found is not None
    return found[1].split(", ")
