"""Handlers of onnxruntime's operators on codes: 4-bit floats, 16-bit products, hashes, tokens and paths (com.microsoft)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from .....ir import DType, TensorType, Value
from .....ir import ops as O
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext
from ...held import Element

Ins = list[Value | None]


_FP4 = np.array([0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 0.5, 2 / 12, 0.25], np.float32)
_NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)  # fmt: skip
_CODES = (np.concatenate([_FP4, -_FP4]), _NF4)  # by quant_type; bitsandbytes' 4-bit floats, and quantiles of a normal distribution


def matmul_bnb4(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """A · Bᵀ; B is N·K 4-bit codes in a row, the first of a byte in its high bits, with a factor for each block.

    The codes are no even steps, so that they are looked up, in the product itself where B is constant. Blocks may reach over the
    ends of columns; then parts of them that do not are groups of their own. Only where these have no multiple of 8 elements, which
    the product reads at once, are the weights expanded: a factor for each few of them would be as large.
    """
    x, codes, factor = required(ctx, node, ins, 3)
    n, k, block, kind = (int(ctx.attr(node, name)) for name in ("N", "K", "block_size", "quant_type"))
    sizes = (-(-n * k // 2), -(-n * k // max(1, block)))
    fits = codes.dtype is DType.U8 and (codes.type.numel, factor.type.numel) == sizes and block > 1
    if kind not in (0, 1) or not ctx.attr(node, "transB", 1) or not fits:
        raise ctx.unsupported(f"MatMulBnb4 of {codes.type} and {factor.type} with N={n}, K={k}, block_size={block}, quant_type={kind}")
    b = Build(ctx)
    a = b.cast(x, DType.F32)
    a = a if x.type.rank > 1 else b.reshape(a, (1, k))
    raw, scales = ctx.known(codes), ctx.known(factor)
    part = math.gcd(k, block)
    if raw is not None and scales is not None and part % 8 == 0:
        factors = np.repeat(scales.ravel(), block // part)[: n * k // part]
        product = _looked_up(b, a, raw, factors.reshape(n, k // part), part, kind)
    else:
        product = b.matmul(a, b.swap_last(_expanded(b, codes, factor, block, kind, (n, k))))
    y = b.cast(product, x.dtype)
    return [y if x.type.rank > 1 else b.reshape(y, (n,))]


def _looked_up(b: Build, a: Value, codes: np.ndarray, scales: np.ndarray, block: int, kind: int) -> Value:
    """a[…, K] by columns whose blocks have `scales` [N, blocks]."""
    n, blocks = scales.shape
    flat = codes.ravel()
    levels = np.stack([flat >> 4, flat & 15], axis=1).reshape(-1)[: n * blocks * block].reshape(n, blocks * block)
    columns = ((levels.T, DType.U8), (scales.T, DType.F32), (np.zeros((blocks, n)), DType.F32))
    weights = [b.const(np.ascontiguousarray(c), t) for c, t in columns]
    return b.emit(O.GroupedMatMul(4, block, tuple(map(float, _CODES[kind]))), a, *weights)


def _expanded(b: Build, codes: Value, factor: Value, block: int, kind: int, shape: tuple[int, int]) -> Value:
    """The weights as floats, computed by the model."""
    count = math.prod(shape)
    size = -(-count // 2)
    flat = b.reshape(codes, (size, 1))
    high, low = b.emit(O.ShiftRight(), flat, b.const(4, DType.U8)), b.emit(O.BitAnd(), flat, b.const(15, DType.U8))
    index = b.cast(b.slice(b.reshape(b.concat(1, high, low), (2 * size,)), 0, 0, count), DType.I64)
    levels = b.emit(O.Gather(0), b.const(_CODES[kind], DType.F32), index)
    blocks = -(-count // block)
    wide = b.expand(b.reshape(b.cast(factor, DType.F32), (blocks, 1)), (blocks, block))
    wide = b.slice(b.reshape(wide, (blocks * block,)), 0, 0, count)
    return b.reshape(b.mul(levels, wide), shape)


def gemm_fast_gelu(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    x, w = required(ctx, node, ins, 2)
    b, bias = Build(ctx), optional(ins, 2)
    y = b.matmul(x, w)
    return [b.emit(O.Gelu(True), y if bias is None else b.add(y, bias))]


def matmul_integer16(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Products of 16-bit integers, summed in 32 bits (modulo 2³²)."""
    x, y = required(ctx, node, ins, 2)
    b = Build(ctx)
    dtype = DType.U32 if x.dtype is DType.U16 and y.dtype is DType.U16 else DType.I32
    wide = [b.cast(v, DType.I64) for v in (x, y)]
    return [b.cast(b.matmul(*wide), dtype)]


