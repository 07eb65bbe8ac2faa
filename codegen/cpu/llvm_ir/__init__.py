"""LLVM's text form, written as it is built.

llvmlite.ir has the same names, but keeps every instruction as objects whose text is assembled at the end, with names checked and
constants wrapped element by element: emission took four times as long, and was most of a compilation.
"""

from .builder import IRBuilder
from .types import (
    ArrayType,
    BFloatType,
    DoubleType,
    FloatType,
    FunctionType,
    HalfType,
    IntType,
    LiteralStructType,
    PointerType,
    Type,
    VectorType,
    VoidType,
)
from .values import Block, Constant, Function, GlobalVariable, InlineAsm, Module, Phi, Undefined, Value

__all__ = [
    "ArrayType",
    "BFloatType",
    "Block",
    "Constant",
    "DoubleType",
    "FloatType",
    "Function",
    "FunctionType",
    "GlobalVariable",
    "HalfType",
    "IRBuilder",
    "InlineAsm",
    "IntType",
    "LiteralStructType",
    "Module",
    "Phi",
    "PointerType",
    "Type",
    "Undefined",
    "Value",
    "VectorType",
    "VoidType",
]  # fmt: skip
