"""Precision lowering: the contractions of a float32 graph at fewer bits, one choice a layer.

Products accumulate in float32 or int32 and their results are float32 again; norms, softmax and all else stay as they are.
The conversions are elementwise, so that fusion moves them into the kernels before and after.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..errors import PassError
from ..ir import DType, Graph, Node, Value, const, prod
from ..ir.ops import (
    Add,
    Cast,
    Conv,
    Div,
    DotConv,
    DotMatMul,
    GroupedMatMul,
    IntegerConv,
    IntegerMatMul,
    MatMul,
    Max,
    Min,
    Mul,
    Neg,
    Quantize,
    Reduce,
    Round,
)
from .base import Pass, PassContext, apply, const_of, reshape

_LEVELS = 255
_PIECE = 1 << 20  # elements
_SMALLEST = 1e-12  # a row of zeros has no scale of its own


@dataclass(frozen=True)
class BFloat16:
    """Both operands in bfloat16, the sum in float32."""


@dataclass(frozen=True)
class Float16:
    """Both operands and the result in float16, the sum in float32."""


@dataclass(frozen=True, eq=False)
class StaticInt8:
    """Activations in u8 with one scale and zero point that calibration found, weights in i8 with a scale a column.

    Attributes:
        scale, zero: x ≈ (q − zero)·scale.
        weights: i8, the shape of the layer's weights.
        weight_scales: f32 [N].
        smooth: f32 [K] that x is multiplied by first (and the weights were divided by), or None.
        shift: f32 [N] to add to the result: the mean error of rounding the weights, or None.
    """

    scale: float
    zero: int
    weights: np.ndarray = field(repr=False)
    weight_scales: np.ndarray = field(repr=False)
    smooth: np.ndarray | None = field(default=None, repr=False)
    shift: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class DynamicInt8:
    """As `StaticInt8`, with scale and zero point of each row of x found at run time."""

    weights: np.ndarray = field(repr=False)
    weight_scales: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class WeightOnly:
    """Weights of few bits, see `ir.ops.GroupedMatMul`; activations and sums in float32.

    Attributes:
        levels: u8 [K, N]; scales, zeros: f32 [⌈K/group⌉, N].
        rows: f32 [K] that x is multiplied by first, or None.
    """

    bits: int
    group: int
    levels: np.ndarray = field(repr=False)
    scales: np.ndarray = field(repr=False)
    zeros: np.ndarray = field(repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)

    def dequantize(self) -> np.ndarray:
        """f32 [K, N], `rows` included."""
        k = len(self.levels)
        scales, zeros = (np.repeat(a, self.group, axis=0)[:k] for a in (self.scales, self.zeros))
        w = (self.levels.astype(np.float32) - zeros) * scales
        return w if self.rows is None else w * self.rows[:, None]


Choice = BFloat16 | Float16 | StaticInt8 | DynamicInt8 | WeightOnly


def layers(graph: Graph) -> dict[str, Node]:
    """The contractions that can be lowered, by name: that of the first ONNX node they came from, made unique."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if type(node.op) not in (MatMul, Conv) or node.out.dtype is not DType.F32 or _is_depthwise(node):
            continue
        base = node.loc[0] if node.loc and node.loc[0] else node.op.name
        name, count = base, 2
        while name in found:
            name, count = f"{base}#{count}", count + 1
        found[name] = node
    return found


def weights_of(node: Node) -> np.ndarray | None:
    """A layer's weights [*taps, K, N], where they are constant and the same for a whole batch."""
    data = const_of(node.inputs[1])
    return None if data is None or (isinstance(node.op, MatMul) and prod(data.shape[:-2]) != 1) else data


