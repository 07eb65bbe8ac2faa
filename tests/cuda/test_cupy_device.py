"""What `CupyDevice` asks of cupy and of the driver: that cupy has it, and that kernels get what was meant, by a driver that emulates."""

from __future__ import annotations

import ctypes
import inspect
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
import small_models
from emulated import needs_gxx
from fake_cupy import FakeCupy, RuntimeFault
from fake_driver import EmulatingCupy, stub
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend
from mlc.compiler.options import Options
from mlc.compiler.precision.options import Precision
from mlc.errors import DeviceError
from mlc.ir import DType
from mlc.runtime.cuda import arrays, cupy_device
from mlc.runtime.cuda.images import split
from mlc.runtime.cuda.module import CudaModule

rng = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def opened(monkeypatch: pytest.MonkeyPatch, blob: bytes, target: str, precision: str = "fp32") -> tuple[EmulatingCupy, CudaModule]:
    r = compile_stages(blob, Options(target, precision=Precision(precision)), backend=EmulatedBackend(parse(target)))
    fake = EmulatingCupy(r.texts)
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    monkeypatch.setattr(cupy_device, "_driver", stub)
    parts = r.backend.parts(r.plan, r.emitted, r.objects, r.graph.equal, r.packed.result())
    return fake, CudaModule(parts, device=cupy_device.CupyDevice())


JOBS = [("mlp", {"x": floats(9, 16)}, "fp32", 1e-4), ("wide", {"x": floats(256, 64)}, "bf16", 1e-2), ("wide", {"x": floats(70, 64)}, "fp16", 3e-3),
        ("transformer", {"x": floats(1, 33, 16)}, "fp32", 1e-4), ("loop", {"x": floats(4), "n": np.array(3)}, "fp32", 1e-5)]  # fmt: skip


@needs_gxx
@pytest.mark.parametrize("name,feeds,precision,tol", JOBS, ids=[f"{n}-{p}{i}" for i, (n, _, p, _) in enumerate(JOBS)])
def test_models_run_by_its_launches(monkeypatch, name: str, feeds: dict[str, np.ndarray], precision: str, tol: float) -> None:
    """Addresses, sizes, tensor maps, shared memory and graphs as the driver gets them."""
    blob = getattr(small_models, name)()
    fake, module = opened(monkeypatch, blob, "cuda:sm_90a", precision)
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    for _ in range(3):
        (got,) = module.run(feeds).values()
        assert got.shape == want.shape and np.linalg.norm(got - want) <= tol * np.linalg.norm(want)
    assert "graph" in fake.log and "launchKernel" in fake.log
    assert (name == "wide") == any(image.maps for _, image in module._bindings.program.functions)


@needs_gxx
@pytest.mark.parametrize("target,overlaps", [("cuda:sm_90a", True), ("cuda:sm_80", False)])
def test_launches_that_overlap(monkeypatch, target: str, overlaps: bool) -> None:
    """Only of code that waits for the launch before."""
    fake, module = opened(monkeypatch, small_models.wide(), target, "bf16")
    monkeypatch.setattr(cupy_device, "_driver", fake.driver)
    x = floats(70, 64)
    want = module.run({"x": x})["y"]
    assert "overlap" not in fake.log
    overlapping = CudaModule(module.parts, device=module.device, overlap=True)
    for _ in range(3):  # plainly, captured, and as a graph
        np.testing.assert_array_equal(overlapping.run({"x": x})["y"], want)
    assert ("overlap" in fake.log) == overlaps


@needs_gxx
def test_a_thread_that_has_called_nothing_yet(monkeypatch) -> None:
    """Functions of the driver need a context, which functions of the runtime give a thread, but the driver's do not."""
    _, module = opened(monkeypatch, small_models.mlp(), "cuda:sm_90a")
    x = floats(9, 16)
    want = module.run({"x": x})["y"]
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(module.run, {"x": x}).result()["y"], want)


