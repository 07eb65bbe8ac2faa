"""A module's program on a device: functions loaded, weights uploaded; and runs of it as launches, or as one graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...errors import ArtifactError, DeviceError, TargetError
from ..artifact import Parts
from ..binding import Binding, Sizes
from ..handles import Handles
from ..instructions import CALL, CLEAR, EXPECT, INCREMENT, JUMP, JUMP_IF_FALSE, JUMP_IF_GE, REQUIRE, YIELD, instruction_length
from ..manifest import Manifest
from ..resume import Yields, out_of_range, unfit
from ..tables import Tables
from . import images
from .device import Device, Memory
from .segments import Segment, segments
from .space import DeviceSpace, Placed

Around = Callable[[int, Callable[[], None]], None]
_WAITS = 90  # the first architecture with griddepcontrol
_STRIDE = 16  # bytes that strides of tensor maps are multiples of
_MAPS = 4096  # tensor maps that an execution keeps
_GRAPHS = 4  # sets of addresses and sizes whose graphs an execution keeps, on average of its segments


class CudaProgram(Sizes):
    """What all bindings of a program share. Use `CudaProgram.load`."""

    def __init__(self, m: Manifest, device: Device, loaded: Loaded, check: bool, overlap: bool) -> None:
        super().__init__(m)
        self.loaded = loaded
        self.overlap = overlap and loaded.waits
        self.device, self.check = device, check
        self.words = m.program
        self.functions, self.weights = loaded.functions, loaded.weights
        self.skipped, _ = _skipped(m.program, loaded.archs, m.raw["dims"], device)
        self.weights_at = self.streamed_at = self.weights.ptr
        self.locations = {s.word: (s.symbol, " + ".join(s.loc)) for s in m.steps}
        self.segments = segments(m.program, self.skipped)
        self.kept = [i for i, b in enumerate(m.buffers) if b.kept]
        self.checks = _checks(m.program)  # the word from which on there are only checks

    @staticmethod
    def load(parts: Parts, device: Device, check: bool, overlap: bool = False) -> CudaProgram:
        """The module's first program on a device. Raises TargetError when the module has no code for the device."""
        return CudaProgram(parts.manifest, device, Loaded.of(parts, device), check, overlap)

    def beside(self, manifest: Manifest) -> CudaProgram:
        return CudaProgram(manifest, self.device, self.loaded, self.check, self.overlap)

    def execution(self, binding: Binding, arena: Any) -> CudaExecution:
        """Called by the binding."""
        return CudaExecution(self, binding, arena)


@dataclass(frozen=True)
class Loaded:
    """What the programs of a module share on a device: functions by their numbers, weights, what `archs` calls are for, and
    whether all code is for architectures on which kernels wait for those before them."""

    functions: Sequence[tuple[Any, images.Image]]
    weights: Memory
    archs: Sequence[str]
    waits: bool

    @staticmethod
    def of(parts: Parts, device: Device) -> Loaded:
        """Raises TargetError, or ArtifactError for corrupt weights."""
        parts.ready()
        m = parts.manifest
        target = m.raw["target"]
        archs = [*target["archs"], target["ptx"]]
        used: set[int] = set()
        for program in m.programs:
            used |= _skipped(program.program, archs, program.raw["dims"], device)[1]
        functions: list[tuple[Any, images.Image]] = []
        waits = True
        for i, (symbol, image) in enumerate(images.split(parts.code)):
            arch = images.choose(image.code, device.capability)
            if arch is None and i in used:
                raise _no_code(image.code, device)
            waits = waits and (arch is None or images.number(arch) >= _WAITS)
            functions.append((device.load(symbol, image.code[arch], image.shared) if arch is not None and i in used else None, image))
        stream = device.stream()
        weights = device.allocate(parts.weights.nbytes, stream)
        if parts.weights.nbytes:
            device.upload(weights.ptr, parts.weights, stream)
            device.synchronize(stream)
        device.recycle(stream)
        return Loaded(functions, weights, archs, waits)


