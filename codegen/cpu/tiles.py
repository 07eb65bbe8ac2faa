"""AMX: eight tile registers of 16 rows by 64 bytes. A unit of work configures them, multiplies, and releases them."""

from __future__ import annotations

from typing import Any

from ...ir import DType
from . import llvm_ir as ir
from .build import I8, Builder
from .target import host

ROWS, BYTES = 16, 64
_APART = 8  # instructions that do nothing, behind each on tiles: a product takes the time of 96
_PRODUCT = {DType.U8: "tdpbusd", DType.BF16: "tdpbf16ps"}


class Tiles:
    """Intrinsics on numbered tile registers."""

    def __init__(self, b: Builder, a: DType) -> None:
        self.b, self.product = b, _PRODUCT[a]

    def configure(self) -> None:
        """All eight registers full size (palette 1)."""
        rows, columns = [ROWS] * 8, [BYTES, 0] * 8
        layout = [1, 0, *[0] * 14, *columns, *[0] * 16, *rows, *[0] * 8]
        module = self.b.module
        found = module.globals.get("tile_config")
        if found is None:
            t = ir.ArrayType(I8, 64)
            found = ir.GlobalVariable(module, "tile_config", ir.Constant(t, layout), align=64)
        self._call("ldtilecfg", self.b.ir.gep(found, [self.b.i64(0)], source_etype=I8))

    def release(self) -> None:
        self._call("tilerelease")

    def zero(self, tile: int) -> None:
        self._call("tilezero", _number(tile))

    def load(self, tile: int, ptr: Any, stride: Any) -> None:
        self._call("tileloadd64", _number(tile), ptr, stride)
        self._apart()

    def store(self, tile: int, ptr: Any, stride: Any) -> None:
        self._call("tilestored64", _number(tile), ptr, stride)

    def multiply(self, acc: int, a: int, b: int) -> None:
        self._call(self.product, _number(acc), _number(a), _number(b))
        self._apart()

    def _apart(self) -> None:
        """Products wait for each other where the processor's other thread is busy, twice as long if nothing is between them."""
        if host().is_x86:  # LLVM reads instructions as text for processors of this machine's kind
            nothing = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), f".rept {_APART}; nop; .endr", "")
            self.b.ir.call(nothing, [])

    def _call(self, name: str, *args: Any) -> None:
        self.b.call(f"llvm.x86.{name}", ir.VoidType(), *args)


def _number(tile: int) -> Any:
    return ir.Constant(I8, tile)
