"""A module's state for one set of input sizes: dim values, memory layout, and the execution contexts that run it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, InputError
from . import objects
from .address import address, aligned
from .calls import fitting, starting
from .handles import words
from .manifest import Manifest
from .memory import Layout, Planner
from .native import Code, Context
from .stages import Stages
from .words import Words, show_sizes

if TYPE_CHECKING:
    from .artifact import Parts
    from .tables import Tables

_ALIGNED = 1 << 14  # outputs from so many bytes on lie at cache lines, which takes half a microsecond
_MAX_IDLE = 8  # contexts kept for later runs; more callers than this at once allocate afresh


class Sizes:
    """What bindings need of a program, on any machine: where buffers lie follows from the manifest alone."""

    weights_at = 0
    streamed_at = 0  # of the first `manifest.streamed` bytes of them

    def __init__(self, manifest: Manifest) -> None:
        m = self.manifest = manifest
        self.stages = Stages(manifest)
        self.size_words = Words(manifest, self.stages)
        self.strings = np.array([*manifest.strings, None], object)[:-1]  # with None, it has one axis whatever there is
        self.string_handles = dict(zip(manifest.strings, words(range(len(manifest.strings))), strict=True))
        self.host_constants: dict[tuple[int, int], Any] = {}  # what they read of constants, by number of the handler and the operand
        self.host_functions: dict[int, Callable[..., Any]] = {}  # by number of the handler, once they have run
        # buffers whose sizes follow from those of the inputs; the others are allocated while the program runs
        known = [not k for k in self.stages.of]
        arena = [i for i, b in enumerate(m.buffers) if b.kind == "arena" and known[i]]
        self.arena = np.array(arena, np.int64)
        self.planner = Planner([(m.buffers[i].first, m.buffers[i].last) for i in arena])
        aliases = {i: b for i, b in enumerate(m.buffers) if b.kind == "alias" and known[i]}
        self.aliases = np.array(list(aliases), np.int64)
        self.shifts = np.array([b.shift for b in aliases.values()], np.int64)  # dim slots
        roots = [aliases[i].place if i in aliases else i for i in range(len(m.buffers))]
        self.roots = np.array(roots, np.int64)
        self.in_arena = np.array([m.buffers[r].kind == "arena" and known[r] for r in roots], np.int64)
        # what runs hand over: buffer, position, dim slot of the shift or −1
        self.ins, self.outs = (
            [(i, m.buffers[r].place, aliases[i].shift if i in aliases else -1) for i, r in enumerate(roots)
             if m.buffers[r].kind == kind and known[i]]
            for kind in ("input", "output")
        )  # fmt: skip
        own = {b.place: i for staged in (False, True) for i, b in enumerate(m.buffers) if b.kind == "output" and known[i] != staged}
        self.results = [(t.stored, own.get(i, -1), i not in own or known[own[i]]) for i, t in enumerate(m.outputs)]

    @cached_property
    def fixed(self) -> np.ndarray:
        """Addresses of constants by buffer, 0 for others."""
        m = self.manifest
        return np.array([
            ((self.streamed_at if b.place < m.streamed else self.weights_at) + b.place) if b.kind == "const" else 0 for b in m.buffers
        ], np.int64)  # fmt: skip

    @cached_property
    def others(self) -> tuple[Sizes, ...]:
        """The module's programs behind this one, which is its first."""
        return tuple(self.beside(m) for m in self.manifest.others)

    def beside(self, manifest: Manifest) -> Sizes:
        """Another program of the same module."""
        return Sizes(manifest)

    def execution(self, binding: Binding, arena: Any) -> Any:
        """Called by the binding; `arena` is one to take over."""
        raise NotImplementedError


