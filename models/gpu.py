"""`python -m mlc.models bench-gpu`: kernels and models on one GPU, beside torch in the same process, as markdown.

Everything is made here, from seeds: nothing is downloaded. Times are of the device (CUDA events), the median of blocks of runs
in which mlc and torch take turns.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import compile as compile_model
from ..errors import DeviceError, MlcError
from . import suite
from .isolated import Isolated

MODELS = ("mlp", "resnet50", "bert_base", "vit_b16", "gpt2", "whisper_tiny_encoder", "minilm_l6", "lstm")
BATCHED = ("resnet50", "vit_b16", "bert_base", "gpt2", "whisper_tiny_encoder")  # those measured with a batch too
BATCH = 32
KERNELS_SHARE = 0.4  # of the time, in which kernels alone begin
_KERNEL_SECONDS, _MODEL_SECONDS, _OVERTIME = 60.0, 150.0, 30.0  # that a row may take, compiling included; the last one's end
BLOCKS, WARM, SECONDS = 5, 3, 0.15  # blocks of runs that take turns; runs before them; device time of a block


@dataclass
class GpuRow:
    """A line of a table: what ran, milliseconds by engine (None where it failed), and the rate that the first one reached."""

    name: str
    milliseconds: dict[str, float | None]
    rate: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class KernelCase:
    """One operator: its ONNX text and weights, input shapes, the same in torch, and what to count ("GB/s" or "TFLOP/s")."""

    name: str
    onnx: Callable[[], bytes]
    inputs: Mapping[str, tuple[int, ...]]
    torch: Callable[[Any, dict[str, Any]], Callable[[], Any]]
    count: str
    amount: float
    precision: str = "fp32"
    half: bool = False  # inputs are float16
    cublas: bool = False  # a product of two inputs, which cupy has cuBLAS compute where there is no torch
    options: str = ""  # behind the target


def environment() -> dict[str, str]:
    """GPU, driver, versions, date. Raises MlcError when there is no GPU."""
    module: Any = compile_model(_text("probe (float[4] x) => (float[4] y) { y = Relu(x) }"), target="cuda")
    import cupy

    version = cupy.cuda.runtime.driverGetVersion()
    found = {"GPU": module.device.name, "driver (CUDA)": f"{version // 1000}.{version % 1000 // 10}"}
    try:
        import torch

        found["torch"] = torch.__version__
    except ImportError:
        found["torch"] = "not installed"
    return {**found, "date": time.strftime("%Y-%m-%d")}


def rows(seconds: float, names: Sequence[str] = (), announce: Callable[[str, GpuRow], None] = lambda title, row: None,
         worker: Isolated | None = None) -> tuple[list[GpuRow], list[GpuRow]]:  # fmt: skip
    """Of operators alone (not where models are named) and of suite models, at batch 1 and some with a batch, in float32 and bfloat16.

    Each runs in a process apart: one that hangs or faults is a line that says so, and the next ones get a new process. Nothing
    new starts after so many seconds, of which kernels get the first part. `announce` is told each row when it is there.
    """
    start = time.monotonic()
    models = [(n, 1) for n in names or MODELS] + [(n, BATCH) for n in names or MODELS if n in BATCHED]
    kernels = [] if names else list(range(len(_cases())))
    found: tuple[list[GpuRow], list[GpuRow]] = [], []
    with worker or Isolated(device_works) as process:
        jobs: list[tuple[str, Callable[..., GpuRow], tuple[Any, ...], float, float]] = [
            *(("kernels", _kernel_row, (i,), _KERNEL_SECONDS, KERNELS_SHARE) for i in kernels),
            *(("models", _model_row, m, _MODEL_SECONDS, 1.0) for m in models),
        ]
        for title, run, args, limit, share in jobs:
            now = time.monotonic() - start
            if now > share * seconds:
                continue
            try:
                row = process.call(run, *args, seconds=min(limit, seconds + _OVERTIME - now))
            except DeviceError as e:
                name = _cases()[args[0]].name if title == "kernels" else f"{args[0]}, batch {args[1]}"
                row = GpuRow(name, {}, notes=[f"FAILED: {_short(e.found)}"])
            found[title == "models"].append(row)
            announce(title, row)
    return found


def line(row: GpuRow) -> str:
    """A row for reading while others still run."""
    times = ", ".join(f"{e} {t:.3f} ms" for e, t in row.milliseconds.items() if t is not None)
    return "; ".join(p for p in (row.name, times, row.rate, *row.notes) if p)


def device_works() -> bool:
    """Whether this process can still use its device."""
    try:
        import cupy

        cupy.cuda.runtime.deviceSynchronize()
    except Exception:  # without cupy, or after a fault, there is nothing to keep the process for
        return False
    return True


def _short(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.replace("|", "/").split())[:120]


def markdown(about: dict[str, str], kernels: Sequence[GpuRow], models: Sequence[GpuRow]) -> str:
    """A section to append to docs/performance-gpu.md."""
    lines = [f"## {about['date']}: {about['GPU']}", "", ", ".join(f"{k} {v}" for k, v in about.items() if k != "date"), ""]
    for title, rows in (("kernels", kernels), ("models", models)):
        if not rows:
            continue
        engines = list(dict.fromkeys(e for r in rows for e in r.milliseconds))
        lines += [f"| {title} | " + " | ".join(f"{e} ms" for e in engines) + " | mlc's rate | notes |", "|---" * (len(engines) + 3) + "|"]
        for r in rows:
            cells = ["" if r.milliseconds.get(e) is None else f"{r.milliseconds[e]:.3f}" for e in engines]
            lines.append(f"| {r.name} | " + " | ".join(cells) + f" | {r.rate} | {'; '.join(r.notes)} |")
        lines.append("")
    return "\n".join(lines)


# --- cases ---------------------------------------------------------------------------------------------------------------
def _text(graph: str, **weights: np.ndarray) -> bytes:
    from onnx import numpy_helper, parser

    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 23]>\n' + graph)
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model.SerializeToString()


def _product(m: int, n: int, k: int, precision: str, options: str = "") -> KernelCase:
    def onnx() -> bytes:
        w = (np.random.default_rng(0).standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
        return _text(f"product (float[{m}, {k}] x) => (float[{m}, {n}] y) {{ y = MatMul(x, w) }}", w=w)

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        kind = {"bf16": lib.bfloat16, "fp16": lib.float16}.get(precision, lib.float32)
        lib.backends.cuda.matmul.allow_tf32 = bool(options)
        a, w = x["x"].to(kind), lib.randn(k, n, device="cuda", dtype=kind)
        return lambda: a @ w

    name = f"{precision}{options.replace('+', ' by ')} product {m}×{n}×{k}"
    return KernelCase(name, onnx, {"x": (m, k)}, torch, "TFLOP/s" if m > 16 else "GB/s", _amount(m, n, k, precision), precision,
                      cublas=precision != "bf16", options=options)  # fmt: skip


def _amount(m: int, n: int, k: int, precision: str) -> float:
    """TFLOP, or for few rows, which are bound by the weights, their GB."""
    return 2e-12 * m * n * k if m > 16 else 1e-9 * n * k * (4 if precision == "fp32" else 2)


def _convolution(batch: int, size: int, channels: int, out: int, kernel: int, stride: int) -> KernelCase:
    pad, result = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    shape = (batch, channels, size, size)

    def onnx() -> bytes:
        w = (np.random.default_rng(0).standard_normal((out, channels, kernel, kernel)) / kernel / np.sqrt(channels)).astype(np.float32)
        return _text(f"""convolution (float[{batch}, {channels}, {size}, {size}] x) => (float[{batch}, {out}, {result}, {result}] y) {{
            y = Conv<pads = [{pad}, {pad}, {pad}, {pad}], strides = [{stride}, {stride}]>(x, w) }}""", w=w)  # fmt: skip

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        last = {"dtype": lib.bfloat16, "memory_format": lib.channels_last}
        a = x["x"].to(**last)
        w = lib.randn(out, channels, kernel, kernel, device="cuda").to(**last)
        return lambda: lib.nn.functional.conv2d(a, w, stride=stride, padding=pad)

    amount = 2e-12 * batch * result * result * out * channels * kernel * kernel
    return KernelCase(f"bf16 convolution {kernel}×{kernel}/{stride}, {batch}×{size}×{size}×{channels} to {out}", onnx, {"x": shape}, torch,
                      "TFLOP/s", amount, "bf16")  # fmt: skip


def _attention(batch: int, heads: int, kv_heads: int, rows: int, keys: int, size: int, causal: bool) -> KernelCase:
    shapes = {"q": (batch, heads, rows, size), "k": (batch, kv_heads, keys, size), "v": (batch, kv_heads, keys, size)}
    text = ", ".join(f"float16[{', '.join(map(str, s))}] {n}" for n, s in shapes.items())
    y = f"float16[{batch}, {heads}, {rows}, {size}] y"

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        attend = lib.nn.functional.scaled_dot_product_attention
        return lambda: attend(x["q"], x["k"], x["v"], is_causal=causal, enable_gqa=heads != kv_heads)

    decode = rows == 1
    amount = 1e-9 * 4 * batch * kv_heads * keys * size if decode else 4e-12 * batch * heads * rows * keys * size * (0.5 if causal else 1)
    name = f"fp16 attention {batch}×{heads}/{kv_heads}, {rows} of {keys}, heads of {size}{', causal' if causal else ''}"
    return KernelCase(name, lambda: _text(f"attention ({text}) => ({y}) {{ y = Attention<is_causal = {int(causal)}>(q, k, v) }}"), shapes,
                      torch, "GB/s" if decode else "TFLOP/s", amount, half=True)  # fmt: skip


def _cases() -> list[KernelCase]:
    rows, width = 1 << 16, 2048  # half a gigabyte in, half out
    size = 8e-9 * rows * width

    def memory(name: str, body: str, torch: Callable[[Any, Any], Any], shape: tuple[int, ...] = (rows, width), out: str = "",
               amount: float = size, precision: str = "fp32", **weights: np.ndarray) -> KernelCase:  # fmt: skip
        x = f"float[{', '.join(map(str, shape))}]"
        return KernelCase(name, lambda: _text(f"memory ({x} x) => ({out or x} y) {{ {body} }}", **weights), {"x": shape},
                          lambda lib, v: lambda: torch(lib, v["x"]), "GB/s", amount, precision)  # fmt: skip

    one, zero = np.ones(width, np.float32), np.zeros(width, np.float32)
    few, long = 64, rows * width // 64
    return [
        memory("relu (a copy)", "y = Relu(x)", lambda t, v: t.relu(v)),
        memory("gelu", "a = Mul(x, c) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, h)", lambda t, v: t.nn.functional.gelu(v),
               c=np.array(0.70710678, np.float32), one=np.array(1, np.float32), h=np.array(0.5, np.float32)),
        memory("softmax", "y = Softmax<axis = 1>(x)", lambda t, v: t.softmax(v, 1)),
        memory("layer norm", "y = LayerNormalization(x, g, b)", lambda t, v: t.nn.functional.layer_norm(v, (width,)), g=one, b=zero),
        memory("transpose", "y = Transpose<perm = [1, 0]>(x)", lambda t, v: v.T.contiguous(), out=f"float[{width}, {rows}]"),
        memory("sums of rows", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(1), out=f"float[{rows}]", amount=size / 2,
               axes=np.array([1])),
        memory("sums of columns", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(0), out=f"float[{width}]", amount=size / 2,
               axes=np.array([0])),
        memory("sum of all", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(), out="float", amount=size / 2,
               axes=np.array([0, 1])),
        memory("softmax of 64 rows", "y = Softmax<axis = 1>(x)", lambda t, v: t.softmax(v, 1), (few, long)),
        memory("top 50 of 64 rows", "y, i = TopK(x, k)", lambda t, v: t.topk(v, 50), (few, 1 << 17), f"float[{few}, 50]",
               4e-9 * few * (1 << 17), k=np.array([50])),
        memory("sort of a million", "y, i = TopK(x, k)", lambda t, v: t.sort(v), (1, 1 << 20), f"float[1, {1 << 20}]", 16e-9 * (1 << 20),
               k=np.array([1 << 20])),
        memory("4-bit weights, 1×11008×4096", "y = MatMul(x, w)", lambda t, v: v @ t.ones(4096, 11008, device="cuda"), (1, 4096),
               "float[1, 11008]", 0.5e-9 * 4096 * 11008, "int4",
               w=np.random.default_rng(0).standard_normal((4096, 11008), dtype=np.float32)),
        _product(4096, 4096, 4096, "fp32"), _product(8192, 8192, 8192, "bf16"), _product(4096, 4096, 4096, "bf16"),
        _product(8192, 8192, 8192, "fp16"), _product(8192, 8192, 8192, "fp32", "+tf32"),
        _product(128, 3072, 768, "bf16"), _product(4096, 3072, 768, "bf16"), _product(4096, 768, 3072, "bf16"),
        _product(6304, 768, 3072, "bf16"), _product(512, 11008, 4096, "bf16"),
        _product(1, 4096, 14336, "bf16"), _product(4, 4096, 4096, "bf16"), _product(16, 4096, 4096, "bf16"),
        _product(1, 4096, 4096, "fp32"),
        _convolution(32, 56, 64, 64, 3, 1), _convolution(32, 14, 256, 256, 3, 1), _convolution(32, 224, 3, 64, 7, 2),
        _attention(16, 12, 12, 512, 512, 64, False), _attention(4, 32, 8, 2048, 2048, 128, True), _attention(1, 32, 8, 1, 8192, 128, False),
    ]  # fmt: skip


# --- measuring -----------------------------------------------------------------------------------------------------------
def _kernel_row(number: int) -> GpuRow:
    import cupy

    case = _cases()[number]
    row = GpuRow(case.name, {"mlc": None, "torch": None})
    rng = np.random.default_rng(1)
    kind = np.float16 if case.half else np.float32
    feeds = {n: cupy.asarray(rng.standard_normal(s, dtype=np.float32).astype(kind)) for n, s in case.inputs.items()}
    try:
        module = compile_model(case.onnx(), target="cuda" + case.options, precision=case.precision)
        steps = module.profile(feeds, runs=5)
        main = steps[_main_step(module)]  # conversions of inputs and results, which the case is not about, are steps of their own
        row.milliseconds["mlc"] = main * 1e3
        row.rate = f"{case.amount / main:.0f} {case.count}"
    except MlcError as e:
        row.notes.append(f"mlc: {_short(e.found)}")
        if not device_works():
            raise  # nothing else can run here
    try:
        import torch

        run = case.torch(torch, {n: torch.from_dlpack(a) for n, a in feeds.items()})
        row.milliseconds["torch"] = _torch_time(torch, run)
    except ImportError:
        row.notes.append("torch is not installed")
        if case.cublas:
            row.milliseconds["cuBLAS by cupy"] = _cublas_time(cupy, case)
    except (RuntimeError, TypeError) as e:
        row.notes.append(f"torch: {str(e)[:80]}")
    return row


def _main_step(module: Any) -> int:
    """The word of the step that computes most, or of one that moves most where none computes."""
    dims = module.manifest.raw["dims"]
    return max(module.manifest.steps, key=lambda s: (dims[s.flops], dims[s.bytes])).word


def _cublas_time(cupy: Any, case: KernelCase) -> float:
    """Milliseconds of a product as large, by events around as many as fill a block."""
    (m, k), kind = case.inputs["x"], np.float16 if case.precision == "fp16" else np.float32
    n = round(case.amount / (2e-12 * m * k) if m > 16 else case.amount / (1e-9 * k * np.dtype(kind).itemsize))
    a, w = (cupy.random.standard_normal(s, dtype=np.float32).astype(kind) for s in ((m, k), (k, n)))
    out = cupy.empty((m, n), kind)
    run = functools.partial(cupy.matmul, a, w, out=out)
    for _ in range(WARM):
        run()
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    count = max(3, int(SECONDS * 1e14 / (2 * m * n * k) / 10))
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / count


def _model_row(name: str, batch: int) -> GpuRow:
    engines: dict[str, Callable[[], Any]] = {}
    title = suite.SUITE[name].title + f", batch {batch}" * (batch != 1)
    row = GpuRow(title, dict.fromkeys(("mlc fp32", "mlc bf16", "torch fp32", "torch bf16", "torch.compile bf16")))
    try:
        import cupy
        import torch

        path = suite.export(name, batch=batch)
        torch.manual_seed(suite.SEED)
        model, example = suite.SUITE[name].build()
        model = model.eval().cuda()
        given = [x.cuda() for x in suite.batched(example, batch)]
        stream = cupy.cuda.Stream(non_blocking=True)
        feeds = dict(zip(suite.SUITE[name].inputs, (cupy.from_dlpack(x.contiguous()) for x in given), strict=True))
    except (ImportError, MlcError, RuntimeError) as e:
        row.notes.append(str(e)[:100])
        return row
    for precision in ("fp32", "bf16"):
        try:
            start = time.perf_counter()
            module: Any = compile_model(path, target="cuda", precision=precision)
            seconds = time.perf_counter() - start
            module.run(feeds)
            engines[f"mlc {precision}"] = partial(module.run, feeds, stream=stream, wait=False)
            row.notes.append(f"{precision} compiled in {seconds:.1f} s")
        except MlcError as e:
            row.notes.append(f"mlc {precision}: {_short(e.found)}")
            if not device_works():
                raise
    low, half = model.bfloat16(), [x.bfloat16() if x.is_floating_point() else x for x in given]
    engines["torch bf16"] = lambda: low(*half)
    try:
        fast = torch.compile(low, mode="max-autotune-no-cudagraphs" if name == "lstm" else "reduce-overhead")
        with torch.no_grad():
            fast(*half)
        engines["torch.compile bf16"] = lambda: fast(*half)
    except Exception as e:  # compilers of others fail in their own ways
        row.notes.append(f"torch.compile: {type(e).__name__}")
    with torch.no_grad():
        row.milliseconds |= _turns(torch, engines, row.notes)
        single = model.float()  # last: the layers are the same ones
        row.milliseconds["torch fp32"] = _torch_time(torch, lambda: single(*given))
    return row


def _turns(torch: Any, engines: dict[str, Callable[[], Any]], notes: list[str]) -> dict[str, float | None]:
    """Milliseconds of a run, the median over blocks in which the engines take turns."""
    times: dict[str, list[float]] = {}
    for _ in range(BLOCKS):
        for name, run in engines.items():
            try:
                times.setdefault(name, []).append(_torch_time(torch, run))
            except (MlcError, RuntimeError) as e:
                notes.append(f"{name}: {str(e)[:80]}")
    return {n: statistics.median(t) for n, t in times.items() if t}


def _torch_time(torch: Any, run: Callable[[], Any]) -> float:
    """Milliseconds of a run by the wall clock, over as many as fill a block, the device idle before and after."""
    for _ in range(WARM):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < SECONDS or count < 3:
        run()
        count += 1
        if count % 8 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count * 1e3
