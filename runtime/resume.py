"""Running a program that yields: where it stops, sizes are bound, memory for them is found, and host functions run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, MlcError
from .binding import Binding, Execution, Program, Sizes
from .dimexpr import show
from .elements import STRINGS
from .handlers import AppendHandler, BindHandler, CarryHandler, HostHandler, HostOperand
from .handles import Handles
from .host import TEXT_CALLS, results_of
from .instructions import REQUIRE
from .manifest import Manifest
from .native import native
from .shortcuts import KEPT, SPARE
from .space import HOST, Space
from .stages import Stage
from .tables import Tables
from .texts import Texts
from .words import UnequalError

YIELDED = 2
_UNMET = 3
_LEAST = 1 << 10  # bytes that are allocated at once


def stopped(m: Manifest, code: int, word: int, bufs: Any, dims: Any) -> MlcError:
    """Why a native call returned `code` at an instruction, from what its buffers and dim slots hold now."""
    if code != _UNMET:
        return MlcError("the program holds an unknown instruction", remedy="This is a bug in mlc.")
    if m.program[word] == REQUIRE:
        return unfit(m, word, dims)
    at = bufs[m.program[word + 2]] + 16 * m.program[word + 3]
    found = out_of_range(m, word, dims, HOST.word(at), HOST.word(at + 8))
    return found or MlcError("a check failed of indices that are in range", remedy="This is a bug in mlc.")


def unfit(m: Manifest, word: int, dims: Any) -> UnequalError:
    """What the REQUIRE at an instruction says of a size that is not as it has to be."""
    where, slot, lo, hi = m.program[word + 1 : word + 5]
    expr, low, high = m.raw["dims"][slot], int(dims[lo]), int(dims[hi])
    found = f"{show(expr, m.raw['dims'])} = {int(dims[slot])}"
    return UnequalError(found, expected=str(low) if low == high else f"{low} to {high}", loc=m.expected[where])


def out_of_range(m: Manifest, word: int, dims: Any, least: int, greatest: int) -> InputError | None:
    """What the EXPECT at an instruction says of the least and the greatest of some indices; None where both are in range."""
    _, where, _, _, lo, hi = m.program[word : word + 6]
    low, high = int(dims[lo]), int(dims[hi])
    if low <= least and greatest <= high:
        return None
    return InputError(f"index {least if least < low else greatest}", expected=f"{low} to {high}", loc=m.expected[where])


class Yields:
    """What one run does at its yields, wherever its buffers lie.

    `outputs` fill up as their sizes become known; memory of run-time sizes is dropped after its last use.

    Args:
        tables: sizes and addresses, which the program reads as it runs.
        space: the memory that these are addresses of.
    """

    def __init__(self, program: Sizes, binding: Binding, tables: Tables, outputs: list[Any], handles: Handles, space: Space) -> None:
        self.binding, self.outputs, self.handles, self.space = binding, outputs, handles, space
        self.manifest, self.stages, self.words = program.manifest, program.stages, program.size_words
        self.functions, self.constants = program.host_functions, program.host_constants
        self.tables = t = tables
        self.values, self.slots, self.sizes, self.bufs = t.values, t.slots, t.sizes, t.bufs
        self.room, self.held, self.owned = t.room, t.held, t.owned
        # What buffers own, by address: memory changes hands in the tables alone. Two may own the same.
        self.memory: dict[int, list[Any]] = {}

    @property
    def symbols(self) -> dict[str, int]:
        """Sizes, those that are not known yet as 0."""
        return {**self.binding.symbols, **{s: self.values[place] for s, place in self.manifest.dims.places.items()}}

    def handle(self, k: int) -> None:
        """What the program asks for at its k-th yield. Raises InputError for sizes that do not make sense or are too large."""
        for buffer in self.stages.freed[k]:
            self._free(buffer)
        handler = self.manifest.handlers[k]
        match handler:
            case BindHandler():
                self._bind(handler)
            case CarryHandler():
                self._carry(handler)
            case AppendHandler():
                self._append(handler)
            case HostHandler():
                self._host(k, handler)

    # --- sizes ---------------------------------------------------------------------------------------------------------

    def _bind(self, handler: BindHandler) -> None:
        m = self.manifest
        places = m.dims.places
        for size in handler.sizes:
            value = self.space.word(self.bufs[size.buffer] + 8 * size.element)
            if not size.lo <= value <= size.hi:
                raise InputError(f"a size of {value} computed from data", expected=f"{size.lo} to {size.hi}",
                                 loc=f"size {size.symbol}")  # fmt: skip
            self.values[places[size.symbol]] = value
        self.words.evaluate(handler.stage, self.tables.words, self.symbols)
        self._allocate(self.stages.all[handler.stage])

    def _allocate(self, stage: Stage) -> None:
        m = self.manifest
        for i in stage.buffers:
            b = m.buffers[i]
            if b.kind == "arena":
                self._reserve(i, self.sizes[i])
            elif b.kind == "output":
                info = m.outputs[b.place]
                shape = tuple(self.slots[s] for s in m.output_shapes[b.place])
                self.room[i] = -1  # none: this is the output itself, and no other may be made in its place
                try:
                    self.outputs[b.place], self.bufs[i] = self.space.output(shape, info.stored)
                except (MemoryError, ValueError):
                    raise InputError(f"output {info.name} of {list(shape)}", expected="what fits into memory") from None
            elif b.kind == "given":
                have = self.held[i] if self.owned[i] and self.held[i] >= 0 else self.sizes[i]  # dropped: nothing reads it
                if have != self.sizes[i]:
                    raise InputError(f"a tensor of {have} bytes met inside the model", expected=f"{self.sizes[i]} bytes",
                                     remedy="Its sizes contradict what the model says of them.")  # fmt: skip
            else:
                self._point(i)

    # --- memory --------------------------------------------------------------------------------------------------------

    def _new(self, size: int) -> Any:
        try:
            return self.space.new(size)
        except (MemoryError, ValueError):
            raise InputError(f"sizes {self.symbols} need {size} bytes for one tensor", expected="what fits into memory") from None

    def _own(self, buffer: int, memory: Any, room: int = 0) -> None:
        """The buffer owns a memory that it did not own before."""
        self._drop(buffer)
        at = self.space.address(memory)
        self.memory.setdefault(at, []).append(memory)
        self.owned[buffer], self.bufs[buffer], self.room[buffer] = 1, at, room

    def _drop(self, buffer: int) -> None:
        if self.owned[buffer]:
            at = self.bufs[buffer]
            owners = self.memory[at]
            self.space.drop(owners.pop())
            if not owners:
                del self.memory[at]
            self.owned[buffer] = self.room[buffer] = 0

    def _free(self, buffer: int) -> None:
        if self.owned[buffer] <= self.room[buffer] <= KEPT:
            self.held[buffer] = -1
        else:
            self._drop(buffer)

    def _reserve(self, buffer: int, size: int) -> None:
        """Memory for `size` bytes: what the buffer has, if that is enough; if it grows, half as much again for the next time."""
        room = self.room[buffer]
        if not _fits(size, room):
            room = size + size // 2 if 0 < room < size else max(size, _LEAST)
            self._own(buffer, self._new(room), room)

    def _point(self, alias: int) -> None:
        b = self.manifest.buffers[alias]
        self.bufs[alias] = self.bufs[b.place] + self.slots[b.shift]

    def _carry(self, handler: CarryHandler) -> None:
        source, target = handler.source, handler.target
        b = self.manifest.buffers[source]
        root = b.place if b.kind == "alias" else source
        size = self.sizes[source]
        if handler.move and root == source and self.owned[root]:
            self.held[target] = size if self.held[root] < 0 else self.held[root]
            if self.held[root] >= 0:  # not computed here, so that its size was not known before
                self.held[root] = size
            self._swap(root, target, size)
            self._point_all(root)
            self._point_all(target)
            return
        self.held[target] = size
        if _fits(size, self.room[target]) and root != target:
            self.space.copy(self.bufs[target], self.bufs[source], size)
        else:
            room = max(size, _LEAST)
            copy = self._new(room)
            self.space.copy(self.space.address(copy), self.bufs[source], size)
            self._own(target, copy, room)
        self._point_all(target)

    def _append(self, handler: AppendHandler) -> None:
        """The target gets room for half as much again where it has too little."""
        source, target = handler.source, handler.target
        before, more = self.held[target], self.sizes[source]
        if before < 0 or (before and not self.owned[target]):  # no bytes need no memory
            raise ArtifactError(f"an append to buffer {target}, which holds nothing")
        after = before + more
        if after > self.room[target]:
            room = max(after + after // 2, _LEAST)
            memory = self._new(room)
            self.space.copy(self.space.address(memory), self.bufs[target], before)
            self._own(target, memory, room)
        self.space.copy(self.bufs[target] + before, self.bufs[source], more)
        self.held[target] = after
        self._point_all(target)

    def _swap(self, root: int, target: int, size: int) -> None:
        """The target gets the memory of the root, which may be computed again in the next iteration: in the target's, if it has room."""
        for table in (self.owned, self.room, self.bufs):
            table[root], table[target] = table[target], table[root]
        room = self.room[root]
        if not (self.owned[root] and _fits(size, room)):
            larger = size + size // 2 if 0 < room < size else max(size, _LEAST)
            self._drop(root)
            self._own(root, self._new(larger), larger)

    def _point_all(self, buffer: int) -> None:
        for alias in self.stages.aliases.get(buffer, ()):
            self._point(alias)

    def _give(self, buffer: int, memory: Any) -> None:
        self._own(buffer, memory)
        self.held[buffer] = self.space.nbytes(memory)
        self._point_all(buffer)

    # --- host functions ------------------------------------------------------------------------------------------------

    def _host(self, k: int, handler: HostHandler) -> None:
        operands = []
        for i, o in enumerate(handler.reads):
            value = self.constants.get((k, i))
            if value is None:
                value = self._read(o)
                if o.kind == "tensor" and self.manifest.buffers[o.buffer].kind == "const":
                    self.constants[k, i] = value
            operands.append(value)
        if handler.call in TEXT_CALLS:
            operands = [Texts.of(v) if o.kind in STRINGS else v for o, v in zip(handler.reads, operands, strict=True)]
        for o, value in zip(handler.writes, results_of(k, handler, self.functions, operands), strict=False):
            self._write(o, value, handler)

    def _read(self, o: HostOperand) -> Any:
        if o.kind == "object":
            return self.handles.value(self.space.word(self.bufs[o.buffer]))
        shape = tuple(self.slots[s] for s in o.shape)
        strings = o.kind in STRINGS
        dtype = np.dtype(np.int64) if strings else o.dtype
        size = math.prod(shape) * dtype.itemsize
        if size > self.sizes[o.buffer]:
            raise ArtifactError(f"a host function reads {size} bytes of buffer {o.buffer}", expected=f"at most {self.sizes[o.buffer]}")
        array = self.space.read(self.bufs[o.buffer], shape, dtype)
        return self.handles.decode(array) if strings else array

    def _write(self, o: HostOperand, value: Any, handler: HostHandler) -> None:
        if o.kind == "object":
            self.space.set_word(self.bufs[o.buffer], self.handles.of(value))
            return
        array = value.array() if type(value) is Texts else np.asarray(value)
        if array.dtype.kind in "iu" and o.dtype == np.int64:
            array = array.astype(np.int64)
        fixed = [self.slots[s] if self.manifest.dims.slot_stages[s] == 0 else -1 for s in o.shape]
        if array.dtype != o.dtype or array.ndim != len(fixed) or any(f not in (-1, d) for f, d in zip(fixed, array.shape, strict=True)):
            raise InputError(f"{handler.call} gives {array.dtype}{list(array.shape)}", loc=handler.loc,
                             expected=f"{o.dtype}[{', '.join('?' if f < 0 else str(f) for f in fixed)}]")  # fmt: skip
        array = self.handles.encode(array, o.kind) if o.kind in STRINGS else array
        self._give(o.buffer, self.space.hold(array))
        for axis, d in enumerate(array.shape if o.shape_buffer >= 0 else ()):
            self.space.set_word(self.bufs[o.shape_buffer] + 8 * axis, d)


