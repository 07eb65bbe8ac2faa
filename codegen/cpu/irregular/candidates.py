"""Which indices the first k of a row are among: thresholds are tried until hardly more than k elements are not behind one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I64, storage, vec
from .radix import Radix, lanes_of, word

_CUTS = 2  # bits of a key that a turn tells
Body = Callable[[Any, Any, Any, list[Any]], list[Any]]

CELLS = {"low": 1, "high": 1, "found": 1, "hits": 1}


class Candidates:
    """Elements are numbers, the smaller the further to the front, compared a vector at a time.

    At least k of them are up to `high`, `found` in all; less than k are below `low`.

    Args:
        frame: with `CELLS`.
        keys: address of the row.
        numbers: memory for as many as the row has, of 64 bits each.
    """

    def __init__(self, frame: Radix, keys: Any, numbers: Any, dtype: DType, descending: bool) -> None:
        self.frame, self.b, self.n = frame, frame.b, frame.n
        self.keys, self.numbers, self.dtype, self.descending = keys, numbers, dtype, descending
        self.word, self.lanes = word(dtype), lanes_of(dtype)
        self.wide, self.align, self.kind = vec(self.word, self.lanes), self.word.width // 8, f"v{self.lanes}i{self.word.width}"

    def write(self, order: Any, k: Any) -> Any:
        """Put indices in order of position into `order`, those of the first k of the row among them; how many. 1 ≤ k ≤ n."""
        f, b, i = self.frame, self.b, self.b.ir
        self._begin()
        enough = i.add(k, i.lshr(k, b.i64(3)))  # a few more are sorted sooner than told apart

        def more() -> Any:
            return i.and_(i.icmp_signed(">", f.get("found"), enough), i.icmp_signed("<", f.get("low"), f.get("high")))

        f.during(more, lambda: self._narrow(k))
        high = b.splat(self._narrowed(f.get("high")), self.lanes)
        f.set("found", b.i64(0))

        def candidates(j: Any, x: Any, mask: Any, _: list[Any]) -> list[Any]:
            near = i.icmp_signed("<=", x, high)
            f.set("hits", i.zext(i.bitcast(self._live(near, mask), ir.IntType(self.lanes)), I64))

            def one() -> None:
                left, place = f.get("hits"), f.get("found")
                f.put(order, place, i.add(j, b.call("llvm.cttz.i64", I64, left, ir.Constant(I1, 1))))
                f.set("found", i.add(place, b.i64(1)))
                f.set("hits", i.and_(left, i.sub(left, b.i64(1))))

            f.during(lambda: i.icmp_unsigned("!=", f.get("hits"), b.i64(0)), one)
            return []

        self._each(self._number, [], candidates)
        return f.get("found")

    def _begin(self) -> None:
        """All numbers, the least and the greatest."""
        f, b, i = self.frame, self.b, self.b.ir
        raw, top = storage(self.dtype), 1 << (self.word.width - 1)
        ends = [ir.Constant(self.wide, end) for end in (top - 1, -top)]

        def number(j: Any, mask: Any) -> Any:
            return f.number(self._load(self.keys, raw, j, mask), self.dtype, self.descending)

        def extremes(j: Any, x: Any, mask: Any, carried: list[Any]) -> list[Any]:
            to = b.at(self.numbers, j, self.word)
            if mask is None:
                i.store(x, to, align=self.align)
            else:
                b.masked_store(x, to, mask, self.align)
            known = [x if mask is None else i.select(mask, x, end) for end in ends]
            return [b.call(f"llvm.{fn}.{self.kind}", self.wide, *pair) for fn, *pair in zip(("smin", "smax"), carried, known, strict=True)]

        least, most = self._each(number, ends, extremes)
        f.set("low", self._over_lanes("smin", least))
        f.set("high", self._over_lanes("smax", most))
        f.set("found", self.n)

    def _narrow(self, k: Any) -> None:
        """Between two of the thresholds, which cut what lies between `low` and `high` into equal parts."""
        f, b, i = self.frame, self.b, self.b.ir
        low = f.get("low")
        part = i.lshr(i.sub(f.get("high"), low), b.i64(_CUTS))
        tried = [i.add(low, i.mul(part, b.i64(j))) for j in range(1, 1 << _CUTS)]
        wide = [b.splat(self._narrowed(t), self.lanes) for t in tried]

        def count(_: Any, x: Any, mask: Any, counts: list[Any]) -> list[Any]:
            within = [self._live(i.icmp_signed("<=", x, t), mask) for t in wide]
            return [i.add(c, i.zext(w, self.wide)) for c, w in zip(counts, within, strict=True)]

        counts = self._each(self._number, [ir.Constant(self.wide, 0)] * len(tried), count)
        totals = [self._over_lanes("add", c) for c in counts]
        for t, total in reversed(list(zip(tried, totals, strict=True))):
            enough = i.icmp_signed(">=", total, k)
            f.set("high", i.select(enough, t, f.get("high")))
            f.set("found", i.select(enough, total, f.get("found")))
        for t, total in zip(tried, totals, strict=True):
            f.set("low", i.select(i.icmp_signed("<", total, k), i.add(t, b.i64(1)), f.get("low")))

    def _each(self, load: Callable[[Any, Any], Any], carried: list[Any], body: Body) -> list[Any]:
        """Vectors of the row: carried = body(index of the first, the vector, a mask unless it is whole, carried)."""
        b, i = self.b, self.b.ir
        whole = i.and_(self.n, b.i64(-self.lanes))
        carried = b.loop(b.i64(0), whole, b.i64(self.lanes), carried, lambda j, values: body(j, load(j, None), None, values))
        before = i.block
        with i.if_then(i.icmp_signed("<", whole, self.n)):
            mask = b.below(i.sub(self.n, whole), self.lanes)
            last = body(whole, load(whole, mask), mask, carried)
            inside = i.block
        return [b.merge((x, before), (y, inside)) for x, y in zip(carried, last, strict=True)]

    def _number(self, j: Any, mask: Any) -> Any:
        return self._load(self.numbers, self.word, j, mask)

    def _load(self, base: Any, element: Any, j: Any, mask: Any) -> Any:
        t, at = vec(element, self.lanes), self.b.at(base, j, element)
        return self.b.load(t, at, 1) if mask is None else self.b.masked_load(t, at, mask, 1)

    def _live(self, condition: Any, mask: Any) -> Any:
        return condition if mask is None else self.b.ir.and_(condition, mask)

    def _over_lanes(self, fn: str, x: Any) -> Any:
        total = self.b.call(f"llvm.vector.reduce.{fn}.{self.kind}", self.word, x)
        return total if self.word is I64 else self.b.ir.sext(total, I64)

    def _narrowed(self, x: Any) -> Any:
        return x if self.word is I64 else self.b.ir.trunc(x, self.word)