@pytest.mark.parametrize("current,stream,error", [(0, 1, TypeError("Got unsupported ScalarType BFloat16")), (40, 40, KeyError("float8"))])
def test_arrays_that_only_dlpack_describes(monkeypatch, current: int, stream: int, error: Exception) -> None:
    """As torch's, whose interface names no stream; of a type that no array interface has a name for (torch looks it up in a table).
    cupy's current stream is told."""
    cupy, bf16 = FakeCupy(), DType.BF16.np
    cupy.streams.append(current)

    class Tensor:
        @property
        def __cuda_array_interface__(self) -> dict[str, object]:
            raise error

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    taken = SimpleNamespace(data=SimpleNamespace(ptr=4096), shape=(3, 5), dtype=bf16, flags=SimpleNamespace(c_contiguous=True))
    cupy.from_dlpack = lambda given: taken
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    tensor = Tensor()
    assert arrays.is_device_array(tensor)
    assert arrays.device_array(tensor, "x") == arrays.DeviceArray(4096, (3, 5), bf16, True, stream, taken)


@needs_gxx
def test_arrays_without_elements_lie_nowhere(monkeypatch) -> None:
    """cupy and torch give 0 as their address, of which the driver makes no tensor map."""
    text = """<ir_version: 10, opset_import: ["" : 23]> seen (float16[1, 8, S, 64] q, float16[1, 8, T, 64] k, float16[1, 8, T, 64] v) => (float16[1, 8, S, 64] y)
        { y = Attention(q, k, v) }"""
    fake, module = opened(monkeypatch, onnx.parser.parse_model(text).SerializeToString(), "cuda:sm_90a")
    fake.ndarray = lambda shape, dtype, memptr: memptr

    class Empty:
        __cuda_array_interface__ = {"version": 3, "shape": (1, 8, 0, 64), "typestr": "<f2", "data": (0, False), "stream": 1}  # noqa: RUF012

    q, none = floats(1, 8, 600, 64).astype(np.float16), Empty()
    assert any(image.maps for _, image in split(module.parts.code))
    assert not module.run({"q": q, "k": none, "v": none}, on_device=False)["y"].any()


@needs_gxx
def test_what_the_driver_refuses_of_a_tensor_map(monkeypatch) -> None:
    _, module = opened(monkeypatch, small_models.mlp(), "cuda:sm_90a")
    device = module.device
    assert len(device.tensor_map(256, 2, (64, 5), (128,), (64, 5))) == 128
    for wrong in [(8, 2, (64, 5), (128,), (64, 5)), (256, 2, (64, 0), (128,), (64, 5)), (256, 2, (64, 5), (120,), (64, 5))]:
        with pytest.raises(DeviceError, match="a tensor map of sizes"):
            device.tensor_map(*wrong)


