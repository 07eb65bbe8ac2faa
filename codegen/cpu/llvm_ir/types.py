"""Types of LLVM, as text: https://llvm.org/docs/LangRef.html#type-system. Equal text is the same type."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any


class Type:
    """`mangled` is how the name of an overloaded intrinsic spells it."""

    __slots__ = ("mangled", "text")
    zero = "zeroinitializer"

    def __init__(self, text: str, mangled: str = "") -> None:
        self.text, self.mangled = text, mangled

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Type) and self.text == other.text)

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def constant(self, value: Any) -> str:
        """Text of a constant of the type, which is not written before it."""
        raise TypeError(f"a constant of type {self.text}")


class VoidType(Type):
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("void")


class PointerType(Type):
    __slots__ = ()
    zero = "null"

    def __init__(self) -> None:
        super().__init__("ptr", "p0")


class IntType(Type):
    __slots__ = ("width",)
    zero = "0"

    def __init__(self, width: int) -> None:
        super().__init__(f"i{width}", f"i{width}")
        self.width = width

    def constant(self, value: Any) -> str:
        return str(int(value))


class _Real(Type):
    """Constants are written as the bits of the double that equals them."""

    __slots__ = ()
    zero = "0.0"
    rounding = "d"  # struct's code of the type

    def constant(self, value: Any) -> str:
        value = float(value)
        if self.rounding != "d":
            (value,) = struct.unpack(self.rounding, struct.pack(self.rounding, value))
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016x}"


class DoubleType(_Real):
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("double", "f64")


class FloatType(_Real):
    __slots__ = ()
    rounding = "f"

    def __init__(self) -> None:
        super().__init__("float", "f32")


class HalfType(_Real):
    __slots__ = ()
    rounding = "e"

    def __init__(self) -> None:
        super().__init__("half", "f16")


class BFloatType(Type):
    """Held as i16; no constants."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("bfloat", "bf16")


class VectorType(Type):
    __slots__ = ("count", "element")

    def __init__(self, element: Type, count: int) -> None:
        super().__init__(f"<{count} x {element.text}>", f"v{count}{element.mangled}")
        self.element, self.count = element, count

    def constant(self, value: Any) -> str:
        """Of one number for all lanes, or one for each."""
        one = self.element.text
        if not isinstance(value, list | tuple):
            return f"splat ({one} {self.element.constant(value)})"
        if len(value) != self.count:
            raise ValueError(f"{len(value)} elements in a {self.text}")
        parts = [self.element.constant(v) for v in value]
        if parts.count(parts[0]) == self.count:
            return f"splat ({one} {parts[0]})"
        return f"<{one} " + f", {one} ".join(parts) + ">"


class ArrayType(Type):
    __slots__ = ("count", "element")

    def __init__(self, element: Type, count: int) -> None:
        super().__init__(f"[{count} x {element.text}]")
        self.element, self.count = element, count

    def constant(self, value: Any) -> str:
        assert isinstance(value, list | tuple)
        return "[" + ", ".join(f"{self.element.text} {self.element.constant(v)}" for v in value) + "]"


class LiteralStructType(Type):
    __slots__ = ("elements",)

    def __init__(self, elements: Sequence[Type]) -> None:
        super().__init__("{" + ", ".join(t.text for t in elements) + "}")
        self.elements = tuple(elements)


class FunctionType(Type):
    __slots__ = ("args", "result")

    def __init__(self, result: Type, args: Sequence[Type]) -> None:
        super().__init__(f"{result.text} ({', '.join(t.text for t in args)})")
        self.result, self.args = result, tuple(args)
