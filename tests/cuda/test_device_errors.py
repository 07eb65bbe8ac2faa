"""What goes wrong with devices, as typed errors that name it, with a stand-in for cupy: no GPU is needed, and none is spoken for."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlc
import numpy as np
import pytest
import small_models
from fake_cupy import DriverFault, FakeCupy, RuntimeFault
from mlc.codegen.cuda import nvrtc
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend
from mlc.compiler.options import Options
from mlc.errors import DeviceError, InputError, TargetError
from mlc.runtime.cuda import cupy_device
from mlc.runtime.cuda.module import CudaModule

X = {"x": np.ones((4, 16), np.float32)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    made = FakeCupy()
    monkeypatch.setattr(cupy_device, "_cupy", lambda: made)
    return made


def module(fake: FakeCupy, graphs: bool = True, target: str = "cuda:sm_90a", blob: bytes | None = None) -> CudaModule:
    r = compile_stages(blob or small_models.mlp(), Options(target, {"x": (4, 16)}), backend=EmulatedBackend(parse(target)))
    parts = r.backend.parts(r.plan, r.emitted, r.objects, r.graph.equal, r.packed.result())
    return CudaModule(parts, device=cupy_device.CupyDevice(), graphs=graphs)


def test_no_device(fake: FakeCupy) -> None:
    fake.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(DeviceError, match="has no NVIDIA GPU"):
        cupy_device.CupyDevice()
    assert cupy_device.present_architecture() is None
    with pytest.raises(TargetError, match=r"names no architecture.*--target=cuda:sm_90a"):
        mlc.compile(small_models.mlp(), target="cuda")


def test_a_driver_that_is_too_old(fake: FakeCupy) -> None:
    fake.fail["getDeviceCount"] = RuntimeFault("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    with pytest.raises(DeviceError, match=r"too old for this cupy's CUDA 12\.8"):
        cupy_device.CupyDevice()


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name, *args, **more)  # type: ignore[arg-type]

    cupy_device._cupy.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DeviceError, match="cupy cannot be imported"):
        cupy_device.device_count()


def test_no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: ["/nowhere/libnvrtc.so"])
    nvrtc.nvrtc.cache_clear()
    try:
        with pytest.raises(TargetError, match="NVRTC"):
            mlc.compile(small_models.mlp(), target="cuda:sm_90a")
    finally:
        nvrtc.nvrtc.cache_clear()


def test_no_code_for_the_device(fake: FakeCupy) -> None:
    fake.cuda.Device.compute_capability = "80"
    made = module(fake)
    made.device.capability = 80
    with pytest.raises(TargetError, match=r"sm_80"):
        made.run(X)


def test_a_device_number_that_is_none(fake: FakeCupy) -> None:
    with pytest.raises(DeviceError, match="device 3") as e:
        cupy_device.CupyDevice(3)
    assert "0 to 0" in str(e.value)


def test_a_device_that_another_process_has_for_itself(fake: FakeCupy) -> None:
    fake.cuda.Device = lambda number: _raise(RuntimeFault("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable"))
    with pytest.raises(DeviceError, match="the current device cannot be used: cudaErrorDevicesUnavailable"):
        cupy_device.CupyDevice()
    assert cupy_device.present_architecture() is None


def _raise(e: Exception) -> None:
    raise e


def test_code_of_a_later_compiler_than_the_driver_knows(fake: FakeCupy) -> None:
    made = module(fake)
    fake.fail["load"] = DriverFault("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported toolchain.")
    with pytest.raises(DeviceError, match=r"the driver \(CUDA 13\.0\) refuses the machine code of kernel mlc_\w+: CUDA_ERROR_UNS") as e:
        made.run(X)
    assert "Update the driver" in str(e.value) and "--target=cuda:sm_90a" in str(e.value)
    with pytest.raises(DeviceError, match="refuses the PTX of kernel k"):
        made.device.load("k", b".version 9.3", 0)
    fake.fail["load"] = DriverFault("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(DeviceError, match=r"loading kernel mlc_\w+: CUDA_ERROR_OUT_OF_MEMORY"):
        made.run(X)


def test_the_newest_nvrtc_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In whatever folders wheels put it: torch for CUDA 12 brings one, too."""
    for path in ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc-builtins.so.13.0"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: spec)
    assert [Path(p).name for p in nvrtc._candidates()[:2]] == ["libnvrtc.so.13", "libnvrtc.so.12"]


def test_memory_runs_out_and_comes_back(fake: FakeCupy) -> None:
    made = module(fake)
    made.run(X)
    used = fake.used
    fake.memory = used + 100
    with pytest.raises(DeviceError, match=r"1000 bytes wanted, 100 of \d+ free on a fake"):
        made.device.allocate(1000)
    assert "free_all_blocks" in fake.log
    fake.memory = 1 << 30
    for _ in range(3):
        made.run(X)
    gc.collect()
    assert fake.used == used
    del made
    gc.collect()
    assert fake.used == 0


