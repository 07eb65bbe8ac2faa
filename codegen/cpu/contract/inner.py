"""Products of rows of A by columns of B that both lie along k: sums in vectors along it, neither packed nor turned.

A tile of `rows` by `columns`, as many as a vector has lanes, keeps a vector for each of its sums. At the end of k these are
folded, two into one, until a single vector has all sums. As many tiles side by side give a vector of columns for each row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ....errors import CodegenError
from ....ir import DType, ceildiv
from ...kernel import ContractKernel, bytes_of
from .. import llvm_ir as ir
from ..build import Builder, Params, kernel_function, storage, vec
from ..emitted import Emitted, named
from ..epilogue import ActiveEpilogue, Epilogue
from ..float_mode import flush_subnormals
from ..shuffles import shuffle
from ..target import CpuTarget
from ..text_cache import TextEmitter

_HEIGHTS = (4, 2, 1)  # rows of a tile: any number of them is cut without waste
_COLUMNS = 8  # read at once: their addresses, and those of the rows, have to stay in registers


def emit_inner(kernel: ContractKernel, target: CpuTarget) -> Emitted:
    """Raises CodegenError for element types or epilogues that cannot be emitted."""
    return _Emitter(kernel, target).emit()


class _Emitter(TextEmitter):
    family = "inner"

    def __init__(self, kernel: ContractKernel, target: CpuTarget) -> None:
        self.kernel, self.target = kernel, target
        self.dtype = kernel.operands[0].dtype
        if self.dtype not in (DType.F32, DType.F64) or kernel.operands[1].dtype is not self.dtype or kernel.conv is not None:
            raise CodegenError(f"sums along k of {self.dtype.value}", expected="a matrix product in float32 or float64")
        self.lanes = target.vector_bits // 8 // self.dtype.itemsize
        self.element = storage(self.dtype)
        self.vector = vec(self.element, self.lanes)
        self.params = Params()
        k = kernel
        self.strips = ceildiv(k.n, self.lanes)
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "m": k.m, "n": k.n, "k": k.k, "lda": k.lda, "a_batch": k.a_batch, "b_batch": k.b_batch, "b_column": k.b_column,
                "ldc": k.ldc, "c_batch": k.c_batch, "strips": self.strips,
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, self.lanes)
        self.whole = isinstance(k.n, int) and k.n % self.lanes == 0
        self.exact = isinstance(k.k, int) and k.k % self.lanes == 0
        heights = [h for h in _HEIGHTS if h <= self.lanes]
        if isinstance(k.m, int):  # those that its binary digits name
            heights = [h for x, h in enumerate(heights) if k.m >= h and (x == 0 or k.m % heights[x - 1] >= h)]
        self.heights = heights

    def fingerprint(self) -> Hashable:
        """Everything that the text depends on."""
        k = self.kernel
        types = tuple(o.dtype for o in k.operands)
        return self.lanes, tuple(self.heights), self.whole, self.exact, types, self.epilogue.fingerprint(), self.target

    def described(self, text: str, symbol: str) -> Emitted:
        k = self.kernel
        units = k.batch * self.strips
        return Emitted(
            text, symbol, tuple(self.params.dims), units, 2 * k.m * self.lanes * k.k, 2 * k.batch * k.m * k.n * k.k, bytes_of(k.operands)
        )

    def text(self) -> tuple[str, str]:
        """void kernel(bufs, dims, begin, end): a unit is a strip of as many columns as a vector has lanes, of one batch."""
        module = ir.Module()
        b = kernel_function(module)
        bufs, dims, begin, end = b.fn.args
        i, p = b.ir, b.params(dims, self.size)
        pointers = b.operands(bufs, len(self.kernel.operands))
        main = p["k"] if self.exact else i.and_(p["k"], b.i64(-self.lanes))
        rest = None if self.exact else b.below(i.sub(p["k"], main), self.lanes)
        restore = flush_subnormals(b, self.target)

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            batch, column = i.udiv(u, p["strips"]), i.mul(i.urem(u, p["strips"]), b.i64(self.lanes))
            live = i.sub(p["n"], column)
            mask = None if self.whole else b.below(live, self.lanes)
            a = b.at(pointers[0], i.mul(batch, p["a_batch"]), self.element)
            first = b.at(pointers[1], i.mul(batch, p["b_batch"]), self.element)
            c = b.at(pointers[-1], i.add(i.mul(batch, p["c_batch"]), column), storage(self.kernel.operands[-1].dtype))
            epilogue = self.epilogue.begin(b, dims, pointers, batch, column, [mask])
            last = i.sub(p["n"], b.i64(1))
            columns = []
            for lane in range(self.lanes):
                at = i.add(column, b.i64(lane))
                at = at if self.whole else b.smin(at, last)
                columns.append(b.at(first, i.mul(at, p["b_column"]), self.element))
            done = b.i64(0)
            for x, height in enumerate(self.heights):
                until = i.sub(p["m"], i.urem(p["m"], b.i64(height))) if height > 1 else p["m"]

                def tile(m: Any, _: list[Any], height: int = height) -> Sequence[Any]:
                    self._tile(b, p, a, columns, live, c, m, height, (main, rest), epilogue)
                    return ()

                b.loop(done, until, b.i64(height), [], tile)
                done = until if x + 1 < len(self.heights) else done
            return ()

        b.loop(begin, end, b.i64(1), [], unit)
        restore()
        i.ret_void()
        return named(str(module))

    def _tile(self, b: Builder, p: dict[str, Any], a: Any, columns: Sequence[Any], live: Any, c: Any, m: Any,
              height: int, steps: tuple[Any, Any], epilogue: ActiveEpilogue) -> None:  # fmt: skip
        """`height` rows from m by the columns of the strip, the first `live` of which there are."""
        i = b.ir
        indices = [i.add(m, b.i64(r)) for r in range(height)]
        rows = [b.at(a, i.mul(r, p["lda"]), self.element) for r in indices]
        wide = self.lanes // height

        def some(start: int) -> Any:
            """Sums of `wide` columns from `start` on."""
            few = min(wide, _COLUMNS)
            parts = [self._accumulate(b, p["k"], rows, columns[x : x + few], steps) for x in range(start, start + wide, few)]
            return _folded(b, [v for r in range(height) for part in parts for v in part[r]], 16 // self.dtype.itemsize)

        sums = [some(0)]
        for start in range(wide, self.lanes, wide):
            if self.whole:
                sums.append(some(start))
                continue
            before = i.block
            with i.if_then(i.icmp_signed(">", live, b.i64(start))):  # a last strip of few columns has less to do
                found, inside = some(start), i.block
            sums.append(b.merge((ir.Constant(self.vector, None), before), (found, inside)))
        for index, row in zip(indices, _regrouped(b, sums, wide), strict=True):
            out = b.at(c, i.mul(index, p["ldc"]), storage(self.kernel.operands[-1].dtype))
            epilogue.row(index, [row], out)

    def _accumulate(self, b: Builder, k: Any, rows: Sequence[Any], columns: Sequence[Any], steps: tuple[Any, Any]) -> list[list[Any]]:
        """[row][column]: vectors whose lanes add up to the sum."""
        main, rest = steps
        align = self.dtype.itemsize

        def step(at: Any, acc: list[Any], mask: Any) -> list[Any]:
            def load(ptr: Any) -> Any:
                ptr = b.at(ptr, at, self.element)
                return b.load(self.vector, ptr, align) if mask is None else b.masked_load(self.vector, ptr, mask, align)

            xs, ys = [load(r) for r in rows], [load(c) for c in columns]
            return [b.fma(x, y, acc[r * len(ys) + c], self.target.fma) for r, x in enumerate(xs) for c, y in enumerate(ys)]

        acc = [ir.Constant(self.vector, None)] * (len(rows) * len(columns))
        acc = b.loop(b.i64(0), main, b.i64(self.lanes), acc, lambda at, acc: step(at, acc, None))
        if rest is not None:
            acc = b.loop(main, k, b.i64(self.lanes), acc, lambda at, acc: step(at, acc, rest))
        return [acc[r * len(columns) : (r + 1) * len(columns)] for r in range(len(rows))]


def _halves(b: Builder, x: Any, y: Any, piece: int, within: int) -> tuple[Any, Any]:
    """Of every `within` elements, the even and the odd pieces of `piece` elements, those of x before those of y."""
    n = x.type.count
    pieces = range(0, within, 2 * piece)
    even = [s + block + p + e for block in range(0, n, within) for s in (0, n) for p in pieces for e in range(piece)]
    return shuffle(b, x, y, even), shuffle(b, x, y, [lane + piece for lane in even])


def _folded(b: Builder, vectors: Sequence[Any], block: int) -> Any:
    """Lane j is the sum of the lanes of vector j of as many vectors as those have lanes. First within blocks of 128 bits."""
    n, out = len(vectors), list(vectors)
    while len(out) > 1:
        inside = n // len(out) < block
        pairs = (_halves(b, x, y, 1 if inside else block, block if inside else n) for x, y in zip(out[::2], out[1::2], strict=True))
        out = [b.ir.fadd(even, odd) for even, odd in pairs]
    return out[0]


def _regrouped(b: Builder, vectors: Sequence[Any], piece: int) -> list[Any]:
    """Vector r of the result is piece r of every vector, of as many vectors as those have pieces."""
    if len(vectors) == 1:
        return list(vectors)
    halves = [_halves(b, x, y, piece, x.type.count) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
    even, odd = (_regrouped(b, [h[side] for h in halves], piece) for side in (0, 1))
    return [row for pair in zip(even, odd, strict=True) for row in pair]
