"""Handlers as words for native code, which then does not return: sizes that fit what is allocated, memory that changes hands.

Every word of a shortcut (`words.py`) names a place in the tables of a run (`tables.py`). Where a check fails, the handler itself
is run, from its beginning: it allocates, or says what is wrong. What a shortcut wrote until then is what the handler writes too, and
nothing changes hands before the last check. Handlers that run Python have none. Small outputs lie where the execution has room for
them, and are copied from there in the end.
"""

from __future__ import annotations

from .handlers import AppendHandler, BindHandler, CarryHandler
from .stages import Stages
from .words import ADD, AT_MOST, COPY, END, EQUAL, LOAD, MAX, MOVE, MUL, POINT, SWAP, Words

SPARE = 4  # memory of so many times the size is not kept for it
KEPT = 1 << 16  # bytes: smaller memories are neither dropped when a program is done with them, nor after its run


class Shortcuts:
    """Appended to a program's words; `starts`: at which word each handler's begin (−1: it has none)."""

    def __init__(self, words: Words, stages: Stages) -> None:
        self._words, self._m, self._stages, self.places = words, words.manifest, stages, words.places
        self._emit, self._constant = words.emit, words.constant
        self.starts = [self._handler(k) for k in range(len(self._m.handlers))]
        words.finish()

    def _handler(self, k: int) -> int:
        handler = self._m.handlers[k]
        start = len(self._words.words)
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

    def _free(self, buffer: int) -> None:
        """What is not the run's, or small, needs not be dropped."""
        p = self.places
        self._emit(AT_MOST, 0, p.owned + buffer, p.room + buffer)  # memory that others made has no room
        self._emit(AT_MOST, 0, p.room + buffer, self._constant(KEPT))
        self._emit(MOVE, p.held + buffer, self._constant(-1), 0)

    def _bind(self, handler: BindHandler) -> bool:
        m, p, emit = self._m, self.places, self._emit
        stage = self._stages.all[handler.stage]
        if any(m.buffers[i].kind not in ("arena", "given", "alias", "output") for i in stage.buffers):
            return False
        for size in handler.sizes:
            value = p.values + m.dims.places[size.symbol]
            emit(LOAD, value, p.bufs + size.buffer, size.element)
            emit(AT_MOST, 0, self._constant(size.lo), value)
            emit(AT_MOST, 0, value, self._constant(size.hi))
        self._words.repeat(handler.stage)
        for i in stage.buffers:
            kind = m.buffers[i].kind
            if kind == "arena":
                self._fits(p.sizes + i, i)
            elif kind == "output":
                emit(AT_MOST, 0, p.sizes + i, p.room + i)
            elif kind == "given":
                emit(EQUAL, 0, p.owned + i, self._constant(1))
                emit(EQUAL, 0, p.held + i, p.sizes + i)
            else:
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
