"""Caches of keys and values in few bits, as GroupQueryAttention of com.microsoft has them."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from .....ir import DType, Value
from .....ir import ops as O
from ...compose import Build
from ...context import ImportContext
from .levels import unpacked


@dataclass(frozen=True)
class CacheCode:
    """How a cache [B, G, L, D] holds numbers: as round(x / scale), saturated, without a zero point.

    bits: 8 (i8), or 4: two numbers a byte, that of the even channel in its low half, with 8 added. scale: f32 [], or [1, G, 1, D].
    """

    bits: int
    scale: Value

    def encode(self, b: Build, x: Value) -> Value:
        """[B, G, L, D] -> i8 of that shape, or u8 [B, G, L, D / 2]."""
        levels = b.emit(O.Quantize(DType.I8), b.cast(x, DType.F32), self.scale, b.const(0, DType.I8))
        if self.bits == 8:
            return levels
        codes = b.cast(b.add(b.min(b.max(levels, -8), 7), 8), DType.U8)
        low, high = (b.slice(codes, 3, i, x.shape[3] // 2, 2) for i in (0, 1))
        return b.add(low, b.mul(high, 16))

    def decode(self, b: Build, cache: Value, dtype: DType) -> Value:
        """What `encode` gave -> numbers [B, G, L, D]."""
        if self.bits == 4:
            cache = b.sub(b.cast(unpacked(b, cache, self.bits), DType.I8), 8)
        return b.cast(b.mul(b.cast(cache, DType.F32), self.scale), dtype)


def cache_code(ctx: ImportContext, node: NodeProto, which: str, past: Value | None, scale: Value | None, groups: int) -> CacheCode | None:
    """The code of the cache of keys (`which` is "k") or values ("v"); None where its numbers lie as they are."""
    kind, bits = str(ctx.attr(node, f"{which}_quant_type", "NONE")), int(ctx.attr(node, "kv_cache_bit_width", 8) or 8)
    if kind == "NONE":
        return None
    held = {8: DType.I8, 4: DType.U8}.get(bits)
    if scale is None or kind not in ("PER_TENSOR", "PER_CHANNEL") or held is None or (past is not None and past.dtype is not held):
        dtype = "nothing" if past is None else past.dtype.value
        raise ctx.unsupported(f"GroupQueryAttention with a cache of {dtype}, {bits} bits and {which}_quant_type {kind!r}")
    shape = () if kind == "PER_TENSOR" else (1, groups, 1, scale.type.numel // groups)
    return CacheCode(bits, Build(ctx).reshape(scale, shape))