def _no_code(have: Iterable[str], device: Device) -> TargetError:
    return TargetError(f"a module for {', '.join(sorted(have))}", expected=f"code for this device ({device.name}, sm_{device.capability})",
                       remedy=f"Compile with --target=cuda:sm_{device.capability}.")  # fmt: skip


def _skipped(words: Sequence[int], archs: Sequence[str], dims: Sequence[Any], device: Device) -> tuple[frozenset[int], set[int]]:
    """Calls (words) that are for devices of other architectures, and the functions that the others call."""
    mine = images.choose(dict.fromkeys(archs, b""), device.capability)
    if mine is None:
        raise _no_code(archs, device)
    skipped, used, pc = set(), set(), 0
    while pc < len(words):
        if words[pc] == CALL:
            mask = dims[words[pc + 5]]
            if not isinstance(mask, int):
                raise ArtifactError("a CUDA program whose calls do not say for which architectures they are")
            if mask >> archs.index(mine) & 1:
                used.add(words[pc + 1])
            else:
                skipped.add(pc)
        pc += instruction_length(words, pc)
    return frozenset(skipped), used


def _checks(program: Sequence[int]) -> int:
    start = pc = 0
    while pc < len(program):
        expects = program[pc] == EXPECT
        pc += instruction_length(program, pc)
        start = start if expects else pc
    return start