class Run(Yields):
    """One run on this machine's CPU: native calls, and what happens between them. Small memories stay for the next one."""

    def __init__(self, program: Program, binding: Binding, execution: Execution, outputs: list[Any], handles: Handles) -> None:
        tables = execution.tables
        if tables is None:
            tables = Tables(program.size_words.places, binding.table)
            tables.bufs = execution.bufs
        super().__init__(program, binding, tables, outputs, handles, HOST)
        self.program, self.execution = program, execution
        self.memory = execution.memory

    def run(self, code: int) -> None:
        """From where a native call stopped with `code`. Raises as `handle`."""
        struct, call = self.execution.struct, native().run
        words = self.manifest.program
        try:
            while code:
                if code != YIELDED:
                    raise stopped(self.manifest, code, struct.resume, self.execution.bufs, self.execution.dims)
                self.handle(words[struct.resume - 1])
                code = call(self.execution.at)
            self._settle()
        except BaseException:
            self.execution.forget()
            raise

    def _settle(self) -> None:
        """What a run begins with from now on: the small memories of this one."""
        block = self.execution.tables
        if block is None:
            return
        for buffer in self.stages.staged:
            if not 0 < self.owned[buffer] <= self.room[buffer] <= KEPT:
                self._drop(buffer)
            block.begin_with(buffer, self.owned[buffer], self.room[buffer], self.bufs[buffer])


def _fits(size: int, room: int) -> bool:
    """There is memory, with room enough, and not too much to keep. Nothing fits into no memory: what is handed on has to be there."""
    return max(size, 1) <= room <= max(SPARE * size, KEPT)
