"""The text form of graphs: what `--dump` writes, what pass tests compare, what `parser` reads back.

    graph mlp(%x: f32[B, 768]) where B in 1..512 {
      %0 = const : f32[768, 3072] #a41f09c2d4e6
      %1 = matmul %x, %0 : f32[B, 3072]  ; "/fc1/MatMul"
      size n = %7[0]
      return y = %1
    }

A size line says which element of a value a symbol stands for that no input shape gives.
Constants print as digests, except small ones (at most 8 finite numbers), which print in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import VerifyError
from .dims import Atom, Dim, Expr, Sym
from .dtypes import DType
from .graph import Graph, symbols_in
from .node import Const, Input, Node, Value
from .op import Op
from .substitute import FUNCTIONS
from .types import TensorType

RESERVED = frozenset({"true", "false", "none", "inf", "nan", "graph", "return", "size", "where", "in", *FUNCTIONS})
DIGEST_LENGTH = 12
INLINE_LIMIT = 8
_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_DEFAULT = Sym("")


def print_graph(graph: Graph) -> str:
    """The graph as text. Two graphs have the same text exactly when they are structurally equal."""
    return _Printer().graph(graph, "") + "\n"


def constants_of(graph: Graph) -> Mapping[str, np.ndarray]:
    """Digest -> array of every constant that `print_graph` abbreviates, for `parse`."""
    found: dict[str, np.ndarray] = {}
    todo = [graph]
    while todo:
        for node in todo.pop().nodes:
            if isinstance(node.op, Const):
                found[node.op.digest[:DIGEST_LENGTH]] = node.op.data
            todo += [v for f in fields(node.op) if isinstance(v := getattr(node.op, f.name), Graph)]
    return found


class _Printer:
    def __init__(self) -> None:
        self.symbols: dict[str, Sym] = {}

    def graph(self, graph: Graph, indent: str) -> str:
        top = not indent
        names = {v: f"%{_name(n)}" for v, n in zip(graph.inputs, graph.input_names, strict=True)}
        lines = []
        number = 0
        for node in graph.nodes:
            if isinstance(node.op, Input):
                if node.out not in names:
                    raise VerifyError("an Input node is not an input of its graph", loc=" + ".join(node.loc))
                continue
            base = f"%{number}"
            number += 1
            if len(node.types) == 1:
                names[node.out] = base
            else:
                names.update({Value(node, i): f"{base}#{i}" for i in range(len(node.types))})
                base += f":{len(node.types)}"
            lines.append(f"{indent}  {base} = {self.node(node, names, indent)}")
        mentioned = {s for node in graph.nodes for s in symbols_in(node)} if graph.sizes else set()
        for s in graph.bound:
            if s.symbol in mentioned or s.wanted:
                lines.append(f"{indent}  size {_symbol(s.symbol)} = {names[s.value]}[{s.index}]{' wanted' * s.wanted}")
        for line_value, name in zip(graph.outputs, graph.output_names, strict=True):
            lines.append(f"{indent}  return {_name(name)} = {names[line_value]}")
        params = ", ".join(f"{names[v]}: {self.type(v.type)}{_loc(v.node.loc)}" for v in graph.inputs)
        bounds = ""
        if top:
            shown = [s for s in sorted(self.symbols.values()) if (s.lo, s.hi) != (_DEFAULT.lo, _DEFAULT.hi)]
            bounds = "".join(f" where {_symbol(s.name)} in {s.lo}..{s.hi}" for s in shown)
        return "\n".join([f"graph {_name(graph.name)}({params}){bounds} {{", *lines, f"{indent}}}"])

    def node(self, node: Node, names: Mapping[Value, str], indent: str) -> str:
        parts = [node.op.name]
        if node.inputs:
            parts.append(", ".join(names[v] for v in node.inputs))
        text = " ".join(parts)
        data = ""
        if isinstance(node.op, Const):
            data = f" {_const(node.op)}"
        elif fields(node.op):
            text += f" {{{self.attributes(node.op, indent)}}}"
        return f"{text} : {', '.join(self.type(t) for t in node.types)}{data}{_loc(node.loc)}"

    def attributes(self, op: Op, indent: str) -> str:
        return ", ".join(f"{f.name}={self.value(getattr(op, f.name), indent)}" for f in fields(op))

    def type(self, t: TensorType) -> str:
        return f"{t.dtype.value}[{', '.join(map(self.dim, t.shape))}]"

    def value(self, v: Any, indent: str = "") -> str:
        match v:
            case None:
                return "none"
            case bool() | np.bool_():
                return "true" if v else "false"
            case int() | np.integer():
                return str(int(v))
            case float() | np.floating():
                return repr(float(v))
            case str():
                return json.dumps(v)
            case DType():
                return f"!{v.value}"
            case Expr():
                return self.dim(v)
            case tuple() | list():
                return f"[{', '.join(self.value(x, indent) for x in v)}]"
            case TensorType():
                return f"!{self.type(v)}"
            case Graph():
                return self.graph(v, indent + "    ")
        raise VerifyError(f"attribute value {v!r} has no text form", expected="numbers, strings, dims, dtypes, tuples, graphs")

    def dim(self, d: Dim) -> str:
        if isinstance(d, (int, np.integer)):
            return str(int(d))
        shown = []
        for mono, c in d.terms:
            factors = [self.factor(f) for f in mono]
            if c != 1 or not factors:
                factors.insert(0, str(c))
            shown.append("*".join(factors))
        return " + ".join(shown)

    def factor(self, f: Sym | Atom) -> str:
        if isinstance(f, Atom):
            return f"{f.fn}({self.dim(f.args[0])}, {self.dim(f.args[1])})"
        self.symbols[f.name] = f
        return _symbol(f.name)


def _symbol(name: str) -> str:
    return name if _IDENT.match(name) and name not in RESERVED else f"${json.dumps(name)}"


def _name(name: str) -> str:
    return name if _IDENT.match(name) else json.dumps(name)


def _loc(loc: tuple[str, ...]) -> str:
    return "  ; " + " + ".join(map(json.dumps, loc)) if loc else ""


def _const(op: Const) -> str:
    inline = _inline(op.data)
    return f"#{op.digest[:DIGEST_LENGTH]}" if inline is None else inline


def _inline(data: np.ndarray) -> str | None:
    if data.size > INLINE_LIMIT:
        return None
    dtype = DType.from_numpy(data.dtype)
    flat = np.asarray(data).reshape(-1)
    if dtype is DType.BOOL:
        return f"= [{', '.join('true' if x else 'false' for x in flat)}]"
    if dtype.is_int:
        return f"= [{', '.join(str(int(x)) for x in flat)}]"
    if dtype not in (DType.F16, DType.BF16, DType.F32, DType.F64):
        return None
    if not np.isfinite(flat.astype(np.float64)).all():
        return None
    return f"= [{', '.join(map(_float, flat))}]"


def _float(x: Any) -> str:
    """The shortest decimal that reads back as the same bits."""
    exact = float(x)
    short = float(str(np.float32(x))) if x.dtype.itemsize == 4 else exact
    return repr(short if np.float32(short) == x else exact)
