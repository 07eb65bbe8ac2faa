"""A GPU through cupy: driver calls, pooled memory, streams, graphs."""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ...errors import DeviceError
from .device import Memory

_INSTALL = 'pip install "mlc[cuda]"'
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_LATE = (1, 3)  # cudaMemoryTypeHost (page-locked) and Managed, whose copies are made when the stream gets there
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_RESTART = "Start a new process; MLC_CUDA_CHECK=1 names the kernel and its nodes."
_DEFAULT_SHARED = 48 << 10
# Of cuda.h: CU_TENSOR_MAP_DATA_TYPE_UINT8, 16, 32 by size in bytes, CU_TENSOR_MAP_SWIZZLE_32B, 64B, 128B by bytes of a row,
# CU_TENSOR_MAP_L2_PROMOTION_L2_256B.
_MAP_TYPES, _SWIZZLES, _PROMOTE_L2_256B = {1: 0, 2: 1, 4: 2}, {32: 1, 64: 2, 128: 3}, 3
_MAP_BYTES, _MAP_ALIGN = 128, 64
_DELAY_BYTES, _DELAY_RATE = 512 << 20, 5e12  # of a memset that takes time, more than caches hold; bytes a second at most
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_…: begins when the launch before lets it
# CUDA errors that say that a driver cannot take code.
_REFUSED = ("INVALID_IMAGE", "NO_BINARY_FOR_GPU", "INVALID_PTX", "UNSUPPORTED_PTX_VERSION", "JIT_COMPIL")
# CUDA errors after which a context only returns errors.
_FATAL = ("ILLEGAL_ADDRESS", "IllegalAddress", "LAUNCH_FAILED", "LaunchFailure", "MISALIGNED", "Misaligned", "ILLEGAL_INSTRUCTION",
          "IllegalInstruction", "ASSERT", "Assert", "HARDWARE_STACK", "HardwareStack", "INVALID_PC", "InvalidPc", "LAUNCH_TIMEOUT",
          "LaunchTimeout", "INVALID_ADDRESS_SPACE", "InvalidAddressSpace", "ECC_UNCORRECTABLE", "ECCUncorrectable", "CONTAINED",
          "Contained", "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN")  # fmt: skip