def _keep(kept: OrderedDict[tuple[int, ...], Any], key: tuple[int, ...], value: Any, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


class CudaExecution:
    """One run at a time: arena, staging memory of inputs and outputs, a stream of its own, and graphs of what it ran."""

    def __init__(self, program: CudaProgram, binding: Binding, arena: Memory | None) -> None:
        self.program, self.binding = program, binding
        d = program.device
        self.stream = d.stream()
        self.arena: Memory = d.allocate(binding.layout.total, self.stream) if arena is None else arena
        self.dims: Sequence[int] = binding.slots
        self.resumed: Yields | None = None
        self.event: Any = None  # the end of the last run, where the host did not wait for it
        self.bufs = binding.addresses(self.arena.ptr).tolist()
        for buffer in program.kept:
            d.upload(self.bufs[buffer], np.zeros(binding.slots[program.manifest.buffers[buffer].size], np.uint8), self.stream)
            self.event = d.record(self.stream)
        self.staging: dict[tuple[str, int], Memory] = {}
        self._graphs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._maps: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._seen: OrderedDict[tuple[int, ...], None] = OrderedDict()  # keys that ran once
        self._vary: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}  # of a segment: what of its buffers and dims may change
        self._most_graphs = _GRAPHS * max(1, len(program.segments))

    def __del__(self) -> None:
        event, self.event = getattr(self, "event", None), None
        if event is not None:
            with suppress(DeviceError):  # of a device that is lost
                self.program.device.finish(event)  # memory goes back to the pool only when nothing runs in it
        if hasattr(self, "stream"):
            self.program.device.recycle(self.stream)

    def stage(self, kind: str, position: int, nbytes: int) -> Memory:
        """Device memory of an input or output that the caller has on the host; the same in every run."""
        key = kind, position
        if key not in self.staging or self.staging[key].nbytes < nbytes:
            self.staging[key] = self.program.device.allocate(nbytes, self.stream)
        return self.staging[key]

    def run(self, inputs: list[int], outputs: list[Placed | None], stream: Any, graphs: bool, handles: Handles) -> None:
        """Launch everything. `inputs` are addresses by position; `outputs` those of known sizes, and fill up while it runs."""
        b = self.binding
        for i, position, shift in b.in_patches:
            self.bufs[i] = inputs[position] + shift
        for i, position, shift in b.out_patches:
            placed = outputs[position]
            assert placed is not None
            self.bufs[i] = placed.memory.ptr + shift
        resumed = self.yields(outputs, stream, handles)
        self.launch_all(stream, resumed, graphs=graphs and not self.program.check)

    def _replayed(self, segment: Segment, stream: Any) -> bool:
        """Run a segment as a graph, if it is one for these addresses and sizes, or becomes one."""
        if segment.start not in self._vary:
            # Without handlers sizes stay, and no addresses change but those of what users hand over.
            handed = {i for i, _, _ in (*self.binding.in_patches, *self.binding.out_patches)}
            changes = bool(self.binding.manifest.handlers)
            self._vary[segment.start] = (
                tuple(b for b in segment.buffers if changes or b in handed),
                segment.dims if changes else (),
            )
        buffers, dims = self._vary[segment.start]
        key = (segment.start, *(self.bufs[b] for b in buffers), *(int(self.dims[d]) for d in dims))
        device = self.program.device
        if key in self._graphs:
            self._graphs.move_to_end(key)
        else:
            # The first run launches plainly: it loads what the driver loads lazily, which a capture must not.
            if key not in self._seen:
                _keep(self._seen, key, None, self._most_graphs)
                return False
            if not device.begin_capture(self.stream):
                return False
            try:
                self._calls(segment.start, segment.end, self.stream)
            except BaseException:
                with suppress(DeviceError):  # a capture that this has made invalid says only that
                    device.end_capture(self.stream)
                raise
            graph = device.end_capture(self.stream)
            _keep(self._graphs, key, graph, self._most_graphs)
        device.replay(self._graphs[key], stream)
        return True

    def yields(self, outputs: list[Any], stream: Any, handles: Handles) -> Yields | None:
        """What this run's yields do; None for a program without. It is kept: memory of its tensors is in use until the end."""
        if self.binding.manifest.handlers:
            tables = Tables(self.program.size_words.places, self.binding.table)
            self.dims, tables.bufs = tables.slots, self.bufs
            space = DeviceSpace(self.program.device, stream, stream is self.stream)
            self.resumed = Yields(self.program, self.binding, tables, outputs, handles, space)
        return self.resumed

    def launch_all(self, stream: Any, yields: Yields | None = None, around: Around | None = None, graphs: bool = False) -> None:
        """The program's instructions in order up to the last checks, stretches of launches as graphs if asked for.

        `around(word, launch)`, if given, calls each launch itself.
        """
        p, words = self.program, self.program.words
        control = _Control(p.device, stream, self.bufs)
        pc = 0
        while pc < p.checks:
            op = words[pc]
            if op == YIELD and yields is not None:
                yields.handle(words[pc + 1])
                pc += 2
            elif op == EXPECT:
                self._expect(pc, stream)
                pc += instruction_length(words, pc)
            elif op == REQUIRE:
                size, lo, hi = (int(self.dims[slot]) for slot in words[pc + 2 : pc + 5])
                if not lo <= size <= hi:
                    raise unfit(self.binding.manifest, pc, self.dims)
                pc += instruction_length(words, pc)
            elif op != CALL:
                pc = control.step(words, pc)
            elif graphs and pc in p.segments and self._replayed(p.segments[pc], stream):
                pc = p.segments[pc].end
            else:
                end = p.segments[pc].end if pc in p.segments else pc + instruction_length(words, pc)
                self._calls(pc, end, stream, around)
                pc = end

    def check(self, stream: Any) -> None:
        """What the program expects of data at its end. Raises InputError naming the index, its limits and the node."""
        words, pc = self.program.words, self.program.checks
        while pc < len(words):
            self._expect(pc, stream)
            pc += instruction_length(words, pc)

    def _expect(self, pc: int, stream: Any) -> None:
        words, ends = self.program.words, np.empty(2, np.int64)
        self.program.device.download(ends, self.bufs[words[pc + 2]] + 16 * words[pc + 3], stream)
        error = out_of_range(self.binding.manifest, pc, self.dims, int(ends[0]), int(ends[1]))
        if error is not None:
            raise error

    def _calls(self, pc: int, end: int, stream: Any, around: Around | None = None) -> None:
        """Launch the calls from word `pc` up to `end`."""
        p, words, bufs, dims, device = self.program, self.program.words, self.bufs, self.dims, self.program.device
        while pc < end:
            n, m = words[pc + 2], words[pc + 3]
            blocks = 0 if pc in p.skipped else int(dims[words[pc + 4]])
            if blocks > 0:
                function, image = p.functions[words[pc + 1]]
                at = pc + 6
                args = np.array([bufs[b] for b in words[at : at + n]] + [int(dims[s]) for s in words[at + n : at + n + m]], np.int64)
                maps = [self._map(m, args) for m in image.maps]
                launch = partial(device.launch, function, blocks, image.threads, image.shared, args, stream, maps, p.overlap)
                if around is None:
                    launch()
                else:
                    around(pc, launch)
                if p.check:
                    self._checked(pc, stream)
            pc += 6 + n + m

    def _map(self, spec: images.MapSpec, args: np.ndarray) -> Any:
        def numbers(values: Sequence[images.Number]) -> tuple[int, ...]:
            return tuple(v if isinstance(v, int) else int(args[v[0]]) for v in values)

        sizes, strides = numbers(spec.sizes), numbers(spec.strides)
        if 0 in sizes:  # nothing is copied from a tensor without elements, which the driver does not describe
            sizes, strides = (1,) * len(sizes), (_STRIDE,) * len(strides)
        key = (int(args[spec.pointer]), spec.itemsize, sizes, strides, spec.box)
        if key not in self._maps:
            self._maps[key] = self.program.device.tensor_map(*key)
            if len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        return self._maps[key]

    def _checked(self, word: int, stream: Any) -> None:
        try:
            self.program.device.synchronize(stream)
        except DeviceError as e:
            known = [w for w in self.program.locations if w <= word]
            symbol, loc = self.program.locations[max(known)] if known else ("?", "")
            raise DeviceError(f"kernel {symbol}: {e.found}", remedy="Start a new process.", loc=loc) from None


