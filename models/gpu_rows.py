"""A row of `bench-gpu`, measured: an operator by device time, a model by wall clock, each beside torch in the same process."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import compile as compile_model
from ..errors import MlcError
from . import suite
from .gpu_cases import KernelCase, cases
from .turns import WARM, by_turns, short

RUNS = 20  # of an operator
FLUSHED = 512 << 20  # bytes written before each run of an operator: more than caches hold, and longer than the host is behind


@dataclass
class GpuRow:
    """A line of a table: what ran, milliseconds by engine (None where it failed), and the rate that the first one reached."""

    name: str
    milliseconds: dict[str, float | None]
    rate: str = ""
    notes: list[str] = field(default_factory=list)


def device_works() -> bool:
    """Whether this process can still use its device."""
    try:
        import cupy

        cupy.cuda.runtime.deviceSynchronize()
    except Exception:  # without cupy, or after a fault, there is nothing to keep the process for
        return False
    return True


def kernel_row(number: int) -> GpuRow:
    """Case `number` by mlc and torch, or by cuBLAS through cupy where there is no torch."""
    import cupy

    case = cases()[number]
    row = GpuRow(case.name, {"mlc": None, "torch": None})
    rng = np.random.default_rng(1)
    kind = np.float16 if case.half else np.float32
    feeds = {n: cupy.asarray(rng.standard_normal(s, dtype=np.float32).astype(kind)) for n, s in case.inputs.items()}
    try:
        module = compile_model(case.onnx(), target="cuda" + case.options, precision=case.precision)
        steps = module.profile(feeds, runs=RUNS)
        main = steps[_main_step(module)]  # conversions of inputs and results, which the case is not about, are steps of their own
        row.milliseconds["mlc"] = main * 1e3
        row.rate = f"{case.amount / main:.0f} {case.count}"
    except MlcError as e:
        row.notes.append(f"mlc: {short(e.found)}")
        if not device_works():
            raise  # nothing else can run here
    try:
        row.milliseconds |= _other_library(cupy, case, feeds, row.notes)
    except Exception as e:  # libraries of others fail in their own ways, and mlc's time stays
        row.notes.append(f"{type(e).__name__}: {short(str(e))}")
    return row


def _other_library(cupy: Any, case: KernelCase, feeds: dict[str, Any], notes: list[str]) -> dict[str, float | None]:
    """Milliseconds by torch, or by cuBLAS where there is none."""
    try:
        import torch
    except ImportError:
        notes.append("torch is not installed")
        return {"cuBLAS by cupy": _device_time(cupy, _by_cublas(cupy, case))} if case.cublas else {}
    return {"torch": _device_time(cupy, case.torch(torch, {n: torch.from_dlpack(a) for n, a in feeds.items()}))}


def _main_step(module: Any) -> int:
    """The word of the step that computes most, or of one that moves most where none computes."""
    dims = module.manifest.raw["dims"]
    return max(module.manifest.steps, key=lambda s: (dims[s.flops], dims[s.bytes])).word


def _by_cublas(cupy: Any, case: KernelCase) -> Callable[[], Any]:
    """A product as large as the case's."""
    (m, k), kind = case.inputs["x"], np.float16 if case.precision == "fp16" else np.float32
    n = round(case.amount / (2e-12 * m * k) if m > 16 else case.amount / (1e-9 * k * np.dtype(kind).itemsize))
    a, w = (cupy.random.standard_normal(s, dtype=np.float32).astype(kind) for s in ((m, k), (k, n)))
    return functools.partial(cupy.matmul, a, w, out=cupy.empty((m, n), kind))


def _device_time(cupy: Any, run: Callable[[], Any]) -> float:
    """Milliseconds of a run in the default stream, which is torch's too: the median by events, caches written over before each,
    as `Module.profile` does."""
    events, memory = [], cupy.cuda.alloc(FLUSHED)
    for _ in range(WARM):
        run()
    for _ in range(RUNS):
        cupy.cuda.runtime.memsetAsync(memory.ptr, 0, FLUSHED, 0)
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        end.record()
        events.append((start, end))
    end.synchronize()
    return statistics.median(float(cupy.cuda.get_elapsed_time(a, b)) for a, b in events)


class _Torch:
    """A suite model in torch on the device, in bfloat16 and float32, and its inputs as cupy arrays."""

    def __init__(self, name: str, batch: int) -> None:
        import cupy
        import torch

        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.torch = torch
        torch.manual_seed(suite.SEED)
        model, example = suite.SUITE[name].build()
        self.model = model.eval().cuda()
        self.given = [x.cuda() for x in suite.batched(example, batch)]
        self.half = [x.bfloat16() if x.is_floating_point() else x for x in self.given]
        self.feeds = dict(zip(suite.SUITE[name].inputs, (cupy.from_dlpack(x.contiguous()) for x in self.given), strict=True))


