"""The innermost loops of every contraction: broadcast A, stream packed B, accumulate in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ...ir import DType
from . import llvm_ir as ir
from .build import I8, I32, I64, PTR, Builder, storage, vec
from .math.minifloat import decode
from .shuffles import held, low
from .target import CpuTarget

MOST_SHARE = 4  # log2 of the row tiles that prefetch a strip at most: a cache line of each per four rows of B
LINE = 64  # bytes


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a row tile prefetches: its part of the next strip of B, if `early` (i1), at (address of B in use >> share) + offset."""

    early: Any
    offset: Any
    share: Any


@dataclass(frozen=True, slots=True)
class Product:
    """Elements of A and B are `dtype` in memory and `acc` in registers; rows of B are `panel` elements apart.

    `exact`: k is a multiple of `unroll`.
    """

    dtype: DType
    acc: DType
    lanes: int
    panel: int
    unroll: int
    exact: bool
    target: CpuTarget

    @property
    def vector(self) -> Any:
        return vec(storage(self.acc), self.lanes)

    def accumulate(
        self, b: Builder, length: Any, starts: Sequence[Any], b_ptr: Any, acc: list[Any], vectors: int, ahead: Ahead | None = None,
        row: Any = None, masks: Sequence[Any] = (), half: bool = False, ask: Callable[[Any], None] | None = None,
    ) -> list[Any]:  # fmt: skip
        """acc[r·vectors + v] += Σ_{t < length} starts[r][t] · b_ptr[t·panel + v·lanes …].

        `ahead` (from the method of that name): what to prefetch.
        With `row` B is not packed: its rows are so many elements apart, and `masks` say which columns there are.
        `half`: the last of the vectors, of B and of each row of acc, is half as wide. `ask(t)`: what to do beside each `unroll` steps.
        """
        i = b.ir
        element = storage(self.dtype)
        lanes = [self.lanes // 2 if half and v == vectors - 1 else self.lanes for v in range(vectors)]

        def step(at: Any, acc: list[Any], count: int) -> list[Any]:
            base = b.at(b_ptr, i.mul(at, b.i64(self.panel) if row is None else row), element)
            acc = list(acc)
            here = [b.at(start, at, element) for start in starts]
            if ahead is not None and count > 1:
                self._prefetch(b, base, ahead, count * self.panel * self.dtype.itemsize)
            if ask is not None and count > 1:
                ask(at)
            for u in range(count):
                line, first = (base, u * self.panel) if row is None else (b.at(base, i.mul(row, b.i64(u)), element), 0)
                at_v = [b.at(line, b.i64(first + v * self.lanes), element) for v in range(vectors)]
                there = [self.columns(b, ptr, masks[v] if masks else None, lanes[v]) for v, ptr in enumerate(at_v)]
                for r, start in enumerate(here):
                    x = self.broadcast(b, b.at(start, b.i64(u), element))
                    if half and vectors > 1:
                        x = held(b, x)
                    for v in range(vectors):
                        acc[r * vectors + v] = self.fma(b, low(b, x, lanes[v]), there[v], acc[r * vectors + v])
            return acc

        return self._steps(b, length, acc, step)

    def accumulate_groups(
        self, b: Builder, length: Any, starts: Sequence[Any], strips: Sequence[Any], channels: int, acc: list[Any]
    ) -> list[Any]:
        """acc[r·groups + g] += Σ_{t < length} starts[r][g·channels + t] · strips[g][t·panel …], a vector of every group."""
        element = storage(self.dtype)

        def step(at: Any, acc: list[Any], count: int) -> list[Any]:
            acc, line = list(acc), b.ir.mul(at, b.i64(self.panel))
            here, there = [b.at(start, at, element) for start in starts], [b.at(strip, line, element) for strip in strips]
            for u in range(count):
                for g, ptr in enumerate(there):
                    y = self.columns(b, b.at(ptr, b.i64(u * self.panel), element), None)
                    for r, start in enumerate(here):
                        x = self.broadcast(b, b.at(start, b.i64(g * channels + u), element))
                        acc[r * len(there) + g] = self.fma(b, x, y, acc[r * len(there) + g])
            return acc

        return self._steps(b, length, acc, step)

    def _steps(self, b: Builder, length: Any, acc: list[Any], step: Callable[[Any, list[Any], int], list[Any]]) -> list[Any]:
        main = length if self.exact else b.ir.and_(length, b.i64(-self.unroll))
        acc = b.loop(b.i64(0), main, b.i64(self.unroll), acc, lambda at, acc: step(at, acc, self.unroll))
        if not self.exact:
            acc = b.loop(main, length, b.i64(1), acc, lambda at, acc: step(at, acc, 1))
        return acc

    def ahead(self, b: Builder, size: Any, b_ptr: Any, tile: Any, share: Any) -> Ahead:
        """For row tile number `tile`: each of the first 2^`share` (at most 2^`MOST_SHARE`) asks for its part of what follows these `size`
        bytes of B, so that it comes from memory while they are in use. Later tiles ask for nothing, which would only take slots of loads.
        """
        i = b.ir
        here = i.ptrtoint(b_ptr, I64)
        part = i.lshr(size, share)
        early = i.icmp_unsigned("<", tile, i.shl(b.i64(1), share))
        first = i.add(size, i.mul(part, tile))
        return Ahead(early, i.sub(i.add(here, first), i.lshr(here, share)), share)

    def _prefetch(self, b: Builder, base: Any, ahead: Ahead, size: int) -> None:
        """Of the next strip, this tile's part of what corresponds to the `size` bytes of B at `base`: fewer tiles ask for more."""
        i = b.ir
        with ExitStack() as inner:
            inner.enter_context(i.if_then(ahead.early))
            far = i.inttoptr(i.add(i.lshr(i.ptrtoint(base, I64), ahead.share), ahead.offset), PTR)
            done = 0
            for share in reversed(range(MOST_SHARE + 1)):
                part = max(LINE, size >> share)
                if 0 < done < part:
                    inner.enter_context(i.if_then(i.icmp_unsigned("<=", ahead.share, b.i64(share))))
                for line in range(done, part, LINE):
                    b.prefetch(i.gep(far, [b.i64(line)], source_etype=I8), 2)
                done = part

    def columns(self, b: Builder, ptr: Any, mask: Any, lanes: int = 0) -> Any:
        t = vec(storage(self.dtype), lanes or self.lanes)
        x = b.load(t, ptr, self.dtype.itemsize) if mask is None else b.masked_load(t, ptr, mask, self.dtype.itemsize)
        return self._widen(b, x)

    def broadcast(self, b: Builder, ptr: Any) -> Any:
        x = b.load(storage(self.dtype), ptr, self.dtype.itemsize)
        if self.dtype is DType.F16 and not self.target.half:
            return self._widen(b, b.splat(x, self.lanes))
        return b.splat(self._widen(b, x), self.lanes)

    def _widen(self, b: Builder, x: Any) -> Any:
        """Storage type → accumulator type."""
        if self.dtype is self.acc:
            return x
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 0
        to = vec(storage(self.acc), lanes) if lanes else storage(self.acc)
        if self.dtype is DType.BF16:
            t = vec(I32, lanes) if lanes else I32
            shift = ir.Constant(t, [16] * lanes if lanes else 16)
            return b.ir.bitcast(b.ir.shl(b.ir.zext(x, t), shift), to)
        return b.ir.fpext(x, to) if self.target.half else decode(b, x, DType.F16)

    def fma(self, b: Builder, x: Any, y: Any, z: Any) -> Any:
        if not self.acc.is_float:
            return b.ir.add(b.ir.mul(x, y), z)
        return b.fma(x, y, z, self.target.fma)