class _Control:
    """Branches and loops. What decides them lies on the device; iteration numbers are counted here, and only written there."""

    def __init__(self, device: Device, stream: Any, bufs: Sequence[int]) -> None:
        self.device, self.stream, self.bufs = device, stream, bufs
        self.counters: dict[int, int] = {}  # by buffer
        self.trips: dict[int, int] = {}  # of the loop whose counter this is; they stay the same while it runs

    def step(self, words: Sequence[int], pc: int) -> int:
        """Run one instruction; returns where to go on."""
        op, at = words[pc], words[pc + 1]
        if op == JUMP:
            return at
        if op == JUMP_IF_FALSE:
            return pc + 3 if self._read(at, np.dtype(np.uint8)) else words[pc + 2]
        if op == CLEAR:
            self.trips.pop(at, None)
            return self._count(at, 0, pc)
        if op == INCREMENT:
            return self._count(at, self.counters[at] + 1, pc)
        if op == JUMP_IF_GE:
            if at not in self.trips:
                self.trips[at] = self._read(words[pc + 2], np.dtype(np.int64))
            return words[pc + 3] if self.counters[at] >= self.trips[at] else pc + 4
        raise ArtifactError(f"instruction {op} in a CUDA program", remedy="Compile the model again.")

    def _count(self, buffer: int, value: int, pc: int) -> int:
        self.counters[buffer] = value
        self.device.upload(self.bufs[buffer], np.array([value], np.int64), self.stream)
        return pc + 2

    def _read(self, buffer: int, dtype: np.dtype) -> int:
        out = np.empty(1, dtype)
        self.device.download(out, self.bufs[buffer], self.stream)
        return int(out[0])
