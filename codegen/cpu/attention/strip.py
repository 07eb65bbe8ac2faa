"""A strip of queries against all keys: queries in lanes, blocks of keys, a running maximum and sum (online softmax)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I8, I32, I64, PTR, Builder, vec
from ..product import Product
from ..shuffles import turned
from .frame import Frame, Mask, Spec
from .schedule import ValueTile

_F32 = ir.FloatType()
_MOST = 2.0**30  # sum of a block's weights by the maximum of earlier blocks, up to which none needs to be known anew


class Layout:
    """Where the state of a strip of at most `width` vectors lies in its scratch memory: offsets in elements, and their `total`."""

    def __init__(self, spec: Spec, width: int) -> None:
        columns, rest = width * spec.schedule.lanes, max(tile.rows for tile in spec.schedule.values)
        self.total = 0
        self.queries = self._take(-(-spec.size // spec.schedule.lanes) * spec.schedule.lanes * columns)
        self.sums = self._take((columns + rest) * spec.value_columns)
        self.top, self.sum, self.fade, self.inverse, self.added = (self._take(columns + rest) for _ in range(5))

    def _take(self, elements: int) -> int:
        at = self.total
        self.total += -(-elements // 16) * 16
        return at


STATE, BLOCK = [PTR], [PTR, PTR, I64, PTR, PTR, I64, I64, I1]


class Strip(Frame):
    """The functions of a strip of `width` vectors: `start`, and for each block of keys scores, weights and the product with v.

    Further arguments of `start`: its state; of `block`: its state, k and the elements between its rows, room for scores, v
    and the elements between its rows, the first key, whether this strip is the first to read the block. k and v point to the first row of
    the block.
    """

    def __init__(self, b: Builder, spec: Spec, layout: Layout, width: int, tall: int) -> None:
        super().__init__(b, spec)
        self.width, self.tall, self.columns = width, tall, width * self.lanes
        state = b.fn.args[6]
        self.queries, self.sums, self.top, self.total, self.fade, self.inverse, self.added = (
            b.at(state, b.i64(x), _F32)
            for x in (layout.queries, layout.sums, layout.top, layout.sum, layout.fade, layout.inverse, layout.added)
        )
        self.inside = [b.below(self.count, self.lanes, v * self.lanes) for v in range(width)]

    def _load(self, array: Any, v: int) -> Any:
        return self.b.load(self.vector, self.of(array, v), 4)

    def start(self) -> None:
        self._pack()
        for v in range(self.width):
            self.b.ir.store(ir.Constant(self.vector, [float("-inf")] * self.lanes), self.of(self.top, v), align=4)
            self.b.ir.store(ir.Constant(self.vector, None), self.of(self.total, v), align=4)
        self.b.ir.ret_void()

    def block(self, values: dict[ValueTile, ir.Function]) -> None:
        b, i, p = self.b, self.b.ir, self.p
        keys, key_row, self.scores, rows, row, k0, self.unread = b.fn.args[7:]
        limit = self.limit()
        count = b.smin(p["block"], i.sub(limit, k0))
        final = i.icmp_signed(">=", i.add(k0, p["block"]), limit)
        found: Any = ir.Constant(I1, 0)
        if self.spec.later and self.width > 1:  # tiles of one vector wait for loads, not for multiply-adds
            found = self._at_once(k0, count, keys, key_row)
            with i.if_then(i.not_(found)):
                self._scores(k0, count, keys, key_row)
                self._weights(count)
        else:
            self._scores(k0, count, keys, key_row)
            self._weights(count)
        with i.if_then(final):
            self._inverse()
        chunk = 0
        for tile in self.spec.schedule.values:
            i.call(values[tile], [
                self.scores, b.i64(self.columns), b.at(rows, b.i64(chunk), _F32), row, count, self.count,
                b.at(self.sums, b.i64(chunk), _F32), self.fade, self.inverse, b.at(self.out, b.i64(chunk), _F32), p["o_row"],
                i.icmp_signed("==", k0, b.i64(0)), i.not_(found), final,
            ])  # fmt: skip
            chunk += tile.vectors * self.lanes
        i.ret_void()

    def _pack(self) -> None:
        """queries[d][query] = q[first + query][d] · scale, from square tiles turned in registers."""
        b, i, n = self.b, self.b.ir, self.lanes
        last = i.sub(self.count, b.i64(1))
        scale = self.math.const(self.score_scale, DType.F32)

        def group(g: Any, _: list[Any]) -> Sequence[Any]:
            rows = [b.at(self.q, i.mul(i.add(self.first, b.smin(i.add(g, b.i64(r)), last)), self.p["q_row"]), _F32) for r in range(n)]

            def tile(d: Any, mask: Any) -> None:
                at = [b.at(row, d, _F32) for row in rows]
                got = [b.load(self.vector, x, 4) if mask is None else b.masked_load(self.vector, x, mask, 4) for x in at]
                for j, x in enumerate(turned(b, [i.fmul(x, scale) for x in got])):
                    out = b.at(self.queries, i.add(i.mul(i.add(d, b.i64(j)), b.i64(self.columns)), g), _F32)
                    i.store(x, out, align=4)

            whole = self.spec.size // n * n

            def step(d: Any, _: list[Any]) -> Sequence[Any]:
                tile(d, None)
                return ()

            if whole:
                b.loop(b.i64(0), b.i64(whole), b.i64(n), [], step)
            if self.spec.size > whole:
                tile(b.i64(whole), self.tail(self.spec.size))
            return ()

        b.loop(b.i64(0), b.i64(self.columns), b.i64(n), [], group)

    def _at_once(self, k0: Any, count: Any, keys: Any, key_row: Any) -> Any:
        """Weights by the maximum of earlier blocks, while scores are in registers. Whether that was done: not if a query has seen no
        key before, or if weights are so large (or not numbers) that the maximum has to be known.
        """
        b, i = self.b, self.b.ir
        none, most = (ir.Constant(self.vector, [x] * self.lanes) for x in (float("-inf"), _MOST))
        before = i.block
        with i.if_then(i.not_(self._some(i.fcmp_ordered("==", self._load(self.top, v), none) for v in range(self.width)))):
            for v in range(self.width):
                i.store(ir.Constant(self.vector, None), self.of(self.added, v), align=4)
            known = [i.fneg(self._load(self.top, v)) for v in range(self.width)]
            self._each_tile(k0, count, keys, key_row, known, lambda t, acc: self._weigh(t, count, acc))
            fine = i.not_(self._some(i.fcmp_unordered(">", self._load(self.added, v), most) for v in range(self.width)))
            with i.if_then(fine):
                for v in range(self.width):
                    i.store(i.fadd(self._load(self.total, v), self._load(self.added, v)), self.of(self.total, v), align=4)
            inside = i.block
        return b.merge((ir.Constant(I1, 0), before), (fine, inside))

    def _some(self, lanes: Iterable[Any]) -> Any:
        """Whether any of these lanes is true."""
        return self.b.call(f"llvm.vector.reduce.or.v{self.lanes}i1", I1, functools.reduce(self.b.ir.or_, lanes))

    def _weigh(self, t: Any, count: Any, acc: Sequence[Any]) -> None:
        """Scores of a tile become weights; sums leave out keys of the last tile that are there twice."""
        b, i = self.b, self.b.ir
        whole = ir.IntType(self.lanes)
        added = [self._load(self.added, v) for v in range(self.width)]
        for r in range(self.tall):
            key = i.add(t, b.i64(r))
            own = i.bitcast(i.sext(i.icmp_signed("<", key, count), whole), vec(I1, self.lanes))
            at = b.at(self.scores, i.mul(key, b.i64(self.columns)), _F32)
            for v in range(self.width):
                x = self.weight(acc[r * self.width + v])
                i.store(x, self.of(at, v), align=4)
                added[v] = i.select(own, i.fadd(added[v], x), added[v])
        for v in range(self.width):
            i.store(added[v], self.of(self.added, v), align=4)

    def _scores(self, k0: Any, count: Any, rows: Any, row: Any) -> None:
        """scores[key][query] of a block, and the new maximum of each query. Keys of the last tile may repeat the last key."""
        b, i = self.b, self.b.ir
        for v in range(self.width):
            i.store(self._load(self.top, v), self.of(self.fade, v), align=4)  # the maximum before this block

        def keep(t: Any, acc: Sequence[Any]) -> None:
            top = [self._load(self.top, v) for v in range(self.width)]
            for r in range(self.tall):
                at = b.at(self.scores, i.mul(i.add(t, b.i64(r)), b.i64(self.columns)), _F32)
                for v in range(self.width):
                    x = acc[r * self.width + v]
                    i.store(x, self.of(at, v), align=4)
                    top[v] = i.select(i.fcmp_ordered(">", x, top[v]), x, top[v])
            for v in range(self.width):
                i.store(top[v], self.of(self.top, v), align=4)

        self._each_tile(k0, count, rows, row, [ir.Constant(self.vector, None)] * self.width, keep)

    def _each_tile(
        self, k0: Any, count: Any, rows: Any, row: Any, initial: Sequence[Any], finish: Callable[[Any, Sequence[Any]], None]
    ) -> None:
        """`finish`(first key, `initial` + scores) of each tile of keys; those behind the last key are that key's again."""
        b, i, p, spec = self.b, self.b.ir, self.p, self.spec
        product = Product(DType.F32, DType.F32, self.lanes, self.columns, 4, spec.size % 4 == 0, spec.target)
        last = i.sub(count, b.i64(1))
        hidden = ir.Constant(self.vector, [float("-inf")] * self.lanes)
        if spec.causal:  # lane + its query's last key, as int32
            to = i.trunc(i.add(self.first, p["seen"]), I32)
            seen = [
                i.add(b.splat(to, self.lanes), ir.Constant(vec(I32, self.lanes), [v * self.lanes + x for x in range(self.lanes)]))
                for v in range(self.width)
            ]

        if spec.mask is Mask.ROWS:
            self._turn_mask(k0, count)

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            inside = [b.smin(i.add(t, b.i64(r)), last) for r in range(self.tall)]
            starts, keys = [b.at(rows, i.mul(x, row), _F32) for x in inside], [i.add(k0, x) for x in inside]
            if not spec.copied_keys:
                with i.if_then(self.unread):  # ask for the rows of the next tile
                    for start in starts:
                        ahead = b.at(start, i.mul(row, b.i64(self.tall)), _F32)
                        for line in range(0, 4 * spec.size, 64):
                            b.prefetch(i.gep(ahead, [b.i64(line)], source_etype=I8))
            if spec.mask is Mask.ROWS:
                self._expect_mask(k0, t)
            acc = product.accumulate(b, b.i64(spec.size), starts, self.queries, list(initial) * self.tall, self.width)
            for r, key in enumerate(keys):
                bias = self._bias(inside[r], key)
                for v in range(self.width):
                    x = acc[r * self.width + v]
                    if spec.mask is not None:
                        x = i.fadd(x, bias(v))
                    if spec.causal:
                        visible = i.icmp_signed("<=", b.splat(i.trunc(key, I32), self.lanes), seen[v])
                        x = i.select(visible, x, hidden)
                    acc[r * self.width + v] = x
            finish(t, acc)
            return ()

        b.loop(b.i64(0), count, b.i64(self.tall), [], tile)

    def _bias(self, own: Any, key: Any) -> Callable[[int], Any]:
        """Vectors of the mask for a key, number `own` of its block."""
        b, i = self.b, self.b.ir
        if self.spec.mask is Mask.ROWS:  # where scores will be: all that a tile needs is read before its scores are stored
            turned = b.at(self.scores, i.mul(own, b.i64(self.columns)), _F32)
            return lambda v: self._load(turned, v)
        at = b.at(self.mask, i.mul(key, self.p["m_key"]), _F32) if self.mask is not None else None
        if self.spec.mask is Mask.KEYS:
            splat = b.splat(b.load(_F32, at, 4), self.lanes)
            return lambda v: splat
        return lambda v: b.masked_load(self.vector, self.of(at, v), self.inside[v], 4)

    def _turn_mask(self, k0: Any, count: Any) -> None:
        """The mask of the strip and a block of keys to where its scores will be, a lane a query; behind the last one it again."""
        b, i, n, p = self.b, self.b.ir, self.lanes, self.p
        last = i.sub(self.count, b.i64(1))

        def keys(t: Any, _: list[Any]) -> Sequence[Any]:
            key = i.add(k0, t)
            there = b.below(i.sub(count, t), n)

            def queries(g: Any, _: list[Any]) -> Sequence[Any]:
                at = [i.add(i.mul(b.smin(i.add(g, b.i64(r)), last), p["m_row"]), key) for r in range(n)]
                rows = [b.masked_load(self.vector, b.at(self.mask, x, _F32), there, 4) for x in at]
                for j, x in enumerate(turned(b, rows)):
                    to = b.at(self.scores, i.add(i.mul(i.add(t, b.i64(j)), b.i64(self.columns)), g), _F32)
                    i.store(x, to, align=4)
                return ()

            b.loop(b.i64(0), b.i64(self.columns), b.i64(n), [], queries)
            return ()

        b.loop(b.i64(0), count, b.i64(n), [], keys)

    def _expect_mask(self, k0: Any, t: Any) -> None:
        """Ask for what the next block of keys needs of some rows of the mask: those of a tile's share, from the tile's first key `t` on."""
        b, i, p, keys = self.b, self.b.ir, self.p, self.spec.schedule.most_keys
        share = -(-self.columns * self.tall // keys)
        first = i.mul(i.udiv(t, b.i64(self.tall)), b.i64(share))
        for r in range(share):
            row = b.at(self.mask, i.add(i.mul(i.add(first, b.i64(r)), p["m_row"]), i.add(k0, p["block"])), _F32)
            for line in range(0, 4 * keys, 64):
                b.prefetch(i.gep(row, [b.i64(line)], source_etype=I8), 2)

    def _weights(self, count: Any) -> None:
        """scores become exp(score − maximum); sums so far fade by exp(old maximum − new maximum)."""
        b, i = self.b, self.b.ir
        zero, none = ir.Constant(self.vector, None), ir.Constant(self.vector, [float("-inf")] * self.lanes)
        top, total = [], []
        for v in range(self.width):
            highest = self._load(self.top, v)
            top.append(i.select(i.fcmp_ordered("==", highest, none), zero, highest))  # −∞ − −∞ would be NaN
            fade = self.weight(i.fsub(self._load(self.fade, v), top[v]))
            i.store(fade, self.of(self.fade, v), align=4)
            total.append(i.fmul(self._load(self.total, v), fade))

        def key(j: Any, total: list[Any]) -> Sequence[Any]:
            at = b.at(self.scores, i.mul(j, b.i64(self.columns)), _F32)
            out = []
            for v in range(self.width):
                x = self.weight(i.fsub(self._load(at, v), top[v]))
                i.store(x, self.of(at, v), align=4)
                out.append(i.fadd(total[v], x))
            return out

        total = b.loop(b.i64(0), count, b.i64(1), total, key)
        for v in range(self.width):
            i.store(total[v], self.of(self.total, v), align=4)

    def _inverse(self) -> None:
        """What sums of values are multiplied by in the end: 0 where no key was seen. Parts also keep what they were weighed by."""
        b, i = self.b, self.b.ir
        zero, one, none = (ir.Constant(self.vector, [x] * self.lanes) for x in (0.0, 1.0, float("-inf")))
        for v in range(self.width):
            top, total = self._load(self.top, v), self._load(self.total, v)
            i.store(i.select(i.fcmp_ordered("==", top, none), zero, i.fdiv(one, total)), self.of(self.inverse, v), align=4)
            if self.tops is not None:
                at = self.of(self.tops, v)
                b.masked_store(self.natural(top), at, self.inside[v], 4)
                b.masked_store(total, b.at(at, self.p["totals"], _F32), self.inside[v], 4)
