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

from ....ir import Dim, ceildiv, dim_min
from ...kernel import AttentionKernel
from .. import llvm_ir as ir
from ..build import I64, kernel_function
from ..emitted import Emitted, named
from ..float_mode import flush_subnormals
from ..target import CpuTarget
from .frame import Mask, Spec, function, load_sizes
from .group import Group
from .narrow import Narrow
from .parts import Part
from .rounded import RoundedGroup
from .schedule import NO_HINTS, AttentionHints, Products, schedule_attention
from .strip import BLOCK, STATE, Layout, Strip
from .values import value_function


def emit_attention(kernel: AttentionKernel, target: CpuTarget, hints: AttentionHints = NO_HINTS) -> Emitted:
    """Raises CodegenError for element types other than float32, ScheduleError for hints that do not suit."""
    k, s = kernel, schedule_attention(kernel, target, hints)
    mask = None if k.mask_strides is None else _mask(k.mask_strides[3])
    copied = k.v_strides[2] != k.value_size or k.value_size % s.lanes != 0
    fixed = replace(s, strips=0, groups=0, together=0, block=0)
    text, symbol = _text(
        Spec(
            schedule=fixed,
            size=k.size,
            value_size=k.value_size,
            scale=k.scale,
            causal=k.causal,
            mask=mask,
            copied=copied,
            copied_keys=s.copied_keys,
            keys_apart=k.k_strides[2] != k.size,
            values_apart=k.v_strides[2] != k.value_size,
            parts=k.parts is not None,
            later=target.vector_registers == 32 and (not isinstance(k.keys, int) or k.parts is not None or k.keys > s.block),
            target=target,
        )
    )
    parts: Dim = 1 if k.parts is None else k.parts
    part, results = ceildiv(k.keys, parts), k.batch * k.heads * k.rows
    strides = (*k.q_strides, *k.k_strides, *k.v_strides, *k.out_strides)
    dims = (k.heads, k.group, k.rows, k.keys, *strides, s.strips, s.groups, s.together, s.block, *(k.mask_strides or (0, 0, 0, 0)),
            k.keys - k.rows, parts, part, results, parts * results)  # fmt: skip
    both = k.size + k.value_size
    moved = sum((o.numel * 4 for o in k.operands), 0)
    unit = 2 * dim_min(k.rows, s.lanes * max((*s.widths, 1)) * s.together) * part * both
    return Emitted(text, symbol, dims, k.batch * k.heads * s.groups * parts, unit, 2 * k.batch * k.heads * k.rows * k.keys * both, moved)


def _mask(query_stride: Dim) -> Mask:
    return Mask.KEYS if query_stride == 0 else Mask.QUERIES if query_stride == 1 else Mask.ROWS


@functools.lru_cache(maxsize=64)
def _text(spec: Spec) -> tuple[str, str]:
    return _Writer(spec).text()


class _Writer:
    def __init__(self, spec: Spec) -> None:
        self.spec, self.s, self.target = spec, spec.schedule, spec.target
        self.module = ir.Module()

    def text(self) -> tuple[str, str]:
        """(LLVM text, symbol)."""
        group = None if not self.s.widths else self._group() if self.s.products is Products.FLOATS else self._rounded()
        narrow = None
        if self.s.narrow:
            b = function(self.module, "n")
            Narrow(b, self.spec).write()
            narrow = b.fn
        self._entry(group, narrow)
        return named(str(self.module))

    def _rounded(self) -> ir.Function:
        b = function(self.module, "g", [I64, I64])
        RoundedGroup(b, self.spec).write()
        return b.fn

    def _group(self) -> ir.Function:
        spec, s = self.spec, self.s
        values = {
            tile: value_function(self.module, f"v{tile.rows}x{tile.vectors}{'t' if tile.masked else ''}", tile,
                                 spec.value_size, spec.value_columns, s.lanes, self.target)
            for tile in dict.fromkeys(s.values)
        }  # fmt: skip
        layout = Layout(spec, s.widths[-1])
        starts: dict[int, ir.Function] = {}
        blocks: dict[int, ir.Function] = {}
        for width, tall in zip(s.widths, s.tall, strict=True):
            b = function(self.module, f"q{width}", STATE)
            Strip(b, spec, layout, width, tall).start()
            starts[width] = b.fn
            b = function(self.module, f"s{width}", BLOCK)
            Strip(b, spec, layout, width, tall).block(values)
            blocks[width] = b.fn
        b = function(self.module, "g", [I64, I64])
        Group(b, spec, layout, starts, blocks).write()
        return b.fn

    def _entry(self, group: ir.Function | None, narrow: ir.Function | None) -> None:
        """Units: groups fastest, then parts, so that the keys and values of a head stay in the second-level cache."""
        b = kernel_function(self.module)
        i = b.ir
        bufs, dims, begin, end = b.fn.args
        p = load_sizes(b, dims)
        own = Part(b, self.spec, bufs, p) if self.spec.parts else None

        def unit(u: Any, _: list[Any]) -> Sequence[Any]:
            nonlocal bufs, dims
            part, rest = i.urem(u, p["groups"]), i.udiv(u, p["groups"])
            run, rest = (b.i64(0), rest) if own is None else (i.urem(rest, p["parts"]), i.udiv(rest, p["parts"]))
            head, batch = i.urem(rest, p["heads"]), i.udiv(rest, p["heads"])
            if own is not None:
                bufs, dims = own.tables(run, batch, head)
            few = i.icmp_signed("<=", p["rows"], b.i64(self.s.narrow))
            if narrow is not None:
                with i.if_then(few):
                    i.call(narrow, [bufs, dims, batch, head, b.i64(0), p["rows"]])
            if group is not None:
                first = i.mul(part, p["together"])
                last = b.smin(i.add(first, p["together"]), p["strips"])
                with i.if_then(i.not_(few)):
                    i.call(group, [bufs, dims, batch, head, b.i64(0), b.i64(0), first, last])
            return ()

        restore = flush_subnormals(b, self.target)
        b.loop(begin, end, b.i64(1), [], unit)
        restore()
        i.ret_void()
