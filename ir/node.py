"""Values and nodes, and the two ops every graph has: inputs and constants. All immutable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import VerifyError
from .dtypes import DType
from .op import Op, Trait
from .types import TensorType


class Value(NamedTuple):
    """Result `index` of a node. (A named tuple: passes look up values more than anything else, and tuples are hashed and compared by
    native code.)"""

    node: Node
    index: int = 0  # type: ignore[assignment]  # not tuple's method

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def data(self) -> np.ndarray:
        """The array of a constant. Raises VerifyError for any other value."""
        op = self.node.op
        if not isinstance(op, Const):
            raise VerifyError(f"a result of {op.name}", expected="a constant", loc=" + ".join(self.node.loc))
        return op.data

    def __repr__(self) -> str:
        return f"<{self.node.op.name}#{self.index}: {self.type}>"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One application of an op. `loc` names the ONNX nodes it came from."""

    op: Op
    inputs: tuple[Value, ...]
    types: tuple[TensorType, ...]
    loc: tuple[str, ...] = ()

    @staticmethod
    def make(op: Op, inputs: Iterable[Value] = (), loc: tuple[str, ...] = ()) -> Node:
        """Build a node, its types inferred. Raises VerifyError with `loc` when the operands do not fit."""
        ins = tuple(inputs)
        try:
            types = op.infer([v.node.types[v.index] for v in ins])
            for t in types:
                for d in t.shape:
                    if isinstance(d, int) and d < 0:
                        raise VerifyError(f"a result is {t}", expected="no negative sizes")
        except VerifyError as e:
            if e.loc:
                raise
            raise VerifyError(f"{op.name}({', '.join(str(v.type) for v in ins)}): {e.found}", expected=e.expected,
                              remedy=e.remedy, loc=" + ".join(loc)) from None  # fmt: skip
        return Node(op, ins, types, loc)

    def with_inputs(self, inputs: tuple[Value, ...]) -> Node:
        """The same op with other operands; its types are inferred again where theirs differ. Raises VerifyError as `make`."""
        for new, old in zip(inputs, self.inputs, strict=True):
            if new is not old and new.type != old.type:
                return Node.make(self.op, inputs, self.loc)
        return Node(self.op, inputs, self.types, self.loc)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (Value(self, 0),) if len(self.types) == 1 else tuple(Value(self, i) for i in range(len(self.types)))

    @property
    def out(self) -> Value:
        return Value(self, 0)

    def __repr__(self) -> str:
        return f"<{self.op} -> {', '.join(map(str, self.types))}>"


@dataclass(frozen=True)
class Input(Op):
    """A graph input (or a value from outside a subgraph)."""

    type: TensorType
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (self.type,)


@dataclass(frozen=True, eq=False)
class Const(Op):
    """A constant tensor; the array may be memory-mapped and is never written."""

    data: np.ndarray = field(repr=False)

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(DType.from_numpy(self.data.dtype), tuple(map(int, self.data.shape))),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.data,)

    @cached_property
    def digest(self) -> str:
        """sha256 over dtype, shape and bytes."""
        h = hashlib.sha256(f"{self.data.dtype.name}{self.data.shape}".encode())
        if self.data.dtype.kind == "O":
            h.update(repr(self.data.tolist()).encode())
        else:
            h.update(np.ascontiguousarray(self.data).view(np.uint8).data if self.data.size else b"")
        return h.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return f"const #{self.digest[:12]}"


def const(data: object, dtype: DType | None = None, loc: tuple[str, ...] = ()) -> Value:
    """A constant value from anything NumPy takes."""
    return Node.make(Const(np.asarray(data, dtype.np if dtype else None)), (), loc).out
