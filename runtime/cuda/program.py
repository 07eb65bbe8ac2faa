"""A module's program on a device: functions loaded, weights uploaded; and runs of it as launches, or as one graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ...errors import ArtifactError, DeviceError, TargetError
from ..artifact import Parts
from ..binding import Binding, Sizes
from ..manifest import CALL, CLEAR, INCREMENT, JUMP, JUMP_IF_FALSE, JUMP_IF_GE, TEAM_CALL, YIELD
from . import images
from .device import Device, Memory

_GRAPHS = 4  # sets of addresses whose graphs an execution keeps


class CudaProgram(Sizes):
    """What all bindings of a module share. Raises TargetError when the module has no code for the device."""

    def __init__(self, parts: Parts, device: Device, check: bool) -> None:
        super().__init__(parts.manifest)
        m = parts.manifest
        if m.handlers:
            raise TargetError("a CUDA module whose sizes depend on data", remedy="Compile it with --target=cpu.")
        self.device, self.check = device, check
        self.words = m.program
        self.functions: list[tuple[Any, images.Image]] = []
        for symbol, image in images.split(parts.code):
            arch = images.choose(image.code, device.capability)
            if arch is None:
                have = ", ".join(sorted(image.code))
                raise TargetError(f"a module for {have}", expected=f"code for this device ({device.name}, sm_{device.capability})",
                                  remedy=f"Compile with --target=cuda:sm_{device.capability}.")  # fmt: skip
            self.functions.append((device.load(symbol, image.code[arch], image.shared), image))
        stream = device.stream()
        self.weights = device.allocate(parts.weights.nbytes)
        if parts.weights.nbytes:
            device.upload(self.weights.ptr, parts.weights, stream)
            device.synchronize(stream)
        self.weights_at = self.streamed_at = self.weights.ptr
        self.locations = {s.word: (s.symbol, " + ".join(s.loc)) for s in m.steps}
        self.straight = not set(_opcodes(m.program)) & {JUMP, JUMP_IF_FALSE, JUMP_IF_GE, INCREMENT, CLEAR, YIELD, TEAM_CALL}

    def execution(self, binding: Binding, arena: Any) -> CudaExecution:
        """Called by the binding."""
        return CudaExecution(self, binding, arena)


def _opcodes(program: tuple[int, ...]) -> list[int]:
    out, pc = [], 0
    while pc < len(program):
        out.append(program[pc])
        pc += _length(program, pc)
    return out


def _length(program: tuple[int, ...], pc: int) -> int:
    op = program[pc]
    if op in (CALL, TEAM_CALL):
        return 6 + program[pc + 2] + program[pc + 3]
    return {JUMP: 2, JUMP_IF_FALSE: 3, INCREMENT: 2, CLEAR: 2, JUMP_IF_GE: 4, YIELD: 2}[op]


class CudaExecution:
    """One run at a time: arena, staging memory of inputs and outputs, a stream of its own, and graphs of what it ran."""

    def __init__(self, program: CudaProgram, binding: Binding, arena: Memory | None) -> None:
        self.program, self.binding = program, binding
        d = program.device
        self.arena: Memory = d.allocate(binding.layout.total) if arena is None else arena
        self.stream = d.stream()
        self.event: Any = None  # the end of the last run, where the host did not wait for it
        base = self.arena.ptr
        self.bufs = [fixed + offset if fixed >= 0 else base + offset for fixed, offset in binding.template]
        self.staging: dict[tuple[str, int], Memory] = {}
        self._graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._seen: tuple[int, ...] | None = None

    def __del__(self) -> None:
        event, self.event = getattr(self, "event", None), None
        if event is not None:
            self.program.device.finish(event)  # memory goes back to the pool only when nothing runs in it

    def stage(self, kind: str, position: int, nbytes: int) -> Memory:
        """Device memory of an input or output that the caller has on the host; the same in every run."""
        key = kind, position
        if key not in self.staging or self.staging[key].nbytes < nbytes:
            self.staging[key] = self.program.device.allocate(nbytes)
        return self.staging[key]

    def run(self, inputs: list[int], outputs: list[int], stream: Any, graphs: bool) -> None:
        """Launch everything; `inputs` and `outputs` are addresses by position."""
        b = self.binding
        for i, position, shift in b.in_patches:
            self.bufs[i] = inputs[position] + shift
        for i, position, shift in b.out_patches:
            self.bufs[i] = outputs[position] + shift
        if not graphs or not self.program.straight or self.program.check:
            self.launch_all(stream)
            return
        key = (*inputs, *outputs)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self.program.device.replay(self._graphs[key], stream)
            return
        # The first run launches plainly: it loads what the driver loads lazily, which a capture must not.
        if self._seen != key:
            self._seen = key
            self.launch_all(stream)
            return
        if not self.program.device.begin_capture(self.stream):
            self.launch_all(stream)
            return
        try:
            self.launch_all(self.stream)
        finally:
            graph = self.program.device.end_capture(self.stream)
        self._graphs[key] = graph
        if len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        self.program.device.replay(graph, stream)

    def launch_all(self, stream: Any, around: Callable[[int, Callable[[], None]], None] | None = None) -> None:
        """The program's instructions in order. `around(word, launch)`, if given, calls each launch itself."""
        p, words, bufs, dims, device = self.program, self.program.words, self.bufs, self.binding.dims, self.program.device
        pc = 0
        while pc < len(words):
            op = words[pc]
            if op != CALL:
                pc = self._control(pc, op, stream)
                continue
            n, m = words[pc + 2], words[pc + 3]
            blocks = int(dims[words[pc + 4]])
            if blocks > 0:
                function, image = p.functions[words[pc + 1]]
                at = pc + 6
                args = np.array([bufs[b] for b in words[at : at + n]] + [int(dims[s]) for s in words[at + n : at + n + m]], np.int64)
                launch = partial(device.launch, function, blocks, image.threads, image.shared, args, stream)
                if around is None:
                    launch()
                else:
                    around(pc, launch)
                if p.check:
                    self._checked(pc, stream)
            pc += 6 + n + m

    def _control(self, pc: int, op: int, stream: Any) -> int:
        words, bufs, device = self.program.words, self.bufs, self.program.device
        if op == JUMP:
            return words[pc + 1]
        if op == JUMP_IF_FALSE:
            return pc + 3 if self._read(bufs[words[pc + 1]], np.dtype(np.uint8), stream) else words[pc + 2]
        if op == JUMP_IF_GE:
            a, b = (self._read(bufs[words[pc + k]], np.dtype(np.int64), stream) for k in (1, 2))
            return words[pc + 3] if a >= b else pc + 4
        if op in (CLEAR, INCREMENT):
            at = bufs[words[pc + 1]]
            value = 0 if op == CLEAR else self._read(at, np.dtype(np.int64), stream) + 1
            device.upload(at, np.array([value], np.int64), stream)
            device.synchronize(stream)
            return pc + 2
        raise ArtifactError(f"instruction {op} in a CUDA program", remedy="Compile the model again.")

    def _read(self, ptr: int, dtype: np.dtype, stream: Any) -> int:
        out = np.empty(1, dtype)
        self.program.device.download(out, ptr, stream)
        return int(out[0])

    def _checked(self, word: int, stream: Any) -> None:
        try:
            self.program.device.synchronize(stream)
        except DeviceError as e:
            known = [w for w in self.program.locations if w <= word]
            symbol, loc = self.program.locations[max(known)] if known else ("?", "")
            raise DeviceError(f"kernel {symbol}: {e.found}", remedy="Start a new process.", loc=loc) from None
