"""The register tile of dot products: some rows of A by one strip of packed B, on tile registers or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llvmlite import ir

from ..kernel import ContractKernel
from .build import I8, I64, PTR, Builder, storage, vec
from .dot import VectorDot, accumulator, dot_kind
from .dot_schedule import DotSchedule
from .dot_window import Window
from .emitted import PLACEHOLDER
from .epilogue import Epilogue
from .tiles import BYTES, ROWS, Tiles

Sizes = Mapping[str, Any]  # params by name, in registers
_AHEAD = 8 << 10  # bytes of B that are fetched before they are multiplied


class RegisterTile:
    """Emits functions of one kernel; `size` are slots of the params table by name."""

    def __init__(
        self, kernel: ContractKernel, schedule: DotSchedule, size: Mapping[str, int], window: Window | None, epilogue: Epilogue
    ) -> None:
        self.kernel, self.schedule, self.size, self.window, self.epilogue = kernel, schedule, size, window, epilogue
        self.kind = dot_kind(kernel.operands[0].dtype, kernel.operands[1].dtype)
        self.vector = accumulator(self.kind, schedule.lanes)

    def emit(self, module: ir.Module, height: int, masked: bool) -> ir.Function:
        """void tile(bufs, dims, batch, block_start, row, row_end, column, a, stride, advance, step): rows of a block by one strip.

        The sums of a tile rest in a small array until the next one is being multiplied: the epilogue fills the time that
        tile registers take.
        """
        s, k = self.schedule, self.kernel
        name = f"{PLACEHOLDER}.{height}{'t' if masked else ''}"
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, *[I64] * 5, PTR, *[I64] * 3]), name)
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        b = Builder(fn)
        i = b.ir
        bufs, dims, batch, block_start, row, row_end, column, a, stride, advance, step = fn.args
        p = {n: b.param(dims, at) for n, at in self.size.items()}
        w = self.window.load(b, dims) if self.window is not None else {}
        pointers = [b.load(PTR, b.at(bufs, b.i64(x), PTR), 8) for x in range(len(k.operands))]
        strip_bytes = i.mul(p["pitch"], b.i64(k.panel))
        offset = i.mul(i.udiv(column, b.i64(k.panel)), strip_bytes)
        b_strip = b.at(pointers[1], i.add(i.mul(batch, p["b_batch"]), offset), I8)
        element = storage(k.operands[-1].dtype)
        c = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), element)
        live = i.sub(p["n"], column)
        masks = [b.below(live, s.lanes, v * s.lanes) if masked else None for v in range(s.vectors)]
        epilogue = self.epilogue.begin(b, dims, pointers, batch, column, masks, hold=True)
        sums = b.alloca(self.vector, b.i64(height * s.vectors))

        def finish(at: Any) -> None:
            def store(r: Any, m: Any) -> None:
                line = b.at(sums, i.mul(r, b.i64(s.vectors)), self.vector)
                acc = [b.load(self.vector, b.at(line, b.i64(v), self.vector), 16) for v in range(s.vectors)]
                epilogue.row(m, acc, b.at(c, i.mul(m, p["ldc"]), element))

            end = b.smin(row_end, i.add(at, b.i64(height)))
            if self.window is not None:
                self.window.stored(b, w, at, end, block_start, store)
                return

            def along(r: Any, _: list[Any]) -> Sequence[Any]:
                store(r, i.add(block_start, i.add(at, r)))
                return ()

            b.loop(b.i64(0), i.sub(end, at), b.i64(1), [], along)

        def vectors(at: Any, _: list[Any]) -> Sequence[Any]:
            rows = b.at(a, i.mul(at, advance), I8)
            self._vector_product(b, height, rows, stride, b_strip, i.udiv(i.add(p["row_bytes"], b.i64(3)), b.i64(4)), sums)
            finish(at)
            return ()

        def tiles(at: Any, _: list[Any]) -> Sequence[Any]:
            live = i.icmp_signed("<", at, row_end)
            with i.if_then(live):
                rows = b.at(a, i.mul(at, advance), I8)
                below = b.at(rows, i.mul(advance, b.i64(ROWS)), I8)
                self._tile_product(b, p, w, (rows, below)[: height // ROWS], stride, advance, step, b_strip)
            with i.if_then(i.icmp_signed(">", at, row)):
                finish(i.sub(at, b.i64(height)))
            with i.if_then(live):
                t = Tiles(b, self.kind.a)
                width = 4 * k.panel
                for x in range(height // ROWS):
                    for y in range(2):
                        t.store(2 * x + y, b.at(sums, b.i64(x * ROWS * width + y * BYTES), I8), b.i64(width))
            return ()

        if s.how == "tiles":
            b.loop(row, i.add(row_end, b.i64(height)), b.i64(height), [], tiles)
        else:
            b.loop(row, row_end, b.i64(height), [], vectors)
        i.ret_void()
        return fn

    def _tile_product(
        self, b: Builder, p: Sizes, w: Sizes, rows: Sequence[Any], stride: Any, advance: Any, step: Any, b_strip: Any
    ) -> None:
        """16·len(rows) rows by 32 columns: sums in tiles 0 … 3, A in 4 and 5, B in 6 and 7."""
        i, t, high = b.ir, Tiles(b, self.kind.a), len(rows)
        width = 4 * self.kernel.panel
        pitch = b.i64(width)
        for x in range(2 * high):
            t.zero(x)

        def multiply(starts: Sequence[Any], line: Any) -> Any:
            self._fetch(b, t, starts, line, advance)
            for x, start in enumerate(starts):
                t.load(4 + x, start, stride)
            for y in range(2):
                t.load(6 + y, b.at(line, b.i64(y * BYTES), I8), pitch)
            for x in range(high):
                for y in range(2):
                    t.multiply(2 * x + y, 4 + x, 6 + y)
            return b.at(line, b.i64(ROWS * width), I8)

        if self.window is not None:
            below = i.mul(stride, b.i64(ROWS))

            def tap(start: Any, size: Any, line: Any) -> Any:
                def along(at: Any, carried: list[Any]) -> Sequence[Any]:
                    first = b.at(start, at, I8)
                    return [multiply((first, b.at(first, below, I8))[:high], carried[0])]

                return b.loop(b.i64(0), size, b.i64(BYTES), [line], along)[0]

            self.window.taps(b, w, rows[0], b_strip, tap)
            return

        def along(at: Any, carried: list[Any]) -> Sequence[Any]:
            offset = i.mul(at, step)
            return [multiply([b.at(row, offset, I8) for row in rows], carried[0])]

        b.loop(b.i64(0), i.udiv(p["pitch"], b.i64(BYTES)), b.i64(1), [b_strip], along)

    def _fetch(self, b: Builder, t: Tiles, starts: Sequence[Any], line: Any, advance: Any) -> None:
        """What is multiplied soon into the first-level cache: tile loads ask for 16 lines at once, too late to prefetch them."""
        i = b.ir
        if self.schedule.fetch == "b":
            for x in range(0, ROWS * 4 * self.kernel.panel, BYTES):
                t.prefetch(b.at(line, b.i64(_AHEAD + x), I8))
            return
        rows = ROWS * len(starts)
        for r in range(rows):
            t.prefetch(b.at(starts[0], i.mul(advance, b.i64(rows + r)), I8))

    def _vector_product(self, b: Builder, height: int, rows: Any, stride: Any, b_strip: Any, steps: Any, sums: Any) -> None:
        i, s = b.ir, self.schedule
        dot = VectorDot(self.kind, s.how, s.lanes)
        lanes = vec(ir.IntType(32), s.lanes)
        starts = [b.at(rows, i.mul(stride, b.i64(r)), I8) for r in range(height)]

        def step(at: Any, acc: list[Any]) -> Sequence[Any]:
            line = b.at(b_strip, i.mul(at, b.i64(4 * self.kernel.panel)), I8)
            y = [b.load(lanes, b.at(line, b.i64(4 * s.lanes * v), I8), 4) for v in range(s.vectors)]
            out = []
            for r, start in enumerate(starts):
                x = b.splat(b.load(ir.IntType(32), b.at(start, i.mul(at, b.i64(4)), I8), 1), s.lanes)
                out += [dot(b, acc[r * s.vectors + v], x, y[v]) for v in range(s.vectors)]
            return out

        zero = ir.Constant(self.vector, None)
        for x, value in enumerate(b.loop(b.i64(0), steps, b.i64(1), [zero] * (height * s.vectors), step)):
            i.store(value, b.at(sums, b.i64(x), self.vector), align=16)
