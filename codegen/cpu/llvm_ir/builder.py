"""What appends instructions to blocks: https://llvm.org/docs/LangRef.html#instruction-reference, in its names.

Sums and products of integer constants, and by 0 and 1, are not instructions: index arithmetic is full of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .types import IntType, VectorType
from .values import Block, Constant, Function, InlineAsm, Phi, Value, arguments

_SIGNED = {"==": "eq", "!=": "ne", "<": "slt", "<=": "sle", ">": "sgt", ">=": "sge"}
_UNSIGNED = {"==": "eq", "!=": "ne", "<": "ult", "<=": "ule", ">": "ugt", ">=": "uge"}
_FLOAT = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_BIT = IntType(1)
_LIKELY = {True: (99, 1), False: (1, 99)}


class IRBuilder:
    """Appends to `block`, the block at hand."""

    __slots__ = ("block", "function")

    def __init__(self, function: Function, block: Block) -> None:
        self.function, self.block = function, block

    # -- blocks -----------------------------------------------------------------------------------------------------
    def append_basic_block(self, name: str = "") -> Block:
        return self.function.append_basic_block(name)

    def position_at_end(self, block: Block) -> None:
        self.block = block

    @contextmanager
    def goto_block(self, block: Block) -> Iterator[None]:
        """The end of another block, before the branch that ends it."""
        before, self.block = self.block, block
        last = block.lines.pop() if block.terminated else None
        try:
            yield
        finally:
            if last is not None:
                block.lines.append(last)
            self.block = before

    def _end(self, line: str) -> None:
        self.block.lines.append(line)
        self.block.terminated = True

    def branch(self, target: Block) -> None:
        self._end(f"br label %{target.label}")

    def cbranch(self, condition: Value, then: Block, orelse: Block, likely: bool | None = None) -> None:
        prof = "" if likely is None else f", !prof !{self.function.module.weight(_LIKELY[likely])}"
        self._end(f"br i1 {condition.text}, label %{then.label}, label %{orelse.label}{prof}")

    def ret(self, value: Value) -> None:
        self._end(f"ret {value.typed}")

    def ret_void(self) -> None:
        self._end("ret void")

    @contextmanager
    def _inside(self, block: Block, after: Block) -> Iterator[Block]:
        self.block = block
        yield after
        if not self.block.terminated:
            self.branch(after)

    @contextmanager
    def if_then(self, condition: Value, likely: bool | None = None) -> Iterator[Block]:
        """Yields the block behind."""
        inside, after = self.append_basic_block("if"), self.append_basic_block("endif")
        self.cbranch(condition, inside, after, likely)
        with self._inside(inside, after):
            yield after
        self.block = after

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[tuple[AbstractContextManager[Block], AbstractContextManager[Block]]]:
        then, orelse, after = (self.append_basic_block(name) for name in ("if", "else", "endif"))
        self.cbranch(condition, then, orelse)
        yield self._inside(then, after), self._inside(orelse, after)
        self.block = after

    # -- values -----------------------------------------------------------------------------------------------------
    def _value(self, type: Any, instruction: str) -> Value:
        function = self.function
        name = f"%v{function.names}"
        function.names += 1
        self.block.lines.append(f"{name} = {instruction}")
        return Value(type, name)

    def _binary(self, op: str, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        t = x.type
        return self._value(t, f"{op} {' '.join(flags)} {t.text} {x.text}, {y.text}" if flags else f"{op} {t.text} {x.text}, {y.text}")

    def add(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        a, b = _number(x), _number(y)
        if a is not None and b is not None:
            return Constant(x.type, a + b)
        return y if a == 0 else x if b == 0 else self._binary("add", x, y, flags)

    def sub(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        a, b = _number(x), _number(y)
        if a is not None and b is not None:
            return Constant(x.type, a - b)
        return x if b == 0 else self._binary("sub", x, y, flags)

    def mul(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        a, b = _number(x), _number(y)
        if a is not None and b is not None:
            return Constant(x.type, a * b)
        return y if a == 1 else x if b == 1 else self._binary("mul", x, y, flags)

    def sdiv(self, x: Value, y: Value) -> Value:
        return self._binary("sdiv", x, y)

    def udiv(self, x: Value, y: Value) -> Value:
        return self._binary("udiv", x, y)

    def urem(self, x: Value, y: Value) -> Value:
        return self._binary("urem", x, y)

    def and_(self, x: Value, y: Value) -> Value:
        return self._binary("and", x, y)

    def or_(self, x: Value, y: Value) -> Value:
        return self._binary("or", x, y)

    def xor(self, x: Value, y: Value) -> Value:
        return self._binary("xor", x, y)

    def shl(self, x: Value, y: Value) -> Value:
        return self._binary("shl", x, y)

    def lshr(self, x: Value, y: Value) -> Value:
        return self._binary("lshr", x, y)

    def ashr(self, x: Value, y: Value) -> Value:
        return self._binary("ashr", x, y)

    def neg(self, x: Value) -> Value:
        return self._value(x.type, f"sub {x.type.text} {x.type.zero}, {x.text}")

    def not_(self, x: Value) -> Value:
        return self._value(x.type, f"xor {x.type.text} {x.text}, {x.type.constant(-1)}")

    def fadd(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        return self._binary("fadd", x, y, flags)

    def fsub(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        return self._binary("fsub", x, y, flags)

    def fmul(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        return self._binary("fmul", x, y, flags)

    def fdiv(self, x: Value, y: Value, flags: Sequence[str] = ()) -> Value:
        return self._binary("fdiv", x, y, flags)

    def frem(self, x: Value, y: Value) -> Value:
        return self._binary("frem", x, y)

    def fneg(self, x: Value) -> Value:
        return self._value(x.type, f"fneg {x.type.text} {x.text}")

    def _compare(self, op: str, x: Value, y: Value) -> Value:
        t = x.type
        return self._value(VectorType(_BIT, t.count) if isinstance(t, VectorType) else _BIT, f"{op} {t.text} {x.text}, {y.text}")

    def icmp_signed(self, op: str, x: Value, y: Value) -> Value:
        return self._compare(f"icmp {_SIGNED[op]}", x, y)

    def icmp_unsigned(self, op: str, x: Value, y: Value) -> Value:
        return self._compare(f"icmp {_UNSIGNED[op]}", x, y)

    def fcmp_ordered(self, op: str, x: Value, y: Value) -> Value:
        """False where an operand is NaN."""
        return self._compare(f"fcmp o{_FLOAT[op]}", x, y)

    def fcmp_unordered(self, op: str, x: Value, y: Value) -> Value:
        """True where an operand is NaN; "uno" there only."""
        return self._compare("fcmp uno" if op == "uno" else f"fcmp u{_FLOAT[op]}", x, y)

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        return self._value(x.type, f"select {condition.typed}, {x.typed}, {y.typed}")

    # -- conversions: a value of that type already stays itself -----------------------------------------------------
    def _convert(self, op: str, x: Value, type: Any) -> Value:
        return x if x.type == type else self._value(type, f"{op} {x.type.text} {x.text} to {type.text}")

    def trunc(self, x: Value, type: Any) -> Value:
        return self._convert("trunc", x, type)

    def zext(self, x: Value, type: Any) -> Value:
        return self._convert("zext", x, type)

    def sext(self, x: Value, type: Any) -> Value:
        return self._convert("sext", x, type)

    def fptrunc(self, x: Value, type: Any) -> Value:
        return self._convert("fptrunc", x, type)

    def fpext(self, x: Value, type: Any) -> Value:
        return self._convert("fpext", x, type)

    def fptosi(self, x: Value, type: Any) -> Value:
        return self._convert("fptosi", x, type)

    def sitofp(self, x: Value, type: Any) -> Value:
        return self._convert("sitofp", x, type)

    def uitofp(self, x: Value, type: Any) -> Value:
        return self._convert("uitofp", x, type)

    def bitcast(self, x: Value, type: Any) -> Value:
        return self._convert("bitcast", x, type)

    def ptrtoint(self, x: Value, type: Any) -> Value:
        return self._convert("ptrtoint", x, type)

    def inttoptr(self, x: Value, type: Any) -> Value:
        return self._convert("inttoptr", x, type)

    # -- vectors and structures -------------------------------------------------------------------------------------
    def extract_element(self, x: Value, index: Value) -> Value:
        return self._value(x.type.element, f"extractelement {x.typed}, {index.typed}")

    def insert_element(self, x: Value, element: Value, index: Value) -> Value:
        return self._value(x.type, f"insertelement {x.typed}, {element.typed}, {index.typed}")

    def shuffle_vector(self, x: Value, y: Value, lanes: Value) -> Value:
        return self._value(VectorType(x.type.element, lanes.type.count), f"shufflevector {x.typed}, {y.typed}, {lanes.typed}")

    def extract_value(self, x: Value, index: int) -> Value:
        return self._value(x.type.elements[index], f"extractvalue {x.typed}, {index}")

    # -- memory -----------------------------------------------------------------------------------------------------
    def alloca(self, type: Any, count: Value, align: int, pointer: Any) -> Value:
        return self._value(pointer, f"alloca {type.text}, {count.typed}, align {align}")

    def load(self, pointer: Value, type: Any, align: int, unwritten: bool = False) -> Value:
        """unwritten: nothing in the function stores there, which lets a load leave loops that store."""
        end = ", !invariant.load !{}" if unwritten else ""
        return self._value(type, f"load {type.text}, ptr {pointer.text}, align {align}{end}")

    def store(self, value: Value, pointer: Value, align: int | None = None, past_caches: bool = False) -> None:
        """Aligned as its type where nothing is said. What goes past the caches others read only after a `fence`."""
        end = ("" if align is None else f", align {align}") + (", !nontemporal !{i32 1}" if past_caches else "")
        self.block.lines.append(f"store {value.type.text} {value.text}, ptr {pointer.text}{end}")

    def fence(self) -> None:
        self.block.lines.append("fence seq_cst")

    def gep(self, pointer: Value, indices: Sequence[Value], source_etype: Any) -> Value:
        """One pointer, or a vector of them where the index is one."""
        t = indices[0].type
        result = VectorType(pointer.type, t.count) if isinstance(t, VectorType) else pointer.type
        return self._value(result, f"getelementptr {source_etype.text}, ptr {pointer.text}, {arguments(indices)}")

    # -- the rest ---------------------------------------------------------------------------------------------------
    def phi(self, type: Any) -> Phi:
        name = f"%v{self.function.names}"
        self.function.names += 1
        out = Phi(type, name)
        self.block.lines.append(out)
        return out

    def call(self, callee: Function | InlineAsm, args: Sequence[Value], flags: Sequence[str] = ()) -> Value:
        return self.call_through(callee.ftype, callee, args, flags)

    def call_through(self, ftype: Any, pointer: Value, args: Sequence[Value], flags: Sequence[str] = ()) -> Value:
        """Of the function that a pointer is of."""
        result = ftype.result
        text = f"call {''.join(f'{flag} ' for flag in flags)}{result.text} {pointer.text}({arguments(args)})"
        if result.text != "void":
            return self._value(result, text)
        self.block.lines.append(text)
        return Value(result, "")


def _number(x: Value) -> int | None:
    """The value of a scalar integer constant."""
    if type(x) is Constant and type(x.type) is IntType:
        found = x.constant
        return 0 if found is None else found if type(found) is int else None
    return None
