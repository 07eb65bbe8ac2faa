"""Attention in bfloat16: q, k, v and weights rounded, scores, softmax and sums in float32.

Strips of 32 queries of one head share what is packed of a block of keys. Scores are computed transposed, k·qᵀ, so that a
query is a lane and the softmax needs no sums across lanes; so are the sums, vᵀ·weights, until the last block is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I8, I32, Builder, vec
from ..math.lanes import Lanes
from ..shuffles import turned
from ..tiles import BYTES, ROWS
from .frame import Frame, Mask, Spec
from .schedule import Products
from .squares import SIDE, OnTiles, OnVectors, Squares

_F32 = ir.FloatType()
_LANES = 16  # queries of a vector; a strip has those of a square
_PAIR = 32  # elements of a row that one step of a square takes
_LINE = 4 * SIDE  # bytes of a vector pair: a row of scores, sums, or pairs of weights


class RoundedGroup(Frame):
    """The function of a group: strips from number args[6] up to args[7]; `first` and `count` are not used."""

    def __init__(self, b: Builder, spec: Spec) -> None:
        super().__init__(b, spec)
        keys = spec.schedule.most_keys
        self.deep, self.wide = (-(-n // _PAIR) * _PAIR for n in (spec.size, spec.value_size))
        self.round = Lanes(b, _LANES, spec.target, flush=True)
        self.squares: Squares = OnTiles(b) if spec.schedule.products is Products.TILES else OnVectors(b)
        self.keys, self.values = b.alloca(I8, b.i64(2 * keys * self.deep)), b.alloca(I8, b.i64(2 * keys * self.wide))
        self.scores, self.weights = b.alloca(I8, b.i64(keys * _LINE)), b.alloca(I8, b.i64(keys * _LINE // 2))
        self.queries, self.fresh = b.alloca(I8, b.i64(self.deep // 2 * _LINE)), b.alloca(I8, b.i64(self.wide * _LINE))
        self.state_bytes = (self.wide + 3) * _LINE  # sums, maximum, total, what sums so far fade by
        self.states = b.alloca(I8, b.ir.mul(self.p["together"], b.i64(self.state_bytes)))

    def write(self) -> None:
        b, i, p = self.b, self.b.ir, self.p
        begin, end = b.fn.args[6:8]
        self.squares.begin()
        last, count = self._strip(i.sub(end, b.i64(1)))
        limit = self.limit_of(last, count)

        def block(k0: Any, _: list[Any]) -> Sequence[Any]:
            live = b.smin(p["block"], i.sub(limit, k0))
            whole = i.and_(i.add(live, b.i64(_PAIR - 1)), b.i64(-_PAIR))
            self._pack_keys(k0, live, whole)
            self._pack_values(k0, live, whole)

            def strip(s: Any, _: list[Any]) -> Sequence[Any]:
                state = b.at(self.states, i.mul(i.sub(s, begin), b.i64(self.state_bytes)), I8)
                first, count = self._strip(s)
                seen = b.smin(live, i.sub(self.limit_of(first, count), k0))
                with i.if_then(i.icmp_signed("==", k0, b.i64(0))):
                    self._clear(state)
                with i.if_then(i.icmp_signed(">", seen, b.i64(0))):
                    self._pack_queries(first, count)
                    self._scores(whole)
                    self._softmax(state, first, count, k0, seen, whole)
                    self._sums(state, whole)
                return ()

            b.loop(begin, end, b.i64(1), [], strip)
            return ()

        with i.if_then(i.icmp_signed("<=", limit, b.i64(0))):
            self._each(begin, end, self._clear)
        b.loop(b.i64(0), limit, p["block"], [], block)

        def finish(s: Any, _: list[Any]) -> Sequence[Any]:
            self._store(b.at(self.states, i.mul(i.sub(s, begin), b.i64(self.state_bytes)), I8), *self._strip(s))
            return ()

        b.loop(begin, end, b.i64(1), [], finish)
        self.squares.end()
        i.ret_void()

    def _each(self, begin: Any, end: Any, do: Callable[[Any], None]) -> None:
        b, i = self.b, self.b.ir

        def strip(s: Any, _: list[Any]) -> Sequence[Any]:
            do(b.at(self.states, i.mul(i.sub(s, begin), b.i64(self.state_bytes)), I8))
            return ()

        b.loop(begin, end, b.i64(1), [], strip)

    def _strip(self, s: Any) -> tuple[Any, Any]:
        """(first query, number of queries)."""
        first = self.b.ir.mul(s, self.b.i64(SIDE))
        return first, self.b.smin(self.b.i64(SIDE), self.b.ir.sub(self.p["rows"], first))

    def _row(self, state: Any, row: int, v: int) -> Any:
        """Vector v of a row of a strip's state."""
        return self.b.at(state, self.b.i64(row * _LINE + v * 4 * _LANES), I8)

    def _clear(self, state: Any) -> None:
        zero = ir.Constant(self.vector, None)
        hidden = ir.Constant(self.vector, [float("-inf")] * _LANES)

        def row(r: Any, _: list[Any]) -> Sequence[Any]:
            for v in range(2):
                at = self.b.at(state, self.b.ir.add(self.b.ir.mul(r, self.b.i64(_LINE)), self.b.i64(v * 4 * _LANES)), I8)
                self.b.ir.store(zero, at, align=4)
            return ()

        self.b.loop(self.b.i64(0), self.b.i64(self.wide), self.b.i64(1), [], row)
        for v in range(2):
            self.b.ir.store(hidden, self._row(state, self.wide, v), align=4)
            self.b.ir.store(zero, self._row(state, self.wide + 1, v), align=4)

    # --- packing ------------------------------------------------------------------------------------------------------

    def _load(self, row: Any, at: int, size: int) -> Any:
        """16 elements of a row of `size` from `at` on, zeros behind its end."""
        start = self.b.at(row, self.b.i64(at), _F32)
        if at >= size:
            return ir.Constant(self.vector, None)
        if at + _LANES <= size:
            return self.b.load(self.vector, start, 4)
        return self.b.masked_load(self.vector, start, self.tail(size), 4)

    def _rounded(self, x: Any) -> Any:
        return self.round.to_storage(x, DType.BF16)

    def _joined(self, x: Any, y: Any, interleaved: bool) -> Any:
        """Two vectors rounded, behind one another or taking turns, as 16 lanes of two numbers each."""
        order = [h * _LANES + n for n in range(_LANES) for h in range(2)] if interleaved else list(range(2 * _LANES))
        both = self.b.ir.shuffle_vector(self._rounded(x), self._rounded(y), ir.Constant(vec(I32, 2 * _LANES), order))
        return self.b.ir.bitcast(both, self.vector)

    def _pack_keys(self, k0: Any, live: Any, whole: Any) -> None:
        """keys[key][d], zeros behind the last one."""
        b, i, spec = self.b, self.b.ir, self.spec
        pitch = 2 * self.deep

        def key(j: Any, _: list[Any]) -> Sequence[Any]:
            row = b.at(self.k, i.mul(i.add(k0, j), self.p["k_row"]), _F32)
            for d in range(0, self.deep, _PAIR):
                x = self._joined(self._load(row, d, spec.size), self._load(row, d + _LANES, spec.size), False)
                i.store(x, b.at(self.keys, i.add(i.mul(j, b.i64(pitch)), b.i64(2 * d)), I8), align=64)
            return ()

        def nothing(j: Any, _: list[Any]) -> Sequence[Any]:
            for d in range(0, self.deep, _PAIR):
                at = b.at(self.keys, i.add(i.mul(j, b.i64(pitch)), b.i64(2 * d)), I8)
                i.store(ir.Constant(self.vector, None), at, align=64)
            return ()

        b.loop(b.i64(0), live, b.i64(1), [], key)
        b.loop(live, whole, b.i64(1), [], nothing)

    def _pack_values(self, k0: Any, live: Any, whole: Any) -> None:
        """Tiles of vᵀ: 16 columns by 32 keys, those of the same keys one behind the other; zeros behind the last key."""
        b, i, size = self.b, self.b.ir, self.spec.value_size
        zero = ir.Constant(self.vector, None)
        last = i.sub(live, b.i64(1))

        def keys(j: Any, _: list[Any]) -> Sequence[Any]:
            rows, inside = [], []
            for x in range(_PAIR):
                at = i.add(j, b.i64(x))
                rows.append(b.at(self.v, i.mul(i.add(k0, b.smin(at, last)), self.p["v_row"]), _F32))
                inside.append(i.icmp_signed("<=", at, last))
            to = b.at(self.values, i.mul(j, b.i64(2 * self.wide)), I8)
            for c in range(0, self.wide, _LANES):
                got = [i.select(ok, self._load(row, c, size), zero) for row, ok in zip(rows, inside, strict=True)]
                pairs = [self._joined(got[2 * x], got[2 * x + 1], True) for x in range(_LANES)]
                for r, x in enumerate(turned(b, pairs)):
                    i.store(x, b.at(to, b.i64(c // _LANES * ROWS * BYTES + r * BYTES), I8), align=64)
            return ()

        b.loop(b.i64(0), whole, b.i64(_PAIR), [], keys)

    def _pack_queries(self, first: Any, count: Any) -> None:
        """queries[pair of d][query]·scale; behind the last query the last one again."""
        b, i, spec = self.b, self.b.ir, self.spec
        scale = self.math.const(self.score_scale, DType.F32)
        last = i.sub(count, b.i64(1))

        def some(g: Any, _: list[Any]) -> Sequence[Any]:
            rows = [b.at(self.q, i.mul(i.add(first, b.smin(i.add(g, b.i64(r)), last)), self.p["q_row"]), _F32) for r in range(_LANES)]
            for d in range(0, self.deep, _PAIR):
                got = [[i.fmul(self._load(row, d + half, spec.size), scale) for half in (0, _LANES)] for row in rows]
                pairs = [self._joined(x, y, False) for x, y in got]
                for r, x in enumerate(turned(b, pairs)):
                    at = i.add(b.i64((d // 2 + r) * _LINE), i.mul(g, b.i64(4)))
                    i.store(x, b.at(self.queries, at, I8), align=64)
            return ()

        b.loop(b.i64(0), b.i64(SIDE), b.i64(_LANES), [], some)

    # --- products and softmax ------------------------------------------------------------------------------------------

    def _scores(self, whole: Any) -> None:
        b, i = self.b, self.b.ir
        pitch = 2 * self.deep

        def keys(j: Any, _: list[Any]) -> Sequence[Any]:
            rows = b.at(self.keys, i.mul(j, b.i64(pitch)), I8)
            self.squares.multiply(
                b.i64(self.deep // _PAIR),
                lambda s: (*(b.at(rows, i.add(i.mul(s, b.i64(BYTES)), b.i64(x)), I8) for x in (0, ROWS * pitch)), pitch),
                lambda s: b.at(self.queries, i.mul(s, b.i64(ROWS * _LINE)), I8),
                b.at(self.scores, i.mul(j, b.i64(_LINE)), I8),
            )
            return ()

        b.loop(b.i64(0), whole, b.i64(_PAIR), [], keys)

    def _score(self, j: Any, v: int) -> Any:
        return self.b.at(self.scores, self.b.ir.add(self.b.ir.mul(j, self.b.i64(_LINE)), self.b.i64(v * 4 * _LANES)), I8)

    def _softmax(self, state: Any, first: Any, count: Any, k0: Any, seen: Any, whole: Any) -> None:
        """Scores of the first `seen` keys become weights in pairs of keys; all others weigh nothing."""
        b, i = self.b, self.b.ir
        zero, none = ir.Constant(self.vector, None), ir.Constant(self.vector, [float("-inf")] * _LANES)
        before = [b.load(self.vector, self._row(state, self.wide, v), 4) for v in range(2)]
        top = b.loop(b.i64(0), seen, b.i64(1), before, lambda j, top: self._masked(j, top, first, count, k0))
        total = []
        for v in range(2):
            i.store(top[v], self._row(state, self.wide, v), align=4)
            top[v] = i.select(i.fcmp_ordered("==", top[v], none), zero, top[v])  # −∞ − −∞ would be NaN
            fade = self.weight(i.fsub(before[v], top[v]))
            i.store(fade, self._row(state, self.wide + 2, v), align=4)
            total.append(i.fmul(b.load(self.vector, self._row(state, self.wide + 1, v), 4), fade))

        def pair(j: Any, total: list[Any]) -> Sequence[Any]:
            out = []
            second = i.add(j, b.i64(1))
            for v in range(2):
                x = self.weight(i.fsub(b.load(self.vector, self._score(j, v), 4), top[v]))
                y = self.weight(i.fsub(b.load(self.vector, self._score(second, v), 4), top[v]))
                y = i.select(i.icmp_signed("<", second, seen), y, zero)
                at = i.add(i.mul(j, b.i64(_LINE // 2)), b.i64(v * 4 * _LANES))
                i.store(self._joined(x, y, True), b.at(self.weights, at, I8), align=64)
                out.append(i.fadd(total[v], i.fadd(x, y)))
            return out

        def nothing(j: Any, _: list[Any]) -> Sequence[Any]:
            for v in range(2):
                at = i.add(i.mul(j, b.i64(_LINE // 2)), b.i64(v * 4 * _LANES))
                i.store(zero, b.at(self.weights, at, I8), align=64)
            return ()

        for v, x in enumerate(b.loop(b.i64(0), seen, b.i64(2), total, pair)):
            i.store(x, self._row(state, self.wide + 1, v), align=4)
        b.loop(i.and_(i.add(seen, b.i64(1)), b.i64(-2)), whole, b.i64(2), [], nothing)

    def _masked(self, j: Any, top: Sequence[Any], first: Any, count: Any, k0: Any) -> list[Any]:
        """The maximum with the scores of a key, to which the mask is added where they lie."""
        b, i, p, spec = self.b, self.b.ir, self.p, self.spec
        key, out = i.add(k0, j), []
        bias = b.at(self.mask, i.mul(key, p["m_key"]), _F32) if self.mask is not None else None
        for v in range(2):
            x = b.load(self.vector, self._score(j, v), 4)
            if spec.mask is Mask.KEYS:
                x = i.fadd(x, b.splat(b.load(_F32, bias, 4), _LANES))
            elif spec.mask is not None:
                at = b.at(bias, i.add(first, b.i64(v * _LANES)), _F32)
                x = i.fadd(x, b.masked_load(self.vector, at, b.below(count, _LANES, v * _LANES), 4))
            if spec.causal:
                visible = i.sub(key, i.add(first, p["seen"]))  # queries of the strip before it are blind to the key
                hidden = ir.Constant(self.vector, [float("-inf")] * _LANES)
                x = i.select(i.icmp_signed(">=", b.iota(_LANES, v * _LANES), b.splat(visible, _LANES)), x, hidden)
            if spec.causal or spec.mask is not None:
                i.store(x, self._score(j, v), align=4)
            out.append(i.select(i.fcmp_ordered(">", x, top[v]), x, top[v]))
        return out

    def _sums(self, state: Any, whole: Any) -> None:
        """sums·fade + vᵀ·weights."""
        b, i = self.b, self.b.ir
        steps = i.udiv(whole, b.i64(_PAIR))
        fade = [b.load(self.vector, self._row(state, self.wide + 2, v), 4) for v in range(2)]

        def columns(c: Any, _: list[Any]) -> Sequence[Any]:
            self.squares.multiply(
                steps,
                lambda s: (*(
                    b.at(self.values, i.add(i.mul(s, b.i64(_PAIR * 2 * self.wide)), i.add(i.mul(c, b.i64(BYTES)), b.i64(x))), I8)
                    for x in (0, ROWS * BYTES)
                ), BYTES),
                lambda s: b.at(self.weights, i.mul(s, b.i64(ROWS * _LINE)), I8),
                b.at(self.fresh, i.mul(c, b.i64(_LINE)), I8),
            )  # fmt: skip
            return ()

        b.loop(b.i64(0), b.i64(self.wide), b.i64(2 * ROWS), [], columns)

        def merge(r: Any, _: list[Any]) -> Sequence[Any]:
            for v in range(2):
                at = i.add(i.mul(r, b.i64(_LINE)), b.i64(v * 4 * _LANES))
                old, new = (b.load(self.vector, b.at(x, at, I8), 4) for x in (state, self.fresh))
                i.store(i.fadd(i.fmul(old, fade[v]), new), b.at(state, at, I8), align=4)
            return ()

        b.loop(b.i64(0), b.i64(self.wide), b.i64(1), [], merge)

    def _store(self, state: Any, first: Any, count: Any) -> None:
        """Rows of the result: sums divided by totals, turned. A query that saw no key gives zeros."""
        b, i, size = self.b, self.b.ir, self.spec.value_size
        one, zero = ir.Constant(self.vector, [1.0] * _LANES), ir.Constant(self.vector, None)
        for v in range(2):
            total = b.load(self.vector, self._row(state, self.wide + 1, v), 4)
            inverse = i.select(i.fcmp_ordered("==", total, zero), zero, i.fdiv(one, total))
            for c in range(0, size, _LANES):
                rows = [i.fmul(b.load(self.vector, self._row(state, c + r, v), 4), inverse) for r in range(_LANES)]
                for r, x in enumerate(turned(b, rows)):
                    query = b.i64(v * _LANES + r)
                    with i.if_then(i.icmp_signed("<", query, count)):
                        at = b.at(self.out, i.add(i.mul(i.add(first, query), self.p["o_row"]), b.i64(c)), _F32)
                        if c + _LANES <= size:
                            i.store(x, at, align=4)
                        else:
                            b.masked_store(x, at, self.tail(size), 4)
