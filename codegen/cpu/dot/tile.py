"""The register tile of dot products: some rows of A by one strip of packed B, on tile registers or vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...kernel import ContractKernel
from .. import llvm_ir as ir
from ..build import I8, I64, PTR, Builder, storage, subroutine, vec
from ..epilogue import Epilogue
from ..tiles import BYTES, ROWS, Tiles
from .instructions import VectorDot, accumulator, dot_kind
from .schedule import DotSchedule
from .window import Window

Sizes = Mapping[str, Any]  # params by name, in registers
_LONGEST = 512 << 10  # bytes of a strip of B that the second-level cache keeps beside the strip before it
_UNROLL = 4  # lanes of K that a turn of the loop on vectors takes: their addresses differ by constants
_NEAR = 3  # rows that one address reaches: at itself, a stride behind it, and two
_AHEAD = 8 << 10  # bytes of B that are fetched before they are multiplied, where strips are longer


class RegisterTile:
    """Emits functions of one kernel; `size` are slots of the params table by name."""

    def __init__(
        self, kernel: ContractKernel, schedule: DotSchedule, size: Mapping[str, int], window: Window | None, epilogue: Epilogue
    ) -> None:
        self.kernel, self.schedule, self.size, self.window, self.epilogue = kernel, schedule, size, window, epilogue
        self.kind = dot_kind(kernel.operands[0].dtype, kernel.operands[1].dtype)
        self.vector = accumulator(self.kind, schedule.lanes)
        target = epilogue.target
        self._register = "w" if not target.is_x86 else "v" if schedule.lanes == 16 else "x"

    def emit(self, module: ir.Module, height: int, masked: bool) -> ir.Function:
        """void tile(bufs, dims, batch, block_start, row, row_end, column, column_end, a, stride, advance, step).

        Every tile of rows by every strip. The sums of one rest in a small array until the next is being multiplied: the
        epilogue fills the time that tile registers take.
        """
        s, k = self.schedule, self.kernel
        b = subroutine(module, f"{height}{'t' if masked else ''}", [PTR, PTR, *[I64] * 6, PTR, *[I64] * 3])
        i = b.ir
        bufs, dims, batch, block_start, row, row_end, column, column_end, a, stride, advance, step = b.fn.args
        p = b.params(dims, self.size)
        w = self.window.load(b, dims) if self.window is not None else {}
        pointers = b.operands(bufs, len(k.operands))
        strip_bytes = i.mul(p["pitch"], b.i64(k.panel))
        packed = b.at(pointers[1], i.mul(batch, p["b_batch"]), I8)
        element = storage(k.operands[-1].dtype)
        c = b.at(pointers[-1], i.mul(batch, p["c_batch"]), element)
        sums = b.alloca(self.vector, b.i64(height * s.vectors))
        heights = i.sdiv(i.add(i.sub(row_end, row), b.i64(height - 1)), b.i64(height))
        strips = i.sdiv(i.add(i.sub(column_end, column), b.i64(k.panel - 1)), b.i64(k.panel))
        inner = strips if s.by_rows else heights

        def place(t: Any) -> tuple[Any, Any]:
            """(first row, first column) of a tile."""
            slow, fast = i.udiv(t, inner), i.urem(t, inner)
            high, wide = (slow, fast) if s.by_rows else (fast, slow)
            return i.add(row, i.mul(high, b.i64(height))), i.add(column, i.mul(wide, b.i64(k.panel)))

        def strip(at: Any) -> Any:
            return b.at(packed, i.mul(i.udiv(at, b.i64(k.panel)), strip_bytes), I8)

        def finish(at: Any, left: Any) -> None:
            live = i.sub(p["n"], left)
            masks = b.column_masks(live, s.lanes, s.vectors, masked)
            epilogue = self.epilogue.begin(b, dims, pointers, batch, left, masks, hold=True)
            corner = b.at(c, left, element)

            def store(r: Any, m: Any) -> None:
                line = b.at(sums, i.mul(r, b.i64(s.vectors)), self.vector)
                acc = [b.load(self.vector, b.at(line, b.i64(v), self.vector), 16) for v in range(s.vectors)]
                epilogue.row(m, acc, b.at(corner, i.mul(m, p["ldc"]), element))

            end = b.smin(row_end, i.add(at, b.i64(height)))
            if self.window is not None:
                self.window.stored(b, w, at, end, block_start, store)
                return

            def along(r: Any, _: list[Any]) -> Sequence[Any]:
                store(r, i.add(block_start, i.add(at, r)))
                return ()

            b.loop(b.i64(0), i.sub(end, at), b.i64(1), [], along)

        def vectors(t: Any, _: list[Any]) -> Sequence[Any]:
            at, left = place(t)
            rows = b.at(a, i.mul(at, advance), I8)
            steps = i.udiv(i.add(p["row_bytes"], b.i64(3)), b.i64(4))
            later = self._later(b, strip_bytes, i.udiv(i.sub(at, row), b.i64(height)))
            self._vector_product(b, height, rows, stride, strip(left), steps, later, sums)
            finish(at, left)
            return ()

        def tiles(t: Any, before: list[Any]) -> Sequence[Any]:
            at, left = place(t)
            live = i.icmp_signed("<", t, count)
            with i.if_then(live):
                rows = b.at(a, i.mul(at, advance), I8)
                below = b.at(rows, i.mul(advance, b.i64(ROWS)), I8)
                self._tile_product(b, p, w, (rows, below)[: height // ROWS], stride, advance, step, strip(left), ahead(i.urem(t, inner)))
            with i.if_then(i.icmp_signed(">", t, b.i64(0))):
                finish(*before)
            with i.if_then(live):
                registers = Tiles(b, self.kind.a)
                width = 4 * k.panel
                for x in range(height // ROWS):
                    for y in range(2):
                        registers.store(2 * x + y, b.at(sums, b.i64(x * ROWS * width + y * BYTES), I8), b.i64(width))
            return [at, left]

        def ahead(turn: Any) -> Any:
            """Where what this turn of the inner loop asks memory for begins, from the place of B, or of A."""
            if s.fetch == "a":
                share = i.and_(i.mul(turn, b.i64(s.share)), b.i64(self.schedule.heights[0] - 1))
                return i.mul(advance, i.add(b.i64(height), share))
            far = i.select(i.icmp_signed("<=", strip_bytes, b.i64(_LONGEST)), strip_bytes, b.i64(_AHEAD))
            return i.add(far, i.and_(i.mul(turn, b.i64(s.share * BYTES)), b.i64(ROWS * 4 * k.panel - 1)))

        count = i.mul(heights, strips)
        with i.if_then(i.icmp_signed(">", count, b.i64(0))):
            if s.how == "tiles":
                b.loop(b.i64(0), i.add(count, b.i64(1)), b.i64(1), [b.i64(0), b.i64(0)], tiles)
            else:
                b.loop(b.i64(0), count, b.i64(1), [], vectors)
        i.ret_void()
        return b.fn

    def _tile_product(
        self, b: Builder, p: Sizes, w: Sizes, rows: Sequence[Any], stride: Any, advance: Any, step: Any, b_strip: Any, ahead: Any
    ) -> None:
        """16·len(rows) rows by 32 columns: sums in tiles 0 … 3, A in 4 and 5, B in 6 and 7."""
        i, t, high = b.ir, Tiles(b, self.kind.a), len(rows)
        width = 4 * self.kernel.panel
        pitch = b.i64(width)
        for x in range(2 * high):
            t.zero(x)

        def multiply(starts: Sequence[Any], line: Any) -> Any:
            self._fetch(b, starts[0], line, advance, ahead)
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

    def _fetch(self, b: Builder, start: Any, line: Any, advance: Any, ahead: Any) -> None:
        """Ask memory for a share of what is multiplied later: tile loads want 16 lines at once, too late to wait for them.

        Of B that is the next strip, of A the rows of the next tile; every turn of the inner loop fetches a part, so that
        memory is busy throughout.
        """
        for x in range(self.schedule.share):
            if self.schedule.fetch == "a":
                b.prefetch(b.at(start, b.ir.add(ahead, b.ir.mul(advance, b.i64(x))), I8), 2)
            else:
                b.prefetch(b.at(line, b.ir.add(ahead, b.i64(x * BYTES)), I8), 2)

    def _later(self, b: Builder, strip_bytes: Any, turn: Any) -> tuple[Any, Any]:
        """(whether tile of rows number `turn` asks memory for a part of the next strip, how far from the strip in use it begins).

        The first tiles of rows share the strip that comes next; where strips are the inner loop, the first tile meets all of them.
        """
        i, share = b.ir, self.schedule.share.bit_length() - 1
        return i.icmp_unsigned("<", turn, b.i64(1 << share)), i.add(strip_bytes, i.mul(turn, i.lshr(strip_bytes, b.i64(share))))

    def _vector_product(
        self, b: Builder, height: int, rows: Any, stride: Any, b_strip: Any, steps: Any, later: tuple[Any, Any], sums: Any
    ) -> None:
        i, s = b.ir, self.schedule
        dot = VectorDot(self.kind, s.how, s.lanes)
        lanes = vec(ir.IntType(32), s.lanes)
        width = 4 * self.kernel.panel
        share = s.share.bit_length() - 1
        sums_of = [slice(r * s.vectors, (r + 1) * s.vectors) for r in range(height)]

        def several(count: int) -> Callable[[Any, list[Any]], Sequence[Any]]:
            def step(at: Any, carried: list[Any]) -> Sequence[Any]:
                acc, (line, *corners) = carried[: height * s.vectors], self._opaque(b, carried[height * s.vectors :], "r")
                if count > 1:
                    with i.if_then(later[0]):
                        far = b.at(b_strip, i.add(later[1], i.lshr(i.mul(at, b.i64(width)), b.i64(share))), I8)
                        for x in range(0, max(BYTES, (count * width) >> share), BYTES):
                            b.prefetch(b.at(far, b.i64(x), I8), 2)
                for u in range(count):
                    y = [b.load(lanes, b.at(line, b.i64(u * width + 4 * s.lanes * v), I8), 4) for v in range(s.vectors)]
                    for r, mine in enumerate(sums_of):
                        place = b.at(b.at(corners[r // _NEAR], i.mul(stride, b.i64(r % _NEAR)), I8), b.i64(4 * u), I8)
                        x = b.splat(b.load(ir.IntType(32), place, 1), s.lanes)
                        acc[mine] = self._opaque(b, [dot(b, z, x, y[v]) for v, z in enumerate(acc[mine])], self._register)
                return [*acc, b.at(line, b.i64(count * width), I8), *(b.at(p, b.i64(4 * count), I8) for p in corners)]

            return step

        corners = [b.at(rows, i.mul(stride, b.i64(r)), I8) for r in range(0, height, _NEAR)]
        carried = [*[ir.Constant(self.vector, None)] * (height * s.vectors), b_strip, *corners]
        whole = i.and_(steps, b.i64(-_UNROLL))
        carried = b.loop(b.i64(0), whole, b.i64(_UNROLL), carried, several(_UNROLL))
        carried = b.loop(whole, steps, b.i64(1), carried, several(1))
        for x, value in enumerate(carried[: height * s.vectors]):
            i.store(value, b.at(sums, b.i64(x), self.vector), align=16)

    def _opaque(self, b: Builder, values: Sequence[Any], constraint: str) -> list[Any]:
        """The same values, in registers, before any load that follows: no instruction, but LLVM would move loads of many rows up
        until they spill registers, and keep an address for each row."""
        t = ir.LiteralStructType([v.type for v in values])
        constraints = ",".join([f"={constraint}"] * len(values) + [str(x) for x in range(len(values))] + ["~{memory}"])
        out = b.ir.call(ir.InlineAsm(ir.FunctionType(t, [v.type for v in values]), "", constraints), list(values))
        return [b.ir.extract_value(out, x) for x in range(len(values))]
