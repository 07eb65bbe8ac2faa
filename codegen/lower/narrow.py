"""Sums between products in 16 bits are stored in 16 bits: half the bytes for what norms, residual sums and pools read.

    y = matmul<f16>(…) + x;  layernorm(y);  y + …   →   z = cast<f16>(y);  layernorm(cast<f32>(z));  cast<f32>(z) + …

What is between stays float32 in registers, so that a sum is rounded once, where models in 16 bits round the product, then the sum.
Only what comes from such products and leads to others: results, masks, sizes and positions stay as they are.
"""

from __future__ import annotations

from ...ir import Const, DType, Elementwise, Graph, Input, Node, Value
from ...ir.ops import (
    Attention,
    Cast,
    Ceil,
    Concat,
    Conv,
    Cos,
    DotConv,
    DotMatMul,
    Exp,
    Expand,
    Floor,
    Fmod,
    LayerNorm,
    Log,
    MatMul,
    Mod,
    Pad,
    Pool,
    Pow,
    Quantize,
    Reduce,
    Reshape,
    Resize,
    RMSNorm,
    Round,
    Sin,
    Slice,
    Stretch,
    Tan,
    Transpose,
)  # fmt: skip
from .apply import apply
from .attention_op import BlockedAttention
from .fusion import Fusion

_PRODUCTS = (MatMul, Conv, DotMatMul, DotConv, Attention, BlockedAttention)
_MOVES = (Concat, Transpose, Reshape, Slice, Expand, Stretch, Pad)  # of what is rounded, instead of what is rounded then
_CARRIERS = (Elementwise, LayerNorm, RMSNorm, Pool, Reduce, Resize, *_MOVES)
_SENSITIVE = (Sin, Cos, Tan, Exp, Log, Pow, Floor, Ceil, Round, Mod, Fmod, Quantize)  # to errors that grow with the operand
_STORED = (Elementwise, LayerNorm, RMSNorm, MatMul, Conv, DotMatMul, DotConv, Pool, Resize, *_MOVES)  # not sums, which are few


def narrowed(graph: Graph, dtype: DType, divide: bool) -> Graph:
    """The graph with float32 values that will be stored as `dtype`, a 16-bit type, as far as the rule above goes."""
    fusion = Fusion(graph, True, divide)
    chosen = _between_products(graph, dtype) & {v for n in graph.nodes if isinstance(n.op, _STORED) for v in n.outputs if fusion.stored(v)}
    if not chosen:
        return graph

    def narrow(v: Value) -> Value:
        op, inputs = v.node.op, v.node.inputs
        return inputs[0] if op == Cast(DType.F32) and inputs[0].dtype is dtype else apply(Cast(dtype), v.node.loc, v)

    def widened(old: Value, new: Value) -> Value:
        """Each reader widens what it reads for itself: one value for several kernels would be stored."""
        return apply(Cast(DType.F32), new.node.loc, new.node.inputs[0]) if old in chosen else new

    def visit(node: Node, ins: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if _rounds(node, dtype) and node.inputs[0] in chosen:
            return (narrow(ins[0]),)
        if len(node.types) != 1 or not (node.out in chosen or any(v in chosen for v in node.inputs)):
            return None
        if node.out in chosen and isinstance(node.op, _MOVES):
            small = apply(node.op, node.loc, *map(narrow, ins))
            return (apply(Cast(DType.F32), node.loc, small),)
        made = Node.make(node.op, tuple(map(widened, node.inputs, ins)), node.loc).out
        return (apply(Cast(DType.F32), node.loc, narrow(made)) if node.out in chosen else made,)

    return graph.rewrite(visit)


def _between_products(graph: Graph, dtype: DType) -> set[Value]:
    """float32 values that come from products of `dtype`, lead to others, and are read by nothing that would lose by their rounding."""
    comes: set[Value] = set()
    for node in graph.nodes:
        product = isinstance(node.op, _PRODUCTS) and node.inputs[0].dtype is dtype
        if product or (_carries(node) and any(v in comes for v in node.inputs)):
            comes.update(node.outputs)
    leads: set[Value] = set()
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        for v in node.outputs:
            users = graph.uses.get(v, ())
            if any(
                _rounds(n, dtype) or (isinstance(n.op, _PRODUCTS) and v.dtype is dtype) or (_carries(n) and n.out in leads) for n in users
            ):
                leads.add(v)
                computed = v.dtype is DType.F32 and v in comes and not isinstance(node.op, (Const, Input))
                if computed and v not in graph.kept and all(_rounds(n, dtype) or _carries(n) for n in users):
                    found.add(v)
    return found


def _carries(node: Node) -> bool:
    depthwise = isinstance(node.op, Conv) and node.op.groups > 1 and node.inputs[1].shape[-2] == 1
    return depthwise or (isinstance(node.op, _CARRIERS) and not isinstance(node.op, _SENSITIVE))


def _rounds(node: Node, dtype: DType) -> bool:
    return node.op == Cast(dtype)
