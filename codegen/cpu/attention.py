"""AttentionKernel → LLVM IR: blocks of keys against a strip of queries, with a running maximum and sum (online softmax).

A strip of queries is packed transposed, so that a query is a lane: scores of a key are vectors, and the softmax needs no
sums across lanes. Scores of a block of keys rest in cache; k and v are read where they are. After Milakov and Gimelshein
(arXiv 1805.02867), in blocks as Dao et al. (arXiv 2205.14135).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir

from ...ir import DType, upper
from ..kernel import AttentionKernel
from .attention_schedule import AttentionSchedule, schedule_attention
from .attention_values import value_function
from .build import I1, I8, I32, I64, PTR, Builder, Params, vec
from .emitted import PLACEHOLDER, Emitted, named
from .float_mode import flush_subnormals
from .functions import Functions
from .product import Product, prefetch
from .target import CpuTarget
from .transpose import turn

_F32 = ir.FloatType()
_SIZES = ("heads", "group", "rows", "keys", "q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row", "v_batch", "v_head",
          "v_row", "o_batch", "o_head", "o_row", "strips", "block", "m_batch", "m_head", "m_key")  # fmt: skip


@dataclass(frozen=True)
class _Spec:
    """Everything that the text depends on; other sizes are in the params table. `mask`: query stride, None without a mask.
    `copied`: blocks of v are copied together."""

    schedule: AttentionSchedule
    size: int
    value_size: int
    scale: float
    causal: bool
    mask: int | None
    copied: bool
    target: CpuTarget


def emit_attention(kernel: AttentionKernel, target: CpuTarget) -> Emitted:
    """Raises CodegenError for element types other than float32."""
    k, s = kernel, schedule_attention(kernel, target)
    mask = None if k.mask_strides is None else int(k.mask_strides[3] != 0)
    copied = k.v_strides[2] != k.value_size or k.value_size % s.lanes != 0
    text, symbol = _text(_Spec(replace(s, strips=0, block=0), k.size, k.value_size, k.scale, k.causal, mask, copied, target))
    strides = (*k.q_strides, *k.k_strides, *k.v_strides, *k.out_strides)
    dims = (k.heads, k.group, k.rows, k.keys, *strides, s.strips, s.block, *(k.mask_strides or (0, 0, 0))[:3])
    both = k.size + k.value_size
    seen = k.rows * k.keys
    moved = sum((o.numel * 4 for o in k.operands), 0)
    unit = 2 * min(upper(k.rows), s.lanes * s.widths[-1]) * k.keys * both
    return Emitted(text, symbol, dims, k.batch * k.heads * s.strips, unit, 2 * k.batch * k.heads * seen * both, moved)


@functools.lru_cache(maxsize=64)
def _text(spec: _Spec) -> tuple[str, str]:
    return _Writer(spec).text()


class _Writer:
    def __init__(self, spec: _Spec) -> None:
        self.spec, self.s, self.target = spec, spec.schedule, spec.target
        self.module = ir.Module(name="kernel")
        self.lanes = self.s.lanes
        self.vector = vec(_F32, self.lanes)
        self.params = Params()
        self.values = {
            tile: value_function(self.module, f"{PLACEHOLDER}.v{tile.rows}x{tile.vectors}{'t' if tile.masked else ''}", tile,
                                 spec.value_size, self._value_columns, self.lanes, self.target)
            for tile in dict.fromkeys(self.s.values)
        }  # fmt: skip

    @property
    def _value_columns(self) -> int:
        """Elements of a row of sums, in whole vectors."""
        return sum(tile.vectors for tile in self.s.values) * self.lanes

    def text(self) -> tuple[str, str]:
        """(LLVM text, symbol)."""
        strips = {w: self._strip_function(w, tall) for w, tall in zip(self.s.widths, self.s.tall, strict=True)}
        self._entry(strips)
        return named(str(self.module))

    def _entry(self, strips: dict[int, ir.Function]) -> None:
        """Units: strips fastest, so that the keys and values of a head stay in the second-level cache."""
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        b = Builder(fn)
        i = b.ir
        bufs, dims, begin, end = fn.args
        p = self._sizes(b, dims)
        vectors = i.udiv(i.add(p["rows"], b.i64(self.lanes - 1)), b.i64(self.lanes))

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            strip, rest = i.urem(u, p["strips"]), i.udiv(u, p["strips"])
            head, batch = i.urem(rest, p["heads"]), i.udiv(rest, p["heads"])
            least, wider = i.udiv(vectors, p["strips"]), i.urem(vectors, p["strips"])
            first = i.mul(i.add(i.mul(strip, least), b.smin(strip, wider)), b.i64(self.lanes))
            width = i.add(least, i.zext(i.icmp_signed("<", strip, wider), I64))
            count = b.smin(i.mul(width, b.i64(self.lanes)), i.sub(p["rows"], first))
            for w, strip_fn in strips.items():
                with i.if_then(i.icmp_signed("==", width, b.i64(w))):
                    i.call(strip_fn, [bufs, dims, batch, head, first, count])
            return ()

        restore = flush_subnormals(b, self.target)
        b.loop(begin, end, b.i64(1), [], unit)
        restore()
        i.ret_void()

    def _sizes(self, b: Builder, dims: Any) -> dict[str, Any]:
        return {name: b.param(dims, at) for at, name in enumerate(_SIZES)}

    def _strip_function(self, width: int, tall: int) -> ir.Function:
        """void strip(bufs, dims, batch, head, first query, number of queries): `width` vectors of queries against all keys."""
        spec = self.spec
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, *[I64] * 4]), f"{PLACEHOLDER}.s{width}")
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        _Strip(self, Builder(fn), width, tall, spec).write()
        return fn


class _Strip:
    """The function of one strip: emits pack, then for each block of keys scores, weights and the product with v."""

    def __init__(self, writer: _Writer, b: Builder, width: int, tall: int, spec: _Spec) -> None:
        self.w, self.b, self.width, self.tall, self.spec = writer, b, width, tall, spec
        self.lanes, self.vector = writer.lanes, writer.vector
        self.columns = width * self.lanes
        self.bufs, self.dims, self.batch, self.head, self.first, self.count = b.fn.args
        self.p = writer._sizes(b, self.dims)
        self.math = Functions(b, self.lanes, spec.target)
        size = -(-spec.size // self.lanes) * self.lanes
        keys = spec.schedule.most_keys + tall

        def room(elements: int) -> Any:
            return b.alloca(_F32, b.i64(elements))

        self.queries = room(size * self.columns)
        self.scores = room((keys + 1) * self.columns)  # tiles of queries read past the end of the last row
        self.copied = room(spec.schedule.most_keys * writer._value_columns) if spec.copied else None
        rest = max(tile.rows for tile in spec.schedule.values)
        self.sums = room((self.columns + rest) * writer._value_columns)
        self.top, self.total, self.fade, self.inverse = (room(self.columns + rest) for _ in range(4))
        i = b.ir
        masked = spec.mask is not None
        pointers = [b.load(PTR, b.at(self.bufs, b.i64(x), PTR), 8) for x in range(4 + masked)]
        shared = i.udiv(self.head, self.p["group"])
        self.q = self._start(pointers[0], "q", self.head)
        self.k = self._start(pointers[1], "k", shared)
        self.v = self._start(pointers[2], "v", shared)
        self.out = b.at(self._start(pointers[-1], "o", self.head), i.mul(self.first, self.p["o_row"]), _F32)
        self.mask = self._start(pointers[3], "m", self.head) if masked else None
        if spec.mask:
            self.mask = b.at(self.mask, self.first, _F32)
        self.inside = [b.below(self.count, self.lanes, v * self.lanes) for v in range(width)]

    def _start(self, pointer: Any, name: str, head: Any) -> Any:
        i, p = self.b.ir, self.p
        at = i.add(i.mul(self.batch, p[f"{name}_batch"]), i.mul(head, p[f"{name}_head"]))
        return self.b.at(pointer, at, _F32)

    def _of(self, array: Any, v: int) -> Any:
        return self.b.at(array, self.b.i64(v * self.lanes), _F32)

    def _load(self, array: Any, v: int) -> Any:
        return self.b.load(self.vector, self._of(array, v), 4)

    def write(self) -> None:
        b, i, p = self.b, self.b.ir, self.p
        self._pack()
        for v in range(self.width):
            i.store(ir.Constant(self.vector, [float("-inf")] * self.lanes), self._of(self.top, v), align=4)
            i.store(ir.Constant(self.vector, None), self._of(self.total, v), align=4)
        limit = p["keys"]
        if self.spec.causal:  # keys behind the last query of the strip are not looked at
            last = i.add(i.add(self.first, self.count), i.sub(p["keys"], p["rows"]))
            limit = b.smin(limit, b.smax(last, b.i64(0)))
        block = p["block"]

        def walk(k0: Any, _: list[Any]) -> Sequence[Any]:
            count = b.smin(block, i.sub(limit, k0))
            final = i.icmp_signed(">=", i.add(k0, block), limit)
            self._scores(k0, count)
            self._weights(count, final)
            at, chunk = self._values(k0, count), 0
            row = p["v_row"] if self.copied is None else b.i64(self.w._value_columns)
            for tile in self.spec.schedule.values:
                i.call(self.w.values[tile], [
                    self.scores, b.i64(self.columns), b.at(at, b.i64(chunk), _F32), row, count, self.count,
                    b.at(self.sums, b.i64(chunk), _F32), self.fade, self.inverse, b.at(self.out, b.i64(chunk), _F32), p["o_row"],
                    i.icmp_signed("==", k0, b.i64(0)), final,
                ])  # fmt: skip
                chunk += tile.vectors * self.lanes
            return ()

        # at least once: without keys the result is 0
        b.loop(b.i64(0), b.smax(limit, b.i64(1)), block, [], walk)
        i.ret_void()

    def _pack(self) -> None:
        """queries[d][query] = q[first + query][d] · scale, from square tiles turned in registers."""
        b, i, n = self.b, self.b.ir, self.lanes
        last = i.sub(self.count, b.i64(1))
        scale = self.math.const(self.spec.scale, DType.F32)

        def group(g: Any, _: list[Any]) -> Sequence[Any]:
            rows = [b.at(self.q, i.mul(i.add(self.first, b.smin(i.add(g, b.i64(r)), last)), self.p["q_row"]), _F32) for r in range(n)]

            def tile(d: Any, mask: Any) -> None:
                at = [b.at(row, d, _F32) for row in rows]
                got = [b.load(self.vector, x, 4) if mask is None else b.masked_load(self.vector, x, mask, 4) for x in at]
                for j, x in enumerate(turn(b, [i.fmul(x, scale) for x in got])):
                    out = b.at(self.queries, i.add(i.mul(i.add(d, b.i64(j)), b.i64(self.columns)), g), _F32)
                    i.store(x, out, align=4)

            whole = self.spec.size // n * n

            def step(d: Any, _: list[Any]) -> Sequence[Any]:
                tile(d, None)
                return ()

            if whole:
                b.loop(b.i64(0), b.i64(whole), b.i64(n), [], step)
            if self.spec.size > whole:
                tile(b.i64(whole), ir.Constant(vec(I1, n), [lane < self.spec.size - whole for lane in range(n)]))
            return ()

        b.loop(b.i64(0), b.i64(self.columns), b.i64(n), [], group)

    def _values(self, k0: Any, count: Any) -> Any:
        """Rows of v of a block; copied together where they lie apart, at distances that share few sets of the first-level cache."""
        b, i = self.b, self.b.ir
        at = b.at(self.v, i.mul(k0, self.p["v_row"]), _F32)
        if self.copied is None:
            return at
        tail = self.spec.value_size % self.lanes
        vectors = self.w._value_columns // self.lanes

        def row(j: Any, _: list[Any]) -> Sequence[Any]:
            line, to = b.at(at, i.mul(j, self.p["v_row"]), _F32), b.at(self.copied, i.mul(j, b.i64(vectors * self.lanes)), _F32)
            for x in range(vectors):
                if tail and x == vectors - 1:
                    mask = ir.Constant(vec(I1, self.lanes), [lane < tail for lane in range(self.lanes)])
                    value = b.masked_load(self.vector, self._of(line, x), mask, 4)
                else:
                    value = self._load(line, x)
                i.store(value, self._of(to, x), align=4)
            return ()

        b.loop(b.i64(0), count, b.i64(1), [], row)
        return self.copied

    def _scores(self, k0: Any, count: Any) -> None:
        """scores[key][query] of a block, and the new maximum of each query. Keys of the last tile may repeat the last key."""
        b, i, p, spec = self.b, self.b.ir, self.p, self.spec
        product = Product(DType.F32, DType.F32, self.lanes, self.columns, 4, spec.size % 4 == 0, spec.target)
        last = i.sub(count, b.i64(1))
        zero = ir.Constant(self.vector, None)
        hidden = ir.Constant(self.vector, [float("-inf")] * self.lanes)
        if spec.causal:  # lane + its query's last key, as int32
            to = i.trunc(i.add(self.first, i.sub(p["keys"], p["rows"])), I32)
            seen = [
                i.add(b.splat(to, self.lanes), ir.Constant(vec(I32, self.lanes), [v * self.lanes + x for x in range(self.lanes)]))
                for v in range(self.width)
            ]
        fresh = [self._load(self.top, v) for v in range(self.width)]
        for v in range(self.width):
            i.store(fresh[v], self._of(self.fade, v), align=4)  # the maximum before this block

        def tile(t: Any, _: list[Any]) -> Sequence[Any]:
            keys = [i.add(k0, b.smin(i.add(t, b.i64(r)), last)) for r in range(self.tall)]
            starts = [b.at(self.k, i.mul(key, p["k_row"]), _F32) for key in keys]
            for start in starts:  # the rows of the next tile
                ahead = b.at(start, i.mul(p["k_row"], b.i64(self.tall)), _F32)
                for line in range(0, 4 * spec.size, 64):
                    prefetch(b, i.gep(ahead, [b.i64(line)], source_etype=I8), 3)
            acc = product.accumulate(b, b.i64(spec.size), starts, self.queries, [zero] * (self.tall * self.width), self.width)
            top = [self._load(self.top, v) for v in range(self.width)]
            for r, key in enumerate(keys):
                at = b.at(self.scores, i.mul(i.add(t, b.i64(r)), b.i64(self.columns)), _F32)
                bias = b.at(self.mask, i.mul(key, p["m_key"]), _F32) if self.mask is not None else None
                splat = b.splat(b.load(_F32, bias, 4), self.lanes) if spec.mask == 0 else None
                for v in range(self.width):
                    x = acc[r * self.width + v]
                    if spec.mask is not None:
                        own = splat if splat is not None else b.masked_load(self.vector, self._of(bias, v), self.inside[v], 4)
                        x = i.fadd(x, own)
                    if spec.causal:
                        visible = i.icmp_signed("<=", b.splat(i.trunc(key, I32), self.lanes), seen[v])
                        x = i.select(visible, x, hidden)
                    i.store(x, self._of(at, v), align=4)
                    top[v] = i.select(i.fcmp_ordered(">", x, top[v]), x, top[v])
            for v in range(self.width):
                i.store(top[v], self._of(self.top, v), align=4)
            return ()

        b.loop(b.i64(0), count, b.i64(self.tall), [], tile)

    def _weights(self, count: Any, final: Any) -> None:
        """scores become exp(score − maximum); sums so far fade by exp(old maximum − new maximum)."""
        b, i = self.b, self.b.ir
        zero, none = ir.Constant(self.vector, None), ir.Constant(self.vector, [float("-inf")] * self.lanes)
        top, total, blind = [], [], []
        for v in range(self.width):
            highest = self._load(self.top, v)
            blind.append(i.fcmp_ordered("==", highest, none))  # −∞ − −∞ would be NaN
            top.append(i.select(blind[v], zero, highest))
            fade = self.math.exp_of_difference(i.fsub(self._load(self.fade, v), top[v]))
            i.store(fade, self._of(self.fade, v), align=4)
            total.append(i.fmul(self._load(self.total, v), fade))

        def key(j: Any, total: list[Any]) -> Sequence[Any]:
            at = b.at(self.scores, i.mul(j, b.i64(self.columns)), _F32)
            out = []
            for v in range(self.width):
                x = self.math.exp_of_difference(i.fsub(self._load(at, v), top[v]))
                i.store(x, self._of(at, v), align=4)
                out.append(i.fadd(total[v], x))
            return out

        total = b.loop(b.i64(0), count, b.i64(1), total, key)
        one = ir.Constant(self.vector, [1.0] * self.lanes)
        for v in range(self.width):
            i.store(total[v], self._of(self.total, v), align=4)
        with i.if_then(final):
            for v in range(self.width):
                i.store(i.select(blind[v], zero, i.fdiv(one, total[v])), self._of(self.inverse, v), align=4)
