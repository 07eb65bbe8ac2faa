"""Bindings of a module, by the sizes of its symbols; a run whose sizes one program does not serve goes to the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from .binding import Binding, Sizes
from .manifest import Manifest
from .words import UnequalError

_MOST = 32  # sizes whose plans are remembered
_INHERIT_FROM = 4  # remembered sizes from which on new ones take over the arena of the oldest
_SPARE_BYTES = 64 << 20  # arenas of other sizes that may stay allocated, beyond twice the one in use

T = TypeVar("T")


class BindingCache:
    """May be used by several threads at once.

    Args:
        program: the first of the module's; the others are made when sizes ask for them.
    """

    def __init__(self, program: Sizes) -> None:
        self.program = program
        self._symbols = [s.name for s in program.manifest.symbols]
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, ...], Binding] = OrderedDict()  # the one used last is the last

    def at(self, sizes: Sequence[int]) -> Binding:
        """The binding of the first program that serves these sizes of the symbols. Raises InputError."""
        key = tuple(sizes)
        return self._remembered(key, lambda: self._new(dict(zip(self._symbols, key, strict=True))))

    def _remembered(self, key: tuple[int, ...], make: Callable[[], Binding]) -> Binding:
        """The binding of sizes, behind which is the number of a program that is not the first."""
        with self._lock:
            binding = self._kept.get(key)
        if binding is None:
            binding = make()
            if len(self._kept) >= _INHERIT_FROM:
                with self._lock:  # sizes that keep changing hand one arena on, whose pages are there already
                    for b in self._kept.values():
                        if b.idle and binding.inherit(b):
                            break
        with self._lock:
            latest = next(reversed(self._kept), None)
            binding = self._kept.setdefault(key, binding)
            if key != latest:
                self._kept.move_to_end(key)
                self._trim(binding)
        return binding

    def by_any(self, binding: Binding, run: Callable[[Binding], T]) -> T:
        """What a run gives; where data decide upon sizes that the program does not serve, by one of those behind it."""
        try:
            return run(binding)
        except UnequalError as unequal:
            return self.by_others(binding, unequal, run)

    def by_others(self, binding: Binding, unequal: UnequalError, run: Callable[[Binding], T]) -> T:
        """The same where the program has said already that it does not serve them, which is what is raised if no other does."""
        for other in self._behind(binding.program.manifest, binding.symbols):
            with suppress(UnequalError):
                return run(other)
        raise unequal

    def _new(self, symbols: dict[str, int]) -> Binding:
        try:
            return Binding(self.program, symbols)
        except UnequalError:
            for binding in self._behind(self.program.manifest, symbols):
                return binding
            raise

    def _behind(self, manifest: Manifest, symbols: Mapping[str, int]) -> Iterator[Binding]:
        """Of the programs behind this one, as far as inputs say that they serve these sizes."""
        begin = self.program.manifest.number(manifest)
        for number, other in enumerate(self.program.others[begin:], begin + 1):
            with suppress(UnequalError):
                yield self._remembered((*(symbols[s] for s in self._symbols), number), partial(Binding, other, symbols))

    def _trim(self, current: Binding) -> None:
        """Forget old sizes, and free memory of sizes not in use: after a peak, memory returns to what the present needs."""
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        budget = _SPARE_BYTES + 2 * current.layout.total
        for b in reversed(self._kept.values()):
            if b.idle:
                budget -= b.idle_bytes
                if budget < 0 and b is not current:
                    b.idle.clear()
