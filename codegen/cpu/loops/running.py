"""Running sums and products keep in a register what they go on from.

Along the row itself, the lanes of a vector are combined with their neighbours 1, 2, 4 … to the left (Hillis and Steele, 1986),
and all of them with the last result before.
"""

from __future__ import annotations

from typing import Any

from ....ir import DType
from ...running import Running
from ..math.functions import Functions
from ..shuffles import shuffle
from .accesses import Scope
from .reductions import Reductions


class RunningStores(Reductions):
    """Reductions, and stores that go on from each other."""

    def _run_on(self, r: Running, scopes: list[Scope]) -> None:
        """All places of a row, or of rows side by side."""
        b, dtype = self.b, r.store.value.dtype
        along = self.plan.axis == len(self.k.axes)
        nothing = [_nothing(r.fn, Functions(b, 1 if along else s.lanes, self.target), dtype) for s in scopes]

        def each(inner: list[Scope], before: list[Any]) -> list[Any]:
            last = list(before)
            for position, s in enumerate(inner):
                own = 0 if along else position
                math = Functions(b, s.lanes, self.target)
                x = self.value(r.element, s, True)
                if along:
                    x = self._prefixes(r.fn, x, math, dtype)
                y = math.call(r.fn, [self._widen(last[own], s.lanes), x], [dtype, dtype])
                self._store(r.store, s, y)
                last[own] = shuffle(b, y, y, [s.lanes - 1]) if along else y
            return last

        self._reduce_space(scopes, nothing, each)

    def _prefixes(self, fn: str, x: Any, math: Functions, dtype: DType) -> Any:
        """Each lane combined with all before it."""
        lanes, reach = x.type.count, 1
        nothing = _nothing(fn, math, dtype)
        while reach < lanes:
            left = shuffle(self.b, nothing, x, [lanes + i - reach if i >= reach else 0 for i in range(lanes)])
            x = math.call(fn, [x, left], [dtype, dtype])
            reach *= 2
        return x


def _nothing(fn: str, math: Functions, dtype: DType) -> Any:
    """What changes no number that it is combined with: of sums −0, which leaves −0 as it is."""
    zero = -0.0 if dtype.is_float else 0
    return math.const(1 if fn == "mul" else zero, dtype)
