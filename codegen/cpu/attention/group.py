"""Strips of queries of one head, side by side: each block of keys is read from memory once for all of them.

Heads usually lie side by side, so that rows of k and v are apart, often at distances that share few sets of the caches:
then what one strip read is gone before the next one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import llvm_ir as ir
from ..build import I1, I64, Builder
from .frame import Frame, Mask, Spec
from .strip import Layout

_F32 = ir.FloatType()


class Group(Frame):
    """The function of a group: strips from number args[6] up to args[7]; `first` and `count` are not used.

    Args:
        starts, blocks: functions of strips by their width in vectors.
    """

    def __init__(
        self, b: Builder, spec: Spec, layout: Layout, starts: Mapping[int, ir.Function], blocks: Mapping[int, ir.Function]
    ) -> None:
        super().__init__(b, spec)
        s = spec.schedule
        self.layout, self.starts, self.blocks = layout, starts, blocks
        self.states = b.alloca(_F32, b.ir.mul(self.p["together"], b.i64(layout.total)))
        width = max(starts)
        # tiles of queries read past the end of the last row, and masks are turned in squares
        self.scores = self.room((s.most_keys + max(*s.tall, s.lanes if spec.mask is Mask.ROWS else 0) + 1) * width * s.lanes)
        self.copied = self.room(s.most_keys * spec.value_columns) if spec.copied else None
        self.near_keys = self.room(s.most_keys * self._whole(spec.size)) if spec.copied_keys else None

    def _whole(self, size: int) -> int:
        """Elements in whole vectors."""
        return -(-size // self.lanes) * self.lanes

    def write(self) -> None:
        b, i, p = self.b, self.b.ir, self.p
        begin, end = b.fn.args[6:8]
        block = p["block"]

        def start(strip: Any, _: list[Any]) -> Sequence[Any]:
            self._each_width(strip, lambda width, args: i.call(self.starts[width], [*args, self._state(strip, begin)]))
            return ()

        b.loop(begin, end, b.i64(1), [], start)
        first, count, _ = self.strip(i.sub(end, b.i64(1)))
        limit = self.limit_of(first, count)

        def walk(k0: Any, _: list[Any]) -> Sequence[Any]:
            rows = b.smin(block, i.sub(limit, k0))
            keys, key_row = self._near(self.k, "k_row", k0, rows, self.spec.size, self.near_keys)
            values, value_row = self._near(self.v, "v_row", k0, rows, self.spec.value_size, self.copied)

            def one(strip: Any, carried: list[Any]) -> Sequence[Any]:
                (unread,) = carried
                first, count, _width = self.strip(strip)
                sees = i.icmp_signed("<", k0, b.smax(self.limit_of(first, count), b.i64(1)))
                with i.if_then(sees):
                    more = [self._state(strip, begin), keys, key_row, self.scores, values, value_row, k0, unread]
                    self._each_width(strip, lambda width, args: i.call(self.blocks[width], [*args, *more]))
                return [i.and_(unread, i.not_(sees))]

            b.loop(begin, end, b.i64(1), [ir.Constant(I1, 1)], one)
            return ()

        # at least once: without keys the result is 0
        b.loop(b.i64(0), b.smax(limit, b.i64(1)), block, [], walk)
        i.ret_void()

    def _state(self, strip: Any, begin: Any) -> Any:
        return self.b.at(self.states, self.b.ir.mul(self.b.ir.sub(strip, begin), self.b.i64(self.layout.total)), _F32)

    def strip(self, index: Any) -> tuple[Any, Any, Any]:
        """First query, number of queries and width in vectors of a strip: the vectors of all queries are dealt evenly."""
        b, i, p = self.b, self.b.ir, self.p
        vectors = i.udiv(i.add(p["rows"], b.i64(self.lanes - 1)), b.i64(self.lanes))
        least, wider = i.udiv(vectors, p["strips"]), i.urem(vectors, p["strips"])
        first = i.mul(i.add(i.mul(index, least), b.smin(index, wider)), b.i64(self.lanes))
        width = i.add(least, i.zext(i.icmp_signed("<", index, wider), I64))
        return first, b.smin(i.mul(width, b.i64(self.lanes)), i.sub(p["rows"], first)), width

    def _each_width(self, strip: Any, call: Callable[[int, list[Any]], Any]) -> None:
        """The call that the strip's width needs, given the arguments that all functions have."""
        first, count, width = self.strip(strip)
        for w in self.starts:
            with self.b.ir.if_then(self.b.ir.icmp_signed("==", width, self.b.i64(w))):
                call(w, [self.bufs, self.dims, self.batch, self.head, first, count])

    def _near(self, base: Any, stride: str, k0: Any, count: Any, size: int, room: Any) -> tuple[Any, Any]:
        """Rows of a block and the elements between them: where they are, or copied to `room`, whole vectors each."""
        b, i = self.b, self.b.ir
        at = b.at(base, i.mul(k0, self.p[stride]), _F32)
        if room is None:
            return at, self.p[stride]
        vectors, tail = self._whole(size) // self.lanes, size % self.lanes

        def row(j: Any, _: list[Any]) -> Sequence[Any]:
            line, to = b.at(at, i.mul(j, self.p[stride]), _F32), b.at(room, i.mul(j, b.i64(vectors * self.lanes)), _F32)
            for x in range(vectors):
                if tail and x == vectors - 1:
                    value = b.masked_load(self.vector, self.of(line, x), self.tail(size), 4)
                else:
                    value = b.load(self.vector, self.of(line, x), 4)
                i.store(value, self.of(to, x), align=4)
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], row)
        return room, b.i64(vectors * self.lanes)