class Program(Sizes):
    """What all bindings of a module share: code addresses, the program as words, the weights."""

    def __init__(
        self, manifest: Manifest, code: Code, functions: Sequence[int] | np.ndarray, weights: np.ndarray,
        streamed: np.ndarray | None, threads: int,
    ) -> None:  # fmt: skip
        super().__init__(manifest)
        self.code, self.threads = code, threads
        self.words = np.array(manifest.program, np.int64)
        self.functions = np.array(functions, np.uint64)
        self.weights, self.streamed = weights, streamed
        self.starts = np.empty(0, np.int64)  # of handlers, in the words
        if manifest.handlers:
            from .shortcuts import Shortcuts  # only where it is needed: loading is to be quick

            self.starts = np.array(Shortcuts(self.size_words, self.stages).starts, np.int64)
        self.weights_at = address(weights)
        self.streamed_at = self.weights_at if streamed is None else address(streamed)

    @staticmethod
    def load(parts: Parts, threads: int) -> Program:
        """The first program of a module. Raises ArtifactError for code that lacks a function."""
        pairs = objects.split(parts.code)
        code = Code([blob for _, blob in pairs])
        addresses = [code.address(symbol) for symbol, _ in pairs]
        if 0 in addresses:
            raise ArtifactError(f"function {pairs[addresses.index(0)][0][:60]} is not in the code")
        return Program(parts.manifest, code, addresses, parts.weights, parts.streamed, threads)

    def beside(self, manifest: Manifest) -> Program:
        return Program(manifest, self.code, self.functions, self.weights, None, self.threads)

    def execution(self, binding: Binding, arena: np.ndarray | None) -> Execution:
        return Execution(self, binding, arena)


class Execution:
    """One run at a time: a buffer table with its arena. `start(inputs, outputs)` runs the program on lists of arrays, until it stops.

    Of a program that yields, `memory` is what buffers own that got their size while it ran, by address, and `rooms` are where
    outputs of unknown sizes go if they are small: (position, dim slots of the shape, dtype, memory).
    """

    __slots__ = ("_keep", "_staged", "arena", "at", "bufs", "dims", "memory", "rooms", "start", "struct", "tables")

    def __init__(self, program: Program, binding: Binding, arena: np.ndarray | None) -> None:
        self.arena = arena = aligned(binding.layout.total) if arena is None else arena
        self.tables: Tables | None = None
        self.memory: dict[int, list[Any]] = {}
        self.rooms: list[tuple[int, tuple[int, ...], np.dtype, np.ndarray]] = []
        self.bufs: Any
        self.dims: Sequence[int] = binding.slots
        addresses = binding.addresses(address(arena))
        if program.manifest.handlers:
            from .tables import Tables

            p = program.size_words.places
            self.tables = Tables(p, binding.table)
            self.tables.begin_at(addresses)
            at, self.bufs, self.dims = self.tables.at, self.tables.bufs, self.tables.slots
            where = at + 8 * p.bufs, at + 8 * p.slots
            more = at, address(program.size_words.code), address(program.starts)
        else:
            self.bufs = bufs = (ctypes.c_int64 * max(1, len(addresses)))()
            where, more = (ctypes.addressof(bufs), address(binding.dims)), (0, 0, 0)
            ctypes.memmove(bufs, address(addresses), addresses.nbytes)
        self._staged = program.stages.staged
        self._make_rooms(program)
        scratch = np.empty(max(1, program.manifest.scratch), np.int64)
        self.struct = Context(
            address(program.words), len(program.words), address(program.functions), where[0],
            where[1], program.threads, address(scratch), 0, 0, *more,
        )  # fmt: skip
        self.at = ctypes.addressof(self.struct)
        self.start = starting(self.at, where[0], binding.in_patches, binding.out_patches)
        self._keep = (scratch, program, binding.table)

    def _make_rooms(self, program: Program) -> None:
        m = program.manifest
        if self.tables is None:
            return
        from .shortcuts import KEPT

        for i, b in enumerate(m.buffers):
            if b.kind == "output" and program.stages.of[i]:
                room = aligned(KEPT)
                self.tables.begin_with(i, 0, KEPT, address(room))
                self.rooms.append((b.place, m.output_shapes[b.place], m.outputs[b.place].stored, room))

    def hand_over(self, inputs: list[Any], outputs: list[Any]) -> None:
        """As `start`, but runs nothing."""
        words, self.struct.words = self.struct.words, 0
        self.start(inputs, outputs)
        self.struct.words = words

    def forget(self) -> None:
        """Drop the memory of a run that was broken off."""
        self.memory.clear()
        if self.tables is not None:
            for i in self._staged:
                self.tables.begin_with(i, 0, 0, 0)


