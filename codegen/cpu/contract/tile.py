"""The register tile of vector products: some rows of A by one strip of packed B, with their sums in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from .. import llvm_ir as ir
from ..build import I8, I64, PTR, storage, subroutine
from ..product import LINE
from ..shelf import Shelf
from ..shuffles import low, shuffle
from .parts import ProductParts


class RegisterTile:
    """void tile(bufs, dims, batch, row, row_end, column, block_start, k0, k1, partial, share): row tiles of one strip.

    Steps [k0, k1) of k (of taps, for convolutions); sums rest in `partial` [row − block_start][pitch] between calls.
    """

    def __init__(self, product: ProductParts, height: int, vectors: int, masked: bool) -> None:
        self.of, self.height, self.vectors, self.masked = product, height, vectors, masked
        k, s = product.kernel, product.schedule
        self.pitch, self.half = s.lanes * product.widest, masked and s.half
        self.product = product.last if masked and k.last else product.product
        self.rows_apart = bool(k.b_row)
        self.out = storage(k.operands[-1].dtype)
        b = self.b = subroutine(product.module, f"{height}x{vectors}{'t' if masked else ''}", [PTR, PTR, *[I64] * 7, PTR, I64])
        i = b.ir
        bufs, dims, batch, self.row, self.row_end, column, self.block_start, self.k0, self.k1, self.partial, self.share = b.fn.args
        p = self.p = b.params(dims, product.size)
        if masked and k.last:
            p["b_step"] = i.mul(i.udiv(p["b_step"], b.i64(k.panel)), b.i64(k.last))
        if product.abreast is not None:  # columns are those of all groups, of one vector each
            batch, column = i.udiv(column, b.i64(product.schedule.lanes)), b.i64(0)
        pointers = b.operands(bufs, len(k.operands))
        a = b.at(pointers[0], i.mul(batch, p["a_batch"]), storage(product.dtype))
        self._find_strip(pointers[1], batch, column)
        if product.planes is not None:  # results wait in `partial`, too
            self.c, self.c_row = self.partial, b.i64(self.pitch)
        else:
            self.c, self.c_row = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), self.out), p["ldc"]
        self.c_first: Any = None if product.planes is None else self.block_start
        self.masks = self._masks(i.sub(p["n"], column)) if masked and product.abreast is None else [None] * vectors
        self.epilogue = product.epilogue.begin(b, dims, pointers, batch, column, self.masks)
        # A long epilogue runs row by row from the stack: unrolled over the tile it would be mostly compile time.
        self.shelf = Shelf(b, product.vector, height, vectors) if product.epilogue.long and height > 1 else None
        if product.schedule.gradual:
            self.cold = i.zext(i.icmp_signed("==", column, b.i64(0)), I64)
            self.next_rows = i.mul(p["lda"], b.i64(height * product.dtype.itemsize))
        self.rows = product.rows.begin(b, dims, p, a, height, storage(product.dtype), product.dtype)

    def _find_strip(self, packed: Any, batch: Any, column: Any) -> None:
        """Where B is at step k0, and how many bytes of it the steps take."""
        b, i, p, dtype, panel = self.b, self.b.ir, self.p, self.of.dtype, self.of.kernel.panel
        width = b.i64(panel)
        inner = i.urem(column, width) if panel != self.of.strip else b.i64(0)
        if self.rows_apart:
            start, step = i.add(i.mul(batch, p["b_batch"]), column), p["b_row"]
        else:
            start = i.add(i.add(i.mul(batch, p["b_batch"]), i.mul(i.sub(column, inner), p["k"])), inner)
            step = p["b_step"]
        self.b_strip = b.at(packed, i.add(start, i.mul(self.k0, step)), storage(dtype))
        self.b_bytes = i.mul(i.mul(i.sub(self.k1, self.k0), step), b.i64(dtype.itemsize))

    def _masks(self, live: Any) -> list[Any]:
        """Of the columns: where the tail is known, only the last vector has one."""
        lanes, known = self.of.schedule.lanes, self.of.schedule.tail > 0
        return [None if known and v < self.vectors - 1 else self.b.below(live, lanes, v * lanes) for v in range(self.vectors)]

    def write(self) -> ir.Function:
        return self.b.whole(self.row, self.row_end, self.b.i64(self.height), self._tile)

    def _tile(self, first: Any, _: list[Any]) -> Sequence[Any]:
        """Rows [first, first + height); behind row_end the last one is computed again, and not stored."""
        b, i, s = self.b, self.b.ir, self.of.schedule
        last = i.sub(self.row_end, b.i64(1))
        indices = [first] + [b.smin(i.add(first, b.i64(r)), last) for r in range(1, self.height)]
        start = i.sub(first, self.block_start)
        sums = b.at(self.partial, i.mul(start, b.i64(self.pitch)), self.of.acc)
        if not s.gradual:
            self._prefetch(indices)
        acc = self._multiply(indices, start, self._initial(sums))
        if not s.split:
            self._finish(first, indices, acc)
            return ()
        with i.if_else(i.icmp_signed("<", self.k1, self.p["k_steps"])) as (more, done):
            with more:
                self._keep(first, sums, acc)
            with done:
                self._finish(first, indices, acc)
        return ()

    def _prefetch(self, indices: list[Any]) -> None:
        """What the epilogue reads of these rows, and the lines that it writes, unless more steps of k follow: multiply-adds hide
        the wait for them, the epilogue would not."""
        i = self.b.ir
        with i.if_then(i.icmp_signed(">=", self.k1, self.p["k_steps"])) if self.of.schedule.split else nullcontext():
            for m in indices:
                self._prefetch_row(m)

    def _prefetch_row(self, m: Any) -> None:
        b, i = self.b, self.b.ir
        self.epilogue.prefetch(m)
        if self.of.planes is not None:
            return  # they are written from `partial`
        at = b.at(self.c, i.mul(m, self.c_row), self.out)
        for v in range(self.vectors):  # the strip before has had the line that it shares with this one
            b.prefetch(b.at(at, b.i64((v + 1) * self.of.schedule.lanes - 1), self.out), write=True)

    def _asking(self, indices: list[Any], starts: list[Any]) -> Callable[[Any], None]:
        """The same a row at a time, beside the steps of k: all lines at once would keep those of B waiting. And in the first strip,
        lines of the next tile's rows of A, which no strip before has brought to the second-level cache."""
        b, i, s = self.b, self.b.ir, self.of.schedule
        size, unroll = self.of.dtype.itemsize, self.product.unroll

        def ask(at: Any) -> None:
            row = i.udiv(at, b.i64(unroll))
            more = i.icmp_unsigned("<", row, b.i64(self.height))
            if s.split:
                more = i.and_(more, i.icmp_signed(">=", self.k1, self.p["k_steps"]))
            with i.if_then(more):
                self._prefetch_row(b.smin(i.add(indices[0], row), indices[-1]))
            with i.if_then(i.icmp_unsigned("<", i.and_(at, b.i64(LINE // size - unroll)), self.cold)):
                far = i.add(i.mul(at, b.i64(size)), self.next_rows)
                for start in starts:
                    b.prefetch(i.gep(start, [far], source_etype=I8), 2)

        return ask

    def _initial(self, sums: Any) -> list[Any]:
        """Accumulators: zero, or the partial sums of the earlier steps of k."""
        b, i, s, vector = self.b, self.b.ir, self.of.schedule, self.of.vector
        zero = ir.Constant(vector, None)
        fresh = i.icmp_signed("==", self.k0, b.i64(0))
        if not s.split:
            return [zero] * (self.height * self.vectors)
        before = i.block
        with i.if_then(i.not_(fresh)):
            kept = [
                b.load(vector, b.at(sums, b.i64(r * self.pitch + v * s.lanes), self.of.acc), s.acc.itemsize)
                for r in range(self.height)
                for v in range(self.vectors)
            ]
            inside = i.block
        return [b.merge((zero, before), (x, inside)) for x in kept]

    def _multiply(self, indices: list[Any], start: Any, acc: list[Any]) -> list[Any]:
        """acc + A[indices] · B, over the steps, `start` rows into the block. Its first tiles ask for what they share of the next strip."""
        b, s, product = self.b, self.of.schedule, self.product
        ahead = None
        if s.prefetch and (not self.masked or s.split):  # behind the last strip there is none
            ahead = product.ahead(b, self.b_bytes, self.b_strip, b.ir.udiv(start, b.i64(self.height)), self.share)

        def accumulate(length: Any, starts: list[Any], b_ptr: Any, acc: list[Any]) -> list[Any]:
            if self.of.abreast is not None:
                strips = [b.at(b_ptr, b.ir.mul(self.p["b_batch"], b.i64(v)), storage(self.of.dtype)) for v in range(self.vectors)]
                return self.of.abreast.accumulate(b, length, starts, strips, acc)
            if self.rows_apart:
                return product.accumulate(b, length, starts, b_ptr, acc, self.vectors, row=self.p["b_row"], masks=self.masks)
            if self.of.diagonal is not None:
                return self.of.diagonal.accumulate(b, starts, b_ptr, acc, self.vectors)
            ask = self._asking(indices, starts) if s.gradual else None
            return product.accumulate(b, length, starts, b_ptr, acc, self.vectors, ahead, half=self.half, ask=ask)

        return self._whole(self.rows.tile(indices, self.b_strip, (self.k0, self.k1), self._halved(acc), accumulate))

    def _halved(self, acc: list[Any]) -> list[Any]:
        """Sums whose last vector of each row is half as wide, where the schedule says so."""
        lanes = self.of.schedule.lanes // 2
        return [low(self.b, x, lanes) if self.half and (at + 1) % self.vectors == 0 else x for at, x in enumerate(acc)]

    def _whole(self, acc: list[Any]) -> list[Any]:
        """The reverse: zeros behind them."""
        lanes = self.of.schedule.lanes
        return [x if x.type.count == lanes else shuffle(self.b, x, ir.Constant(x.type, None), range(lanes)) for x in acc]

    def _keep(self, first: Any, sums: Any, acc: list[Any]) -> None:
        """Partial sums, for the steps that follow."""
        b, i = self.b, self.b.ir
        for x, value in enumerate(acc):
            r, v = divmod(x, self.vectors)
            at = b.at(sums, b.i64(r * self.pitch + v * self.of.schedule.lanes), self.of.acc)
            if r == 0:
                i.store(value, at, align=self.of.dtype.itemsize)
                continue
            with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), self.row_end)):
                i.store(value, at, align=self.of.dtype.itemsize)

    def _finish(self, first: Any, indices: list[Any], acc: list[Any]) -> None:
        """The epilogue of all rows of the tile."""
        b, i, vectors = self.b, self.b.ir, self.vectors
        if self.shelf is not None:
            for x, value in enumerate(acc):
                self.shelf.put(b.i64(x), value)
            left = b.smin(i.sub(self.row_end, first), b.i64(self.height))
            self.shelf.each(left, lambda r, sums: self._finish_row(i.add(first, r), sums))
            return
        self._finish_row(first, acc[:vectors])
        for r in range(1, self.height):
            with i.if_then(i.icmp_signed("<", i.add(first, b.i64(r)), self.row_end)):
                self._finish_row(indices[r], acc[r * vectors : (r + 1) * vectors])

    def _finish_row(self, m: Any, sums: Sequence[Any]) -> None:
        i = self.b.ir
        at = m if self.c_first is None else i.sub(m, self.c_first)
        self.epilogue.row(m, sums, self.b.at(self.c, i.mul(at, self.c_row), self.out))
