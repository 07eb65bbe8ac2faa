"""Reads the text form that `printer` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import VerifyError
from . import ops as _ops
from .dims import Dim, Sym, sym
from .dtypes import DType
from .graph import Graph, RunTimeSize
from .node import Const, Input, Node, Value
from .op import Op
from .printer import DIGEST_LENGTH
from .substitute import FUNCTIONS
from .types import TensorType

_TOKEN = re.compile(
    r"""\s+ | (?P<string>"(?:[^"\\]|\\.)*") | (?P<digest>\#[0-9a-f]{12}) | (?P<float>-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+))(?!\.)
    | (?P<int>-?\d+) | (?P<name>[A-Za-z_](?:[A-Za-z0-9_]|\.(?!\.))*) | (?P<mark>\.\.|[%$!\#:;,=+*(){}\[\]-])""",
    re.VERBOSE,
)
_DTYPES = {d.value: d for d in DType}


def op_classes() -> dict[str, type[Op]]:
    """Op name -> class, of every op that `ir.ops` exports."""
    found = {c.__name__.lower(): c for c in vars(_ops).values() if isinstance(c, type) and issubclass(c, Op)}
    return {**found, "const": Const}


def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `text` describes.

    Args:
        text: what `printer.print_graph` wrote; types after `:` are optional, and checked where given.
        constants: digest (at least 12 digits) -> array, for constants not printed in full.

    Raises VerifyError, with the line number as loc.
    """
    parser = _Parser(text, {k[:DIGEST_LENGTH]: v for k, v in (constants or {}).items()})
    graph = parser.graph()
    parser.expect_end()
    return graph


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.constants, self.classes = constants, op_classes()
        self.tokens: list[tuple[str, str, int]] = []
        self.at = 0
        self.bounds = {}  # type: dict[str, tuple[int, int]]
        for number, line in enumerate(text.splitlines(), 1):
            pos = 0
            while pos < len(line):
                m = _TOKEN.match(line, pos)
                if m is None:
                    raise VerifyError(f"unexpected character {line[pos]!r}", loc=f"line {number}")
                if m.lastgroup:
                    self.tokens.append((m.lastgroup, m.group(m.lastgroup), number))
                pos = m.end()
        self._scan_bounds()

    def _scan_bounds(self) -> None:
        # bounds stand after the parameters that use them, so they are read ahead of everything else
        for i, (kind, word, _) in enumerate(self.tokens):
            if kind == "name" and word == "where":
                keep, self.at = self.at, i + 1
                name = self.symbol_name()
                self.word("in")
                lo = int(self.take("int"))
                self.mark("..")
                self.bounds[name] = (lo, int(self.take("int")))
                self.at = keep
            elif word == "{":
                return

    # tokens
    def peek(self, text: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][0] != "string" and self.tokens[self.at][1] == text

    def skip(self, text: str) -> bool:
        if self.peek(text):
            self.at += 1
            return True
        return False

    def fail(self, expected: str) -> VerifyError:
        if self.at >= len(self.tokens):
            return VerifyError("the text ends early", expected=expected, loc=f"line {self.tokens[-1][2] if self.tokens else 1}")
        return VerifyError(f"unexpected {self.tokens[self.at][1]!r}", expected=expected, loc=f"line {self.tokens[self.at][2]}")

    def take(self, kind: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            raise self.fail(f"a {kind}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def mark(self, text: str) -> None:
        if not self.skip(text):
            raise self.fail(repr(text))

    word = mark

    def expect_end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("the end")

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def name(self) -> str:
        return json.loads(self.take("string")) if self.kind == "string" else self.take("name")

    def symbol_name(self) -> str:
        return json.loads(self.take("string")) if self.skip("$") else self.take("name")

    # grammar
    def graph(self) -> Graph:
        self.word("graph")
        title = self.name()
        env: dict[str, Value] = {}
        inputs: list[Value] = []
        input_names: list[str] = []
        self.mark("(")
        while not self.skip(")"):
            if inputs:
                self.mark(",")
            self.mark("%")
            name = self.name()
            self.mark(":")
            type_ = self.type()
            env[name] = Node.make(Input(type_), (), self.loc()).out
            inputs.append(env[name])
            input_names.append(name)
        while self.skip("where"):
            self.symbol_name()
            self.word("in")
            self.take("int")
            self.mark("..")
            self.take("int")
        self.mark("{")
        while not self.peek("return") and not self.peek("size") and not self.peek("}"):
            self.statement(env)
        sizes = []
        while self.skip("size"):
            symbol = self.symbol_name()
            self.mark("=")
            value = self.operand(env)
            self.mark("[")
            index = int(self.take("int"))
            self.mark("]")
            sizes.append(RunTimeSize(symbol, value, index, bool(self.skip("wanted"))))
        outputs, output_names = [], []
        while self.skip("return"):
            output_names.append(self.name())
            self.mark("=")
            outputs.append(self.operand(env))
        self.mark("}")
        return Graph(tuple(inputs), tuple(outputs), tuple(input_names), tuple(output_names), title, sizes=tuple(sizes))

    def statement(self, env: dict[str, Value]) -> None:
        line = self.tokens[self.at][2]
        self.mark("%")
        target = self.take("int") if self.kind == "int" else self.name()
        count = int(self.take("int")) if self.skip(":") else 1
        self.mark("=")
        op_name = self.take("name")
        if op_name not in self.classes:
            raise VerifyError(f"unknown op {op_name!r}", loc=f"line {line}")
        ins = []
        while self.peek("%"):
            ins.append(self.operand(env))
            if not self.skip(","):
                break
        cls = self.classes[op_name]
        given: dict[str, Any] = {}
        if cls is not Const and self.skip("{"):
            while not self.skip("}"):
                if given:
                    self.mark(",")
                key = self.take("name")
                self.mark("=")
                given[key] = self.value()
        types = []
        if self.skip(":"):
            types.append(self.type())
            while self.skip(","):
                types.append(self.type())
        op = Const(self.data(types[0])) if cls is Const and types else self.build(cls, given, line)
        loc = self.loc()
        try:
            node = Node.make(op, ins, loc)
        except VerifyError as e:
            raise VerifyError(e.found, expected=e.expected, remedy=e.remedy, loc=f"line {line}") from None
        if len(node.types) != count or (types and tuple(types) != node.types):
            found = ", ".join(map(str, types)) if types else f"{count} results"
            raise VerifyError(f"{op_name} is said to give {found}", expected=", ".join(map(str, node.types)), loc=f"line {line}")
        env.update({target: node.out} if count == 1 else {f"{target}#{i}": v for i, v in enumerate(node.outputs)})

    def build(self, cls: type[Op], given: dict[str, Any], line: int) -> Op:
        known = {f.name for f in fields(cls)}
        if given.keys() - known:
            raise VerifyError(f"{cls.__name__.lower()} has no attribute {min(given.keys() - known)}", loc=f"line {line}")
        try:
            return cls(**given)
        except TypeError as e:
            raise VerifyError(str(e), loc=f"line {line}") from None

    def operand(self, env: Mapping[str, Value]) -> Value:
        self.mark("%")
        name = self.take("int") if self.kind == "int" else self.name()
        if self.skip("#"):
            name += f"#{self.take('int')}"
        if name not in env:
            self.at -= 1
            raise VerifyError(f"%{name} is not defined here", loc=f"line {self.tokens[self.at][2]}")
        return env[name]

    def type(self) -> TensorType:
        word = self.take("name")
        if word not in _DTYPES:
            self.at -= 1
            raise self.fail("an element type")
        self.mark("[")
        shape: list[Dim] = []
        while not self.skip("]"):
            if shape:
                self.mark(",")
            shape.append(self.dim())
        return TensorType(_DTYPES[word], tuple(shape))

    def loc(self) -> tuple[str, ...]:
        if not self.skip(";"):
            return ()
        found = [json.loads(self.take("string"))]
        while self.skip("+"):
            found.append(json.loads(self.take("string")))
        return tuple(found)

    def data(self, t: TensorType) -> np.ndarray:
        if self.kind == "digest":
            key = self.take("digest")[1:]
            if key not in self.constants:
                raise VerifyError(f"constant #{key} is not at hand", remedy="pass its array in `constants`",
                                  loc=f"line {self.tokens[self.at - 1][2]}")  # fmt: skip
            return self.constants[key]
        self.mark("=")
        values = self.value()
        flat = np.asarray(values if isinstance(values, tuple) else (values,)).astype(t.dtype.np)
        shape = tuple(d for d in t.shape if isinstance(d, int))
        if len(shape) != len(t.shape) or flat.size not in (1, np.prod(shape, dtype=np.int64)):
            raise self.fail(f"{t} with as many numbers, or one for all")
        return flat.reshape(shape) if flat.size == np.prod(shape, dtype=np.int64) else np.full(shape, flat[0])

    def value(self) -> Any:
        if self.skip("["):
            items: list[Any] = []
            while not self.skip("]"):
                if items:
                    self.mark(",")
                items.append(self.value())
            return tuple(items)
        if self.skip("!"):
            if self.tokens[self.at + 1][1] == "[" and self.tokens[self.at + 1][0] == "mark":
                return self.type()
            return _DTYPES[self.take("name")]
        if self.kind == "string":
            return json.loads(self.take("string"))
        if self.kind == "float":
            return float(self.take("float"))
        for word, value in (("none", None), ("true", True), ("false", False), ("inf", float("inf")), ("nan", float("nan"))):
            if self.skip(word):
                return value
        if self.peek("-") and self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][1] == "inf":
            self.at += 2
            return -float("inf")
        return self.graph() if self.peek("graph") else self.dim()

    def dim(self) -> Dim:
        total = self.term()
        while self.skip("+"):
            total = total + self.term()
        return total

    def term(self) -> Dim:
        value = self.factor()
        while self.skip("*"):
            value = value * self.factor()
        return value

    def factor(self) -> Dim:
        if self.kind == "int":
            return int(self.take("int"))
        for word, fn in FUNCTIONS.items():
            if self.skip(word):
                self.mark("(")
                a = self.dim()
                self.mark(",")
                b = self.dim()
                self.mark(")")
                return fn(a, b)
        name = self.symbol_name()
        default = Sym(name)
        return sym(name, *self.bounds.get(name, (default.lo, default.hi)))
