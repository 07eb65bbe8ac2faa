"""float32 products on tile registers: every number is a sum of three bfloat16, exactly, and six of nine products count.

The parts are the upper, middle and lower 8 bits of the significand, so a · b = Σ aᵢ·bⱼ; the three products left out are below
2⁻²⁰ of it, and mean 2⁻²⁴ (a float32 rounds by as much). Products of two parts are exact in the float32 that tiles add up.

One operand is split first and stays, the other passes in tiles of 32 rows, or columns: while tile registers multiply one of these,
vectors split the next, which takes no further time. Where a sum is infinite or not a number, its row of the tile is computed again
by multiply-adds: parts of an infinity are no numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ....ir import DType
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I8, I64, PTR, Builder, subroutine
from ..emitted import WALKED, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..taking import taking_function
from ..target import CpuTarget
from ..text_cache import Text, TextEmitter, text_of
from ..tiles import Tiles
from . import multiply, queue, walk
from .finish import AGAIN_ARGS, FINISH_ARGS, write_again, write_finish
from .operands import Operands
from .schedule import STRIP, TALL, TripleSchedule
from .split import LANES, PARTS


class TripleWalk(Text):
    """void walk(bufs, dims, take, share, finish): all of a kernel but what becomes of sums, which is the function `finish`.

    Layers whose epilogues differ have it in common.
    """

    family = "triple walk"

    def __init__(self, operands: Operands, target: CpuTarget) -> None:
        self.operands, self.target = operands, target

    def fingerprint(self) -> Hashable:
        k, s = self.operands.kernel, self.operands.schedule
        return s.short, s.rows_pass, k.panel, len(k.operands), k.operands[-1].dtype, self.target

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        products = {high: subroutine(module, f"multiply{high}", multiply.ARGS, I64) for high in (1, 2)}
        for high, b in products.items():
            multiply.write_multiply(b, self.operands, high)
        more = subroutine(module, "more", queue.MORE_ARGS, I64)
        queue.write_more(more)
        following = subroutine(module, "following", queue.FOLLOWING_ARGS, I64)
        queue.write_following(following, self.operands, more.fn)
        run = subroutine(module, "run", walk.ARGS)
        walk.Walk(run, self.operands, {high: b.fn for high, b in products.items()}, following.fn).write()
        self._units(taking_function(module, [PTR]), more.fn, run.fn)
        return named(str(module), WALKED)

    def _units(self, b: Builder, more: ir.Function, run: ir.Function) -> None:
        """Units that have what stays in common are walked as one."""
        bufs, dims, take, share, finish = b.fn.args
        i, p, rows_pass = b.ir, self.operands.sizes(b, dims), self.operands.schedule.rows_pass
        waiting = b.alloca(I64, b.i64(queue.WORDS))
        units = queue.Queue(b, waiting)
        units.start(take, share)
        parts = [b.alloca(I8, i.mul(i.mul(p["depth"], x), b.i64(2 * PARTS))) for x in (p["kept"], b.i64(2 * STRIP))]
        sums = b.alloca(ir.FloatType(), p["sums"])
        tables = b.alloca(I64, b.i64(walk.TABLES * TALL) if rows_pass else p["kept"])
        listed = b.alloca(I64, p["listed"])
        tiles = Tiles(b, DType.BF16)
        tiles.configure()
        restore = flush_subnormals(b, self.target)
        outer, inner, size = ("chunks", "blocks", "n") if rows_pass else ("blocks", "chunks", "m")

        def walk_some(_: list[Any]) -> Sequence[Any]:
            whole = i.udiv(units.unit, p[inner])
            kept, batch = i.urem(whole, p[outer]), i.udiv(whole, p[outer])
            stay, end = (queue.share(b, p[size], TALL, p[outer], at) for at in (kept, i.add(kept, b.i64(1))))
            i.call(run, [bufs, dims, batch, stay, end, i.mul(whole, p[inner]), *parts, sums, tables, waiting, listed, finish])
            return ()

        b.during([], lambda _: i.icmp_signed("!=", i.call(more, [waiting]), b.i64(0)), walk_some)
        restore()
        tiles.release()
        i.ret_void()


class TripleProduct(TextEmitter):
    """Raises CodegenError for epilogues that cannot be emitted."""

    family = "triple"

    def __init__(self, kernel: ContractKernel, schedule: TripleSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.operands = Operands(kernel, schedule)
        self.walk = TripleWalk(self.operands, target)
        self.params = self.operands.params
        self.epilogue = Epilogue(kernel, self.params, target, LANES)

    def fingerprint(self) -> Hashable:
        s = self.schedule
        return s.ragged, s.short, s.rows_pass, tuple(o.dtype for o in self.kernel.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        units, flops = k.batch * s.blocks * s.chunks, 2 * k.batch * k.m * k.n * k.k
        return Emitted(text, symbol, tuple(self.params.dims), units, s.unit_cost, flops, bytes_of(k.operands), takes=True,
                       parts=(text_of(self.walk),))  # fmt: skip

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        again = subroutine(module, "again", AGAIN_ARGS)
        write_again(again, self.kernel.panel)
        finish = subroutine(module, "finish", FINISH_ARGS)
        write_finish(finish, self.operands, self.epilogue, again.fn)
        b = taking_function(module)
        b.call(text_of(self.walk)[1], ir.VoidType(), *b.fn.args, finish.fn)
        b.ir.ret_void()
        return named(str(module), WALKED)