Engines = dict[str, Callable[[], Any]]


def model_row(name: str, batch: int) -> GpuRow:
    """A suite model in float32 and bfloat16, with launches that overlap too, beside torch as it is."""
    row = GpuRow(_title(name, batch), dict.fromkeys(("mlc fp32", "mlc bf16", "mlc bf16, overlapping", "torch fp32", "torch bf16")))
    other = _torch(row, name, batch)
    engines = _by_mlc(row, name, batch, other, "fp32", "bf16")
    if other is None:
        row.milliseconds |= by_turns(engines, row.notes, _finish)
        return row
    with other.torch.no_grad():
        low = other.model.bfloat16()
        row.milliseconds |= by_turns({**engines, "torch bf16": lambda: low(*other.half)}, row.notes, _finish)
        single = other.model.float()  # last: the layers are the same ones
        row.milliseconds |= by_turns({"torch fp32": lambda: single(*other.given)}, row.notes, _finish)
    return row


def compiled_row(name: str, batch: int, mode: str = "reduce-overhead") -> GpuRow:
    """A suite model in bfloat16 beside torch.compile with CUDA graphs, which takes its time; it has none of an LSTM."""
    row = GpuRow(_title(name, batch), dict.fromkeys(("mlc bf16", f"torch.compile bf16, {mode}")))
    other = _torch(row, name, batch)
    engines = _by_mlc(row, name, batch, other, "bf16")
    if other is None:
        row.milliseconds |= by_turns(engines, row.notes, _finish)
        return row
    torch = other.torch
    with torch.no_grad():
        try:
            start = time.perf_counter()
            fast = torch.compile(other.model.bfloat16(), mode="max-autotune-no-cudagraphs" if name == "lstm" else mode)
            fast(*other.half)
            row.notes.append(f"torch.compile took {time.perf_counter() - start:.0f} s")
            engines[f"torch.compile bf16, {mode}"] = lambda: fast(*other.half)
        except Exception as e:  # compilers of others fail in their own ways
            row.notes.append(f"torch.compile: {type(e).__name__}")
        row.milliseconds |= by_turns(engines, row.notes, _finish)
    return row


def autotuned_row(name: str, batch: int) -> GpuRow:
    """The same where torch.compile measures which kernels are best, for minutes."""
    return compiled_row(name, batch, "max-autotune")


def _torch(row: GpuRow, name: str, batch: int) -> _Torch | None:
    """The model in torch; None and a note where torch is not installed or cannot have it."""
    try:
        return _Torch(name, batch)
    except (ImportError, RuntimeError, AssertionError) as e:  # the last from a torch without CUDA
        row.notes.append("torch is not installed" if getattr(e, "name", "") == "torch" else f"torch: {short(str(e))}")
        if not device_works():
            raise
        return None


def _by_mlc(row: GpuRow, name: str, batch: int, other: _Torch | None, *precisions: str) -> Engines:
    """The model in some precisions by mlc, on torch's inputs or, without torch, on generated ones of a file exported before; notes say
    what does not compile or run. Raises MlcError when the device is lost."""
    import cupy

    stream, engines = cupy.cuda.Stream(non_blocking=True), Engines()
    for precision in precisions:
        try:
            path = suite.export(name, batch=batch)
            start = time.perf_counter()
            module: Any = compile_model(path, target="cuda", precision=precision)
            row.notes.append(f"{precision} compiled in {time.perf_counter() - start:.1f} s")
            feeds = other.feeds if other else {t.name: cupy.asarray(_made(t.shape, t.dtype)) for t in module.inputs}
            module.run(feeds)
        except MlcError as e:
            row.notes.append(f"mlc {precision}: {short(e.found)}")
            if not device_works():
                raise
            continue
        engines[f"mlc {precision}"] = partial(module.run, feeds, stream=stream, wait=False)
        if precision == "bf16":
            overlapping = type(module)(module.parts, overlap=True)
            engines["mlc bf16, overlapping"] = partial(overlapping.run, feeds, stream=stream, wait=False)
    return engines


def _made(shape: tuple[int | str, ...], dtype: np.dtype) -> np.ndarray:
    """An input of a model of the suite: noise, or the numbers of tokens, all the same, and masks that hide none."""
    sizes = [d if isinstance(d, int) else 1 for d in shape]
    return np.random.default_rng(0).standard_normal(sizes).astype(dtype) if dtype.kind == "f" else np.ones(sizes, dtype)


def _finish() -> None:
    import cupy

    cupy.cuda.runtime.deviceSynchronize()


def _title(name: str, batch: int) -> str:
    return suite.SUITE[name].title + f", batch {batch}" * (batch != 1)
