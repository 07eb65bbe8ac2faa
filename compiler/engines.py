"""The engines that `mlc bench --against` knows: a model, ready to run on given arrays, in each of them.

Each maker returns a call from NumPy arrays to NumPy arrays, or raises Refusal where that engine does not take the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from .bench import Run
from .oracle import Oracle

FLOAT32 = "mlc-fp32"  # this compiler at full precision, to compare a lowered module with
_PACKAGES = {"iree": "iree-base-compiler"}
ENGINES = ("onnxruntime", "openvino", "iree", FLOAT32)
_NEEDED = {
    "openvino": ("OpenVINO", ("openvino",), "pip install openvino, or use --against onnxruntime"),
    "iree": ("IREE", ("iree.compiler", "iree.runtime"), "pip install 'iree-base-compiler[onnx]' iree-base-runtime, or name other engines"),
}


class Refusal(InputError):
    """A peer cannot run the model; the others can still be timed."""


def require_installed(engine: str) -> None:
    """Raises InputError for an engine whose packages do not import."""
    if engine not in _NEEDED:
        return
    title, packages, remedy = _NEEDED[engine]
    try:
        for name in packages:
            import_module(name)
    except ImportError as e:
        raise InputError(f"{title} is not installed", remedy=remedy, loc="--against") from e


def onnxruntime_engine(path: Path, feeds: Mapping[str, np.ndarray], threads: int, sizes: Mapping[str, int]) -> Run:
    """onnxruntime with all optimizations; `sizes` fixes symbolic dims."""
    oracle = Oracle(path, optimize=True, threads=threads, sizes=sizes)
    ready = dict(feeds)
    oracle.run(ready)
    return lambda: oracle.session.run(None, ready)


def openvino_engine(path: Path, feeds: Mapping[str, np.ndarray], threads: int, static: bool, precision: str = "f32") -> Run:
    """OpenVINO's CPU plugin at a precision, "f32" or "bf16" (it would pick bfloat16 by itself where the machine has it)."""
    require_installed("openvino")
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    ready = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    try:
        model = core.read_model(os.fspath(path))
        if static:
            model.reshape({name: list(array.shape) for name, array in ready.items()})
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.infer(ready)
    except Exception as e:  # OpenVINO raises bare RuntimeErrors
        raise Refusal(f"OpenVINO cannot run the model: {' '.join(str(e).split())[:200]}") from e

    def run() -> Any:
        request.infer(ready, share_inputs=True)
        return [np.array(t.data) for t in request.output_tensors]

    return run


def iree_engine(path: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Run:
    """IREE for this CPU at its highest level. More than one thread are its task system's; one is the caller's own.

    The sizes must be those of the file: IREE reads symbolic dims, and makes slow code of them, which says nothing of its speed.
    """
    require_installed("iree")
    import iree.compiler
    import iree.runtime

    # Large rows of layer norms want more stack than its default allows, and are refused with it.
    options = ["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3", "--iree-llvmcpu-stack-allocation-limit=1048576"]
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "model.mlir")
        try:
            tool = [sys.executable, "-m", "iree.compiler.tools.import_onnx", os.fspath(path), "-o", text]
            subprocess.run(tool, check=True, capture_output=True, text=True)
            code = iree.compiler.compile_file(text, input_type="onnx", target_backends=["llvm-cpu"], extra_args=options)
        except (subprocess.CalledProcessError, iree.compiler.CompilerToolError) as e:
            said = e.stderr if isinstance(e, subprocess.CalledProcessError) else str(e)
            raise Refusal(f"IREE cannot compile the model: {_error_line(said)}") from e
    if threads > 1:
        iree.runtime.flags.parse_flags(f"--task_topology_max_group_count={threads}")
    context = iree.runtime.SystemContext(config=iree.runtime.Config("local-sync" if threads == 1 else "local-task"))
    context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, code))
    (module,) = (m for name, m in context.modules.items() if name != "hal")
    (name,) = (n for n in module.vm_module.function_names if n != "__init" and not n.endswith("$async"))
    function, ready = module[name], [np.ascontiguousarray(a) for a in feeds.values()]

    def run() -> Any:
        found = function(*ready)
        return [a.to_host() for a in (found if isinstance(found, list | tuple) else [found])]

    try:
        run()
    except ValueError as e:
        raise Refusal(f"IREE cannot run the model: {' '.join(str(e).split())[:200]}") from e
    return run


def _error_line(said: str) -> str:
    """The first line that tells of an error, or the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it says nothing"]
    return next((line for line in lines if "error:" in line), lines[-1])[:200]


def versions(engines: Sequence[str]) -> dict[str, str]:
    """Versions of the engines, and of the machine that they ran on."""
    from importlib import metadata

    found = {"mlc": __version__}
    for name in engines:
        try:
            found[name] = metadata.version(_PACKAGES.get(name, name))
        except metadata.PackageNotFoundError:
            continue
    found["cpu"] = _cpu_name()
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.machine()
