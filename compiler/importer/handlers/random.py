"""Handlers of random operators: a hash of a counter, so that elements are independent of each other and of threads.

SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) in counter mode. A node
with a seed gives the same numbers in every run; one without starts from the processor's counter, anew in each run. The numbers
are not those of onnxruntime; ONNX specifies their distribution only.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

from onnx import NodeProto

from ....ir import DType, Shape, Value, prod
from ....ir import ops as O
from ..compose import Build, optional, required, wanted
from ..context import HandlerTable, ImportContext

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_U64 = 2**64


def stream_of(ctx: ImportContext, node: NodeProto, b: Build, given: Value | None = None) -> Value:
    """Where the counter starts: from the seed and the node, or from the processor's counter. `given`: a seed computed at run time."""
    if given is not None:
        return _mix(b, b.mul(b.reshape(b.cast(b.cast(given, DType.I64), DType.U64), ()), b.const(_GOLDEN, DType.U64)))
    own = zlib.crc32(" ".join((*ctx.loc, *node.output)).encode()) * _GOLDEN % _U64
    seed = ctx.attr(node, "seed", None)
    if seed is not None:
        bits = int.from_bytes(struct.pack("<f", float(seed)), "little")
        return b.const(_mixed(bits * _GOLDEN % _U64), DType.U64)
    return _mix(b, b.emit(O.BitXor(), b.cast(b.emit(O.Clock()), DType.U64), b.const(own, DType.U64)))


def _mixed(z: int) -> int:
    for shift, factor in _MIX:
        z = (z ^ (z >> shift)) * factor % _U64
    return z ^ (z >> 31)


def _mix(b: Build, z: Value) -> Value:
    for shift, factor in _MIX:
        z = b.mul(b.emit(O.BitXor(), z, b.emit(O.ShiftRight(), z, b.const(shift, DType.U64))), b.const(factor, DType.U64))
    return b.emit(O.BitXor(), z, b.emit(O.ShiftRight(), z, b.const(31, DType.U64)))


def _bits(b: Build, stream: Value, shape: Shape, lane: int) -> Value:
    """64 random bits per element; lanes of one stream are independent."""
    count = b.reshape(b.cast(b.iota(prod(shape)), DType.U64), shape)
    start = b.add(stream, b.const(lane * _GOLDEN * 0x632BE5A7 % _U64, DType.U64))
    return _mix(b, b.add(b.mul(count, b.const(_GOLDEN, DType.U64)), start))


def uniform(b: Build, stream: Value, shape: Shape, dtype: DType, lane: int = 0) -> Value:
    """In [0, 1): 24 bits in float32, 53 in float64."""
    digits = 53 if dtype is DType.F64 else 24
    whole = b.emit(O.ShiftRight(), _bits(b, stream, shape, lane), b.const(64 - digits, DType.U64))
    return b.mul(b.cast(b.cast(whole, DType.I64), dtype), 2.0**-digits)


def _normal(b: Build, stream: Value, shape: Shape, dtype: DType) -> Value:
    """Box and Muller's transform of two uniform numbers, the first in (0, 1]."""
    radius = b.emit(O.Log(), b.sub(b.const(1, dtype), uniform(b, stream, shape, dtype)))
    angle = b.mul(uniform(b, stream, shape, dtype, 1), 2 * math.pi)
    return b.mul(b.sqrt(b.mul(radius, -2.0)), b.emit(O.Cos(), angle))


def _generate(ctx: ImportContext, node: NodeProto, shape: Shape, dtype: DType) -> Value:
    if not dtype.is_float:
        raise ctx.unsupported(f"{node.op_type} of {dtype.value}")
    b = Build(ctx)
    wide = DType.F64 if dtype is DType.F64 else DType.F32
    stream = stream_of(ctx, node, b)
    if "Normal" in node.op_type:
        y = _normal(b, stream, shape, wide)
        scale, shift = float(ctx.attr(node, "scale", 1.0)), float(ctx.attr(node, "mean", 0.0))
    else:
        y = uniform(b, stream, shape, wide)
        shift = float(ctx.attr(node, "low", 0.0))
        scale = float(ctx.attr(node, "high", 1.0)) - shift
    return b.cast(b.add(b.mul(y, scale), shift), dtype)


