"""The first k along lines that lie side by side: a line in each lane of a vector, so that no branch is a line's own."""

from __future__ import annotations

from typing import Any

from ....ir import upper
from .. import llvm_ir as ir
from ..build import I1, I64, storage, vec
from .radix import Radix, lanes_of, word


class Abreast(Radix):
    """A unit is a vector of lines. Those kept so far lie sorted, lanes apart, with their indices beside them.

    An element goes in from the end: what is after it moves on by one place, as long as that is so in some lane. Equal ones stay in the
    order of the line, as only what is strictly after moves.
    """

    def _abreast(self, unit: Any) -> None:
        b, i, k = self.b, self.b.ir, self.inner
        dtype = self.kernel.operands[0].dtype
        lanes = lanes_of(dtype)
        number = word(dtype)
        self.wide, self.align = vec(number, lanes), number.width // 8
        room = (upper(self.kernel.inner) + 1) * lanes
        first = b.i64(lanes)  # before the first place is one that nothing comes before
        self.kept, self.places = (b.at(b.alloca_entry(number, room), first, number) for _ in range(2))
        i.store(ir.Constant(self.wide, -(1 << (number.width - 1))), b.at(self.kept, b.i64(-lanes), number), align=self.align)
        columns = self.columns
        vectors = i.sdiv(i.add(columns, b.i64(lanes - 1)), b.i64(lanes))
        row, column = i.sdiv(unit, vectors), i.mul(i.urem(unit, vectors), b.i64(lanes))
        live = b.below(i.sub(columns, column), lanes)
        keys = b.at(self.buffers[0], i.add(i.mul(i.mul(row, self.n), columns), column), storage(dtype))
        best = b.at(self.buffers[1], i.add(i.mul(i.mul(row, k), columns), column), I64)

        def element(j: Any) -> Any:
            raw = vec(storage(dtype), lanes)
            x = b.masked_load(raw, b.at(keys, i.mul(j, columns), storage(dtype)), live, dtype.itemsize)
            return self.number(x, dtype, "descending" in self.kernel.flags)

        def index(j: Any) -> Any:
            return b.splat(j if number is I64 else i.trunc(j, number), lanes)

        def append(j: Any) -> None:
            x, at = element(j), index(j)
            self._place(j, x, at)
            self._go_in(j, x, at, x, at, ir.Constant(vec(I1, lanes), 0))

        def take(j: Any) -> None:
            x, at, last = element(j), index(j), i.sub(k, b.i64(1))
            there, where = self._kept(last)
            before = i.icmp_signed("<", x, there)
            with i.if_then(b.any(before)):
                self._go_in(last, x, at, there, where, before)

        self.each(b.i64(0), k, append)
        with i.if_then(i.icmp_signed(">", k, b.i64(0))):
            self.each(k, self.n, take)

        def give(j: Any) -> None:
            found = self._kept(j)[1]
            b.masked_store(found if number is I64 else i.zext(found, vec(I64, lanes)), b.at(best, i.mul(j, columns), I64), live, 8)

        self.each(b.i64(0), k, give)

    def _go_in(self, last: Any, x: Any, at: Any, there: Any, where: Any, before: Any) -> None:
        """x, from index `at` of its line, goes in where it is `before` what is `there`, in the last place, or further ahead."""
        b, i = self.b, self.b.ir
        entry = i.block
        head = i.append_basic_block("head")
        after = i.append_basic_block("after")
        i.branch(head)
        i.position_at_end(head)
        place, key, index, ahead = (i.phi(v.type) for v in (last, there, where, before))
        for phi, v in zip((place, key, index, ahead), (last, there, where, before), strict=True):
            phi.add_incoming(v, entry)
        following = i.sub(place, b.i64(1))
        next_key, next_index = self._kept(following)
        further = i.icmp_signed("<", x, next_key)
        self._place(place, i.select(further, next_key, i.select(ahead, x, key)), i.select(further, next_index, i.select(ahead, at, index)))
        end = i.block
        i.cbranch(b.any(further), head, after)
        for phi, v in zip((place, key, index, ahead), (following, next_key, next_index, further), strict=True):
            phi.add_incoming(v, end)
        i.position_at_end(after)

    def _place(self, j: Any, key: Any, index: Any) -> None:
        for array, v in ((self.kept, key), (self.places, index)):
            self.b.ir.store(v, self._at(array, j), align=self.align)

    def _kept(self, j: Any) -> tuple[Any, Any]:
        """The j-th of those kept in each lane, and where it stood in its line."""
        key, index = (self.b.load(self.wide, self._at(array, j), self.align) for array in (self.kept, self.places))
        return key, index

    def _at(self, array: Any, j: Any) -> Any:
        return self.b.at(array, self.b.ir.mul(j, self.b.i64(self.wide.count)), self.wide.element)
