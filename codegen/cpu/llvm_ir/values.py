"""Modules, functions, blocks and values of LLVM. An instruction is a line of its block from the moment it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .types import FunctionType, PointerType


class Value:
    """What an operand may be; `text` refers to it."""

    __slots__ = ("text", "type")

    def __init__(self, type: Any, text: str) -> None:
        self.type, self.text = type, text

    @property
    def typed(self) -> str:
        return f"{self.type.text} {self.text}"


class Undefined:
    """As the value of a constant: whatever the lanes hold."""


class Constant(Value):
    """`constant`: a number; for vectors one for all lanes, or a list of one for each; None is zero."""

    __slots__ = ("constant",)

    def __init__(self, type: Any, constant: Any) -> None:
        self.type, self.constant = type, constant
        if constant is None:
            self.text = type.zero
        elif constant is Undefined:
            self.text = "undef"
        else:
            self.text = type.constant(constant)


class Block:
    """`lines`: text, or what becomes text at the end (a phi, whose operands come later)."""

    __slots__ = ("label", "lines", "terminated")

    def __init__(self, label: str) -> None:
        self.label, self.terminated = label, False
        self.lines: list[object] = []


class Phi(Value):
    __slots__ = ("incoming",)

    def __init__(self, type: Any, text: str) -> None:
        super().__init__(type, text)
        self.incoming: list[tuple[Value, Block]] = []

    def add_incoming(self, value: Value, block: Block) -> None:
        self.incoming.append((value, block))

    def __str__(self) -> str:
        pairs = ", ".join(f"[{v.text}, %{b.label}]" for v, b in self.incoming)
        return f"{self.text} = phi {self.type.text} {pairs}"


class Module:
    """Functions and other globals by name, in the order of the text."""

    def __init__(self) -> None:
        self.globals: dict[str, Function | GlobalVariable] = {}
        self.weights: list[tuple[int, int]] = []  # of the two ways of a branch, by number of the metadata

    def weight(self, pair: tuple[int, int]) -> int:
        if pair not in self.weights:
            self.weights.append(pair)
        return self.weights.index(pair)

    def __str__(self) -> str:
        parts = [str(g) for g in self.globals.values()]
        parts += [f'!{n} = !{{!"branch_weights", i32 {a}, i32 {b}}}' for n, (a, b) in enumerate(self.weights)]
        return "\n".join((*parts, ""))


# Keeps rbp out of the register allocator's hands: loads of vectors at [rbp + …] are slower than at any other register.
# A product of 1008 × 1024 × 1000 ran at 90 % of the peak with rows of B there, at 95 otherwise (Granite Rapids).
_DEFINED = ' "frame-pointer"="all"'


class Function(Value):
    """A declaration, until a block is appended."""

    __slots__ = ("args", "attributes", "blocks", "ftype", "labels", "linkage", "module", "name", "names")

    def __init__(self, module: Module, ftype: FunctionType, name: str) -> None:
        super().__init__(PointerType(), f"@{name}")
        self.module, self.ftype, self.name = module, ftype, name
        self.args = tuple(Value(t, f"%a{n}") for n, t in enumerate(ftype.args))
        self.linkage = ""
        self.attributes: set[str] = set()
        self.blocks: list[Block] = []
        self.names = 0  # values named so far
        self.labels = 0
        module.globals[name] = self

    def append_basic_block(self, name: str = "") -> Block:
        block = Block(f"{name}.{self.labels}")
        self.labels += 1
        self.blocks.append(block)
        return block

    def __str__(self) -> str:
        more = "".join(f" {a}" for a in sorted(self.attributes))
        result, link = self.ftype.result.text, f"{self.linkage} " if self.linkage else ""
        if not self.blocks:
            return f"declare {link}{result} {self.text}({', '.join(t.text for t in self.ftype.args)}){more}"
        head = f"define {link}{result} {self.text}({', '.join(a.typed for a in self.args)}){more}{_DEFINED} {{\n"
        body = "\n".join(f"{b.label}:\n" + "\n".join(map(str, b.lines)) for b in self.blocks)
        return f"{head}{body}\n}}"


class GlobalVariable(Value):
    """A constant of the module."""

    __slots__ = ("align", "initializer")

    def __init__(self, module: Module, name: str, initializer: Constant, align: int) -> None:
        super().__init__(PointerType(), f"@{name}")
        self.initializer, self.align = initializer, align
        module.globals[name] = self

    def __str__(self) -> str:
        return f"{self.text} = internal constant {self.initializer.typed}, align {self.align}"


class InlineAsm(Value):
    __slots__ = ("ftype",)

    def __init__(self, ftype: FunctionType, asm: str, constraints: str, moves: bool = False) -> None:
        """`moves`: it does nothing but make its result, so that it may stand elsewhere."""
        super().__init__(PointerType(), f'asm {"" if moves else "sideeffect "}"{asm}", "{constraints}"')
        self.ftype = ftype


def arguments(args: Sequence[Value]) -> str:
    return ", ".join([f"{a.type.text} {a.text}" for a in args])
