"""The kernel tests of tests/cuda, launched on a device instead of the emulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from emulated import described
from mlc.codegen.cuda.emitted import Emitted
from mlc.codegen.cuda.nvrtc import nvrtc
from mlc.ir import evaluate


class DeviceLibrary:
    """Kernels compiled for the device and loaded: what `emulated.build` gives, but real."""

    def __init__(self, device: Any, sources: Mapping[str, str]) -> None:
        self.device, self.sources = device, sources
        self.loaded: dict[str, Any] = {}

    def function(self, symbol: str, shared: int) -> Any:
        if symbol not in self.loaded:
            arch = f"sm_{self.device.capability}{'a' if self.device.capability == 90 else ''}"
            self.loaded[symbol] = self.device.load(symbol, nvrtc().compile(self.sources[symbol], arch), shared)
        return self.loaded[symbol]


def launch(library: DeviceLibrary, emitted: Emitted, arrays: Sequence[np.ndarray], bindings: Mapping[str, int], seed: int) -> None:
    """Run all grids of a step on copies of the arrays, and copy back."""
    d = library.device
    stream = d.stream()
    spaces = [np.full(max(1, evaluate(w, bindings)), 0xFF, np.uint8) for w in emitted.workspaces]
    counters = np.zeros(max(1, emitted.counters), np.uint64)
    everything = [*arrays, *spaces, counters]
    memory = [d.allocate(max(1, a.nbytes)) for a in everything]
    for m, a in zip(memory, everything, strict=True):
        if a.nbytes:
            d.upload(m.ptr, np.ascontiguousarray(a), stream)
    for k in emitted.launches:
        args = [memory[o].ptr for o in k.operands] + [evaluate(v, bindings) for v in k.dims]
        blocks = evaluate(k.blocks, bindings)
        if blocks > 0:
            maps = [d.tensor_map(memory[k.operands[m.operand]].ptr, *described(m, bindings)) for m in k.maps]
            d.launch(library.function(k.symbol, k.shared), blocks, k.threads, k.shared, np.array(args, np.int64), stream, maps)
    d.synchronize(stream)
    for m, a in zip(memory, arrays, strict=False):
        if a.nbytes:
            back = np.empty_like(a)
            d.download(back, m.ptr, stream)
            a[...] = back
    d.download(counters, memory[-1].ptr, stream)
    assert not counters.any(), "counters are 0 again"
