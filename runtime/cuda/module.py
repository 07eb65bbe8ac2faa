"""A compiled model on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ...environment import switch
from ...errors import DeviceError, InputError
from ..arguments import from_one, given_outputs, shape_text
from ..artifact import Parts
from ..binding import Binding
from ..binding_cache import BindingCache
from ..handles import Handles, decode_output, encode_input
from ..module import Module
from ..records import TensorInfo
from .arrays import DeviceArray, device_array, is_device_array
from .device import Device
from .program import CudaExecution, CudaProgram
from .space import Placed, output_memory

_ALIGN = 16  # bytes; kernels read inputs in packs
_HOST_SECONDS, _MOST_DELAY = 6e-5, 0.05  # what the host takes for a step at most, with the events around it; what it may lag behind


class CudaModule(Module):
    """Runs a compiled model on a device; may be used by several threads at once.

    Inputs are arrays on the host, or on the device (cupy, torch, anything with the CUDA array interface or DLPack), which are
    read where they lie. Outputs are NumPy arrays if all inputs are on the host, else cupy arrays.

    Args:
        parts: from `mlc.compile` or a file.
        device: a number, or a Device; by default cupy's current one. It is opened by the first run.
        graphs: replay stretches of launches as CUDA graphs when they come again with the addresses and sizes of a run before. A model
            without control flow and sizes that depend on data is one such stretch.
        overlap: on devices from sm_90 on, launches begin while the ones before end ("programmatic dependent launch"). Off until a
            device has shown that it is right and pays.
    """

    def __init__(self, parts: Parts, *, threads: int | None = None, device: int | Device | None = None, graphs: bool = True,
                 overlap: bool = False) -> None:  # fmt: skip
        super().__init__(parts, threads=threads)
        self.graphs, self.overlap = graphs, overlap
        self._chosen = device
        self._device: Device | None = None

    @property
    def device(self) -> Device:
        """The device that runs the module. Raises DeviceError when there is none."""
        if self._device is None:
            if self._chosen is None or isinstance(self._chosen, int):
                from .cupy_device import device

                self._device = device(self._chosen)
            else:
                self._device = self._chosen
        return self._device

    def prepare(self) -> None:
        """Load code and weights onto the device; the first run does it otherwise.

        Raises DeviceError without a usable device, TargetError when the module has no code for it.
        """
        device = self.device
        with self._lock:
            if self._bindings is not None:
                return
            check = switch("MLC_CUDA_CHECK")
            self._bindings = BindingCache(CudaProgram.load(self.parts, device, check, self.overlap))
        if not self._symbols:
            self._bind(())

    def run(
        self, feeds: Mapping[str, Any], out: Mapping[str, np.ndarray] | None = None, *,
        stream: object = None, wait: bool = True, on_device: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Outputs by name, in the model's order.

        Args:
            feeds: arrays by name.
            out: arrays on the host that outputs are to be written to, by name; new ones for the others.
            stream: run in this stream (of cupy or torch, or its number), behind what is in it already; by default in one
                of the module's own.
            wait: block until the outputs are there. False returns at once, with outputs on the device: they may be used in
                `stream`, or after it has been waited for. It needs `stream`. Nobody waits for what data say of indices then:
                those out of range are clamped.
            on_device: where outputs go, if not where the inputs came from.

        Raises InputError when an input does not fit or data give an index that is out of range, DeviceError when the device fails.
        """
        if not wait and (stream is None or on_device is False):
            raise InputError("wait=False", expected="a stream, and outputs on the device")
        if not isinstance(feeds, Mapping) or set(feeds) != set(self._names):
            module, given = self._overridden(feeds)
            assert isinstance(module, CudaModule)
            return module.run(given, out, stream=stream, wait=wait, on_device=on_device)
        outputs = self._run([feeds[n] for n in self._names], stream, wait, on_device, out)
        return {name: outputs[i] for i, name in self._out_names}

    def _beside(self, parts: Parts) -> CudaModule:
        return CudaModule(parts, threads=self._asked, device=self.device, graphs=self.graphs, overlap=self.overlap)

    def profile(self, feeds: Mapping[str, Any], runs: int = 1) -> dict[int, float]:
        """Seconds per call of the program on the device, by its word (see `manifest.steps`), mean over `runs` (1 or more) after one to
        warm up. Raises InputError."""
        runs = from_one("runs", runs)
        self.run(feeds)
        arrays, binding = self._fit([feeds[n] for n in self._names])
        d, times = self.device, dict.fromkeys((s.word for s in self.manifest.steps), 0.0)
        execution: Any = binding.acquire()
        try:
            s = execution.stream
            handles = self._handles(binding)
            outputs = self._place(execution, binding, [encode_input(handles, a, t) for a, t in self._given(arrays)], s, handles)
            for _ in range(runs):
                marks: list[tuple[int, Any, Any]] = []

                def timed(word: int, launch: Callable[[], None], marks: list[tuple[int, Any, Any]] = marks) -> None:
                    start = d.record(s, True)
                    launch()
                    marks.append((word, start, d.record(s, True)))

                d.delay(s, min(_MOST_DELAY, _HOST_SECONDS * len(times)))  # else events of short kernels would time the host
                execution.launch_all(s, execution.yields(outputs, s, handles), timed)
                d.synchronize(s)
                for word, start, end in marks:
                    owner = max(w for w in times if w <= word)  # a step may take several launches
                    times[owner] += d.elapsed(start, end) / runs
        finally:
            binding.release(execution)
        return times

    # --- a run -------------------------------------------------------------------------------------------------------
    def _execute(self, arrays: Sequence[Any], out: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        return self._run(arrays, None, True, None, out)

    def _run(
        self, given: Sequence[Any], stream: object, wait: bool, on_device: bool | None, out: Mapping[str, np.ndarray] | None
    ) -> list[Any]:
        arrays, binding = self._fit(given)
        resident = any(isinstance(a, DeviceArray) for a in arrays) if on_device is None else on_device
        if out and (resident or not wait):
            raise InputError("out, and outputs on the device", expected="outputs on the host", remedy="Pass on_device=False, or no out.")
        return self._opened().by_any(binding, lambda b: self._run_at(b, arrays, stream, wait, resident, out))

    def _run_at(
        self, binding: Binding, arrays: Sequence[Any], stream: object, wait: bool, resident: bool, out: Mapping[str, np.ndarray] | None
    ) -> list[Any]:
        d = self.device
        targets = given_outputs(out, self.outputs, binding.out_shapes, arrays) if out else {}
        execution: Any = binding.acquire()
        handles = self._handles(binding)
        try:
            s = execution.stream if stream is None else d.stream(stream)
            if execution.event is not None:
                d.wait(s, execution.event)
                execution.event = None
            try:
                encoded = [encode_input(handles, a, t) for a, t in self._given(arrays)]
                outputs = self._place(execution, binding, encoded, s, handles, resident or not wait)
                results = [
                    self._result(o, t, handles, s, resident or not wait, targets.get(i))
                    for i, (o, t) in enumerate(zip(outputs, self.outputs, strict=True))
                ]
                if wait:
                    d.synchronize(s)
                    execution.check(s)
                else:
                    execution.event = d.record(s)
            except BaseException:
                # What was launched before works on in memory that others may have from now on: the caller's, and this execution's.
                with suppress(DeviceError):
                    d.synchronize(s)
                raise
        finally:
            binding.release(execution)
        return results

    def _handles(self, binding: Binding) -> Handles:
        return Handles(binding.program.strings, binding.program.string_handles)

    def _given(self, arrays: Sequence[Any]) -> Iterable[tuple[Any, TensorInfo]]:
        return zip(arrays, self._manifest.inputs, strict=True)

    def _place(self, execution: CudaExecution, binding: Binding, arrays: Sequence[Any], s: Any, handles: Handles,
               resident: bool = False) -> list[Any]:  # fmt: skip
        """Bring the inputs, run the program; returns where the outputs lie."""
        d = self.device
        inputs = [self._input(execution, i, a, s) for i, a in enumerate(arrays)]
        outputs: list[Placed | None] = []
        for i, (shape, dtype, _) in enumerate(binding.results):
            if shape is None:  # its size is found while the program runs
                outputs.append(None)
                continue
            size = math.prod(shape) * dtype.itemsize
            own = resident and self.outputs[i].kind == "tensor"
            memory = output_memory(d, size, s, s is execution.stream) if own else execution.stage("output", i, size)
            outputs.append(Placed(memory, shape, dtype))
        execution.run(inputs, outputs, s, self.graphs, handles)
        return outputs

    def _result(self, placed: Placed, info: TensorInfo, handles: Handles, s: Any, resident: bool, target: np.ndarray | None) -> Any:
        """An output as its user sees it; `target` is an array to put it into."""
        d = self.device
        if resident and info.kind == "tensor":
            return d.view(placed.memory, placed.shape, placed.dtype)
        array = np.empty(placed.shape, placed.dtype) if target is None else target
        if array.nbytes:
            d.download(array, placed.memory.ptr, s)
        return decode_output(handles, array, info)

    def _input(self, execution: CudaExecution, position: int, array: Any, s: Any) -> int:
        """The address of an input on the device."""
        d = self.device
        if isinstance(array, DeviceArray):
            if array.stream:
                d.wait(s, d.record(d.stream(array.stream)))
            if array.ptr and array.ptr % _ALIGN == 0:
                return array.ptr
            size = math.prod(array.shape) * array.dtype.itemsize
            memory = execution.stage("input", position, size)
            if size:  # an array without elements is nowhere
                d.copy(memory.ptr, array.ptr, size, s)
            return memory.ptr
        memory = execution.stage("input", position, array.nbytes)
        if array.nbytes:
            d.upload(memory.ptr, array, s)
        return memory.ptr

    def _array(self, value: Any, info: TensorInfo) -> Any:
        if not is_device_array(value):
            return super()._array(value, info)
        loc = f"input {info.name}"
        if info.kind != "tensor":
            raise InputError(f"an array on the device for {info.kind} values", expected="host values", loc=loc)
        array = device_array(value, loc)
        if array.dtype != info.dtype:
            how = f"to(torch.{info.dtype})" if type(value).__module__.startswith("torch") else f"astype({info.dtype})"
            raise InputError(f"dtype {array.dtype}", expected=str(info.dtype), remedy=f"Convert it, if its values allow: x.{how}.", loc=loc)
        if len(array.shape) != len(info.shape):
            raise InputError(f"shape {shape_text(array.shape)}", expected=shape_text(info.shape), loc=loc)
        if not array.contiguous:
            raise InputError("an array on the device that is not contiguous", expected="a contiguous one (cupy.ascontiguousarray)", loc=loc)
        if 0 not in array.shape and (where := self.device.owner(array.ptr)) != self.device.number:
            raise DeviceError(
                f"an array on {'the host' if where < 0 else f'device {where}'}", expected=f"device {self.device.number}", loc=loc
            )
        return array
