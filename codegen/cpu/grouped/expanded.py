"""Many rows by weights of few bits: a strip of weights becomes floats once, and is then multiplied like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I64, PTR, subroutine, vec
from ..product import Product
from ..shelf import Shelf
from ..tiles import ROWS
from .frame import Frame, Results
from .strip import Strip
from .tiles import Split

F32 = ir.FloatType()


class Expanded:
    """Functions of one module: `expand` fills a scratch [K, strip] with (level − zero)·scale, `tiles` multiply by it."""

    def __init__(self, f: Frame, split: Split | None) -> None:
        """`split` takes the weights, where there are AMX tiles."""
        self.f, self.s, self.split = f, f.schedule, split
        self.vector = vec(F32, f.schedule.lanes)

    def expand(self) -> ir.Function:
        """void expand(bufs, dims, column, scratch, half, begin, end): words [begin, end) of the strip; `half` is where low parts begin,
        on AMX tiles."""
        f, s, each = self.f, self.s, self.f.each
        b = subroutine(self.f.module, "expand", [PTR, PTR, I64, PTR, I64, I64, I64])
        i = b.ir
        bufs, dims, column, scratch, half, begin, end = b.fn.args
        p = b.params(dims, f.size)
        strip = Strip(b, f, p, b.operand(bufs, 1), column)

        def group(g: Any, _: list[Any]) -> Sequence[Any]:
            first = i.mul(g, p["group"])
            stop = b.smin(i.add(first, p["group"]), end)
            block = strip.block(g)
            factor = [strip.scale(block, v) for v in range(s.vectors)]
            off: list[Any] | None = [strip.zero(block, v) for v in range(s.vectors)]
            if f.kernel.zero is not None:
                off = [ir.Constant(self.vector, float(f.kernel.zero))] * s.vectors if f.levels.needs_sums else None

            def word(w: Any, _: list[Any]) -> Sequence[Any]:
                place = i.sub(w, begin)
                packed = [strip.levels(block, i.sub(w, first), v) for v in range(s.vectors)]

                def weights(v: int, j: int) -> Any:
                    x = f.levels.floats(b, i.lshr(packed[v], ir.Constant(packed[v].type, j * f.kernel.bits)))
                    return i.fmul(x if off is None else i.fsub(x, off[v]), factor[v])

                if self.split is not None:
                    for j in range(0, each, 2):
                        pairs = [(weights(v, j), weights(v, j + 1)) for v in range(s.vectors)]
                        row = i.add(i.mul(place, b.i64(each // 2)), b.i64(j // 2))
                        self.split.store_weights(b, scratch, half, row, pairs)
                    return ()
                out = b.at(scratch, i.mul(place, b.i64(each * s.lanes * s.vectors)), F32)
                for v in range(s.vectors):
                    for j in range(each):
                        i.store(weights(v, j), b.at(out, b.i64((j * s.vectors + v) * s.lanes), F32), align=4)
                return ()

            b.loop(b.smax(first, begin), stop, b.i64(1), [], word)
            return ()

        after = i.udiv(i.add(end, i.sub(p["group"], b.i64(1))), p["group"])
        b.loop(i.udiv(begin, p["group"]), after, b.i64(1), [], group)
        if self.split is not None:
            pairs = i.mul(i.sub(end, begin), b.i64(each // 2))
            self.split.clear(b, scratch, half, pairs, i.and_(i.add(pairs, b.i64(ROWS - 1)), b.i64(-ROWS)))
        i.ret_void()
        return b.fn

    def tile(self, height: int, masked: bool) -> ir.Function:
        """void tile(bufs, dims, row, row_end, column, scratch): whole tiles of rows by the strip."""
        f, s = self.f, self.s
        b = subroutine(self.f.module, f"wide{height}{'t' if masked else ''}", [PTR, PTR, I64, I64, I64, PTR])
        i = b.ir
        bufs, dims, row, row_end, column, scratch = b.fn.args
        p = b.params(dims, f.size)
        operands = b.operands(bufs, len(f.kernel.operands))
        results = Results(b, f, p, dims, operands, column, masked)
        product = Product(DType.F32, DType.F32, s.lanes, f.columns, 4, False, f.target)
        shelf = Shelf(b, self.vector, height, s.vectors) if f.epilogue.long else None

        def tile(at: Any, _: list[Any]) -> Sequence[Any]:
            starts = [b.at(operands[0], i.mul(i.add(at, b.i64(r)), p["lda"]), F32) for r in range(height)]
            acc = [ir.Constant(self.vector, None)] * (height * s.vectors)
            acc = product.accumulate(b, p["k"], starts, scratch, acc, s.vectors)
            if shelf is None:
                for r in range(height):
                    results.store(i.add(at, b.i64(r)), acc[r * s.vectors : (r + 1) * s.vectors])
                return ()
            for x, value in enumerate(acc):
                shelf.put(b.i64(x), value)
            results.store_rows(at, height, shelf)
            return ()

        b.loop(row, row_end, b.i64(height), [], tile)
        i.ret_void()
        return b.fn
