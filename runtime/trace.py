"""Running a program call by call, so that somebody can watch: what a kernel read, and what it wrote."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .binding import Binding, Execution, Program
from .handles import Handles
from .instructions import CALLS, CLEAR, EXPECT, INCREMENT, JUMP, JUMP_IF_FALSE, JUMP_IF_GE, REQUIRE, YIELD, instruction_length
from .native import native
from .resume import Run, stopped

Visit = Callable[[int, Sequence[np.ndarray], Callable[[], None]], None]
"""visit(call, operands, launch): `call` counts as `manifest.steps`; operands are the bytes of its buffers, changed by `launch()`."""


class Trace(Run):
    """A run that hands every kernel call to `visit`, which has to launch it. `symbols` are the sizes known so far."""

    def __init__(
        self, program: Program, binding: Binding, execution: Execution, outputs: list[Any], handles: Handles, visit: Visit
    ) -> None:
        super().__init__(program, binding, execution, outputs, handles)
        self.visit = visit
        self.calls = {s.word: i for i, s in enumerate(self.manifest.steps)}

    def run(self, code: int = 0) -> None:
        """As `Run.run`; control flow is followed here, calls run natively, one at a time."""
        words = self.manifest.program
        pc = 0
        while pc < len(words):
            after = pc + instruction_length(words, pc)
            match words[pc]:
                case op if op in CALLS:
                    self._call(pc, after)
                case op if op in (EXPECT, REQUIRE):
                    self._native(pc, after)
                case op if op == JUMP:
                    after = words[pc + 1]
                case op if op == JUMP_IF_FALSE:
                    after = after if self._word(words[pc + 1], ctypes.c_bool).value else words[pc + 2]
                case op if op == JUMP_IF_GE:
                    a, b = (self._word(words[pc + i]).value for i in (1, 2))
                    after = words[pc + 3] if a >= b else after
                case op if op == INCREMENT:
                    self._word(words[pc + 1]).value += 1
                case op if op == CLEAR:
                    self._word(words[pc + 1]).value = 0
                case op if op == YIELD:
                    self.handle(words[pc + 1])
            pc = after

    def _call(self, pc: int, after: int) -> None:
        words = self.manifest.program
        buffers = words[pc + 6 : pc + 6 + words[pc + 2]]
        self.visit(self.calls[pc], [self._bytes(b) for b in buffers], lambda: self._native(pc, after))

    def _native(self, pc: int, after: int) -> None:
        """One instruction. Raises what a run raises that stops there."""
        struct = self.execution.struct
        struct.resume, struct.words = pc, after  # from here to the end, which is behind it
        try:
            if code := native().run(self.execution.at):
                raise stopped(self.manifest, code, pc, self.bufs, self.execution.dims)
        finally:
            struct.resume, struct.words = 0, len(self.manifest.program)

    def _bytes(self, buffer: int) -> np.ndarray:
        size = self.sizes[buffer]
        if not size:
            return np.empty(0, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.bufs[buffer]))

    def _word(self, buffer: int, kind: Any = ctypes.c_int64) -> Any:
        return kind.from_address(self.bufs[buffer])