def murmur_hash3(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """MurmurHash3_x86_32 of the bytes of each element (Appleby, public domain): numbers as machine code, strings on the host."""
    (x,) = required(ctx, node, ins, 1)
    b, seed = Build(ctx), int(ctx.attr(node, "seed", 0)) & 0xFFFFFFFF
    dtype = DType.U32 if ctx.attr(node, "positive", 1) else DType.I32
    if x.dtype is DType.STRING:

        def make(results: tuple[TensorType, ...]) -> O.MurmurHash:
            return O.MurmurHash(results, seed)

        return [b.cast(ctx.run_host(make, (x,), Element(DType.U32, x.shape))[0], dtype)]
    bits = {DType.F32: DType.U32, DType.F64: DType.U64, DType.I32: DType.U32, DType.I64: DType.U64}.get(x.dtype, x.dtype)
    if bits not in (DType.U32, DType.U64):
        raise ctx.unsupported(f"MurmurHash3 of {x.type}")
    raw = x if x.dtype is bits else b.emit(O.BitCast(x.dtype, bits), x)
    words = [raw] if bits is DType.U32 else [b.cast(b.emit(O.BitAnd(), v, b.const(0xFFFFFFFF, bits)), DType.U32)
                                             for v in (raw, b.emit(O.ShiftRight(), raw, b.const(32, bits)))]  # fmt: skip

    def number(value: int) -> Value:
        return b.const(np.uint32(value), DType.U32)

    def rotated(v: Value, by: int) -> Value:
        return b.emit(O.BitOr(), b.emit(O.ShiftLeft(), v, number(by)), b.emit(O.ShiftRight(), v, number(32 - by)))

    def folded(v: Value, by: int) -> Value:
        return b.emit(O.BitXor(), v, b.emit(O.ShiftRight(), v, number(by)))

    h: Value = number(seed)
    for word in words:
        k = b.mul(rotated(b.mul(word, number(0xCC9E2D51)), 15), number(0x1B873593))
        h = b.add(b.mul(rotated(b.emit(O.BitXor(), h, k), 13), number(5)), number(0xE6546B64))
    h = b.emit(O.BitXor(), h, number(4 * len(words)))
    h = b.mul(folded(h, 16), number(0x85EBCA6B))
    h = folded(b.mul(folded(h, 13), number(0xC2B2AE35)), 16)
    return [b.cast(h, dtype)]


def tokenizer(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Strings cut at separators, or into matches of an expression; padded to the most tokens of any."""
    (x,) = required(ctx, node, ins, 1)
    separators, expression = tuple(ctx.attr(node, "separators", ())), str(ctx.attr(node, "tokenexp", ""))
    least, mark, pad = int(ctx.attr(node, "mincharnum")), bool(ctx.attr(node, "mark", 0)), str(ctx.attr(node, "pad_value"))
    if x.dtype is not DType.STRING or x.type.rank not in (1, 2) or bool(separators) == bool(expression):
        raise ctx.unsupported(f"Tokenizer of {x.type} with {len(separators)} separators and expression {expression!r}")

    def make(results: tuple[TensorType, ...]) -> O.Tokenize:
        return O.Tokenize(results, separators, expression, least, mark, pad)

    return ctx.run_host(make, (x,), Element(DType.STRING, (*x.shape, None)))


def dynamic_time_warping(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The cheapest path through a matrix of costs, as rows and columns [2, steps]."""
    (x,) = required(ctx, node, ins, 1)
    costs = x if x.type.rank == 2 else Build(ctx).reshape(x, x.shape[1:])
    return ctx.run_host(O.TimeWarp, (costs,), Element(DType.I32, (2, None)))


CODED_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::DynamicTimeWarping", 1): dynamic_time_warping,
    ("com.microsoft::GemmFastGelu", 1): gemm_fast_gelu,
    ("com.microsoft::MatMulBnb4", 1): matmul_bnb4,
    ("com.microsoft::MatMulInteger16", 1): matmul_integer16,
    ("com.microsoft::MurmurHash3", 1): murmur_hash3,
    ("com.microsoft::Tokenizer", 1): tokenizer,
}
