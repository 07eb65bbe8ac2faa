"""A strip of queries against all keys: queries in lanes, blocks of keys, a running maximum and sum (online softmax)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, I64, PTR, Builder, vec
from ..product import Product
from ..shuffles import turned
from .frame import Frame, Spec
from .schedule import ValueTile

_F32 = ir.FloatType()


class Layout:
    """Where the state of a strip of at most `width` vectors lies in its scratch memory: offsets in elements, and their `total`."""

    def __init__(self, spec: Spec, width: int) -> None:
        columns, rest = width * spec.schedule.lanes, max(tile.rows for tile in spec.schedule.values)
        self.total = 0
        self.queries = self._take(-(-spec.size // spec.schedule.lanes) * spec.schedule.lanes * columns)
        self.sums = self._take((columns + rest) * spec.value_columns)
        self.top, self.sum, self.fade, self.inverse = (self._take(columns + rest) for _ in range(4))

    def _take(self, elements: int) -> int:
        at = self.total
        self.total += -(-elements // 16) * 16
        return at


STATE, BLOCK = [PTR], [PTR, PTR, I64, PTR, PTR, I64, I64]


class Strip(Frame):
    """The functions of a strip of `width` vectors: `start`, and for each block of keys scores, weights and the product with v.

    Further arguments of `start`: its state; of `block`: its state, k and the elements between its rows, room for scores, v
    and the elements between its rows, the first key. k and v point to the first row of the block.
    """

    def __init__(self, b: Builder, spec: Spec, layout: Layout, width: int, tall: int) -> None:
        super().__init__(b, spec)
        self.width, self.tall, self.columns = width, tall, width * self.lanes
        state = b.fn.args[6]
        self.queries, self.sums, self.top, self.total, self.fade, self.inverse = (
            b.at(state, b.i64(x), _F32) for x in (layout.queries, layout.sums, layout.top, layout.sum, layout.fade, layout.inverse)
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
        keys, key_row, self.scores, rows, row, k0 = b.fn.args[7:]
        limit = self.limit()
        count = b.smin(p["block"], i.sub(limit, k0))
        final = i.icmp_signed(">=", i.add(k0, p["block"]), limit)
        self._scores(k0, count, keys, key_row)
        self._weights(count, final)
        chunk = 0
        for tile in self.spec.schedule.values:
            i.call(values[tile], [
                self.scores, b.i64(self.columns), b.at(rows, b.i64(chunk), _F32), row, count, self.count,
                b.at(self.sums, b.i64(chunk), _F32), self.fade, self.inverse, b.at(self.out, b.i64(chunk), _F32), p["o_row"],
                i.icmp_signed("==", k0, b.i64(0)), final,
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

    def _scores(self, k0: Any, count: Any, rows: Any, row: Any) -> None:
        """scores[key][query] of a block, and the new maximum of each query. Keys of the last tile may repeat the last key."""
        b, i, p, spec = self.b, self.b.ir, self.p, self.spec
        product = Product(DType.F32, DType.F32, self.lanes, self.columns, 4, spec.size % 4 == 0, spec.target)
        last = i.sub(count, b.i64(1))
        zero = ir.Constant(self.vector, None)
        hidden = ir.Constant(self.vector, [float("-inf")] * self.lanes)
        if spec.causal:  # lane + its query's last key, as int32
            to = i.trunc(i.add(self.first, p["seen"]), I32)
            seen = [
                i.add(b.splat(to, self.lanes), ir.Constant(vec(I32, self.lanes), [v * self.lanes + x for x in range(self.lanes)]))
                for v in range(self.width)
            ]
        fresh = [self._load(self.top, v) for v in range(self.width)]
        for v in range(self.width):
            i.store(fresh[v], self.of(self.fade, v), align=4)  # the maximum before this block

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            inside = [b.smin(i.add(t, b.i64(r)), last) for r in range(self.tall)]
            starts, keys = [b.at(rows, i.mul(x, row), _F32) for x in inside], [i.add(k0, x) for x in inside]
            for start in () if spec.copied_keys else starts:  # the rows of the next tile
                ahead = b.at(start, i.mul(row, b.i64(self.tall)), _F32)
                for line in range(0, 4 * spec.size, 64):
                    b.prefetch(i.gep(ahead, [b.i64(line)], source_etype=I8))
            acc = product.accumulate(b, b.i64(spec.size), starts, self.queries, [zero] * (self.tall * self.width), self.width)
            top = [self._load(self.top, v) for v in range(self.width)]
            for r, key in enumerate(keys):
                at = b.at(self.scores, i.mul(i.add(t, b.i64(r)), b.i64(self.columns)), _F32)
                bias = b.at(self.mask, i.mul(key, p["m_key"]), _F32) if self.mask is not None else None
                splat = b.splat(b.load(_F32, bias, 4), self.lanes) if spec.mask == 0 else None
                for v in range(self.width):
                    x = acc[r * self.width + v]
                    if spec.mask is not None:
                        own = splat if splat is not None else b.masked_load(self.vector, self.of(bias, v), self.inside[v], 4)
                        x = i.fadd(x, own)
                    if spec.causal:
                        visible = i.icmp_signed("<=", b.splat(i.trunc(key, I32), self.lanes), seen[v])
                        x = i.select(visible, x, hidden)
                    i.store(x, self.of(at, v), align=4)
                    top[v] = i.select(i.fcmp_ordered(">", x, top[v]), x, top[v])
            for v in range(self.width):
                i.store(top[v], self.of(self.top, v), align=4)
            return ()

        b.loop(b.i64(0), count, b.i64(self.tall), [], tile)

    def _weights(self, count: Any, final: Any) -> None:
        """scores become exp(score − maximum); sums so far fade by exp(old maximum − new maximum)."""
        b, i = self.b, self.b.ir
        zero, none = ir.Constant(self.vector, None), ir.Constant(self.vector, [float("-inf")] * self.lanes)
        top, total, blind = [], [], []
        for v in range(self.width):
            highest = self._load(self.top, v)
            blind.append(i.fcmp_ordered("==", highest, none))  # −∞ − −∞ would be NaN
            top.append(i.select(blind[v], zero, highest))
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
        one = ir.Constant(self.vector, [1.0] * self.lanes)
        for v in range(self.width):
            i.store(total[v], self.of(self.total, v), align=4)
        with i.if_then(final):
            for v in range(self.width):
                i.store(i.select(blind[v], zero, i.fdiv(one, total[v])), self.of(self.inverse, v), align=4)
                if self.tops is not None:
                    at = self.of(self.tops, v)
                    b.masked_store(self.natural(self._load(self.top, v)), at, self.inside[v], 4)
                    b.masked_store(total[v], b.at(at, self.p["totals"], _F32), self.inside[v], 4)
