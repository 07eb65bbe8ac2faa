"""Attention of very few queries (decoding): lanes run along the elements of keys and values, so that memory is the limit.

With queries in lanes, as `strip.py` has them, a single query would leave most of each vector empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, PTR, vec
from .frame import Frame, Mask

_F32 = ir.FloatType()
_AHEAD = 64  # rows, of which the second-level cache then has a few pages on their way
_CHUNK = 4  # vectors of v at a time, in two sets of sums


class Narrow(Frame):
    """The function of a strip of few queries, one after the other within a block of keys."""

    def write(self) -> None:
        b, i, n = self.b, self.b.ir, self.lanes
        block = self.spec.schedule.most_keys
        most = self.spec.schedule.narrow
        self.whole = -(-self.spec.size // n)
        self.queries = self.room(most * self.whole * n)
        self.scores = self.room(block + n)
        self.sums = self.room(most * self.value_columns)
        self.top, self.total = self.room(most), self.room(most)
        self._start_queries()
        limit = self.limit()

        def walk(k0: Any, _: list[Any]) -> Sequence[Any]:
            count = b.smin(b.i64(block), i.sub(limit, k0))
            final = i.icmp_signed(">=", i.add(k0, b.i64(block)), limit)

            def query(s: Any, _: list[Any]) -> Sequence[Any]:
                best = self._scores(s, k0, count)
                old = self._number(self.top, s)
                top = i.select(i.fcmp_ordered(">", best, old), best, old)
                i.store(top, b.at(self.top, s, _F32), align=4)
                blind = i.fcmp_ordered("==", top, ir.Constant(_F32, float("-inf")))  # −∞ − −∞ would be NaN
                top = i.select(blind, ir.Constant(_F32, 0.0), top)
                fade = self.weight(b.splat(i.fsub(old, top), n))
                total = i.fadd(i.fmul(self._number(self.total, s), self._lane(fade)), self._weights(count, top))
                i.store(total, b.at(self.total, s, _F32), align=4)
                if self.tops is not None:
                    with i.if_then(final):
                        at = b.at(self.tops, s, _F32)
                        i.store(self.natural(self._number(self.top, s)), at, align=4)
                        i.store(total, b.at(at, self.p["totals"], _F32), align=4)
                inverse = i.select(blind, ir.Constant(_F32, 0.0), i.fdiv(ir.Constant(_F32, 1.0), total))
                for first in range(0, self.value_columns // n, _CHUNK):
                    self._values(s, k0, count, fade, b.splat(inverse, n), final, first)
                return ()

            b.loop(b.i64(0), self.count, b.i64(1), [], query)
            return ()

        b.loop(b.i64(0), b.smax(limit, b.i64(1)), b.i64(block), [], walk)
        i.ret_void()

    def _number(self, array: Any, at: Any) -> Any:
        return self.b.load(_F32, self.b.at(array, at, _F32), 4)

    def _lane(self, x: Any) -> Any:
        return self.b.ir.extract_element(x, ir.Constant(I32, 0))

    def _row(self, base: Any, index: Any, stride: str) -> Any:
        return self.b.at(base, self.b.ir.mul(index, self.p[stride]), _F32)

    def _part(self, row: Any, x: int, size: int) -> Any:
        """Vector x of a row of `size` elements, zero behind its end."""
        at = self.of(row, x)
        mask = self.tail(size) if (x + 1) * self.lanes > size else None
        return self.b.load(self.vector, at, 4) if mask is None else self.b.masked_load(self.vector, at, mask, 4)

    def _expect(self, row: Any, stride: str, lines: range, rows: int) -> None:
        """Ask for a row that comes `rows` later; where hardware is better at streams, further ahead, and for rows that lie apart only."""
        b, level = self.b, 1
        if self.spec.target.streams:
            if not (self.spec.keys_apart if stride == "k_row" else self.spec.values_apart):
                return
            rows, level = _AHEAD, 2
        later = b.at(row, b.ir.mul(self.p[stride], b.i64(rows)), _F32)
        for line in lines:
            b.prefetch(b.ir.gep(later, [b.i64(line)], source_etype=I8), level)

    def _start_queries(self) -> None:
        b, i, n = self.b, self.b.ir, self.lanes
        scale = self.math.const(self.score_scale, DType.F32)

        def query(s: Any, _: list[Any]) -> Sequence[Any]:
            row = self._row(self.q, i.add(self.first, s), "q_row")
            for x in range(self.whole):
                to = b.at(self.queries, i.add(i.mul(s, b.i64(self.whole * n)), b.i64(x * n)), _F32)
                i.store(i.fmul(self._part(row, x, self.spec.size), scale), to, align=4)
            for x in range(0, self.value_columns, n):
                to = b.at(self.sums, i.add(i.mul(s, b.i64(self.value_columns)), b.i64(x)), _F32)
                i.store(ir.Constant(self.vector, None), to, align=4)
            i.store(ir.Constant(_F32, float("-inf")), b.at(self.top, s, _F32), align=4)
            i.store(ir.Constant(_F32, 0.0), b.at(self.total, s, _F32), align=4)
            return ()

        b.loop(b.i64(0), self.count, b.i64(1), [], query)

    def _scores(self, s: Any, k0: Any, count: Any) -> Any:
        """Scores of query s with a block of keys; returns the greatest. As many keys at a time as there are lanes."""
        b, i, p, n, spec = self.b, self.b.ir, self.p, self.lanes, self.spec
        last = i.sub(count, b.i64(1))
        hidden = ir.Constant(self.vector, [float("-inf")] * n)
        own = [b.load(self.vector, b.at(self.queries, i.add(i.mul(s, b.i64(self.whole * n)), b.i64(x * n)), _F32), 4)
               for x in range(self.whole)]  # fmt: skip

        def group(t: Any, carried: list[Any]) -> Sequence[Any]:
            rows = [self._row(self.k, i.add(k0, b.smin(i.add(t, b.i64(r)), last)), "k_row") for r in range(n)]
            sums = []
            for row in rows:
                self._expect(row, "k_row", range(0, 4 * spec.size, 64), n)
                total = i.fmul(own[0], self._part(row, 0, spec.size))
                for x in range(1, self.whole):
                    total = self.math.call("fma", [own[x], self._part(row, x, spec.size), total], [DType.F32] * 3)
                sums.append(total)
            x = self._across(sums)
            inside = b.below(i.sub(count, t), n)
            key = i.add(k0, t)
            if spec.mask is not None:
                at = i.mul(key, p["m_key"])
                if spec.mask is Mask.QUERIES:
                    at = i.add(at, s)
                elif spec.mask is Mask.ROWS:
                    at = i.add(at, i.mul(s, p["m_row"]))
                steps = i.mul(b.iota(n), b.splat(p["m_key"], n))
                lanes = b.at(b.at(self.mask, at, _F32), steps, _F32)
                lanes.type = vec(PTR, n)
                name = f"llvm.masked.gather.v{n}f32.v{n}p0"
                x = i.fadd(x, b.call(name, self.vector, lanes, ir.Constant(I32, 4), inside, ir.Constant(self.vector, None)))
            if spec.causal:
                seen = i.add(i.add(self.first, s), p["seen"])
                inside = i.and_(inside, b.below(i.add(i.sub(seen, key), b.i64(1)), n))
            x = i.select(inside, x, hidden)
            i.store(x, b.at(self.scores, t, _F32), align=4)
            (best,) = carried
            return [i.select(i.fcmp_ordered(">", x, best), x, best)]

        (best,) = b.loop(b.i64(0), count, b.i64(n), [hidden], group)
        return self._reduce(best, lambda x, y: i.select(i.fcmp_ordered(">", x, y), x, y))

    def _across(self, rows: list[Any]) -> Any:
        """Lane r of the result: the sum of the lanes of rows[r]."""
        i, n = self.b.ir, self.lanes
        low = ir.Constant(vec(I32, n), [x for lane in range(n // 2) for x in (lane, n + lane)])
        high = ir.Constant(vec(I32, n), [x for lane in range(n // 2, n) for x in (lane, n + lane)])
        while len(rows) > 1:
            half = len(rows) // 2
            pairs = [(rows[r], rows[r + half]) for r in range(half)]
            rows = [i.fadd(i.shuffle_vector(x, y, low), i.shuffle_vector(x, y, high)) for x, y in pairs]
        return rows[0]

    def _reduce(self, x: Any, combine: Any) -> Any:
        """All lanes combined into one number."""
        i, lanes = self.b.ir, self.lanes
        while lanes > 1:
            lanes //= 2
            parts = [ir.Constant(vec(I32, lanes), list(range(start, start + lanes))) for start in (0, lanes)]
            low, high = (i.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), part) for part in parts)
            x = combine(low, high)
        return self._lane(x)

    def _weights(self, count: Any, top: Any) -> Any:
        """Scores become weights; returns their sum. Those behind the last key are 0."""
        b, i, n = self.b, self.b.ir, self.lanes
        highest = b.splat(top, n)

        def group(t: Any, carried: list[Any]) -> Sequence[Any]:
            at = b.at(self.scores, t, _F32)
            x = self.weight(i.fsub(b.load(self.vector, at, 4), highest))
            i.store(x, at, align=4)
            return [i.fadd(carried[0], x)]

        (total,) = b.loop(b.i64(0), count, b.i64(n), [ir.Constant(self.vector, None)], group)
        return self._reduce(total, i.fadd)

    def _values(self, s: Any, k0: Any, count: Any, fade: Any, inverse: Any, final: Any, first: int) -> None:
        """Vectors `first` … of the weighted sum of v, onto what there was."""
        b, i, n, size = self.b, self.b.ir, self.lanes, self.spec.value_size
        vectors = range(first, min(first + _CHUNK, self.value_columns // n))
        kept = [b.at(self.sums, i.add(i.mul(s, b.i64(self.value_columns)), b.i64(x * n)), _F32) for x in vectors]
        base = self._row(self.v, k0, "v_row")

        def keys(j: Any, sums: list[Any], several: int) -> list[Any]:
            out = list(sums)
            for u in range(several):
                key = i.add(j, b.i64(u))
                weight = b.splat(self._number(self.scores, key), n)
                row = self._row(base, key, "v_row")
                self._expect(row, "v_row", range(4 * n * first, 4 * n * (vectors[-1] + 1), 64), 16)
                for c, x in enumerate(vectors):
                    at = (u % 2) * len(vectors) + c
                    out[at] = self.math.call("fma", [weight, self._part(row, x, size), out[at]], [DType.F32] * 3)
            return out

        sums = [i.fmul(b.load(self.vector, at, 4), fade) for at in kept] + [ir.Constant(self.vector, None)] * len(vectors)
        even = i.and_(count, b.i64(-4))
        sums = b.loop(b.i64(0), even, b.i64(4), sums, lambda j, sums: keys(j, sums, 4))
        sums = b.loop(even, count, b.i64(1), sums, lambda j, sums: keys(j, sums, 1))
        done = [i.fadd(x, y) for x, y in zip(sums[: len(vectors)], sums[len(vectors) :], strict=True)]
        for at, x in zip(kept, done, strict=True):
            i.store(x, at, align=4)
        with i.if_then(final):
            line = self._row(self.out, s, "o_row")
            for c, x in enumerate(vectors):
                y, at = i.fmul(done[c], inverse), self.of(line, x)
                if (x + 1) * n > size:
                    b.masked_store(y, at, self.tail(size), 4)
                else:
                    i.store(y, at, align=4)
