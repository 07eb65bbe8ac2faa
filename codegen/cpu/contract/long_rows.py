"""A few rows of A by a large B that lies in rows: rows of B are read from end to end, a few side by side, and sums rest in between.

A strip in registers would read a piece of every row, and pieces of a kilobyte are too short for what the processor asks for ahead: it
reads 7 GB/s where whole rows reach 13.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ....ir import ceildiv
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import I64, PTR, Builder, Params, kernel_function, storage, subroutine
from ..emitted import Emitted, named
from ..epilogue import Epilogue
from ..float_mode import flush_subnormals
from ..product import Product
from ..target import CpuTarget
from ..text_cache import TextEmitter
from .schedule import accumulator

_MOST_BESIDE = 8  # rows of B that are read side by side
_MOST_ROWS = 8  # of A
_PIECE = 16  # vectors of a unit
_PIECES = 16  # of one row of A, whose sums stay in the first-level cache, with the rows of B that pass
_LEAST_BYTES = 1 << 20  # of B; a smaller one waits in the second-level cache, where strips are as good


def by_long_rows(kernel: ContractKernel, target: CpuTarget) -> bool:
    """Whether rows are few, and those of B longer than a strip of them."""
    k = kernel
    if not k.b_row or k.conv is not None or k.planes is not None or not all(isinstance(d, int) for d in (k.m, k.n, k.k)):
        return False
    itemsize = k.operands[1].dtype.itemsize
    columns = _PIECE * target.vector_bits // 8 // accumulator(k).itemsize
    return 1 <= int(k.m) <= _MOST_ROWS and int(k.n) > columns and int(k.k) * int(k.n) * itemsize > _LEAST_BYTES


class LongRows(TextEmitter):
    family = "long rows"

    def __init__(self, kernel: ContractKernel, target: CpuTarget) -> None:
        """Raises CodegenError for element types or epilogues that cannot be emitted."""
        self.kernel, self.target = kernel, target
        assert isinstance(kernel.m, int) and isinstance(kernel.n, int) and isinstance(kernel.k, int)
        self.height = kernel.m
        self.dtype, self.acc = kernel.operands[0].dtype, accumulator(kernel)
        self.lanes = target.vector_bits // 8 // self.acc.itemsize
        self.most = max(1, _PIECES // self.height)  # pieces at once
        self.beside = max(1, min(_MOST_BESIDE, target.vector_registers // 2 // self.height))  # their elements of A are held in registers
        self.product = Product(self.dtype, self.acc, self.lanes, kernel.panel, self.beside, kernel.k % self.beside == 0, target)
        self.exact = kernel.n % self.lanes == 0
        self.params = Params()
        k = kernel
        self.pieces = ceildiv(k.n, self.lanes * _PIECE)
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "n": k.n, "k": k.k, "lda": k.lda, "a_batch": k.a_batch, "b_batch": k.b_batch, "b_row": k.b_row, "ldc": k.ldc,
                "c_batch": k.c_batch, "pieces": self.pieces,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, self.lanes)

    def fingerprint(self) -> Hashable:
        types = tuple(o.dtype for o in self.kernel.operands)
        return self.height, self.product, self.exact, types, self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k = self.kernel
        cost = 2 * k.m * self.lanes * _PIECE * k.k
        return Emitted(text, symbol, tuple(self.params.dims), k.batch * self.pieces, cost, 2 * k.batch * k.m * k.n * k.k,
                       bytes_of(k.operands), shared=True)  # fmt: skip

    def text(self) -> tuple[str, str]:
        """void kernel(bufs, dims, begin, end): a unit is a piece of the columns, and units of a call that are neighbours are one."""
        module = ir.Module()
        multiply, finish = self._multiply(module), self._finish(module)
        b = kernel_function(module)
        bufs, dims, begin, end = b.fn.args
        i, p = b.ir, b.params(dims, self.size)
        columns = b.i64(self.lanes * _PIECE)
        sums = b.alloca(storage(self.acc), b.i64(self.height * self.lanes * _PIECE * self.most))
        restore = flush_subnormals(b, self.target) if self.acc.is_float else None

        def some(u: Any) -> Any:
            batch, piece = i.udiv(u, p["pieces"]), i.urem(u, p["pieces"])
            count = b.smin(b.smin(i.sub(end, u), i.sub(p["pieces"], piece)), b.i64(self.most))
            column = i.mul(piece, columns)
            width = b.smin(i.mul(count, columns), i.sub(p["n"], column))
            i.call(multiply, [bufs, dims, batch, column, width, sums])
            i.call(finish, [bufs, dims, batch, column, width, sums])
            return i.add(u, count)

        b.walk(begin, end, some)
        if restore is not None:
            restore()
        i.ret_void()
        return named(str(module))

    def _multiply(self, module: ir.Module) -> ir.Function:
        """Sums of `width` columns from `column` on, by rows of A a vector of columns after the other."""
        b = subroutine(module, "multiply", [PTR, PTR, I64, I64, I64, PTR])
        bufs, dims, batch, column, width, sums = b.fn.args
        i, p, element = b.ir, b.params(dims, self.size), storage(self.dtype)
        a = b.at(b.operand(bufs, 0), i.mul(batch, p["a_batch"]), element)
        first = b.at(b.operand(bufs, 1), i.add(i.mul(batch, p["b_batch"]), column), element)
        whole = width if self.exact else i.and_(width, b.i64(-self.lanes))
        b.clear(sums, i.mul(i.mul(self._sums(b, width), b.i64(self.height)), b.i64(self.acc.itemsize)))

        def step(at: Any, beside: int) -> Sequence[Any]:
            steps = [i.add(at, b.i64(r)) for r in range(beside)]
            rows = [b.at(first, i.mul(r, p["b_row"]), element) for r in steps]
            starts = [b.at(a, i.mul(b.i64(m), p["lda"]), element) for m in range(self.height)]
            xs = [[self.product.broadcast(b, b.at(start, r, element)) for r in steps] for start in starts]

            def columns(c: Any, mask: Any) -> None:
                ys = [self.product.columns(b, b.at(row, c, element), mask) for row in rows]
                for m, x in enumerate(xs):
                    to = b.at(sums, i.mul(c, b.i64(self.height)), storage(self.acc))
                    to = b.at(to, b.i64(m * self.lanes), storage(self.acc))
                    acc = b.load(self.product.vector, to, 64)
                    for each, y in zip(x, ys, strict=True):
                        acc = self.product.fma(b, each, y, acc)
                    i.store(acc, to, align=64)

            self._each(b, whole, width, columns)
            return ()

        main = p["k"] if self.product.exact else i.sub(p["k"], i.urem(p["k"], b.i64(self.beside)))
        b.loop(b.i64(0), main, b.i64(self.beside), [], lambda at, _: step(at, self.beside))
        if not self.product.exact:
            b.loop(main, p["k"], b.i64(1), [], lambda at, _: step(at, 1))
        i.ret_void()
        return b.fn

    def _finish(self, module: ir.Module) -> ir.Function:
        """Sums become results."""
        b = subroutine(module, "finish", [PTR, PTR, I64, I64, I64, PTR])
        bufs, dims, batch, column, width, sums = b.fn.args
        i, p, out = b.ir, b.params(dims, self.size), storage(self.kernel.operands[-1].dtype)
        pointers = b.operands(bufs, len(self.kernel.operands))
        result = b.at(pointers[-1], i.mul(batch, p["c_batch"]), out)
        whole = width if self.exact else i.and_(width, b.i64(-self.lanes))

        def columns(c: Any, mask: Any) -> None:
            at = i.add(column, c)
            epilogue = self.epilogue.begin(b, dims, pointers, batch, at, [mask])
            for m in range(self.height):
                acc = b.at(sums, i.add(i.mul(c, b.i64(self.height)), b.i64(m * self.lanes)), storage(self.acc))
                to = b.at(result, i.add(at, i.mul(b.i64(m), p["ldc"])), out)
                epilogue.row(b.i64(m), [b.load(self.product.vector, acc, 64)], to)

        self._each(b, whole, width, columns)
        i.ret_void()
        return b.fn

    def _sums(self, b: Builder, width: Any) -> Any:
        """Columns in whole vectors."""
        return b.ir.and_(b.ir.add(width, b.i64(self.lanes - 1)), b.i64(-self.lanes))

    def _each(self, b: Builder, whole: Any, width: Any, columns: Any) -> None:
        """`columns(first, mask)` for every vector of columns."""

        def one(c: Any, _: list[Any]) -> Sequence[Any]:
            columns(c, None)
            return ()

        b.loop(b.i64(0), whole, b.i64(self.lanes), [], one)
        if not self.exact:
            rest = b.ir.sub(width, whole)
            with b.ir.if_then(b.ir.icmp_signed(">", rest, b.i64(0))):
                columns(whole, b.below(rest, self.lanes))
