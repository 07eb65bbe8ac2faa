"""Which indices the first k of a row are among: keys are counted by bucket until few are left."""

from __future__ import annotations

from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I1, I64, storage
from .radix import RADIX_CELLS, Radix

_PLACES = 1 << 10  # buckets
_BITS = _PLACES.bit_length() - 2  # so that the least and the greatest are less than _PLACES buckets apart
_ENOUGH = 256  # candidates that are not worth another round

CELLS = {**RADIX_CELLS, "places": _PLACES + 1, "shift": 1, "base": 1, "need": 1, "found": 1, "rounds": 1, "bucket": 1}


class Candidates:
    """Buckets reach from the least key to the greatest, then over the bucket that the k-th key is in, until that is small enough.

    A key is in bucket (key >> shift) − base. The k-th of all is the `need`-th of `bucket`, and `found` are not behind it.

    Args:
        frame: with `CELLS`.
        keys: address of the row.
    """

    def __init__(self, frame: Radix, keys: Any, dtype: DType, descending: bool) -> None:
        self.frame, self.b, self.n = frame, frame.b, frame.n
        self.keys, self.dtype, self.descending = keys, dtype, descending

    def write(self, order: Any, k: Any) -> Any:
        """Put indices in order of position into `order`, those of the first k of the row among them; how many. 1 ≤ k ≤ n."""
        f, b, i = self.frame, self.b, self.b.ir
        self._begin(k)
        f.during(lambda: self._more(k), lambda: self._narrow(k))
        last, shift = i.add(f.get("base"), f.get("bucket")), f.get("shift")

        def candidate(j: Any, carried: list[Any]) -> list[Any]:
            f.put(order, carried[0], j)
            return [i.add(carried[0], i.zext(i.icmp_unsigned("<=", i.lshr(self._key(j), shift), last), I64))]

        return b.loop(b.i64(0), self.n, b.i64(1), [b.i64(0)], candidate)[0]

    def _key(self, j: Any) -> Any:
        return self.frame.ordinal(self.frame.element(self.keys, j, storage(self.dtype)), self.dtype, self.descending)

    def _begin(self, k: Any) -> None:
        f, b, i = self.frame, self.b, self.b.ir

        def extremes(j: Any, ends: list[Any]) -> list[Any]:
            x = self._key(j)
            return [b.call("llvm.umin.i64", I64, ends[0], x), b.call("llvm.umax.i64", I64, ends[1], x)]

        low, high = b.loop(b.i64(0), self.n, b.i64(1), [b.i64(-1), b.i64(0)], extremes)
        width = i.sub(b.i64(64), b.call("llvm.ctlz.i64", I64, i.xor(low, high), ir.Constant(I1, 0)))
        f.set("shift", b.smax(i.sub(width, b.i64(_BITS)), b.i64(0)))
        f.set("base", i.lshr(low, f.get("shift")))
        f.set("need", k)
        f.set("found", self.n)
        f.set("rounds", b.i64(0))

    def _more(self, k: Any) -> Any:
        """Whether to look into a bucket, or at all keys at first."""
        f, b, i = self.frame, self.b, self.b.ir
        first = i.icmp_signed("==", f.get("rounds"), b.i64(0))
        large = i.icmp_signed(">", f.get("found"), i.add(i.shl(k, b.i64(1)), b.i64(_ENOUGH)))
        return i.or_(first, i.and_(large, i.icmp_signed(">", f.get("shift"), b.i64(0))))

    def _narrow(self, k: Any) -> None:
        """Into the bucket of the k-th: what is below it stays a candidate."""
        f, b, i = self.frame, self.b, self.b.ir
        zero, one, places = b.i64(0), b.i64(1), f.cell("places")
        with i.if_then(i.icmp_signed(">", f.get("rounds"), zero)):
            finer = b.smax(i.sub(f.get("shift"), b.i64(_BITS)), zero)
            f.set("base", i.shl(i.add(f.get("base"), f.get("bucket")), i.sub(f.get("shift"), finer)))
            f.set("shift", finer)
        f.set("rounds", i.add(f.get("rounds"), one))
        f.each(zero, b.i64(_PLACES + 1), lambda d: f.put(places, d, zero))
        base, shift = f.get("base"), f.get("shift")

        def count(j: Any) -> None:
            d = i.sub(i.lshr(self._key(j), shift), base)
            d = b.call("llvm.umin.i64", I64, d, b.i64(_PLACES))  # of other buckets of the last round
            f.put(places, d, i.add(f.element(places, d), one))

        def before() -> Any:
            return i.icmp_signed(">", f.get("need"), f.element(places, f.get("bucket")))

        def step() -> None:
            f.set("need", i.sub(f.get("need"), f.element(places, f.get("bucket"))))
            f.set("bucket", i.add(f.get("bucket"), one))

        f.each(zero, self.n, count)
        f.set("bucket", zero)
        f.during(before, step)
        f.set("found", i.add(i.sub(k, f.get("need")), f.element(places, f.get("bucket"))))
