"""Operators as they were before opset 7: broadcasting asked for by attributes, and sizes that were attributes or inputs.

Where only the version number or the ignored `consumed_inputs` changed since, the handler of the later version serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, TensorProto

from ....ir import Dim, DType, Op, Value
from ....ir import ops as O
from ..compose import Build, optional, required
from ..context import Handler, HandlerTable, ImportContext
from .contract import gemm
from .elementwise import ELEMENTWISE_HANDLERS, with_floats
from .moves import split
from .norm import batch_normalization
from .random import dropout
from .resize import by_scales
from .shape import reshape
from .windows import global_lp_pool


def aligned(op: Op) -> Handler:
    """A op B; with `broadcast`, B's axes are those of A from `axis` on (by default the last ones)."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        x, y = required(ctx, node, ins, 2)
        b, axis, rank = Build(ctx), ctx.attr(node, "axis", None), x.type.rank
        if ctx.attr(node, "broadcast", 0) and axis is not None and y.type.rank:
            after = rank - axis % rank - y.type.rank
            if after < 0:
                raise ctx.unsupported(f"{node.op_type} of {x.type} and {y.type} from axis {axis}")
            y = b.reshape(y, (*y.shape, *(1 for _ in range(after))))
        return ctx.emit(op, x, y).outputs

    return handler


def prelu(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """One slope, or one per channel."""
    x, slope = required(ctx, node, ins, 2)
    b = Build(ctx)
    one = slope.shape in ((), (1,))
    return [b.emit(O.PRelu(), x, b.reshape(slope, ()) if one else b.along(b.reshape(slope, slope.shape[:1]), 1, x.type.rank))]


def cast(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """`to` is the name of a type."""
    name, numbers = str(ctx.attr(node, "to")), dict(TensorProto.DataType.items())
    if name not in numbers:
        raise ctx.unsupported(f"Cast to {name!r}")
    return [Build(ctx).cast(required(ctx, node, ins, 1)[0], DType.from_onnx(numbers[name]))]


def pad(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    b, pads, rank = Build(ctx), ctx.attr(node, "paddings"), x.type.rank
    if len(pads) != 2 * rank:
        raise ctx.unsupported(f"Pad of {rank} axes by {len(pads)} sizes")
    value = b.const(ctx.attr(node, "value", 0.0), x.dtype)
    return [b.emit(O.Pad(tuple(pads[:rank]), tuple(pads[rank:]), ctx.attr(node, "mode", "constant")), x, value)]


def tile_axis(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """`tiles` copies along one axis, both inputs."""
    (x,) = required(ctx, node, ins, 1)
    (count,), (axis,) = (ctx.require_dims(optional(ins, i), f"the {what} of Tile") for i, what in ((1, "tiles"), (2, "axis")))
    if not isinstance(axis, int):
        raise ctx.unsupported("Tile along a symbolic axis")
    b = Build(ctx)
    wide = b.expand(b.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])), (*x.shape[:axis], count, *x.shape[axis:]))
    return [b.reshape(wide, (*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :]))]


def split_sizes(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """The sizes may be an input."""
    sizes = optional(ins, 1)
    if sizes is None:
        return split(ctx, node, ins)
    b, (x,) = Build(ctx), required(ctx, node, ins, 1)
    outs: list[Value] = []
    at: Dim = 0
    for part in ctx.require_dims(sizes, "the sizes of Split"):
        outs.append(b.slice(x, int(ctx.attr(node, "axis", 0)), at, part))
        at = at + part
    return outs


def upsample(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    scales = (1.0, 1.0, float(ctx.attr(node, "height_scale")), float(ctx.attr(node, "width_scale")))
    mode = {"bilinear": "linear"}.get(m := ctx.attr(node, "mode", "nearest"), m)
    return by_scales(ctx, x, list(scales), mode)


def concat_channels(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    return [Build(ctx).concat(int(ctx.attr(node, "axis", 1)), *required(ctx, node, ins, len(ins)))]


def dropout_test(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    if not ctx.attr(node, "is_test", 0):
        raise ctx.unsupported("Dropout in training mode")
    return dropout(ctx, node, ins)


_SAME_SINCE_1 = (
    "Abs", "Ceil", "Clip", "Elu", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log", "Max", "Mean", "Min", "Neg",
    "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sum", "Tanh",
)  # fmt: skip
_ALIGNED: dict[str, Op] = {
    "Add": O.Add(), "And": O.And(), "Div": O.Div(), "Equal": O.Equal(), "Greater": O.Greater(), "Less": O.Less(),
    "Mul": O.Mul(), "Or": O.Or(), "Pow": O.Pow(), "Sub": O.Sub(), "Xor": O.Xor(),
}  # fmt: skip

LEGACY_HANDLERS: HandlerTable = {
    **{(name, 1): ELEMENTWISE_HANDLERS[name, 6] for name in _SAME_SINCE_1},
    **{(name, 1): aligned(op) for name, op in _ALIGNED.items()},
    ("BatchNormalization", 1): batch_normalization,
    ("Cast", 1): cast,
    ("Concat", 1): concat_channels,
    ("Dropout", 1): dropout_test,
    ("Gemm", 1): gemm,
    ("GlobalLpPool", 1): global_lp_pool,
    ("PRelu", 1): prelu,
    ("Pad", 1): pad,
    ("Reshape", 1): reshape,
    ("Selu", 1): with_floats(O.Selu, alpha=1.6732, gamma=1.0507),
    ("Split", 1): split_sizes,
    ("Tile", 1): tile_axis,
    ("Upsample", 1): upsample,
}
