"""Where the levels, scales and zeros of a strip of columns are in the stream of weights, and how they come into registers."""

from __future__ import annotations

from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, Builder, storage, vec
from ..math.minifloat import decode
from .frame import Frame

F32 = ir.FloatType()
_LINE = 64  # bytes of a line of cache


class Strip:
    """Columns from `column` on of the weights at `weights`; `p` has the sizes of blocks in words."""

    def __init__(self, b: Builder, f: Frame, p: dict[str, Any], weights: Any, column: Any) -> None:
        self.b, self.blocks, self.s, self.target, self.p = b, f.blocks, f.schedule, f.target, p
        i, panel = b.ir, b.i64(f.blocks.panel)
        self.inside = b.i64(0) if f.columns == f.blocks.panel else i.urem(column, panel)
        self.first = b.at(weights, i.mul(i.udiv(column, panel), i.mul(p["groups"], p["block"])), I32)

    def block(self, g: Any) -> Any:
        """The block of group g."""
        return self.b.at(self.first, self.b.ir.mul(g, self.p["block"]), I32)

    def levels(self, block: Any, word: Any, v: int) -> Any:
        """Words of levels of vector v, `word` of the group."""
        return self.b.load(vec(I32, self.s.lanes), self._word(block, word, v * self.s.lanes), 4)

    def scale(self, block: Any, v: int) -> Any:
        """Scales of vector v as floats."""
        return self._floats(block, self.p["scales"], self.blocks.scale, v)

    def zero(self, block: Any, v: int) -> Any:
        """Zeros of vector v as floats, or None where all are one number."""
        return None if self.blocks.zero is None else self._floats(block, self.p["zeros"], self.blocks.zero, v)

    def prefetch_levels(self, block: Any, word: Any, ahead: int) -> None:
        """What lies `ahead` words behind a line of levels."""
        far = self._word(block, word, ahead)
        self._prefetch(far, self.s.lanes * self.s.vectors * 4)

    def prefetch_scales(self, block: Any, ahead: int) -> None:
        """What lies `ahead` words behind the scales and zeros."""
        b, columns = self.b, self.s.lanes * self.s.vectors
        far = b.at(block, b.ir.add(self.p["scales"], b.i64(ahead)), I32)
        self._prefetch(b.at(far, self.inside, storage(self.blocks.scale)), columns * self.blocks.scale.itemsize)
        if self.blocks.zero is not None:
            far = b.at(block, b.ir.add(self.p["zeros"], b.i64(ahead)), I32)
            self._prefetch(b.at(far, self.inside, storage(self.blocks.zero)), columns * self.blocks.zero.itemsize)

    def _word(self, block: Any, word: Any, offset: int) -> Any:
        b, i = self.b, self.b.ir
        line = i.add(i.mul(word, b.i64(self.blocks.panel)), self.inside)
        return b.at(block, i.add(line, b.i64(offset)), I32)

    def _prefetch(self, ptr: Any, size: int) -> None:
        for at in range(0, size, _LINE):
            self.b.prefetch(self.b.at(ptr, self.b.i64(at), I8))

    def _floats(self, block: Any, at: Any, dtype: DType, v: int) -> Any:
        b, i, lanes = self.b, self.b.ir, self.s.lanes
        t, floats = storage(dtype), vec(F32, lanes)
        place = b.at(b.at(block, at, I32), i.add(self.inside, b.i64(v * lanes)), t)
        x = b.load(vec(t, lanes), place, dtype.itemsize)
        match dtype:
            case DType.F32:
                return x
            case DType.F16:
                return i.fpext(x, floats) if self.target.half else decode(b, x, DType.F16)
            case _:
                return i.sitofp(i.zext(x, vec(I32, lanes)), floats)
