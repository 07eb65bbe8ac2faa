"""Handlers as words for native code, which then does not return: sizes that fit what is allocated, memory that changes hands.

Every word of a shortcut names a place in the tables of a run (`tables.py`). Where a check fails, the handler itself is run, from
its beginning: it allocates, or says what is wrong. What a shortcut wrote until then is what the handler writes too, and nothing
changes hands before the last check. Handlers that run Python have none. Small outputs lie where the execution has room for them,
and are copied from there in the end.
"""

from __future__ import annotations

import numpy as np

from .dimexpr import FNS, LIMIT
from .handlers import AppendHandler, BindHandler, CarryHandler
from .manifest import Manifest
from .stages import Stages
from .tables import Places

SPARE = 4  # memory of so many times the size is not kept for it
KEPT = 1 << 14  # bytes: smaller memories are neither dropped when a program is done with them, nor after its run

# Words are (operation, to, a, b); see @shortcut of native.ll.
END, ADD, MUL, FLOORDIV, MIN, MAX, MOVE, AT_MOST, EQUAL, LOAD, POINT, SWAP, COPY = range(13)
_FN = {FNS[name]: op for name, op in (("add", ADD), ("mul", MUL), ("floordiv", FLOORDIV), ("min", MIN), ("max", MAX))}


