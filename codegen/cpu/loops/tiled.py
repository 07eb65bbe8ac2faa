"""Loop nests without reductions that move elements from one axis to another: tiles that are turned, rows that are woven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....ir import Dim, ceildiv, lower
from ...expr import Load
from ...kernel import Store
from ..build import I64, storage, vec
from ..math.functions import Functions
from ..shuffles import repeated, turned, unwoven, woven
from .accesses import Scope
from .reductions import Reductions
from .transpose import Turn, Weave

_AHEAD = 2  # tiles along the read axis, whose lines are asked for early: rows far apart are no stream that hardware would see
_WIDE = 4  # bytes of elements from which on tiles read whole lines,
_FAR_AWAY = 1 << 20  # and bytes of an operand that second-level caches do not hold beside the result


class Tiled(Reductions):
    """What a unit does with a `Turn` or a `Weave`; `_span` is how it goes without where an axis is short."""

    def _span(self, axes: dict[int, Any], start: Any, stop: Any, known: int | None) -> None:
        raise NotImplementedError

    def _split(self, u: Any, size: Dim) -> tuple[Any, Any]:
        return self.b.ir.urem(u, self.dim(size)), self.b.ir.udiv(u, self.dim(size))

    def _turned(self, tile: Turn, part: Any, outer: dict[int, Any]) -> None:
        """`strip` elements along the read axis by `run` along the write axis."""
        b = self.b
        long, across = self.dim(self.k.axes[tile.write]), self.dim(self.k.axes[tile.read])
        strip, rest = self._split(part, ceildiv(self.k.axes[tile.read], tile.strip))
        low, start = b.ir.mul(strip, b.i64(tile.strip)), b.ir.mul(rest, b.i64(tile.run))
        high, stop = b.smin(b.ir.add(low, b.i64(tile.strip)), across), b.smin(b.ir.add(start, b.i64(tile.run)), long)
        if tile.past:
            self._block(tile, outer, (low, high), (start, stop))
            return
        if not tile.open:
            self._tiles(tile, outer, (low, high), (start, stop))
            return
        room = b.i64(0)
        for a in tile.open:
            least = tile.lanes if a == tile.write else tile.depth
            room = b.ir.or_(room, b.ir.sub(self.dim(self.k.axes[a]), b.i64(least)))  # the sign bit is set when any is negative

        def row(r: Any, _: list[Any]) -> list[Any]:
            self._span({**outer, tile.read: r}, start, stop, None)
            return []

        with b.ir.if_else(b.ir.icmp_signed(">=", room, b.i64(0))) as (fits, short):
            with fits:
                self._tiles(tile, outer, (low, high), (start, stop))
            with short:
                b.loop(low, high, b.i64(1), [], row)

    def _tiles(self, tile: Turn, outer: dict[int, Any], read: tuple[Any, Any], write: tuple[Any, Any]) -> None:
        """[low, high) along both axes, in pieces whose lines stay in the first-level cache: whole runs of lines are read and
        written."""
        b = self.b
        across = self.dim(self.k.axes[tile.read])
        (low, high), (start, stop) = read, write

        def piece(w: Any, _: list[Any]) -> list[Any]:
            end = b.smin(b.ir.add(w, b.i64(tile.strip)), stop)

            def rows(r: Any, _: list[Any]) -> list[Any]:
                last = b.ir.sub(across, b.i64(tile.depth))
                first, following = b.smin(r, last), b.ir.add(r, b.i64(tile.depth))
                below = b.ir.icmp_signed("<", following, high)
                ahead = b.smin(b.ir.select(below, following, low), last), b.ir.select(below, b.i64(0), b.i64(tile.strip))
                self._row_of_tiles(tile, first, w, end, outer, ahead)
                return []

            b.loop(low, high, b.i64(tile.depth), [], rows)
            return []

        b.loop(start, stop, b.i64(tile.strip), [], piece)

    def _block(self, tile: Turn, outer: dict[int, Any], read: tuple[Any, Any], write: tuple[Any, Any]) -> None:
        """[low, high) along both axes, turned into memory that stays in the cache, from where whole lines go past it."""
        b, k, n = self.b, self.k, tile.lanes
        (store,) = k.stores
        dtype = k.operands[store.operand].dtype
        t, pitch = storage(dtype), tile.run + 2 * n
        (low, high), (start, stop) = read, write
        low = b.smin(low, b.ir.sub(self.dim(k.axes[tile.read]), b.i64(tile.depth)))
        start = b.smin(start, b.ir.sub(self.dim(k.axes[tile.write]), b.i64(n)))
        room = b.alloca_entry(t, (tile.strip + tile.depth) * pitch)

        def line(r: Any) -> Any:
            return b.at(room, b.ir.mul(b.ir.sub(r, low), b.i64(pitch)), t)

        def columns(i: Any, _: list[Any]) -> list[Any]:
            at = b.smin(i, b.ir.sub(stop, b.i64(n)))

            def turn(r: Any, _: list[Any]) -> list[Any]:
                first = b.smin(r, b.ir.sub(high, b.i64(tile.depth)))
                math = Functions(b, n, self.target)
                for j, s in enumerate(self._scopes(tile, [b.ir.add(first, b.i64(j)) for j in range(tile.depth)], at, outer)):
                    there = b.at(b.at(line(first), b.i64(j * pitch), t), b.ir.sub(at, start), t)
                    b.ir.store(math.to_storage(self.value(store.value, s, True), dtype), there, align=dtype.itemsize)
                return []

            b.loop(low, high, b.i64(tile.depth), [], turn)
            return []

        def whole(r: Any, _: list[Any]) -> list[Any]:
            there = self.address(store.operand, store.offset, Scope({**outer, tile.read: r, tile.write: start}, n, None, [], {}))
            self._by_lines(line(r), there, b.ir.sub(stop, start), vec(t, n), dtype.itemsize)
            return []

        b.loop(start, stop, b.i64(n), [], columns)
        b.loop(low, high, b.i64(1), [], whole)

    def _by_lines(self, source: Any, target: Any, count: Any, vector: Any, itemsize: int) -> None:
        """Copies elements: those of whole vectors at their boundaries go past the caches, what is before and behind does not."""
        b, t, n = self.b, vector.element, vector.count
        before = b.ir.and_(b.ir.neg(b.ir.ptrtoint(target, I64)), b.i64(n * itemsize - 1))
        before = b.smin(b.ir.udiv(before, b.i64(itemsize)), count)

        def edge(at: Any, size: Any) -> None:
            value = b.load(vector, b.at(source, at, t), itemsize)
            b.masked_store(value, b.at(target, at, t), b.below(size, n), itemsize)

        def body(i: Any, _: list[Any]) -> list[Any]:
            value = b.load(vector, b.at(source, i, t), itemsize)
            b.ir.store(value, b.at(target, i, t), align=n * itemsize, past_caches=True)
            return [b.ir.add(i, b.i64(n))]

        edge(b.i64(0), before)
        end = b.loop(before, b.ir.sub(count, b.i64(n - 1)), b.i64(n), [before], body)[0]
        edge(end, b.ir.sub(count, end))

    def _scopes(self, tile: Turn, rows: list[Any], at: Any, outer: dict[int, Any]) -> list[Scope]:
        """A tile's vectors from `at` along the write axis, one a row, with what is loaded of each."""
        scopes = [Scope({**outer, tile.write: at, tile.read: row}, tile.lanes, None, [], {}) for row in rows]
        math = Functions(self.b, tile.lanes, self.target)
        for e in tile.loads:
            dtype = self.k.operands[e.operand].dtype
            for s, x in zip(scopes, self._columns(tile, e, scopes[0], storage(dtype), dtype.itemsize), strict=True):
                s.memo[id(e), False] = math.from_storage(x, dtype)
        return scopes

    def _row_of_tiles(self, tile: Turn, first: Any, start: Any, stop: Any, outer: dict[int, Any], ahead: tuple[Any, Any]) -> None:
        """Tiles of `depth` elements from `first` along the read axis, from start to stop along the write axis.

        ahead: where the next row of tiles begins along the read axis, and how much farther along the write axis. Lines that are not in a
        cache when a vector is stored across two of them are fetched one after another.
        """
        b, k, n = self.b, self.k, tile.lanes
        long = self.dim(k.axes[tile.write])
        rows = [b.ir.add(first, b.i64(j)) for j in range(tile.depth)]

        def body(i: Any, _: list[Any]) -> list[Any]:
            at = b.smin(i, b.ir.sub(long, b.i64(n)))
            for j, s in enumerate(self._scopes(tile, rows, at, outer)):
                for store in k.stores:
                    self._store(store, s)
                    there = {**outer, tile.write: b.ir.add(at, ahead[1]), tile.read: b.ir.add(ahead[0], b.i64(j))}
                    b.prefetch(self.address(store.operand, store.offset, Scope(there, n, None, [], {})), write=True)
            return []

        b.loop(start, stop, b.i64(n), [], body)

    def _columns(self, tile: Turn, e: Load, scope: Scope, t: Any, align: int) -> list[Any]:
        """What `e` loads at `depth` points along the read axis, `lanes` along the write axis."""
        b, n, form = self.b, tile.lanes, self.form(e.offset)
        if form is not None and form[1].get(tile.write) == tile.depth == self.k.axes[tile.read]:  # whole rows, side by side
            at = self.address(e.operand, e.offset, scope)
            return unwoven(b, [b.load(vec(t, n), b.at(at, b.i64(j * n), t), align) for j in range(tile.depth)])
        starts = [self.address(e.operand, e.offset, replace(scope, shift=j)) for j in range(n)]
        if align >= _WIDE and lower(self.k.operands[e.operand].numel) * align >= _FAR_AWAY:
            for at in starts:
                b.prefetch(b.at(at, b.i64(_AHEAD * tile.depth), t))
        return turned(b, [b.load(vec(t, tile.depth), at, align) for at in starts])

    def _woven(self, weave: Weave, part: Any, outer: dict[int, Any]) -> None:
        """`run` elements along the read axis, all along the write axis."""
        b, k, n = self.b, self.k, weave.lanes
        size, length = k.axes[weave.write], self.dim(k.axes[weave.read])
        assert isinstance(size, int)
        start = b.ir.mul(part, b.i64(weave.run))
        stop = b.smin(b.ir.add(start, b.i64(weave.run)), length)
        places = range(size)

        def scopes_at(at: Any, lanes: int = n) -> list[Scope]:
            return [Scope({**outer, weave.read: at, weave.write: b.i64(c)}, lanes, None, [], {}) for c in places]

        def vectors(store: Store, scopes: list[Scope]) -> list[Any]:
            math = Functions(b, scopes[0].lanes, self.target)
            values = [math.to_storage(self.value(store.value, s, True), k.operands[store.operand].dtype) for s in scopes]
            return woven(b, values) if scopes[0].lanes > 1 else repeated(b, values, n)

        same = {id(x): vectors(x, scopes_at(start, 1)) for x in k.stores if weave.read not in self.depends[id(x.value)]}

        def body(i: Any, _: list[Any]) -> list[Any]:
            scopes = scopes_at(b.smin(i, b.ir.sub(length, b.i64(n))))
            for store in k.stores:
                dtype = k.operands[store.operand].dtype
                address = self.address(store.operand, store.offset, scopes[0])
                for j, x in enumerate(same.get(id(store)) or vectors(store, scopes)):
                    here = b.at(address, b.i64(j * n), storage(dtype))
                    b.ir.store(x, here, align=dtype.itemsize)
                    self._ask(store.operand, j * n, here)
            return []

        def whole() -> None:
            b.loop(start, stop, b.i64(n), [], body)

        if not weave.open:
            whole()
            return
        with b.ir.if_else(b.ir.icmp_signed(">=", length, b.i64(n))) as (fits, short):
            with fits:
                whole()
            with short:
                for c in places:
                    self._span({**outer, weave.write: b.i64(c)}, start, stop, None)
