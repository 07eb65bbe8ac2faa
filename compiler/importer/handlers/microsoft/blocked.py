"""Handlers of com.microsoft.nchwc: what onnxruntime's optimizer makes of convolutions on one CPU, saved to a file.

Its tensors keep channels in blocks of as many as the CPU's vectors hold, padded to whole blocks. Nothing else looks inside of them, so
that they are imported as ordinary [N, C, *S] tensors of that many channels; only weights lie in the file in blocks, and are put back.
Layouts: `ReorderInput`, `MlasReorderFilterOIHWBiBo` and `…OIHWBo` of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from .....ir import Value, ceildiv
from .....ir import ops as O
from .....runtime.native import host_features
from ...compose import Build, required
from ...context import HandlerTable, ImportContext
from ..resize import resize
from ..windows import average_pool, global_average_pool, global_max_pool, max_pool
from .fused import fused_conv

Ins = list[Value | None]


def block_size() -> int:
    """Channels in a block where onnxruntime runs on this machine, which is where such a file runs."""
    return 8 if not {"avx512f", "neon"} & host_features() else 16


def unblocked(raw: np.ndarray, group: int, block: int) -> np.ndarray:
    """Weights [O, I, *K] whose elements lie as [O/B, I/B, *K, B of I, B of O], or [O/B, I, *K, B of O] for few or single channels."""
    out, into, *taps = raw.shape
    if out % block:
        block = 8
    nested = (group == 1 and into % block == 0) or (group > 1 and into > 1)
    if nested:
        data = raw.reshape(out // block, into // block, *taps, block, block)
        order = (0, data.ndim - 1, 1, data.ndim - 2, *range(2, data.ndim - 2))
    else:
        data = raw.reshape(out // block, into, *taps, block)
        order = (0, data.ndim - 1, *range(1, data.ndim - 1))
    return np.ascontiguousarray(data.transpose(order)).reshape(raw.shape)


def conv(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """activation(conv(x, w, bias) + sum)."""
    x, w = required(ctx, node, ins, 2)
    raw = ctx.require_known(w, "a weight in blocks")
    if raw.ndim < 3 or raw.shape[0] % 8:
        raise ctx.unsupported(f"{node.op_type} of com.microsoft.nchwc with weights {w.type}, which are no whole blocks of channels")
    weights = ctx.const(unblocked(raw, int(ctx.attr(node, "group", 1)), block_size()))
    return fused_conv(ctx, node, [x, weights, *ins[2:]])


def reorder_input(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Into blocks: the last one is filled up with zeros."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    x = b.channels_first(x) if ctx.attr(node, "channels_last", 0) else x
    more = ceildiv(x.shape[1], block_size()) * block_size() - x.shape[1]
    if more == 0:
        return [x]
    none = (0,) * x.type.rank
    return [b.emit(O.Pad(none, (0, more, *none[2:]), "constant"), x, b.const(0, x.dtype))]


def reorder_output(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Out of blocks: the first `channels`."""
    (x,) = required(ctx, node, ins, 1)
    b = Build(ctx)
    y = b.slice(x, 1, 0, int(ctx.attr(node, "channels")))
    return [b.channels_last(y) if ctx.attr(node, "channels_last", 0) else y]


def upsample(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Resize by whole numbers."""
    (x,) = required(ctx, node, ins, 1)
    mode = str(ctx.attr(node, "mode", "nearest"))
    places = str(ctx.attr(node, "coordinate_transformation_mode", "asymmetric")) if mode == "linear" else "asymmetric"
    scales = ctx.const(np.array(ctx.attr(node, "scales"), np.float32))
    how = {"mode": mode, "nearest_mode": "floor", "coordinate_transformation_mode": places}
    same = helper.make_node("Resize", ["x", "", "scales"], ["y"], name=node.name, **how)
    return resize(ctx, same, [x, None, scales])


BLOCKED_MS_HANDLERS: HandlerTable = {
    (f"com.microsoft.nchwc::{name}", 1): handler
    for name, handler in {
        "AveragePool": average_pool,
        "Conv": conv,
        "GlobalAveragePool": global_average_pool,
        "GlobalMaxPool": global_max_pool,
        "MaxPool": max_pool,
        "ReorderInput": reorder_input,
        "ReorderOutput": reorder_output,
        "Upsample": upsample,
    }.items()
}