def test_a_kernel_fault_ends_the_use_of_the_device(fake: FakeCupy) -> None:
    made = module(fake)
    made.run(X)
    fake.fail["synchronize"] = RuntimeFault("cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(DeviceError, match="kernel faulted") as e:
        made.run(X)
    assert "MLC_CUDA_CHECK=1" in str(e.value)
    fake.fail.clear()
    before = len(fake.log)
    with pytest.raises(DeviceError, match="can use the device no more"):
        made.run(X)
    assert len(fake.log) == before  # the driver was not asked again


def test_a_kernel_fault_that_an_overlapping_launch_tells(fake: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "_driver", lambda: SimpleNamespace(cuLaunchKernelEx=lambda *a: 700))
    device = cupy_device.CupyDevice()
    args, function = np.zeros(1, np.int64), SimpleNamespace(ptr=1)
    with pytest.raises(DeviceError, match="kernel faulted"):
        device.launch(function, 1, 32, 0, args, device.stream(), overlap=True)
    with pytest.raises(DeviceError, match="kernel faulted"):
        device.allocate(16)


def test_a_kernel_fault_names_kernel_and_node_when_checked(fake: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_CUDA_CHECK", "1")
    made = module(fake)
    fake.fail["synchronize"] = RuntimeFault("cudaErrorLaunchFailure: unspecified launch failure")
    made.device.upload = lambda *a: None
    made.device.synchronize, real = lambda s: None, made.device.synchronize
    made.prepare()  # waits for the weights
    made.device.synchronize = real
    with pytest.raises(DeviceError, match=r"kernel mlc_\w+: .*faulted") as e:
        made.run(X)
    assert e.value.loc and any(op in e.value.loc for op in ("MatMul", "a", "Relu"))


def test_a_launch_that_the_driver_refuses(fake: FakeCupy) -> None:
    made = module(fake)
    fake.fail["launchKernel"] = DriverFault("CUDA_ERROR_INVALID_VALUE: invalid argument")
    with pytest.raises(DeviceError, match="a launch: CUDA_ERROR_INVALID_VALUE"):
        made.run(X)
    fake.fail.clear()
    made.run(X)  # nothing is broken by it


def test_what_fails_within_a_capture_is_told_as_it_was(fake: FakeCupy) -> None:
    made = module(fake)
    made.run(X)
    end = fake.cuda.Stream.end_capture

    def invalid(stream: Any) -> None:
        end(stream)
        raise RuntimeFault("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture")

    fake.cuda.Stream.end_capture = invalid
    fake.fail["launchKernel"] = DriverFault("CUDA_ERROR_INVALID_VALUE: invalid argument")
    with pytest.raises(DeviceError, match="a launch: CUDA_ERROR_INVALID_VALUE"):
        made.run(X)
    fake.cuda.Stream.end_capture = end
    fake.fail.clear()
    made.run(X)
    assert fake.log.count("begin_capture") == fake.log.count("end_capture") == 2 and "graph" in fake.log


def test_a_run_that_fails_half_way_is_waited_for(fake: FakeCupy) -> None:
    """What it launched before works in memory that the next run, or the caller, has from then on."""
    made = module(fake, graphs=False)
    made.run(X)
    real, calls = fake.cuda.driver.launchKernel, []

    def once(*args: int) -> None:
        calls.append(args)
        if len(calls) > 1:
            raise DriverFault("CUDA_ERROR_INVALID_VALUE: invalid argument")
        real(*args)

    fake.cuda.driver.launchKernel = once
    fake.log.clear()
    with pytest.raises(DeviceError, match="invalid argument"):
        made.run(X, stream=7)
    assert len(calls) == 2 and "synchronize" in fake.log[fake.log.index("launchKernel") :]


def test_an_array_elsewhere(fake: FakeCupy) -> None:
    made = module(fake)
    given = np.ones((4, 16), np.float32)

    class Far:
        def __init__(self) -> None:
            self.__cuda_array_interface__ = {"version": 3, "shape": (4, 16), "typestr": "<f4", "data": (given.ctypes.data, False),
                                             "strides": None, "stream": None}  # fmt: skip

    for wrong, message in (({"typestr": "<f8"}, r"dtype float64.*x\.astype\(float32\)"), ({"shape": (64,)}, r"shape \[64\]"),
                           ({"strides": (128, 8)}, "on the device that is not contiguous")):  # fmt: skip
        array = Far()
        array.__cuda_array_interface__ |= wrong
        with pytest.raises(InputError, match=message) as e:
            made.run({"x": array})
        assert e.value.loc == "input x"
    fake.owner = 1
    with pytest.raises(DeviceError, match="an array on device 1"):
        made.run({"x": Far()})
    fake.owner = -2
    with pytest.raises(DeviceError, match="an array on the host"):
        made.run({"x": Far()})
    with pytest.raises(InputError, match="shape"):
        made.run({"x": np.ones((4, 15), np.float32)})
    with pytest.raises(DeviceError, match="as stream"):
        made.run(X, stream="fast")


def test_graphs_and_streams(fake: FakeCupy) -> None:
    made = module(fake)
    for _ in range(4):
        made.run(X)
    assert fake.log.count("begin_capture") == 1 and fake.log.count("graph") == 3
    launches = fake.log.count("launchKernel")
    plain = module(fake, graphs=False)
    plain.run(X)
    plain.run(X)
    assert fake.log.count("graph") == 3 and fake.log.count("launchKernel") > launches
    stream = fake.cuda.Stream()
    y = made.run(X, stream=stream, wait=False)["y"]
    assert y.memptr.stream == stream.ptr  # what is freed of it is for that stream only
    y = made.run(X, on_device=True)["y"]
    assert y.memptr.stream == 0 and any("waits for event of 0" in line for line in fake.log)
