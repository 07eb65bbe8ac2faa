"""A module's state for one set of input sizes: dim values, memory layout, and the execution contexts that run it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, InputError
from .address import address, aligned
from .dimexpr import LIMIT, show
from .handles import words
from .manifest import Manifest
from .memory import Layout, Planner
from .native import Code, Context
from .stages import Stage, Stages

if TYPE_CHECKING:
    from .shortcuts import Shortcuts
    from .tables import Block

_ALIGNED = 1 << 14  # outputs from so many bytes on lie at cache lines, which takes half a microsecond
_MAX_IDLE = 8  # contexts kept for later runs; more callers than this at once allocate afresh


class UnequalError(InputError):
    """Sizes differ that a program takes as equal."""


class Sizes:
    """What bindings need of a program, on any machine: where buffers lie follows from the manifest alone."""

    weights_at = 0
    streamed_at = 0  # of the first `manifest.streamed` bytes of them

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.stages = Stages(manifest)
        self.strings = np.array([*manifest.strings, None], object)[:-1]  # with None, it has one axis whatever there is
        self.string_handles = dict(zip(manifest.strings, words(range(len(manifest.strings))), strict=True))
        # buffers whose sizes follow from those of the inputs; the others are allocated while the program runs
        self.arena = [i for i, b in enumerate(manifest.buffers) if b.kind == "arena" and not self.stages.of[i]]
        self.planner = Planner([(manifest.buffers[i].first, manifest.buffers[i].last) for i in self.arena])

    def execution(self, binding: Binding, arena: Any) -> Any:
        """Called by the binding; `arena` is one to take over."""
        raise NotImplementedError


class Program(Sizes):
    """What all bindings of a module share: code addresses, the program as words, the weights."""

    def __init__(
        self, manifest: Manifest, code: Code, functions: Sequence[int], weights: np.ndarray, streamed: np.ndarray | None, threads: int
    ) -> None:
        super().__init__(manifest)
        self.general = None if manifest.general is None else Program(manifest.general, code, functions, weights, None, threads)
        self.code, self.threads = code, threads
        self.words = np.array(manifest.program, np.int64)
        self.functions = np.array(functions, np.uint64)
        self.weights, self.streamed = weights, streamed
        self.shortcuts: Shortcuts | None = None
        if manifest.handlers:
            from .shortcuts import Shortcuts  # only where it is needed: loading is to be quick

            self.shortcuts = Shortcuts(manifest, self.stages)
        self.starts = np.array(self.shortcuts.starts if self.shortcuts else [], np.int64)
        self.weights_at = address(weights)
        self.streamed_at = self.weights_at if streamed is None else address(streamed)

    def execution(self, binding: Binding, arena: np.ndarray | None) -> Execution:
        return Execution(self, binding, arena)


class Execution:
    """One run at a time: a buffer table with its arena.

    Of a program that yields, `memory` is what buffers own that got their size while it ran, by address, and `rooms` are where
    outputs of unknown sizes go if they are small: (position, dim slots of the shape, dtype, memory).
    """

    __slots__ = ("_keep", "_staged", "arena", "at", "bufs", "dims", "memory", "rooms", "struct", "tables")

    def __init__(self, program: Program, binding: Binding, arena: np.ndarray | None) -> None:
        self.arena = arena = aligned(binding.layout.total) if arena is None else arena
        self.tables: Block | None = None
        self.memory: dict[int, list[Any]] = {}
        self.rooms: list[tuple[int, tuple[int, ...], np.dtype, np.ndarray]] = []
        self.bufs: Any
        self.dims: Sequence[int] = binding.slots
        if (shortcuts := program.shortcuts) is not None:
            from .tables import Block

            self.tables = Block(shortcuts.places, shortcuts.constants, binding)
            at, self.bufs, self.dims = self.tables.at, self.tables.bufs, self.tables.slots
            where = at + 8 * shortcuts.places.bufs, at + 8 * shortcuts.places.slots
            more = at, address(shortcuts.words), address(program.starts)
        else:
            self.bufs = bufs = (ctypes.c_int64 * max(1, len(binding.template)))()
            where, more = (ctypes.addressof(bufs), address(binding.dims)), (0, 0, 0)
        base = address(arena)
        for i, (fixed, offset) in enumerate(binding.template):
            self.bufs[i] = fixed + offset if fixed >= 0 else base + offset
            if self.tables is not None:
                self.tables.begin_with(i, 0, 0, self.bufs[i])
        self._staged = program.stages.staged
        self._make_rooms(program)
        scratch = np.empty(max(1, program.manifest.scratch), np.int64)
        self.struct = Context(
            address(program.words), len(program.words), address(program.functions), where[0],
            where[1], program.threads, address(scratch), 0, 0, *more,
        )  # fmt: skip
        self.at = ctypes.addressof(self.struct)
        self._keep = (scratch, program, binding.dims)

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
        self.program = program
        try:
            self.values = m.dims.start(symbols)
        except OverflowError:
            raise InputError(f"sizes {_show(symbols)}", expected="tensors of less than 2**62 elements") from None
        self.slots = values = [self.values[s] for s in m.dims.slots]
        self.symbols = dict(symbols)
        first = program.stages.all[0]
        check_dims(m, first, values, symbols)
        self.dims = np.array(values, np.int64)
        self.in_shapes = [tuple(values[s] for s in shape) for shape in m.input_shapes]
        staged = {b.place for i, b in enumerate(m.buffers) if b.kind == "output" and program.stages.of[i]}
        self.out_shapes = [None if i in staged else tuple(values[s] for s in shape) for i, shape in enumerate(m.output_shapes)]
        self.checks = [(i, m.inputs[i].dtype, shape) for i, shape in enumerate(self.in_shapes)]
        self.results = [(shape, t.stored, _padded(shape, t.stored)) for t, shape in zip(m.outputs, self.out_shapes, strict=True)]
        self.sizes = sizes = [b.size if b.kind == "const" else values[b.size] for b in m.buffers]
        check_buffers(m, first, sizes, values)
        self.layout, offsets = self._plan(m, sizes, symbols)
        self._table(m, offsets, values)
        self.idle: list[Execution] = []
        self._inherited: list[np.ndarray] = []

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
            raise InputError(f"sizes {_show(self.symbols)} need {self.layout.total} bytes of memory",
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

    def _plan(self, m: Manifest, sizes: list[int], symbols: Mapping[str, int]) -> tuple[Layout, list[int]]:
        arena = self.program.arena
        offsets = [0] * len(m.buffers)
        if m.layout is not None and not symbols:
            stored, total = m.layout
            for i in arena:
                if stored[i] % 64 or stored[i] + sizes[i] > total:
                    raise ArtifactError(f"buffer {i} at {stored[i]} lies outside the arena of {total} bytes")
                offsets[i] = stored[i]
            return Layout(tuple(offsets), total), offsets
        layout = self.program.planner.plan([sizes[i] for i in arena])
        for i, at in zip(arena, layout.offsets, strict=True):
            offsets[i] = at
        return layout, offsets

    def _table(self, m: Manifest, offsets: list[int], values: list[int]) -> None:
        """`template`: per buffer (fixed base or −1 for the arena, offset).

        Buffers of inputs and outputs are patched by every run: `*_patches` are (buffer, position, byte shift).
        """
        self.template: list[tuple[int, int]] = []
        self.in_patches: list[tuple[int, int, int]] = []
        self.out_patches: list[tuple[int, int, int]] = []
        for i, b in enumerate(m.buffers):
            if self.program.stages.of[i]:
                self.template.append((0, 0))
                continue
            root, shift = (m.buffers[b.place], values[b.shift]) if b.kind == "alias" else (b, 0)
            fixed, offset = 0, 0
            if root.kind == "const":
                fixed, offset = self.program.streamed_at if root.place < m.streamed else self.program.weights_at, root.place + shift
            elif root.kind == "arena":
                fixed, offset = -1, offsets[b.place if b.kind == "alias" else i] + shift
            elif root.kind != "given":
                (self.in_patches if root.kind == "input" else self.out_patches).append((i, root.place, shift))
            self.template.append((fixed, offset))


def _padded(shape: tuple[int, ...] | None, dtype: np.dtype) -> int:
    """Bytes of an output that is to lie at a cache line, else 0."""
    size = 0 if shape is None or dtype.hasobject else math.prod(shape) * dtype.itemsize
    return size if size >= _ALIGNED else 0


def check_dims(m: Manifest, stage: Stage, values: Sequence[int], symbols: Mapping[str, int]) -> None:
    """Raise InputError for a size out of its limits or negative, or sizes that have to agree and do not. `values` by dim slot."""
    for slot, lo, hi, loc in stage.limits:
        if not values[lo] <= values[slot] <= values[hi]:
            raise InputError(f"{show(m.raw['dims'][slot])} = {values[slot]} (sizes {_show(symbols)})",
                             expected=f"{values[lo]} to {values[hi]}", loc=loc)  # fmt: skip
    for slot in stage.sizes:
        if values[slot] < 0:
            raise InputError(f"sizes {_show(symbols)} make a dimension of {values[slot]} inside the model",
                             remedy="Give larger inputs.")  # fmt: skip
    for a, b in stage.equal:
        if values[a] != values[b]:
            left, right = (f"{s} = {values[slot]}" if (s := str(show(m.raw["dims"][slot]))) != str(values[slot]) else s for slot in (a, b))
            raise UnequalError(
                f"{left} differs from {right} (sizes {_show(symbols)})",
                expected="equal sizes, for this model to make sense",
            )


def check_buffers(m: Manifest, stage: Stage, sizes: Sequence[int], values: Sequence[int]) -> None:
    """Sizes agree with what the tensors really have; aliases and control words stay inside their buffers.

    `sizes` in bytes by buffer, `values` by dim slot. Raises ArtifactError.
    """
    for i in stage.buffers:
        b = m.buffers[i]
        if not 0 <= sizes[i] <= LIMIT:
            raise ArtifactError(f"buffer {i} of {sizes[i]} bytes")
        if b.kind == "input" or b.kind == "output":
            infos, shapes = (m.inputs, m.input_shapes) if b.kind == "input" else (m.outputs, m.output_shapes)
            real = infos[b.place].dtype.itemsize
            for s in shapes[b.place]:
                real *= values[s]
            if real != sizes[i]:
                raise ArtifactError(f"buffer {i} of {sizes[i]} bytes", expected=f"{real} bytes as {b.kind} {infos[b.place].name}")
        elif b.kind == "alias":
            shift = values[b.shift]
            if shift < 0 or (sizes[i] and shift + sizes[i] > sizes[b.place]):
                raise ArtifactError(f"buffer {i} reaches outside buffer {b.place}")
    for i, need in stage.control:
        if sizes[i] < need:
            raise ArtifactError(f"buffer {i} of {sizes[i]} bytes", expected=f"at least {need}")


def _show(symbols: Mapping[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in symbols.items())