def random(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    shape = tuple(int(d) for d in ctx.attr(node, "shape"))
    return [_generate(ctx, node, shape, DType.from_onnx(int(ctx.attr(node, "dtype", DType.F32.onnx))))]


def random_like(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    number = ctx.attr(node, "dtype", None)
    return [_generate(ctx, node, x.shape, x.dtype if number is None else DType.from_onnx(int(number)))]


def bernoulli(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """1 with the probability that the element gives."""
    (x,) = required(ctx, node, ins, 1)
    b, number = Build(ctx), ctx.attr(node, "dtype", None)
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    drawn = uniform(b, stream_of(ctx, node, b), x.shape, wide)
    return [b.cast(b.emit(O.Less(), drawn, b.cast(x, wide)), x.dtype if number is None else DType.from_onnx(int(number)))]


def multinomial(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """From unnormalised log-probabilities [B, C], indices [B, samples]: how many sums of leading probabilities are below u."""
    (x,) = required(ctx, node, ins, 1)
    b, samples = Build(ctx), int(ctx.attr(node, "sample_size", 1))
    batch, classes = x.shape
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    total = b.emit(O.CumSum(1), b.emit(O.Softmax(1), b.cast(x, wide)))
    last = b.slice(total, 1, classes - 1, 1)  # not quite 1
    drawn = b.mul(uniform(b, stream_of(ctx, node, b), (batch, samples), wide), last)
    passed = b.emit(O.LessEqual(), b.reshape(total, (batch, 1, classes)), b.reshape(drawn, (batch, samples, 1)))
    index = b.reduce("sum", b.cast(passed, DType.I32), [2], False)
    index = b.emit(O.Min(), index, b.dim(classes - 1, DType.I32))
    return [b.cast(index, DType.from_onnx(int(ctx.attr(node, "dtype", DType.I32.onnx))))]


def draw(b: Build, stream: Value, scores: Value, step: Value) -> Value:
    """I64 [B]: one index of each row of unnormalised log-probabilities [B, C]. Other steps of a stream give other ones."""
    batch, classes = scores.shape
    stream = _mix(b, b.add(stream, b.mul(b.cast(step, DType.U64), b.const(_MIX[0][1], DType.U64))))
    total = b.emit(O.CumSum(1), b.emit(O.Softmax(1), scores))
    drawn = b.mul(uniform(b, stream, (batch, 1), scores.dtype), b.slice(total, 1, classes - 1, 1))
    passed = b.emit(O.LessEqual(), total, drawn)
    return b.min(b.reduce("sum", b.cast(passed, DType.I64), [1], False), b.dim(classes - 1, DType.I64))


def dropout(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The identity at inference, with a mask of ones (zeros before opset 12, as in onnxruntime).

    In training, which an input says since opset 12, elements are dropped with probability `ratio` and the rest scaled up.
    """
    (x,) = required(ctx, node, ins, 1)
    b, training = Build(ctx), optional(ins, 2)
    given, ratio = ctx.known(training), ctx.known(optional(ins, 1))
    inference = training is None or (given is not None and not given.any()) or (ratio is not None and not ratio.any())
    if inference:
        if not wanted(node, 1):
            return [x]
        return [x, b.expand(b.const(ctx.opset() >= 12, DType.BOOL if ctx.opset() >= 10 else x.dtype), x.shape)]
    assert training is not None
    wide = DType.F64 if x.dtype is DType.F64 else DType.F32
    rate = optional(ins, 1)
    rate = b.const(0.5, wide) if rate is None else b.reshape(b.cast(rate, wide), ())
    rate = b.where(b.reshape(training, ()), rate, b.const(0, wide))
    mask = b.emit(O.GreaterEqual(), uniform(b, stream_of(ctx, node, b), x.shape, wide), rate)
    left = b.sub(b.const(1, wide), rate)
    scale = b.where(b.emit(O.Greater(), left, b.const(0, wide)), b.div(b.const(1, wide), left), b.const(0, wide))
    return [b.where(mask, b.cast(b.mul(b.cast(x, wide), scale), x.dtype), b.const(0, x.dtype)), mask]


RANDOM_HANDLERS: HandlerTable = {
    ("Bernoulli", 15): bernoulli,
    ("Dropout", 7): dropout,
    ("Multinomial", 7): multinomial,
    ("RandomNormal", 1): random,
    ("RandomNormalLike", 1): random_like,
    ("RandomUniform", 1): random,
    ("RandomUniformLike", 1): random_like,
}
