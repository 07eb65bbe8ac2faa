"""The first k of each row in order: kept so while the row is read where they are few, else sorted from fewer candidates."""

from __future__ import annotations

from typing import Any

from ...kernel import KEPT
from ..build import I64, storage
from .candidates import Candidates
from .kept import Kept
from .radix import Radix


class FirstK(Radix):
    def _top(self, row: Any) -> None:
        b, i, k = self.b, self.b.ir, self.inner
        dtype = self.kernel.operands[0].dtype
        first = i.mul(row, self.n)
        keys, best = b.at(self.buffers[0], first, storage(dtype)), b.at(self.buffers[1], i.mul(row, k), I64)
        if len(self.buffers) == 2:
            self._keep(keys, best)
            return
        with i.if_else(i.icmp_signed("<=", k, b.i64(KEPT))) as (few, many):
            with few:
                self._keep(keys, best)
            with many:
                order, spare = (b.at(buffer, first, I64) for buffer in self.buffers[2:])
                descending = "descending" in self.kernel.flags
                found = Candidates(self, keys, spare, dtype, descending).write(order, k)
                self._radix_sort(order, spare, found, keys, dtype, descending)
                self.each(b.i64(0), k, lambda j: self.put(best, j, self.element(order, j)))

    def _keep(self, keys: Any, best: Any) -> None:
        """Reads the row once: what is before the last of the k kept so far goes in among them."""
        b, i = self.b, self.b.ir
        zero, k = b.i64(0), self.inner
        kept = Kept(self, self.kernel, k)
        lanes = b.i64(kept.lanes)
        filled = b.smin(k, self.n)
        self.each(zero, filled, lambda j: kept.insert(kept.number(self.element(keys, j, kept.storage)), j, j))
        whole = i.add(filled, i.mul(i.sdiv(i.sub(self.n, filled), lanes), lanes))
        with i.if_then(i.icmp_signed(">", k, zero)):
            self.each(filled, whole, lambda j: kept.take(keys, j, None), lanes)
            rest = i.sub(self.n, whole)
            with i.if_then(i.icmp_signed(">", rest, zero)):
                kept.take(keys, whole, b.below(rest, kept.lanes))
        self.each(zero, filled, lambda j: self.put(best, j, kept.index(j)))