class _LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute, of a value that is an int."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig"""

    _fields_ = (("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint))  # fmt: skip


@functools.cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError as e:
        raise DeviceError(f"cupy cannot be imported ({e})", expected="cupy, which runs CUDA modules", remedy=_INSTALL) from None
    return cupy


def device_count() -> int:
    """Devices here. Raises DeviceError when there is no driver, or one too old for this cupy."""
    cp = _cupy()
    try:
        count = int(cp.cuda.runtime.getDeviceCount())
    except cp.cuda.runtime.CUDARuntimeError as e:
        if "InsufficientDriver" in str(e):
            found = "no NVIDIA driver, or one too old for this cupy's CUDA " + _version(cp.cuda.runtime.runtimeGetVersion())
            raise DeviceError(found, expected="a GPU with a recent driver", remedy="Update the driver (nvidia-smi shows it).") from None
        raise DeviceError(f"no usable GPU: {e}", expected="an NVIDIA GPU with its driver") from None
    if count == 0:
        raise DeviceError(
            "this machine has no NVIDIA GPU", expected="one", remedy="Run the module elsewhere, or compile with --target=cpu."
        )
    return count


def present_architecture() -> str | None:
    """The architecture of the present device ("sm_90a" on Hopper), or None where there is none to run on."""
    try:
        return CupyDevice().architecture
    except DeviceError:
        return None


@functools.cache
def _driver() -> ctypes.CDLL:
    """The driver's library, for what cupy has no function for."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        raise DeviceError(f"the NVIDIA driver's library does not load: {e}", expected="libcuda.so.1") from None


def _stream_number(given: Any) -> int | None:
    """The address of a stream: a number, what the CUDA stream protocol tells, or an attribute of cupy's or torch's."""
    if isinstance(given, int):
        return given
    protocol = getattr(given, "__cuda_stream__", None)
    number = protocol()[1] if callable(protocol) else getattr(given, "ptr", getattr(given, "cuda_stream", None))
    return number if isinstance(number, int) else None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class CupyDevice:
    """Device `number`; by default the one that is current in cupy."""

    def __init__(self, number: int | None = None) -> None:
        self._cp = cp = _cupy()
        self._fault = ""  # what made the context unusable
        self._streams: list[Any] = []  # that nobody uses now
        self._current = threading.local()  # whether the device's context is this thread's
        count = device_count()
        if number is not None and not 0 <= number < count:
            raise DeviceError(f"device {number}", expected=f"0 to {count - 1}")
        try:
            device = cp.cuda.Device(number)
            self.number = int(device.id)
            self.capability = int(device.compute_capability)  # begins to use the device, which another process may have for itself
            name = cp.cuda.runtime.getDeviceProperties(self.number)["name"]
        except cp.cuda.runtime.CUDARuntimeError as e:
            name = "the current device" if number is None else f"device {number}"
            raise DeviceError(f"{name} cannot be used: {e}", expected="one that is free") from None
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    @property
    def architecture(self) -> str:
        """What --target names it by: "sm_90a" on Hopper."""
        return f"sm_{self.capability}{'a' if self.capability == 90 else ''}"

    def _calls(self, what: str) -> _Calls:
        return _Calls(self, what)

    def _entered(self, what: str) -> int:
        """Make the device current; returns which was before, if that is another, else -1."""
        if self._fault:
            raise DeviceError(f"{what}: {self._fault}", remedy=_RESTART)
        runtime = self._cp.cuda.runtime
        try:
            before = int(runtime.getDevice())
            other = before != self.number
            if other or not hasattr(self._current, "known"):
                runtime.setDevice(self.number)  # functions of the driver need a context, which a new thread lacks
                self._current.known = True
        except runtime.CUDARuntimeError as e:
            raise self._error(what, e) from None
        return before if other else -1

    def _error(self, what: str, e: BaseException) -> BaseException:
        """CUDA's errors as ours, others as they are."""
        cuda = self._cp.cuda
        if isinstance(e, cuda.memory.OutOfMemoryError):
            return DeviceError(f"{what}: {e}", remedy="Free device memory, or run smaller batches.")
        if not isinstance(e, (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError)):
            return e
        if any(word in str(e) for word in _FATAL):
            self._fault = f"a kernel faulted ({e}); this process can use the device no more"
            return DeviceError(f"{what}: {self._fault}", remedy=_RESTART)
        return DeviceError(f"{what}: {e}")

    def load(self, symbol: str, image: bytes, shared: int) -> Any:
        with self._calls(f"loading kernel {symbol}"):
            module = self._cp.cuda.function.Module()
            try:
                module.load(image)
            except self._cp.cuda.driver.CUDADriverError as e:
                if any(word in str(e) for word in _REFUSED):
                    raise self._refused(symbol, image, e) from None
                raise
            function = module.get_function(symbol)
            if shared > _DEFAULT_SHARED:
                self._cp.cuda.driver.funcSetAttribute(function.ptr, _MAX_DYNAMIC_SHARED, shared)
            return function

    def _refused(self, symbol: str, image: bytes, e: Exception) -> DeviceError:
        """The driver does not take code: its compiler was a later one, which PTX shows in a minor version already."""
        kind = "machine code" if image.startswith(b"\x7fELF") else "PTX"
        driver = _version(self._cp.cuda.runtime.driverGetVersion())
        return DeviceError(f"the driver (CUDA {driver}) refuses the {kind} of kernel {symbol}: {e}",
                           expected=f"code that an NVRTC of CUDA {driver} or before has made",
                           remedy=f"Update the driver, or compile for this device itself (--target=cuda:{self.architecture}), "
                                  "with nvidia-cuda-nvrtc of that version.")  # fmt: skip

    def allocate(self, nbytes: int, stream: Any = None) -> Memory:
        # cupy's pool keeps what each stream frees apart, by the stream that is current
        with self._calls(f"allocating {nbytes} bytes"), stream if stream is not None else nullcontext():
            try:
                return _Block(self._cp.cuda.alloc(max(1, nbytes)), nbytes)
            except self._cp.cuda.memory.OutOfMemoryError:
                self._cp.get_default_memory_pool().free_all_blocks()
            try:
                return _Block(self._cp.cuda.alloc(max(1, nbytes)), nbytes)
            except self._cp.cuda.memory.OutOfMemoryError:
                free, total = self._cp.cuda.runtime.memGetInfo()
                raise DeviceError(f"out of device memory: {nbytes} bytes wanted, {free} of {total} free on {self.name}",
                                  remedy="Free device memory, or run smaller batches.") from None  # fmt: skip

    def behind(self, stream: Any) -> None:
        with self._calls("ordering streams"):
            stream.wait_event(self._cp.cuda.get_current_stream().record())

    def stream(self, given: object = None) -> Any:
        with self._calls("a stream"):
            if given is None:
                try:
                    return self._streams.pop()  # one step under the GIL: safe between threads
                except IndexError:
                    return self._cp.cuda.Stream(non_blocking=True)
            number = getattr(given, "device_id", -1)
            if isinstance(number, int) and number not in (-1, self.number):
                raise DeviceError(f"a stream of device {number}", expected=f"one of device {self.number}")
            if isinstance(given, self._cp.cuda.Stream):
                return given
            number = _stream_number(given)
            if number is None:
                raise DeviceError(f"a {type(given).__name__} as stream", expected="a stream of cupy or torch, or its number")
            return self._cp.cuda.Stream.from_external(_Foreign(number, given))

    def recycle(self, stream: Any) -> None:
        self._streams.append(stream)

    def upload(self, ptr: int, source: np.ndarray, stream: Any) -> None:
        runtime, address = self._cp.cuda.runtime, source.ctypes.data
        with self._calls("copying to the device"):
            runtime.memcpyAsync(ptr, address, source.nbytes, _TO_DEVICE, stream.ptr)
            if runtime.pointerGetAttributes(address).type in _LATE:  # other memory has been read when the call returns
                stream.synchronize()

    def download(self, target: np.ndarray, ptr: int, stream: Any) -> None:
        with self._calls("copying from the device"):
            self._cp.cuda.runtime.memcpyAsync(target.ctypes.data, ptr, target.nbytes, _TO_HOST, stream.ptr)
            stream.synchronize()

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        with self._calls("copying on the device"):
            self._cp.cuda.runtime.memcpyAsync(to, source, nbytes, _ON_DEVICE, stream.ptr)

    def launch(self, function: Any, blocks: int, threads: int, shared: int, args: np.ndarray, stream: Any,
               maps: Sequence[Any] = (), overlap: bool = False) -> None:  # fmt: skip
        places = [*range(args.ctypes.data, args.ctypes.data + args.nbytes, 8), *(ctypes.addressof(m) for m in maps)]
        pointers = (ctypes.c_void_p * max(1, len(places)))(*places)
        with self._calls("a launch"):
            if overlap:
                attribute = _LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)
                config = _LaunchConfig((blocks, 1, 1), (threads, 1, 1), shared, stream.ptr, ctypes.addressof(attribute), 1)
                status = _driver().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(function.ptr), pointers, None)
                if status:  # that of a kernel before, maybe
                    raise self._cp.cuda.driver.CUDADriverError(status)
                return
            self._cp.cuda.driver.launchKernel(function.ptr, blocks, 1, 1, threads, 1, 1, shared, stream.ptr, ctypes.addressof(pointers), 0)

    def tensor_map(self, ptr: int, itemsize: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> Any:
        rank = len(sizes)
        u32, u64 = ctypes.c_uint32 * rank, ctypes.c_uint64 * rank
        storage = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGN)
        result = (ctypes.c_char * _MAP_BYTES).from_buffer(storage, -ctypes.addressof(storage) % _MAP_ALIGN)
        with self._calls("a tensor map"):
            encode = getattr(_driver(), "cuTensorMapEncodeTiled", None)
            if encode is None:
                raise DeviceError("this driver makes no tensor maps", expected="one of CUDA 12 or later", remedy="Update the driver.")
            status = encode(
                ctypes.byref(result), _MAP_TYPES[itemsize], rank, ctypes.c_void_p(ptr), u64(*sizes), u64(*strides), u32(*box),
                u32(*[1] * rank), 0, _SWIZZLES[box[0] * itemsize], _PROMOTE_L2_256B, 0)  # fmt: skip
        if status:
            raise DeviceError(f"a tensor map of sizes {list(sizes)}, strides {list(strides)}, box {list(box)}: CUDA error {status}")
        return result

    def synchronize(self, stream: Any) -> None:
        with self._calls("waiting for the device"):
            stream.synchronize()

    def record(self, stream: Any, timing: bool = False) -> Any:
        with self._calls("an event"):
            event = self._cp.cuda.Event(disable_timing=not timing)
            event.record(stream)
            return event

    def wait(self, stream: Any, event: Any) -> None:
        with self._calls("waiting for an event"):
            stream.wait_event(event)

    def finish(self, event: Any) -> None:
        with self._calls("waiting for the device"):
            event.synchronize()

    def elapsed(self, start: Any, end: Any) -> float:
        with self._calls("timing"):
            return float(self._cp.cuda.get_elapsed_time(start, end)) * 1e-3

    def delay(self, stream: Any, seconds: float) -> None:
        with self._calls("a delay"), stream:
            memory = self._cp.cuda.alloc(_DELAY_BYTES)  # goes back to the pool of this stream, which uses it later
            for _ in range(math.ceil(seconds * _DELAY_RATE / _DELAY_BYTES)):
                self._cp.cuda.runtime.memsetAsync(memory.ptr, 0, _DELAY_BYTES, stream.ptr)

    def begin_capture(self, stream: Any) -> bool:
        with self._calls("capturing a graph"):
            # Other threads may allocate meanwhile, and this one's garbage collector may free memory and streams.
            stream.begin_capture(self._cp.cuda.runtime.streamCaptureModeRelaxed)
        return True

    def end_capture(self, stream: Any) -> Any:
        with self._calls("capturing a graph"):
            return stream.end_capture()

    def replay(self, graph: Any, stream: Any) -> None:
        with self._calls("replaying a graph"):
            graph.launch(stream=stream)

    def owner(self, ptr: int) -> int:
        with self._calls("asking where memory lies"):
            found = self._cp.cuda.runtime.pointerGetAttributes(ptr)
            return int(found.device) if found.devicePointer else -1

    def view(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        assert isinstance(memory, _Block)
        with self._calls(f"an array of {dtype}"):
            try:
                return self._cp.ndarray(shape, dtype=dtype, memptr=memory.pointer)
            except (TypeError, ValueError) as e:
                raise DeviceError(f"cupy has no arrays of {dtype}: {e}", remedy="Ask for outputs on the host (on_device=False).") from None


class _Calls:
    """The device made current, and CUDA's errors made ours. A run makes ten calls, so that this is written to take little."""

    __slots__ = ("_before", "_device", "_what")

    def __init__(self, device: CupyDevice, what: str) -> None:
        self._device, self._what = device, what

    def __enter__(self) -> None:
        self._before = self._device._entered(self._what)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before >= 0:
            try:
                self._device._cp.cuda.runtime.setDevice(self._before)
            except self._device._cp.cuda.runtime.CUDARuntimeError as e:
                error = error or e
        if error is not None and (ours := self._device._error(self._what, error)) is not error:
            raise ours from None


@dataclass(frozen=True)
class _Foreign:
    """A stream of the caller's, by the CUDA stream protocol; `owner` keeps it alive."""

    number: int
    owner: object

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.number


class _Block:
    """Memory of cupy's pool."""

    __slots__ = ("nbytes", "pointer", "ptr")

    def __init__(self, pointer: Any, nbytes: int) -> None:
        self.pointer, self.ptr, self.nbytes = pointer, int(pointer.ptr), nbytes


_opened = functools.cache(CupyDevice)


def device(number: int | None = None) -> CupyDevice:
    """The device of that number, or the one that is cupy's current one now; each is opened once."""
    if number is None:
        device_count()  # whose errors say what is missing
        number = int(_cupy().cuda.runtime.getDevice())
    return _opened(number)