def test_cupy_has_what_is_asked_of_it() -> None:
    """Names, and parameters of what the stand-in has too: as it is called here, cupy can be called."""
    cupy = pytest.importorskip("cupy")
    fake = FakeCupy()

    def described(function: Any) -> list[str]:
        """Parameters of what is compiled, by the first line of its documentation: names, behind types in C."""
        found = (function.__doc__ or "").partition("\n")[0].partition("(")[2].partition(")")[0]
        return [p.partition("=")[0].split()[-1] for p in found.split(", ") if p]

    for part in ("runtime", "driver"):
        real = getattr(cupy.cuda, part)
        assert all(hasattr(real, n) for n in vars(getattr(fake.cuda, part))), part
    assert all(hasattr(cupy.cuda, n) for n in vars(fake.cuda)) and hasattr(cupy, "get_default_memory_pool")
    for made, real in ((fake.cuda.Stream, cupy.cuda.Stream), (fake.cuda.Event, cupy.cuda.Event)):
        for name, method in inspect.getmembers(made, inspect.isroutine):
            if name in vars(made) and not name.startswith("__e"):
                ours, theirs = (
                    [(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (method, getattr(real, name))
                )
                assert ours == theirs, (real, name)
    assert described(cupy.cuda.function.Module.load) == ["self", "cubin"] and described(cupy.cuda.function.Module.get_function) == [
        "self",
        "name",
    ]
    assert hasattr(cupy.cuda.function.Function, "ptr") and described(cupy.cuda.Graph.launch) == ["self", "stream"]
    assert described(cupy.cuda.Device)[0].startswith("device") and described(cupy.cuda.get_elapsed_time) == ["start_event", "end_event"]
    for part in ("runtime", "driver"):
        for name, function in vars(getattr(fake.cuda, part)).items():
            if inspect.isroutine(function):
                assert len(inspect.signature(function).parameters) == len(described(getattr(getattr(cupy.cuda, part), name))), name
    assert cupy.cuda.runtime.streamCaptureModeRelaxed == 2 and hasattr(cupy.cuda.Stream(null=True), "device_id")
    described = cupy.cuda.runtime.PointerAttributes(0, 1, 2, 3)
    assert (described.device, described.devicePointer, described.type) == (0, 1, 3)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)


@needs_gxx
@pytest.mark.parametrize("name", ["wide", "loop"])
def test_cupy_takes_these_arguments(monkeypatch, name: str) -> None:
    """Whatever a run calls is called of cupy itself too, which looks at the arguments before it misses the driver."""
    cupy = pytest.importorskip("cupy")
    cuda = cupy.cuda
    if cuda.is_available():
        pytest.skip("a GPU is here, which tests/gpu is for")
    feeds, precision = next((f, p) for n, f, p, _ in JOBS if n == name)
    fake, module = opened(monkeypatch, getattr(small_models, name)(), "cuda:sm_90a", precision)
    taken = set()

    def beside(name: str, function: Any, real: Any) -> Any:
        def call(*args: Any) -> Any:
            taken.add(name)
            with suppress(cuda.runtime.CUDARuntimeError):
                try:
                    real(*args)
                except RuntimeError as e:
                    if "libcuda" not in str(e):
                        raise
            return function(*args)

        return call

    for part in ("runtime", "driver"):
        stand_in, real = getattr(fake.cuda, part), getattr(cuda, part)
        for n, function in list(vars(stand_in).items()):
            if inspect.isroutine(function):
                setattr(stand_in, n, beside(n, function, getattr(real, n)))
    load = fake.cuda.function.Module.load
    fake.cuda.function.Module.load = lambda self, cubin: beside("load", lambda c: load(self, c), cuda.function.Module().load)(cubin)
    for _ in range(3):
        module.run(feeds)
    assert {"launchKernel", "memcpyAsync", "getDevice", "setDevice", "pointerGetAttributes", "load"} <= taken
    device = module.device
    replayed, event = device.stream(), device.record(device.stream())
    assert inspect.signature(cuda.Stream.wait_event).bind(replayed, event) and device.owner(int(feeds["x"].ctypes.data)) == 0
    device.delay(replayed, 1e-4)
    assert "memsetAsync" in taken


def test_launches_are_described_as_the_driver_reads_them() -> None:
    """The structures of an overlapping launch, byte for byte as NVIDIA's own bindings lay them out, and numbers of cuda.h."""
    driver = pytest.importorskip("cuda.bindings.driver")
    attribute, config = driver.CUlaunchAttribute(), driver.CUlaunchConfig()
    attribute.id = driver.CUlaunchAttributeID(cupy_device._PROGRAMMATIC_STREAM_SERIALIZATION)
    attribute.value.programmaticStreamSerializationAllowed = 1
    assert "PROGRAMMATIC_STREAM_SERIALIZATION" in attribute.id.name
    config.gridDimX, config.gridDimY, config.gridDimZ, config.blockDimX, config.blockDimY, config.blockDimZ = 5, 1, 1, 128, 1, 1
    config.sharedMemBytes, config.hStream, config.attrs, config.numAttrs = 777, driver.CUstream(4096), [attribute], 1
    size = ctypes.sizeof(cupy_device._LaunchConfig)
    theirs = ctypes.string_at(config.getPtr(), size)
    at = int(np.frombuffer(theirs, np.uint64)[5])  # of the attributes
    assert theirs[:52] == bytes(cupy_device._LaunchConfig((5, 1, 1), (128, 1, 1), 777, 4096, at, 1))[:52]
    ours = bytes(cupy_device._LaunchAttribute(cupy_device._PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1))
    assert ctypes.string_at(at, len(ours)) == ours and len(ours) == 72
    assert driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == cupy_device._MAX_DYNAMIC_SHARED
    for size, kind in cupy_device._MAP_TYPES.items():
        assert driver.CUtensorMapDataType(kind).name == f"CU_TENSOR_MAP_DATA_TYPE_UINT{size * 8}"
    for width, kind in cupy_device._SWIZZLES.items():
        assert driver.CUtensorMapSwizzle(kind).name == f"CU_TENSOR_MAP_SWIZZLE_{width}B"
    assert driver.CUtensorMapL2promotion(cupy_device._PROMOTE_L2_256B).name == "CU_TENSOR_MAP_L2_PROMOTION_L2_256B"


@needs_gxx
def test_profile_waits_for_no_launch(monkeypatch) -> None:
    fake, module = opened(monkeypatch, small_models.mlp(), "cuda:sm_90a")
    fake.cuda.get_elapsed_time = lambda start, end: 2.0
    times = module.profile({"x": floats(9, 16)}, runs=2)
    assert all(t >= 2e-3 for t in times.values())
    timed = fake.log[fake.log.index("memsetAsync") :]
    assert "synchronize" in timed[timed.index("launchKernel") :] and "synchronize" not in timed[: timed.index("launchKernel")]


def test_streams_are_used_again(monkeypatch) -> None:
    """What an execution frees is of its stream: it would serve nobody if the next one had a new stream."""
    fake = FakeCupy()
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    device = cupy_device.CupyDevice()
    first, second = device.stream(), device.stream()
    assert first is not second
    device.recycle(first)
    assert device.stream() is first and device.stream() not in (first, second)


@needs_gxx
def test_executions_give_their_streams_back(monkeypatch) -> None:
    _, module = opened(monkeypatch, small_models.mlp(), "cuda:sm_90a")
    module.run({"x": floats(9, 16)})
    binding = module._fit([floats(9, 16)])[1]
    one, two = binding.acquire(), binding.acquire()
    streams = [one.stream, two.stream]
    del one, two
    assert all(any(s is kept for kept in module.device._streams) for s in streams)


def test_page_locked_memory_is_waited_for(monkeypatch) -> None:
    """Its copies happen later than the call, after which it may be changed."""
    fake = FakeCupy()
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    device, source, target = cupy_device.CupyDevice(), floats(4), floats(4)
    device.upload(target.ctypes.data, source, device.stream())
    assert "synchronize" not in fake.log
    fake.kind = 1
    device.upload(target.ctypes.data, source, device.stream())
    assert fake.log[-2:] == ["memcpyAsync", "synchronize"]


def test_streams_of_other_devices(monkeypatch) -> None:
    fake = FakeCupy(devices=2)
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    foreign = fake.cuda.Stream()
    foreign.device_id = 1
    with pytest.raises(DeviceError, match="a stream of device 1"):
        cupy_device.CupyDevice().stream(foreign)


def test_streams_of_others_are_taken_without_a_warning() -> None:
    """By the protocol: cupy's ExternalStream says at every use that it is deprecated."""
    cupy = pytest.importorskip("cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cupy.cuda.Stream.from_external(cupy_device._Foreign(7, None)).ptr == 7


def test_no_device_named_is_the_current_one(monkeypatch) -> None:
    """That of now, not of the first time; each is opened once."""
    fake = FakeCupy(devices=2)
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    cupy_device._opened.cache_clear()
    try:
        first = cupy_device.device()
        fake.current = 1
        second = cupy_device.device()
        assert (first.number, second.number) == (0, 1) and cupy_device.device(0) is first and cupy_device.device() is second
    finally:
        cupy_device._opened.cache_clear()


def test_the_device_that_was_current_is_so_again(monkeypatch) -> None:
    """After errors, too; and a device that is current already is not made so at each call."""
    fake = FakeCupy(devices=2)
    monkeypatch.setattr(cupy_device, "_cupy", lambda: fake)
    device = cupy_device.CupyDevice(1)
    device.allocate(10)
    assert fake.current == 0
    fake.fail["memcpyAsync"] = RuntimeFault("cudaErrorInvalidValue")
    with pytest.raises(DeviceError, match="cudaErrorInvalidValue"):
        device.copy(0, 0, 4, device.stream())
    assert fake.current == 0
    fake.current, made = 1, []
    monkeypatch.setattr(fake.cuda.runtime, "setDevice", made.append)
    device.allocate(10)
    assert not made and fake.current == 1
