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
from ..build import I8, I64, Builder
from ..emitted import PLACEHOLDER, WALKED, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..taking import taking_function
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import Tiles
from . import multiply, queue, walk
from .finish import AGAIN_ARGS, FINISH_ARGS, write_again, write_finish
from .operands import Operands
from .schedule import STRIP, TALL, TripleSchedule
from .split import LANES, PARTS


class TripleProduct(TextEmitter):
    """Raises CodegenError for epilogues that cannot be emitted."""

    family = "triple"

    def __init__(self, kernel: ContractKernel, schedule: TripleSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        self.operands = Operands(kernel, schedule)
        self.params = self.operands.params
        self.epilogue = Epilogue(kernel, self.params, target, LANES)

    def fingerprint(self) -> Hashable:
        s = self.schedule
        return s.ragged, s.short, s.rows_pass, tuple(o.dtype for o in self.kernel.operands), self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k, s = self.kernel, self.schedule
        units, flops = k.batch * s.blocks * s.chunks, 2 * k.batch * k.m * k.n * k.k
        return Emitted(text, symbol, tuple(self.params.dims), units, s.unit_cost, flops, bytes_of(k.operands), takes=True)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        return named(str(module), WALKED)

    def write(self, module: ir.Module, name: str) -> ir.Function:
        """The kernel's function, called `name`, and those that it calls."""

        def function(name: str, result: Any, args: Sequence[Any]) -> ir.Function:
            fn = ir.Function(module, ir.FunctionType(result, args), f"{PLACEHOLDER}.{name}")
            fn.linkage = "internal"
            fn.attributes.add("noinline")
            return fn

        products = {high: function(f"multiply{high}", I64, multiply.ARGS) for high in (1, 2)}
        for high, fn in products.items():
            multiply.write_multiply(fn, self.operands, high)
        again = function("again", ir.VoidType(), AGAIN_ARGS)
        write_again(again, self.kernel.panel)
        finish = function("finish", ir.VoidType(), FINISH_ARGS)
        write_finish(finish, self.operands, self.epilogue, again)
        more = function("more", I64, queue.MORE_ARGS)
        queue.write_more(more)
        following = function("following", I64, queue.FOLLOWING_ARGS)
        queue.write_following(following, self.operands, more)
        run = function("run", ir.VoidType(), walk.ARGS)
        walk.Walk(run, self.operands, walk.Functions(products, finish, following)).write()
        return self._units(taking_function(module, name), more, run)

    def _units(self, b: Builder, more: ir.Function, run: ir.Function) -> ir.Function:
        """void kernel(bufs, dims, take, share): units that have what stays in common are walked as one."""
        bufs, dims, take, share = b.fn.args
        i, p, rows_pass = b.ir, self.operands.sizes(b, dims), self.schedule.rows_pass
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
            i.call(run, [bufs, dims, batch, stay, end, i.mul(whole, p[inner]), *parts, sums, tables, waiting, listed])
            return ()

        b.during([], lambda _: i.icmp_signed("!=", i.call(more, [waiting]), b.i64(0)), walk_some)
        restore()
        tiles.release()
        i.ret_void()
        return b.fn
