"""Handlers of MatMulNBits and GatherBlockQuantized (com.microsoft): weights of few bits stay so, see `ir.ops.GroupedMatMul`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from .....ir import Const, Dim, DType, Value
from .....ir.ops import Gather, GroupedMatMul, Less
from ...bits import unpack
from ...compose import Build, optional, required
from ...context import HandlerTable, ImportContext
from .levels import unpacked


def matmul_nbits(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """A · dequantize(B)ᵀ + bias; B is u8 [N, blocks, bytes of a block], its elements from the lowest bits up.

    Zero points are packed like B, or plain numbers of A's type; without them they are 2^(bits−1). `accuracy_level` lets rows of A be
    rounded: to bytes, with a scale each block, as onnxruntime does (4), or to halves (2, 3), for which 16 bits are kept. With g_idx,
    element k of a column is of block g_idx[k] (GPTQ in the order of activations): the elements of a block are brought together, and
    so are those of A; where blocks are of several sizes, the weights become floats. (onnxruntime drops zero points beside g_idx.)
    """
    x, block = required(ctx, node, ins, 3)[0], int(ctx.attr(node, "block_size", 0))
    w = _weights(ctx, node, ins, block)
    b, dtype, rank = Build(ctx), x.dtype, len(x.shape)
    a = b.cast(x, DType.F32)
    a = a if rank > 1 else b.reshape(a, (1, *a.shape))
    order = np.argsort(w.of_block, kind="stable")  # that in which blocks lie one behind the other
    if np.array_equal(w.of_block[order], np.arange(len(order)) // block):
        levels = w.levels
        if not np.array_equal(order, np.arange(len(order))):
            levels, a = levels[order], b.emit(Gather(a.type.rank - 1), a, b.const(order, DType.I64))
        columns = ((levels, DType.U8), (w.scales.T, DType.F32), (w.zeros.T, DType.F32))
        weights = [b.const(np.ascontiguousarray(v), t) for v, t in columns]
        row_bits = _ROW_BITS.get(int(ctx.attr(node, "accuracy_level", 0)), 24)
        y = b.emit(GroupedMatMul(max(w.bits, 4), block, row_bits=row_bits), a, *weights)
    else:
        dense = (w.levels - w.zeros[:, w.of_block].T) * w.scales[:, w.of_block].T
        y = b.matmul(a, b.const(np.ascontiguousarray(dense), DType.F32))
    y = y if rank > 1 else b.reshape(y, y.shape[1:])
    bias = optional(ins, 5)
    y = y if bias is None else b.add(y, b.cast(bias, DType.F32))
    return [b.cast(y, dtype)]


@dataclass(frozen=True)
class _Weights:
    """What a MatMulNBits multiplies by: levels u8 [K, N]; scales and zero points f32 [N, blocks]; the block of each k, i64 [K]."""

    bits: int
    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    of_block: np.ndarray


def _weights(ctx: ImportContext, node: NodeProto, ins: list[Value | None], block: int) -> _Weights:
    _, packed, scale = required(ctx, node, ins, 3)
    k, n, bits = (int(ctx.attr(node, name, default)) for name, default in (("K", 0), ("N", 0), ("bits", 4)))
    if bits not in (2, 4, 8) or block < 8 or k < 1 or n < 1:
        raise ctx.unsupported(f"MatMulNBits with K={k}, N={n}, bits={bits}, block_size={block}")
    blocks = -(-k // block)
    raw = _constant(ctx, packed, "B")
    if raw.dtype != np.uint8 or raw.size != n * blocks * (block * bits // 8):
        raise ctx.unsupported(f"MatMulNBits: B is {raw.dtype}{list(raw.shape)}, expected uint8 [{n}, {blocks}, {block * bits // 8}]")
    scales = _constant(ctx, scale, "scales").astype(np.float32)
    if scales.size != n * blocks:
        raise ctx.unsupported(f"MatMulNBits: scales {list(scales.shape)}, expected [{n}, {blocks}]")
    levels = unpack(np.ascontiguousarray(raw.reshape(n, -1).T), bits, 0)[:k]
    zeros = _zeros(ctx, optional(ins, 3), n, blocks, bits)
    return _Weights(bits, levels, scales.reshape(n, blocks), zeros, _blocks(ctx, optional(ins, 4), k, blocks, block))


def _blocks(ctx: ImportContext, given: Value | None, k: int, blocks: int, block: int) -> np.ndarray:
    """The block that each element of a column is of."""
    if given is None:
        return np.arange(k) // block
    found = np.asarray(_constant(ctx, given, "g_idx")).ravel()[:k]
    if len(found) < k or found.min() < 0 or found.max() >= blocks:
        raise ctx.unsupported(f"MatMulNBits: {len(found)} numbers of blocks in g_idx, expected {k} below {blocks}")
    return found


def _zeros(ctx: ImportContext, given: Value | None, n: int, blocks: int, bits: int) -> np.ndarray:
    """f32 [N, blocks]."""
    if given is None:
        return np.full((n, blocks), 1 << (bits - 1), np.float32)
    data = _constant(ctx, given, "zero_points")
    if data.dtype == np.uint8:
        width = -(-blocks * bits // 8)
        if data.size != n * width:
            raise ctx.unsupported(f"MatMulNBits: zero_points {list(data.shape)}, expected [{n}, {width}]")
        return unpack(data.reshape(n, width), bits)[:, :blocks].astype(np.float32)
    if data.size != n * blocks:
        raise ctx.unsupported(f"MatMulNBits: zero_points {list(data.shape)}, expected [{n}, {blocks}]")
    return data.reshape(n, blocks).astype(np.float32)


def _constant(ctx: ImportContext, v: Value, what: str) -> np.ndarray:
    if not isinstance(v.node.op, Const):
        raise ctx.unsupported(f"{what} is computed, expected an initializer")
    return v.node.op.data


def gather_block_quantized(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """Elements along one axis of a table of few bits, dequantized by blocks along an axis, maybe the same. u8 tables of 2 and 4 bits hold
    several levels a byte, along the last axis; blocks lie along that one then."""
    table, index, scales = required(ctx, node, ins, 3)
    b, zeros, rank = Build(ctx), optional(ins, 3), len(table.shape)
    axis, along = (int(ctx.attr(node, name, default)) % rank for name, default in (("gather_axis", 0), ("quantize_axis", 1)))
    bits, block = int(ctx.attr(node, "bits", 4)), int(ctx.attr(node, "block_size", 128))
    each = 8 // bits if table.dtype is DType.U8 and bits in (2, 4, 8) else 1
    if bits not in (2, 4, 8) or block < 1 or (each > 1 and (along != rank - 1 or axis == along)):
        raise ctx.unsupported(f"GatherBlockQuantized of {table.type} along axis {axis}, in blocks along {along}, with {bits} bits")
    width = table.shape[along] * each
    if not isinstance(width, int):
        raise ctx.unsupported(f"GatherBlockQuantized of {table.type}")
    index = ctx.index_of(index, table.shape[axis])
    place = along + (index.type.rank - 1 if along > axis else 0)  # of blocks, in the result

    def elements(v: Value, size: Dim) -> Value:
        """Those asked for, unpacked and cut to `size` along the last axis."""
        y = b.emit(Gather(axis), v, index)
        if each == 1:
            return y
        return b.slice(unpacked(b, y, bits), y.type.rank - 1, 0, size)

    def of_blocks(v: Value) -> Value:
        """What blocks have, for each of the elements."""
        if axis == along:
            at = b.where(b.emit(Less(), index, b.const(0, index.dtype)), b.add(index, width), index)
            return b.emit(Gather(axis), v, b.div(at, block))
        found = elements(v, scales.shape[along]) if v is zeros else b.emit(Gather(axis), v, index)
        return b.emit(Gather(place), found, b.ctx.const(np.arange(width, dtype=np.int64) // block))

    taken = b.cast(elements(table, width), DType.F32)
    offset: Value | float = float(1 << (bits - 1)) if table.dtype is DType.U8 else 0.0
    if zeros is not None:
        offset = b.cast(of_blocks(zeros), DType.F32)
    return [b.cast(b.mul(b.sub(taken, offset), b.cast(of_blocks(scales), DType.F32)), scales.dtype)]


def matmul_fp_q4(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """A · dequantize(B) of a blob: by columns, blocks of an f32 scale, of type 1 also a zero point of 1 byte, and 4-bit levels.

    The bytes of 32 levels hold level i and level i + 16.
    """
    x, blob, shape = required(ctx, node, ins, 3)
    b, kind = Build(ctx), int(ctx.attr(node, "blk_quant_type", 1))
    if kind not in _BLOBS:
        raise ctx.unsupported(f"MatMulFpQ4 of type {kind}, expected one of {list(_BLOBS)}")
    block, offset = _BLOBS[kind]
    k, n = (int(d) for d in ctx.require_known(shape, "B_shape of MatMulFpQ4").ravel())
    raw, blocks = _constant(ctx, blob, "B"), -(-k // block)
    if raw.dtype != np.uint8 or raw.size != n * blocks * (offset + block // 2):
        raise ctx.unsupported(f"MatMulFpQ4 of {x.type} by {raw.dtype}{list(raw.shape)} as [{k}, {n}]")
    raw = raw.reshape(n, blocks, -1)
    scales = np.ascontiguousarray(raw[..., :4]).view("<f4")[..., 0]
    zeros = raw[..., 4].astype(np.float32) if offset == 5 else np.full(scales.shape, 8, np.float32)
    halves = raw[..., offset:].reshape(n, blocks, block // 32, 1, 16)
    levels = np.concatenate([halves & 15, halves >> 4], axis=3).reshape(n, -1)[:, :k]
    weights = (levels.T, DType.U8), (scales.T, DType.F32), (zeros.T, DType.F32)
    ctx.require_equal(x.shape[-1], k)
    a = b.reshape(x, (*x.shape[:-1], k) if x.type.rank > 1 else (1, k))
    y = b.emit(GroupedMatMul(4, block), a, *(b.const(np.ascontiguousarray(v), t) for v, t in weights))
    return [y if x.type.rank > 1 else b.reshape(y, (n,))]


_ROW_BITS = {2: 16, 3: 16, 4: 8}  # by accuracy_level: halves, bfloat16, bytes
_BLOBS = {0: (32, 4), 1: (32, 5), 2: (64, 4), 4: (128, 4)}  # by type: levels of a block, and bytes before them

GROUPED_HANDLERS: HandlerTable = {
    ("com.microsoft::MatMulFpQ4", 1): matmul_fp_q4,
    ("com.microsoft::MatMulNBits", 1): matmul_nbits,
    ("com.microsoft::GatherBlockQuantized", 1): gather_block_quantized,
}