class Shortcuts:
    """Of a program's handlers: `words`, and where each one's begin (−1: it has none). `constants` are part of the tables."""

    def __init__(self, m: Manifest, stages: Stages) -> None:
        self.constants: list[int] = []
        self._known: dict[int, int] = {}
        self._m, self._stages = m, stages
        # constants come before what is spare, so that places are known when all have been met: two passes
        for _ in range(2):
            self.places = Places.of(m, len(self.constants))
            self._words: list[int] = []
            self.starts = [self._handler(k) for k in range(len(m.handlers))]
        self.words = np.array(self._words or [END], np.int64)

    def _handler(self, k: int) -> int:
        handler = self._m.handlers[k]
        start = len(self._words)
        for buffer in self._stages.freed[k]:
            self._free(buffer)
        match handler:
            case BindHandler():
                done = self._bind(handler)
            case CarryHandler():
                done = self._carry(handler)
            case AppendHandler():
                done = self._append(handler)
            case _:
                done = False
        self._emit(END, 0, 0, 0)
        return start if done else -1

    def _emit(self, *word: int) -> None:
        self._words += word

    def _free(self, buffer: int) -> None:
        """What is not the run's, or small, needs not be dropped."""
        p = self.places
        self._emit(AT_MOST, 0, p.owned + buffer, p.room + buffer)  # memory that others made has no room
        self._emit(AT_MOST, 0, p.room + buffer, self._constant(KEPT))
        self._emit(MOVE, p.held + buffer, self._constant(-1), 0)

    def _constant(self, value: int) -> int:
        if value not in self._known:
            self._known[value] = len(self.constants)
            self.constants.append(value)
        return self.places.constants + self._known[value]

    def _bind(self, handler: BindHandler) -> bool:
        m, p, emit = self._m, self.places, self._emit
        stage = self._stages.all[handler.stage]
        if any(m.buffers[i].kind not in ("arena", "given", "alias", "output") for i in stage.buffers):
            return False
        zero, limit, spare = self._constant(0), self._constant(LIMIT), p.spare
        for size in handler.sizes:
            value = p.values + m.dims.places[size.symbol]
            emit(LOAD, value, p.bufs + size.buffer, size.element)
            emit(AT_MOST, 0, self._constant(size.lo), value)
            emit(AT_MOST, 0, value, self._constant(size.hi))
        for fn, a, b, out in m.dims.code[handler.stage]:
            emit(_FN[fn], p.values + out, p.values + a, p.values + b)
        for slot in stage.slots:
            emit(MOVE, p.slots + slot, p.values + m.dims.slots[slot], 0)
        for slot in stage.sizes:
            emit(AT_MOST, 0, zero, p.slots + slot)
        for slot, low, high, _ in stage.limits:
            emit(AT_MOST, 0, p.slots + low, p.slots + slot)
            emit(AT_MOST, 0, p.slots + slot, p.slots + high)
        for a, b in stage.equal:
            emit(EQUAL, 0, p.slots + a, p.slots + b)
        for i in stage.buffers:
            emit(MOVE, p.sizes + i, p.slots + m.buffers[i].size, 0)
            emit(AT_MOST, 0, zero, p.sizes + i)
            emit(AT_MOST, 0, p.sizes + i, limit)
        for i, need in stage.control:
            emit(AT_MOST, 0, self._constant(need), p.sizes + i)
        for i in stage.buffers:
            spec = m.buffers[i]
            if spec.kind == "arena":
                self._fits(p.sizes + i, i)
            elif spec.kind == "output":
                emit(MOVE, spare, self._constant(m.outputs[spec.place].dtype.itemsize), 0)
                for slot in m.output_shapes[spec.place]:
                    emit(MUL, spare, spare, p.slots + slot)
                emit(EQUAL, 0, spare, p.sizes + i)
                emit(AT_MOST, 0, p.sizes + i, p.room + i)
            elif spec.kind == "given":
                emit(EQUAL, 0, p.owned + i, self._constant(1))
                emit(EQUAL, 0, p.held + i, p.sizes + i)
            else:
                emit(AT_MOST, 0, zero, p.slots + spec.shift)
                emit(ADD, spare, p.slots + spec.shift, p.sizes + i)
                emit(AT_MOST, 0, spare, p.sizes + spec.place)
                self._point(i)
        return True

    def _fits(self, size: int, buffer: int) -> None:
        """What the handler would find room enough, and not too much."""
        p = self.places
        self._emit(AT_MOST, 0, size, p.room + buffer)
        self._emit(AT_MOST, 0, self._constant(1), p.room + buffer)
        self._emit(MUL, p.spare, size, self._constant(SPARE))
        self._emit(MAX, p.spare, p.spare, self._constant(KEPT))
        self._emit(AT_MOST, 0, p.room + buffer, p.spare)

    def _point(self, alias: int) -> None:
        p, b = self.places, self._m.buffers[alias]
        self._emit(POINT, p.bufs + alias, p.bufs + b.place, p.slots + b.shift)

    def _append(self, handler: AppendHandler) -> bool:
        p, emit = self.places, self._emit
        source, target, end = handler.source, handler.target, p.spare + 1
        emit(EQUAL, 0, p.owned + target, self._constant(1))
        emit(AT_MOST, 0, self._constant(0), p.held + target)
        emit(ADD, p.spare, p.held + target, p.sizes + source)
        emit(AT_MOST, 0, p.spare, p.room + target)
        emit(POINT, end, p.bufs + target, p.held + target)
        emit(COPY, end, p.bufs + source, p.sizes + source)
        emit(MOVE, p.held + target, p.spare, 0)
        return True

    def _carry(self, handler: CarryHandler) -> bool:
        p, emit = self.places, self._emit
        source, target = handler.source, handler.target
        b = self._m.buffers[source]
        root = b.place if b.kind == "alias" else source
        size = p.sizes + source
        if root == target:
            return False
        if handler.move and root == source and root in self._stages.staged:  # others own no memory: they are copied
            for buffer in (root, target):
                emit(EQUAL, 0, p.owned + buffer, self._constant(1))
            emit(EQUAL, 0, p.held + root, self._constant(-1))
            self._fits(size, target)
            for table in (p.bufs, p.room):
                emit(SWAP, 0, table + root, table + target)
        else:
            self._fits(size, target)
            emit(COPY, p.bufs + target, p.bufs + source, size)
        emit(MOVE, p.held + target, size, 0)
        for buffer in (root, target):
            for alias in self._stages.aliases.get(buffer, ()):
                self._point(alias)
        return True