@dataclass(frozen=True)
class LowerPrecision(Pass):
    """Give layers the precision chosen for them. Raises PassError when a choice names no layer, or does not fit it."""

    choices: Mapping[str, Choice]

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        known = layers(graph)
        for name in self.choices:
            if name not in known:
                raise PassError(f"no layer is called {name!r}", expected="a name that `layers` gives")
        chosen = {known[name]: choice for name, choice in self.choices.items()}

        def lowered(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
            choice = chosen.get(node)
            if choice is None:
                return None
            return (lower_layer(node, inputs, choice),)

        return graph.rewrite(lowered)


def lower_layer(node: Node, inputs: tuple[Value, ...], choice: Choice) -> Value:
    """What computes a layer's result at a choice, from the layer's inputs. Raises PassError for a choice that does not fit it."""
    return _LOWER[type(choice)](node, inputs, choice)


def _is_depthwise(node: Node) -> bool:
    """Bound by the bytes of x and y, which lowering does not make fewer here."""
    return isinstance(node.op, Conv) and node.op.groups > 1 and node.inputs[1].shape[-2] == 1


def _bfloat16(node: Node, inputs: tuple[Value, ...], choice: BFloat16) -> Value:
    x, w = (_cast(v, DType.BF16, node.loc) for v in inputs)
    if isinstance(node.op, Conv):
        return apply(node.op.of_kind(DotConv), x, w, loc=node.loc)
    return apply(DotMatMul(), x, w, loc=node.loc)


def _float16(node: Node, inputs: tuple[Value, ...], choice: Float16) -> Value:
    x, w = (_cast(v, DType.F16, node.loc) for v in inputs)
    return _cast(apply(node.op, x, w, loc=node.loc), DType.F32, node.loc)


def _static_int8(node: Node, inputs: tuple[Value, ...], choice: StaticInt8) -> Value:
    x, loc = inputs[0], node.loc
    inverse = np.float32(1.0 / choice.scale)
    factor = inverse if choice.smooth is None else choice.smooth.astype(np.float32) * inverse
    zero = const(np.uint8(choice.zero))
    q = apply(Quantize(DType.U8, inverse=True), x, const(factor), zero, loc=loc)
    acc = _integer(node, q, choice.weights, zero)
    y = apply(Mul(), _cast(acc, DType.F32, loc), const((choice.weight_scales * np.float32(choice.scale)).astype(np.float32)), loc=loc)
    return y if choice.shift is None else apply(Add(), y, const(choice.shift.astype(np.float32)), loc=loc)


def _dynamic_int8(node: Node, inputs: tuple[Value, ...], choice: DynamicInt8) -> Value:
    if not isinstance(node.op, MatMul):
        raise PassError(
            "dynamic int8 for a convolution", expected="a matrix product", remedy="Use int8 with calibration data.", loc=node.loc[0]
        )
    x, loc = inputs[0], node.loc
    last = (len(x.shape) - 1,)
    lo = apply(Min(), apply(Reduce("min", last, True), x, loc=loc), const(np.float32(0)), loc=loc)
    hi = apply(Max(), apply(Reduce("max", last, True), x, loc=loc), const(np.float32(_SMALLEST)), loc=loc)
    scale = apply(Mul(), apply(Add(), hi, apply(Neg(), lo, loc=loc), loc=loc), const(np.float32(1 / _LEVELS)), loc=loc)
    zero = _cast(apply(Round(), apply(Div(), apply(Neg(), lo, loc=loc), scale, loc=loc), loc=loc), DType.U8, loc)
    acc = _integer(node, apply(Quantize(DType.U8), x, scale, zero, loc=loc), choice.weights, zero)
    y = apply(Mul(), _cast(acc, DType.F32, loc), const(choice.weight_scales.astype(np.float32)), loc=loc)
    return apply(Mul(), y, scale, loc=loc)


def _weight_only(node: Node, inputs: tuple[Value, ...], choice: WeightOnly) -> Value:
    if not isinstance(node.op, MatMul):
        raise PassError("weights of few bits for a convolution", expected="a matrix product", loc=node.loc[0])
    x, loc = inputs[0], node.loc
    if choice.rows is not None:
        x = apply(Mul(), x, const(choice.rows.astype(np.float32)), loc=loc)
    weights = (const(a, loc=inputs[1].node.loc) for a in (choice.levels, choice.scales.astype(np.float32), choice.zeros.astype(np.float32)))
    y = apply(GroupedMatMul(choice.bits, choice.group), x, *weights, loc=loc)
    return reshape(y, node.out.shape)  # the layer's weights may have axes of size 1 in front


def _integer(node: Node, q: Value, weights: np.ndarray, zero: Value) -> Value:
    w, none = const(weights, loc=node.inputs[1].node.loc), const(np.int8(0))
    if isinstance(node.op, Conv):
        return apply(node.op.of_kind(IntegerConv), q, w, zero, none, loc=node.loc)
    return apply(IntegerMatMul(), q, w, zero, none, loc=node.loc)


def _cast(v: Value, dtype: DType, loc: tuple[str, ...]) -> Value:
    data = const_of(v)
    if data is not None:
        return const(_rounded(data, dtype), loc=v.node.loc)
    return apply(Cast(dtype), v, loc=loc)


def _rounded(data: np.ndarray, dtype: DType) -> np.ndarray:
    """A constant of another type. By threads: one of NumPy's rounds 190 million elements a second to float16 (Zen 4)."""
    rows = data if data.flags.c_contiguous else data.T
    if data.size < _PIECE or not rows.flags.c_contiguous:
        return data.astype(dtype.np)
    made = np.empty(rows.shape, dtype.np)
    to, source = made.reshape(-1), rows.reshape(-1)

    def piece(at: int) -> None:
        np.copyto(to[at : at + _PIECE], source[at : at + _PIECE], casting="unsafe")

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(piece, range(0, data.size, _PIECE)))
    return made if rows is data else made.T


_LOWER: dict[type, Callable[..., Value]] = {
    BFloat16: _bfloat16,
    Float16: _float16,
    StaticInt8: _static_int8,
    DynamicInt8: _dynamic_int8,
    WeightOnly: _weight_only,
}
