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
from ..build import I8, I64, PTR, Builder
from ..emitted import PLACEHOLDER, Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..target import CpuTarget
from ..text_cache import TextEmitter
from ..tiles import Tiles
from . import multiply, walk
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
        return Emitted(text, symbol, tuple(self.params.dims), units, s.unit_cost, flops, bytes_of(k.operands), shared=True)

    def text(self) -> tuple[str, str]:
        module = ir.Module()
        self.write(module, PLACEHOLDER)
        return named(str(module))

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
        run = function("run", ir.VoidType(), walk.ARGS)
        walk.Walk(run, self.operands, products, finish).write()
        return self._units(ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), name), run)

    def _units(self, fn: ir.Function, run: ir.Function) -> ir.Function:
        """void kernel(bufs, dims, begin, end): units that have what stays in common are walked as one."""
        b = Builder(fn)
        bufs, dims, begin, end = fn.args
        i, p, rows_pass = b.ir, self.operands.sizes(b, dims), self.schedule.rows_pass
        parts = [b.alloca(I8, i.mul(i.mul(p["depth"], x), b.i64(2 * PARTS))) for x in (p["kept"], b.i64(2 * STRIP))]
        sums = b.alloca(ir.FloatType(), p["sums"])
        tables = b.alloca(I64, b.i64(walk.TABLES * TALL) if rows_pass else p["kept"])
        tiles = Tiles(b, DType.BF16)
        tiles.configure()
        restore = flush_subnormals(b, self.target)
        outer, inner = ("chunks", "blocks") if rows_pass else ("blocks", "chunks")

        def units(u: Any) -> Any:
            first, rest = i.urem(u, p[inner]), i.udiv(u, p[inner])
            kept, batch = i.urem(rest, p[outer]), i.udiv(rest, p[outer])
            count = b.smin(b.smin(i.sub(end, u), i.sub(p[inner], first)), p["passing"])
            edges = {outer: [kept, i.add(kept, b.i64(1))], inner: [first, i.add(first, count)]}
            rows = [_share(b, p["m"], TALL, p["blocks"], at) for at in edges["blocks"]]
            columns = [_share(b, p["n"], STRIP, p["chunks"], at) for at in edges["chunks"]]
            i.call(run, [bufs, dims, batch, *rows, *columns, *parts, sums, tables])
            return i.add(u, count)

        b.walk(begin, end, units)
        restore()
        tiles.release()
        i.ret_void()
        return fn


def _share(b: Builder, size: Any, step: int, parts: Any, at: Any) -> Any:
    """Where part number `at` begins, of equal ones (but for a step)."""
    i = b.ir
    steps = i.udiv(i.add(size, b.i64(step - 1)), b.i64(step))
    return b.smin(size, i.mul(i.udiv(i.mul(at, steps), parts), b.i64(step)))
