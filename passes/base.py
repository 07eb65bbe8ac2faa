"""What a pass is, and what passes share: the context, and small questions about values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import Const, Dim, DType, Elementwise, Expr, Graph, Node, Op, Shape, Sym, Value, const, evaluate
from ..ir.ops import Expand, Reshape, Transpose

_BEHIND = 8  # operations that `behind_transpose` looks through


@dataclass(frozen=True)
class Pass:
    """Base of passes: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        """The transformed graph; the same object when nothing changed."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True)
class PassContext:
    """How passes run.

    Args:
        opt_level: 0 (only what lowering requires) to 3.
        verify: check the graph against GRAPH_SPEC after every pass.
        dump: called with (pass name, graph) after every pass that changed something.
    """

    opt_level: int = 3
    verify: bool = False
    dump: Callable[[str, Graph], None] | None = None


def apply(op: Op, *inputs: Value, loc: tuple[str, ...] = ()) -> Value:
    """The (first) result of one new node."""
    return Node.make(op, inputs, loc).out


def const_of(v: Value) -> np.ndarray | None:
    """The array of a constant value, else None."""
    return v.node.op.data if isinstance(v.node.op, Const) else None


def splat_of(v: Value) -> Any | None:
    """The one number (a NumPy scalar) that all elements of a constant equal, looking through views; else None."""
    while isinstance(v.node.op, (Expand, Reshape)):
        v = v.node.inputs[0]
    data = const_of(v)
    if data is None or data.size == 0 or data.dtype.kind == "O":
        return None
    first = data.reshape(-1)[0] if data.size == 1 else data[(0,) * data.ndim]
    if data.size > 1 and not (data[(-1,) * data.ndim] == first and bool((data == first).all())):
        return None
    return first


def scalar_of(v: Value) -> float | None:
    """The value of a constant float or integer splat as a Python float; else None."""
    got = splat_of(v)
    if got is None or got.dtype.kind == "c":
        return None
    return float(got)


def close(a: float | None, b: float, tolerance: float = 1e-6) -> bool:
    """Equal up to float32 rounding of a literal; 0 and 1 exactly."""
    return a is not None and (a == b or (b not in (0.0, 1.0) and abs(a - b) <= tolerance * abs(b)))


def like(v: Value, number: float) -> Value:
    """A rank-0 constant in the dtype of `v`."""
    return const(np.asarray(number).astype(v.dtype.np))


def reshape(v: Value, shape: Shape) -> Value:
    """v in another shape; nothing when it has that shape, computed when constant."""
    if v.shape == shape:
        return v
    data = const_of(v)
    sizes = [d for d in shape if isinstance(d, int)]
    if data is not None and len(sizes) == len(shape):
        return const(data.reshape(sizes), loc=v.node.loc)
    return apply(Reshape(shape), v, loc=v.node.loc)


def transpose(v: Value, perm: tuple[int, ...]) -> Value:
    """v with axes permuted: a reshape where only axes of size 1 move, computed when constant, merged with a transpose."""
    if isinstance(v.node.op, Transpose):
        inner = v.node.op.perm
        return transpose(v.node.inputs[0], tuple(inner[p] for p in perm))
    if perm == tuple(range(len(perm))):
        return v
    data = const_of(v)
    if data is not None:
        return const(np.ascontiguousarray(data.transpose(perm)), loc=v.node.loc)
    if is_trivial(perm, v.shape):
        return reshape(v, tuple(v.shape[p] for p in perm))
    return apply(Transpose(perm), v, loc=v.node.loc)


def is_trivial(perm: Iterable[int], shape: Shape) -> bool:
    """Whether a transpose leaves the row-major order alone, because all it moves are axes of size 1."""
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def estimate(dim: Dim, guess: int = 500) -> int:
    """A plausible value of a dim, at least 1, for costs: every symbol is taken as `guess`, within its bounds."""
    if isinstance(dim, int):
        return max(dim, 1)
    found: dict[str, int] = {}
    todo: list[Dim] = [dim]
    while todo:
        d = todo.pop()
        if isinstance(d, Expr):
            for mono, _ in d.terms:
                for f in mono:
                    if isinstance(f, Sym):
                        found[f.name] = min(max(guess, f.lo), f.hi)
                    else:
                        todo += f.args
    return max(evaluate(dim, found), 1)


def is_float(v: Value) -> bool:
    return v.dtype in (DType.F32, DType.F64, DType.F16, DType.BF16)


def behind_transpose(v: Value) -> bool:
    """Whether v is a transpose, or a few elementwise operations behind one."""
    for _ in range(_BEHIND):
        if isinstance(v.node.op, Transpose):
            return True
        same = [u for u in v.node.inputs if u.shape == v.shape]
        if not isinstance(v.node.op, Elementwise) or not same:
            return False
        v = same[0]
    return False


def before_transpose(graph: Graph, v: Value, perm: tuple[int, ...]) -> bool:
    """Whether v, or what elementwise operations make of it, is read by a transpose of this kind and nothing else."""
    for _ in range(_BEHIND):
        readers = graph.uses.get(v, ())
        if v in graph.kept or len(readers) != 1:
            return False
        (reader,) = readers
        if isinstance(reader.op, Transpose):
            return reader.op.perm == perm
        if not isinstance(reader.op, Elementwise) or reader.out.shape != v.shape:
            return False
        v = reader.out
    return False
