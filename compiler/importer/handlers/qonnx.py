"""Handlers of QONNX (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops): floats rounded to few levels stay floats.

Of x, its level is x / scale + zero_point, clamped to the integers of so many bits and rounded; the result is what that level stands for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from ....ir import Value
from ....ir import ops as O
from ..compose import Build, required
from ..context import Handler, ImportContext

_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")  # the newest name first
_BITS = 64
Ins = list[Value | None]


def _rounded(ctx: ImportContext, b: Build, x: Value, mode: str) -> Value:
    """By name of a mode; those that NumPy lacks treat both signs alike."""
    match mode.upper():
        case "ROUND" | "HALF_EVEN":
            return b.emit(O.Round(), x)
        case "CEIL":
            return b.emit(O.Ceil(), x)
        case "FLOOR":
            return b.emit(O.Floor(), x)
        case "UP" | "DOWN" | "HALF_UP" | "HALF_DOWN" as name:
            size = b.emit(O.Abs(), x)
            size = b.add(size, 0.5) if name == "HALF_UP" else b.sub(size, 0.5) if name == "HALF_DOWN" else size
            return b.mul(b.emit(O.Sign(), x), b.emit(O.Ceil() if name in ("UP", "HALF_DOWN") else O.Floor(), size))
    raise ctx.unsupported(f"rounding_mode {mode!r}")


def _bits(ctx: ImportContext, value: Value, what: str) -> np.ndarray:
    bits = np.asarray(ctx.require_known(value, what), np.float64)
    if not np.all((bits >= 1) & (bits <= _BITS)):
        raise ctx.unsupported(f"{what} outside of 1 to {_BITS}")
    return bits


def _clamped(ctx: ImportContext, node: NodeProto, b: Build, x: Value, bits: np.ndarray, signed: bool) -> Value:
    """Within the integers of `bits`; narrow ones lack the lowest if they are signed, else the highest."""
    narrow = int(bool(ctx.attr(node, "narrow", 0)))
    low = narrow - 2.0 ** (bits - 1) if signed else np.zeros_like(bits)
    high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
    return b.max(b.min(x, b.const(high, x.dtype)), b.const(low, x.dtype))


def _signs(b: Build, x: Value) -> Value:
    return b.where(b.emit(O.GreaterEqual(), x, b.const(0, x.dtype)), b.const(1, x.dtype), b.const(-1, x.dtype))


def quant(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Quant and IntQuant; signed levels of one bit are −1 and 1."""
    x, scale, zero, width = required(ctx, node, ins, 4)
    b, bits, signed = Build(ctx), _bits(ctx, width, f"the bit width of {node.op_type}"), bool(ctx.attr(node, "signed", 1))
    level = b.add(b.div(x, scale), zero)
    if signed and np.all(bits == 1):
        level = _signs(b, level)
    else:
        level = _rounded(ctx, b, _clamped(ctx, node, b, level, bits, signed), str(ctx.attr(node, "rounding_mode", "ROUND")))
    return [b.mul(b.sub(level, zero), scale)]


def bipolar(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """scale where x ≥ 0, else −scale."""
    x, scale = required(ctx, node, ins, 2)
    b = Build(ctx)
    return [b.mul(_signs(b, x), scale)]


def trunc(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The upper bits of levels. With 5 inputs (version 1) their number says by what levels are divided; with 7 (version 2) the power of two
    nearest to the ratio of the scales does."""
    x, scale, zero, width = required(ctx, node, ins, 4)
    b, mode = Build(ctx), str(ctx.attr(node, "rounding_mode", "FLOOR"))
    level = b.emit(O.Round(), b.add(b.div(x, scale), zero))
    if len(ins) < 7:
        narrower = _bits(ctx, required(ctx, node, ins, 5)[4], "the bit width of Trunc")
        step = b.const(2.0 ** (_bits(ctx, width, "the bit width of Trunc") - narrower), x.dtype)
        return [b.mul(b.sub(_rounded(ctx, b, b.div(level, step), mode), zero), scale)]
    *_, coarse, _, narrower_bits = required(ctx, node, ins, 7)
    ratio = ctx.require_known(coarse, "a scale of Trunc") / ctx.require_known(scale, "a scale of Trunc")
    if not np.all(np.isfinite(ratio) & (ratio > 0)):
        raise ctx.unsupported("Trunc by scales whose ratio is not positive")
    step = b.const(2.0 ** np.round(np.log2(ratio)), x.dtype)
    bits = _bits(ctx, narrower_bits, "the bit width of Trunc")
    kept = _rounded(ctx, b, _clamped(ctx, node, b, b.div(level, step), bits, bool(ctx.attr(node, "signed", 1))), mode)
    return [b.mul(b.sub(kept, b.div(zero, step)), coarse)]


_BY_NAME: dict[str, Handler] = {"Quant": quant, "IntQuant": quant, "BipolarQuant": bipolar, "Trunc": trunc}
QONNX_HANDLERS: dict[tuple[str, int], Handler] = {(f"{d}::{name}", 1): f for d in _DOMAINS for name, f in _BY_NAME.items()}