class Binding:
    """Sizes fixed. Raises InputError when the model cannot run at these sizes."""

    def __init__(self, program: Sizes, symbols: Mapping[str, int]) -> None:
        m = self.manifest = program.manifest
        self.program, self.symbols = program, dict(symbols)
        rules, p = program.size_words, program.size_words.places
        self.table = table = rules.begin.copy()
        try:
            table[rules.symbols] = [symbols[s] for s in m.dims.symbols]
        except OverflowError:
            raise InputError(f"sizes {show_sizes(symbols)}", expected="tensors of less than 2**62 elements") from None
        rules.evaluate(0, table, symbols)
        self.dims = table[p.slots : p.sizes]
        self.slots = slots = self.dims.tolist()
        self.in_shapes = [tuple([slots[s] for s in shape]) for shape in m.input_shapes]
        self.out_shapes = [
            tuple([slots[s] for s in shape]) if known else None
            for (_, _, known), shape in zip(program.results, m.output_shapes, strict=True)
        ]
        sizes = table[p.sizes : p.room]
        nbytes = [*sizes.tolist(), 0]
        # shape, dtype, and the bytes of an output that is to lie at a cache line, else 0
        self.results = [
            (shape, dtype, 0 if shape is None or nbytes[i] < _ALIGNED else nbytes[i])
            for (dtype, i, _), shape in zip(program.results, self.out_shapes, strict=True)
        ]
        self.layout = self._plan(m, sizes[program.arena])
        # By buffer, the offset in the arena or a constant's address; what runs hand over is patched in: (buffer, position, byte shift).
        places = program.fixed.copy()
        places[program.arena] = self.layout.offsets
        self.places = places = places[program.roots]
        places[program.aliases] += self.dims[program.shifts]
        self.in_patches, self.out_patches = (
            [(i, position, slots[shift] if shift >= 0 else 0) for i, position, shift in handed] for handed in (program.ins, program.outs)
        )
        self.idle: list[Execution] = []
        self._inherited: list[np.ndarray] = []

    @cached_property
    def fits(self) -> Callable[[list[Any]], bool]:
        """Whether NumPy's arrays of a list are inputs as native code reads them."""
        return fitting([(i, self.manifest.inputs[i].dtype, shape) for i, shape in enumerate(self.in_shapes)])

    def acquire(self) -> Execution:
        """An execution for this caller alone."""
        try:
            return self.idle.pop()  # one step under the GIL: safe between threads
        except IndexError:
            pass
        try:
            arena = self._inherited.pop()
        except IndexError:
            arena = None
        try:
            return self.program.execution(self, arena)
        except MemoryError:
            raise InputError(f"sizes {show_sizes(self.symbols)} need {self.layout.total} bytes of memory",
                             expected="what this machine has") from None  # fmt: skip

    def release(self, execution: Execution) -> None:
        if len(self.idle) < _MAX_IDLE:
            self.idle.append(execution)

    def inherit(self, other: Binding) -> bool:
        """Take over an arena that the other binding does not use now, if it is about the right size."""
        need = self.layout.total
        if need <= other.layout.total <= 2 * need:
            try:
                arena = other.idle.pop().arena
            except IndexError:
                return False
            self._inherited.append(arena)
            return True
        return False

    @property
    def idle_bytes(self) -> int:
        return sum(e.arena.nbytes for e in self.idle)

    def addresses(self, arena: int) -> np.ndarray:
        """Of every buffer, 0 for what runs hand over or allocate, with an arena at this address."""
        return self.places + self.program.in_arena * arena

    def _plan(self, m: Manifest, sizes: np.ndarray) -> Layout:
        """Of the arena's buffers."""
        if m.layout is None or self.symbols:
            return self.program.planner.plan(sizes)
        stored, total = m.layout
        offsets = np.array(stored, np.int64)[self.program.arena]
        wrong = (offsets % 64 != 0) | (offsets + sizes > total)
        if wrong.any():
            i = int(self.program.arena[wrong.argmax()])
            raise ArtifactError(f"buffer {i} at {stored[i]} lies outside the arena of {total} bytes")
        return Layout(offsets, total)
