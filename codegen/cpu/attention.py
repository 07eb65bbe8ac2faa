"""AttentionKernel → LLVM IR: blocks of keys against a strip of queries, with a running maximum and sum (online softmax).

A strip of queries is packed transposed, so that a query is a lane: scores of a key are vectors, and the softmax needs no
sums across lanes. Scores of a block of keys rest in cache; k and v are read where they are. After Milakov and Gimelshein
(arXiv 1805.02867), in blocks as Dao et al. (arXiv 2205.14135).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llvmlite import ir

from ...ir import upper
from ..kernel import AttentionKernel
from .attention_frame import Spec, function, load_sizes
from .attention_narrow import Narrow
from .attention_schedule import schedule_attention
from .attention_strip import Strip
from .attention_values import value_function
from .build import I64, PTR, Builder
from .emitted import PLACEHOLDER, Emitted, named
from .float_mode import flush_subnormals
from .target import CpuTarget


def emit_attention(kernel: AttentionKernel, target: CpuTarget) -> Emitted:
    """Raises CodegenError for element types other than float32."""
    k, s = kernel, schedule_attention(kernel, target)
    mask = None if k.mask_strides is None else int(k.mask_strides[3] != 0)
    copied = k.v_strides[2] != k.value_size or k.value_size % s.lanes != 0
    text, symbol = _text(Spec(replace(s, strips=0, block=0), k.size, k.value_size, k.scale, k.causal, mask, copied, target))
    strides = (*k.q_strides, *k.k_strides, *k.v_strides, *k.out_strides)
    dims = (k.heads, k.group, k.rows, k.keys, *strides, s.strips, s.block, *(k.mask_strides or (0, 0, 0))[:3])
    both = k.size + k.value_size
    seen = k.rows * k.keys
    moved = sum((o.numel * 4 for o in k.operands), 0)
    unit = 2 * min(upper(k.rows), s.lanes * max((*s.widths, 1))) * k.keys * both
    return Emitted(text, symbol, dims, k.batch * k.heads * s.strips, unit, 2 * k.batch * k.heads * seen * both, moved)


@functools.lru_cache(maxsize=64)
def _text(spec: Spec) -> tuple[str, str]:
    return _Writer(spec).text()


class _Writer:
    def __init__(self, spec: Spec) -> None:
        self.spec, self.s, self.target = spec, spec.schedule, spec.target
        self.module = ir.Module(name="kernel")
        self.lanes = self.s.lanes
        self.values = {
            tile: value_function(self.module, f"{PLACEHOLDER}.v{tile.rows}x{tile.vectors}{'t' if tile.masked else ''}", tile,
                                 spec.value_size, spec.value_columns, self.lanes, self.target)
            for tile in (dict.fromkeys(self.s.values) if self.s.widths else ())
        }  # fmt: skip

    def text(self) -> tuple[str, str]:
        """(LLVM text, symbol)."""
        strips: dict[int, ir.Function] = {}
        narrow = None
        for width, tall in zip(self.s.widths, self.s.tall, strict=True):
            b = function(self.module, f"{PLACEHOLDER}.s{width}")
            Strip(b, self.spec, width, tall, self.values).write()
            strips[width] = b.fn
        if self.s.narrow:
            b = function(self.module, f"{PLACEHOLDER}.n")
            Narrow(b, self.spec).write()
            narrow = b.fn
        self._entry(strips, narrow)
        return named(str(self.module))

    def _entry(self, strips: dict[int, ir.Function], narrow: ir.Function | None) -> None:
        """Units: strips fastest, so that the keys and values of a head stay in the second-level cache."""
        fn = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR, PTR, I64, I64]), PLACEHOLDER)
        b = Builder(fn)
        i = b.ir
        bufs, dims, begin, end = fn.args
        p = load_sizes(b, dims)
        vectors = i.udiv(i.add(p["rows"], b.i64(self.lanes - 1)), b.i64(self.lanes))

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            strip, rest = i.urem(u, p["strips"]), i.udiv(u, p["strips"])
            head, batch = i.urem(rest, p["heads"]), i.udiv(rest, p["heads"])
            least, wider = i.udiv(vectors, p["strips"]), i.urem(vectors, p["strips"])
            first = i.mul(i.add(i.mul(strip, least), b.smin(strip, wider)), b.i64(self.lanes))
            width = i.add(least, i.zext(i.icmp_signed("<", strip, wider), I64))
            count = b.smin(i.mul(width, b.i64(self.lanes)), i.sub(p["rows"], first))
            few = i.icmp_signed("<=", p["rows"], b.i64(self.s.narrow))
            if narrow is not None:
                with i.if_then(few):
                    i.call(narrow, [bufs, dims, batch, head, first, count])
            for w, strip_fn in strips.items():
                with i.if_then(i.and_(i.icmp_signed("==", width, b.i64(w)), i.not_(few))):
                    i.call(strip_fn, [bufs, dims, batch, head, first, count])
            return ()

        restore = flush_subnormals(b, self.target)
        b.loop(begin, end, b.i64(1), [], unit)
        restore()
        i.ret_void()
