"""Values of expressions over a grid of loop variables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import VerifyError
from ...ir import NUMPY, evaluate
from ..expr import Acc, Axis, Bits, Call, Cast, DimParam, E, Load, Num, Reduced, Ticks

Arrays = Sequence[np.ndarray]
Bindings = Mapping[str, int]


class Evaluator:
    """Values of expressions over a grid of loop variables; `axes[i]` broadcasts over the grid."""

    def __init__(self, arrays: Arrays, bound: Bindings, axes: Sequence[np.ndarray]) -> None:
        self.arrays, self.bound, self.axes = arrays, bound, axes
        self.reduced: list[np.ndarray] = []
        self.acc: np.ndarray | None = None
        self._memo: dict[int, np.ndarray] = {}

    def __call__(self, e: E) -> np.ndarray:
        if id(e) not in self._memo:
            self._memo[id(e)] = self._value(e)
        return self._memo[id(e)]

    def _value(self, e: E) -> np.ndarray:
        match e:
            case Num():
                return NUMPY.const(e.value, e.dtype)
            case Axis():
                return self.axes[e.index]
            case DimParam():
                return np.asarray(evaluate(e.dim, self.bound), np.int64)
            case Ticks():
                return np.asarray(time.perf_counter_ns())
            case Load():
                offset = self(e.offset)
                data = self.arrays[e.operand]
                check_bounds(offset, data.size, f"load of operand {e.operand}")
                if data.dtype != e.dtype.np:
                    raise VerifyError(f"load of {e.dtype.value} from operand {e.operand} of {data.dtype}")
                return np.asarray(data[offset])
            case Bits():
                return np.asarray(NUMPY.bits(self(e.arg), e.source, e.dtype))
            case Cast():
                return np.asarray(NUMPY.cast(self(e.arg), e.dtype))
            case Call():
                args = [self(a) for a in e.args]
                kinds = {a.dtype for a in (e.args[1:] if e.fn == "select" else e.args)}
                if len(kinds) > 1:
                    raise VerifyError(f"{e.fn} of {', '.join(sorted(k.value for k in kinds))}", expected="one dtype")
                out = np.asarray(NUMPY.ops.call(e.fn, *args))
                if out.dtype != e.dtype.np:
                    raise VerifyError(f"{e.fn} gives {out.dtype}", expected=e.dtype.value)
                return out
            case Reduced():
                return self.reduced[e.stage]
            case Acc():
                assert self.acc is not None
                return self.acc
        raise VerifyError(f"unknown expression {type(e).__name__}")


def check_bounds(offset: np.ndarray, size: int, what: str) -> None:
    if offset.size and (int(offset.min()) < 0 or int(offset.max()) >= size):
        raise VerifyError(f"{what} at {int(offset.min())}..{int(offset.max())} of {size} elements")


def grid(sizes: Sequence[int]) -> list[np.ndarray]:
    return list(np.indices(sizes, np.int64, sparse=True)) if sizes else []
