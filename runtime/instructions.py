"""The instructions of a program, which `native.ll` interprets, and whether a manifest's words are such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ArtifactError
from .fields import all_below, below, brief

if TYPE_CHECKING:
    from .handlers import Handler, HostHandler
    from .records import BufferSpec

CALL, JUMP, JUMP_IF_FALSE, INCREMENT, CLEAR, JUMP_IF_GE, TEAM_CALL, YIELD, EXPECT, REQUIRE, TAKING_CALL = range(1, 12)
CALLS = (CALL, TEAM_CALL, TAKING_CALL)
_LENGTHS = {JUMP: 2, JUMP_IF_FALSE: 3, INCREMENT: 2, CLEAR: 2, JUMP_IF_GE: 4, YIELD: 2, EXPECT: 6, REQUIRE: 5}


def instruction_length(program: Sequence[int], pc: int) -> int:
    """Words of the instruction at `pc` of a checked program."""
    return 6 + program[pc + 2] + program[pc + 3] if program[pc] in CALLS else _LENGTHS[program[pc]]


class CheckedProgram:
    """A program whose words are known to make sense, and what follows from them.

    control: bytes of buffers that the program itself touches. scratch: operands of its largest call. yields: where it does.
    """

    def __init__(self, words: Sequence[int], buffers: Sequence[BufferSpec], handlers: Sequence[Handler],
                 n_functions: int, n_dims: int, n_expected: int) -> None:  # fmt: skip
        self.words, self.buffers, self.handlers = words, buffers, handlers
        self.n_functions, self.n_dims, self.n_expected = n_functions, n_dims, n_expected
        self.control: dict[int, int] = {}
        self.scratch = 0
        self.yields: list[int] = []
        self.targets: set[int] = set()  # of jumps
        starts, pc, n = set(), 0, len(words)
        while pc < n:
            starts.add(pc)
            w = self._words(pc, _LENGTHS.get(words[pc], 6))
            pc += self._call(pc, w) if w[0] in CALLS else self._instruction(pc, w)
        if not self.targets <= starts | {n}:
            raise ArtifactError("a jump leads into the middle of an instruction")
        if len(self.yields) != len(handlers):
            raise ArtifactError(f"{len(self.yields)} yields", expected=f"one for each of {len(handlers)} handlers")

    def _words(self, pc: int, length: int) -> Sequence[int]:
        if pc + length > len(self.words):
            raise ArtifactError("the program ends within an instruction")
        return self.words[pc : pc + length]

    def _call(self, pc: int, w: Sequence[int]) -> int:
        """Its length, which its operands and sizes are a part of."""
        below(w[1], self.n_functions, "function")
        self._slots(w[4:6])
        self.scratch = max(self.scratch, w[2] + w[3])
        more = self._words(pc, 6 + w[2] + w[3])[6:]
        all_below(more[: w[2]], len(self.buffers), "buffer")
        self._slots(more[w[2] :])
        return 6 + len(more)

    def _instruction(self, pc: int, w: Sequence[int]) -> int:
        """The length of any other."""
        op = w[0]
        if op == JUMP:
            self.targets.add(w[1])
        elif op == JUMP_IF_FALSE:
            self._touch(w[1], 1, False)
            self.targets.add(w[2])
        elif op in (INCREMENT, CLEAR):
            self._touch(w[1], 8, True)
        elif op == JUMP_IF_GE:
            self._touch(w[1], 8, False)
            self._touch(w[2], 8, False)
            self.targets.add(w[3])
        elif op == EXPECT:
            below(w[1], self.n_expected, "expectation")
            self._touch(w[2], 16 * (below(w[3], 2**20, "element") + 1), False)
            self._slots(w[4:6])
        elif op == REQUIRE:
            below(w[1], self.n_expected, "expectation")
            self._slots(w[2:])
        elif op == YIELD:
            if w[1] != len(self.yields) or w[1] >= len(self.handlers):
                raise ArtifactError(f"yield to handler {w[1]}", expected=f"handler {len(self.yields)} of {len(self.handlers)}")
            self.yields.append(pc)
            self._handler(self.handlers[w[1]])
        else:
            raise ArtifactError(f"unknown instruction {op}")
        return len(w)

    def _slots(self, slots: Sequence[int]) -> None:
        all_below(slots, self.n_dims, "dim slot")

    def _touch(self, buffer: int, size: int, writes: bool) -> None:
        spec = self.buffers[below(buffer, len(self.buffers), "buffer")]
        root = self.buffers[spec.place] if spec.kind == "alias" else spec
        if writes and root.kind in ("const", "input"):
            raise ArtifactError("the program writes a constant or an input")
        self.control[buffer] = max(self.control.get(buffer, 0), size)

    def _handler(self, handler: Handler) -> None:
        from .handlers import BindHandler, HostHandler

        if isinstance(handler, BindHandler):
            for size in handler.sizes:
                self._touch(size.buffer, 8 * (size.element + 1), False)
        elif isinstance(handler, HostHandler):
            self._host(handler)
        elif (kind := self.buffers[handler.target].kind) != "given":
            raise ArtifactError(f"a handler gives buffer {handler.target}, which is of kind {brief(kind)}")

    def _host(self, handler: HostHandler) -> None:
        for o in (*handler.reads, *handler.writes):
            self._slots(o.shape)
        for o in handler.reads:
            if o.kind == "object":
                self._touch(o.buffer, 8, False)
        for o in handler.writes:
            if o.kind == "object":
                self._touch(o.buffer, 8, True)
            elif (kind := self.buffers[o.buffer].kind) != "given":
                raise ArtifactError(f"a host function gives buffer {o.buffer}, which is of kind {brief(kind)}")
            if o.shape_buffer >= 0:
                self._touch(o.shape_buffer, 8 * len(o.shape), True)
