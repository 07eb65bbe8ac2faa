"""Fix symbolic dims of a graph to numbers (or other dims)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ..errors import VerifyError
from .dims import Dim, Expr, symbols_of
from .graph import Graph, Limit
from .node import Const, Node, Value
from .op import Op
from .substitute import evaluate, substitute
from .types import TensorType


def bind(graph: Graph, sizes: Mapping[str, Dim]) -> Graph:
    """The same graph with symbols replaced everywhere, in nested graphs too; types are inferred anew."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        if isinstance(node.op, Const):
            new[node.out] = node.out
            continue
        bound = Node.make(_bind_op(node.op, sizes), tuple(new[v] for v in node.inputs), node.loc)
        new.update(zip(node.outputs, bound.outputs, strict=True))
    equal = tuple((a, b) for a, b in ((substitute(a, sizes), substitute(b, sizes)) for a, b in graph.equal) if a != b)
    limits = tuple(Limit(substitute(m.dim, sizes), substitute(m.lo, sizes), substitute(m.hi, sizes), m.loc) for m in graph.limits)
    open_ = tuple(replace(s, value=new[s.value]) for s in graph.bound if s.symbol not in sizes)
    outputs = tuple(new[v] for v in graph.outputs)
    return replace(graph, inputs=tuple(new[v] for v in graph.inputs), outputs=outputs, equal=equal, sizes=open_, limits=limits)


def sizes_of(graph: Graph, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """What the symbols are when the inputs have these shapes. Raises VerifyError where they do not fit."""
    sizes: dict[str, int] = {}
    for name, value, shape in zip(graph.input_names, graph.inputs, shapes, strict=True):
        if len(shape) != len(value.shape):
            raise VerifyError(f"input {name} has shape {list(shape)}", expected=str(value.type))
        for dim, size in zip(value.shape, shape, strict=True):
            known = substitute(dim, sizes)
            if isinstance(known, Expr) and len(symbols_of([known])) == 1 and str(known) in known.symbols:
                sizes[str(known)] = int(size)
            elif known != size:
                raise VerifyError(f"dimension {dim} of input {name} is {size}", expected=str(known))
    for a, b in graph.equal:
        if evaluate(a, sizes) != evaluate(b, sizes):
            raise VerifyError(f"{a} = {evaluate(a, sizes)}", expected=f"{b} = {evaluate(b, sizes)}")
    return sizes


def _bind_op(op: Op, sizes: Mapping[str, Dim]) -> Op:
    changed: dict[str, Any] = {}
    for f in fields(op):
        old = getattr(op, f.name)
        if isinstance(old, Graph):
            changed[f.name] = bind(old, sizes)
        elif isinstance(old, TensorType):
            changed[f.name] = _bind_type(old, sizes)
        elif isinstance(old, tuple) and any(isinstance(x, TensorType) for x in old):
            changed[f.name] = tuple(_bind_type(x, sizes) if isinstance(x, TensorType) else x for x in old)
        elif isinstance(old, Expr):
            changed[f.name] = substitute(old, sizes)
        elif isinstance(old, tuple) and any(isinstance(x, Expr) for x in old):
            changed[f.name] = tuple(substitute(x, sizes) if isinstance(x, Expr) else x for x in old)
    return replace(op, **changed) if changed else op


def _bind_type(t: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    return TensorType(t.dtype, tuple(substitute(d, sizes) for d in t.shape))
