"""What an operator is: a frozen dataclass whose fields are its attributes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..errors import VerifyError
from .dims import Dim, Shape, is_symbol
from .scalar import NUMPY, S
from .types import TensorType


class Trait(enum.Enum):
    """Facts that passes ask for, instead of asking for op names."""

    __hash__ = object.__hash__  # that of an Enum is a function in Python

    PURE = "pure"  # same inputs, same outputs, no effects: may be folded, shared, dropped
    ELEMENTWISE = "elementwise"  # out[i] = body(in0[i], …) after broadcasting
    COMMUTATIVE = "commutative"
    VIEW = "view"  # same elements in the same row-major order: costs nothing
    MOVE = "move"  # rearranges or repeats elements without computing


@dataclass(frozen=True)
class Op:
    """Base of all ops. Subclasses are frozen dataclasses; equal fields mean equal meaning."""

    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE})

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Types of the results. Raises VerifyError when the operands do not fit."""
        raise VerifyError(f"op {self.name} has no type rule")

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        """The meaning, in NumPy; all dims of fields must be integers."""
        raise VerifyError(f"op {self.name} has no reference")

    def __str__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!s}" for f in fields(self))
        return f"{self.name} {{{shown}}}" if shown else self.name


def broadcast(*shapes: Shape) -> Shape:
    """NumPy broadcasting over symbolic dims. Raises VerifyError where two dims cannot be equal.

    Two different symbolic dims are assumed equal only when neither can be 1 by its bounds; otherwise the larger
    lower bound decides: a dim known to be ≥ 2 wins over an unknown one.
    """
    rank = max(map(len, shapes), default=0)
    out: list[Dim] = []
    for i in range(rank):
        dims = [s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0]
        out.append(_broadcast_dim(dims))
    return tuple(out)


def _broadcast_dim(dims: Sequence[Dim]) -> Dim:
    best: Dim = 1
    for d in dims:
        if d == 1 or d == best:
            continue
        if best == 1:
            best = d
        elif isinstance(d, int) and isinstance(best, int):
            raise VerifyError(f"dimensions {best} and {d} do not broadcast", expected="equal dims, or 1")
        elif isinstance(d, int) or (is_symbol(d) and not isinstance(best, int) and not is_symbol(best)):
            best = d  # of dims that have to be equal, the one that says most: a number, then a size of an input
    return best


@dataclass(frozen=True)
class Elementwise(Op):
    """Subclasses give `body(s, *elements)`; `result_dtype` where it differs from the first operand's."""

    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.PURE, Trait.ELEMENTWISE})

    def body(self, s: S, *args: Any) -> Any:
        raise VerifyError(f"op {self.name} has no scalar body")

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        probe = [np.zeros((), t.dtype.np) for t in types]
        dtype = NUMPY.dtype(self.body(NUMPY, *probe))
        return (TensorType(dtype, broadcast(*(t.shape for t in types))),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        out = np.asarray(self.body(NUMPY, *(np.asarray(a) for a in args)))
        # not ascontiguousarray: it would give a scalar an axis
        return (np.require(np.broadcast_to(out, np.broadcast_shapes(*(np.shape(a) for a in args))), requirements="C"),)
