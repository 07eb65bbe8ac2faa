"""Models compiled for CUDA and run by the emulation: what CI checks, and how generated kernels are debugged without a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..codegen.cuda.emulate.compiler import EmulateOptions, build
from ..codegen.cuda.emulate.device import EmulatedDevice
from ..codegen.cuda.target import capability, parse
from ..runtime.cuda.module import CudaModule
from .api import compile_stages
from .backend import Done
from .cuda_backend import CudaBackend
from .options import Options
from .precision.options import Precision
from .stages import Compilation, parts_of

if TYPE_CHECKING:
    import onnx


_CODE = {"sm_": b"\x7fELF emulated", "com": b"// emulated"}


class EmulatedBackend(CudaBackend):
    """Leaves machine code out: the device has the kernels already."""

    def prepare(self, nodes: int) -> None:
        pass

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, Any]:
        return {s: self.image(s, {a: _CODE[a[:3]] for a in self.archs(s)}) for s in texts}


def emulate(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    target: str = "cuda:sm_90a",
    shapes: Mapping[str, Sequence[int]] | None = None,
    opt_level: int = 3,
    precision: str = "fp32",
    options: EmulateOptions | None = None,
    **device: Any,
) -> CudaModule:
    """The module for a CUDA target, on an emulated device (`device`: its keyword arguments). Errors as `compile`."""
    knobs = Options(target, shapes, opt_level=opt_level, precision=Precision(precision))
    return emulated_module(compile_stages(model, knobs, backend=EmulatedBackend(parse(target))), options, **device)


def emulated_module(result: Compilation, options: EmulateOptions | None = None, **device: Any) -> CudaModule:
    """The module of a compilation by an EmulatedBackend."""
    texts = {symbol: text for r in reversed(result.programs) for symbol, text in r.texts.items()}
    device.setdefault("capability", capability(result.backend.target.base))
    return CudaModule(parts_of(result), device=EmulatedDevice(build(texts, options), **device))
