"""Handlers of ai.onnx.preview.training: optimisers, each applied to groups of tensors, and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from ....ir import Value
from ....ir import ops as O
from ..compose import Build, required
from ..context import Handler, HandlerTable, ImportContext
from .gradient import differentiate

# (build, attribute, learning rate, update count, tensors of one group) -> its new tensors, of which x is the first
Rule = Callable[[Build, Callable[[str, float], float], Value, Value, list[Value]], list[Value]]


def optimiser(rule: Rule, tensors: int) -> Handler:
    """Inputs R, T, then `tensors` lists: all x, all gradients, all states. Outputs: all new x, then all new states."""

    def handler(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
        rate, count, *rest = required(ctx, node, ins, len(ins))
        groups = len(rest) // tensors
        if not groups or len(rest) % tensors:
            raise ctx.unsupported(f"{node.op_type} of {len(rest)} tensors, which are not groups of {tensors}")
        b = Build(ctx)

        def attribute(name: str, default: float) -> float:
            return float(ctx.attr(node, name, default))

        if node.op_type == "Momentum" and ctx.attr(node, "mode") not in ("standard", "nesterov"):
            raise ctx.unsupported(f"Momentum: mode {ctx.attr(node, 'mode')!r}")
        nesterov = node.op_type == "Momentum" and ctx.attr(node, "mode") == "nesterov"
        results = []
        for i in range(groups):
            own = rest[i::groups]
            r, t = (b.cast(b.reshape(v, ()), own[0].dtype) for v in (rate, count))
            apply = _nesterov if nesterov else rule
            results.append(apply(b, attribute, r, t, own))
        return [result[k] for k in range(tensors - 1) for result in results]

    return handler


def _regularised(b: Build, attribute: Callable[[str, float], float], x: Value, g: Value) -> Value:
    factor = attribute("norm_coefficient", 0.0)
    return b.add(b.mul(x, factor), g) if factor else g


def _adagrad(b: Build, attribute: Callable[[str, float], float], r: Value, t: Value, own: list[Value]) -> list[Value]:
    x, g, h = own
    rate = b.div(r, b.add(b.mul(t, attribute("decay_factor", 0.0)), 1.0))
    g = _regularised(b, attribute, x, g)
    h = b.add(h, b.mul(g, g))
    return [b.sub(x, b.div(b.mul(rate, g), b.add(b.sqrt(h), attribute("epsilon", 1e-6)))), h]


def _adam(b: Build, attribute: Callable[[str, float], float], r: Value, t: Value, own: list[Value]) -> list[Value]:
    x, g, v, h = own
    alpha, beta = attribute("alpha", 0.9), attribute("beta", 0.999)
    g = _regularised(b, attribute, x, g)
    v = b.add(b.mul(v, alpha), b.mul(g, 1 - alpha))
    h = b.add(b.mul(h, beta), b.mul(b.mul(g, g), 1 - beta))

    def left(base: float) -> Value:  # 1 − base^t
        return b.sub(b.const(1, x.dtype), b.emit(O.Pow(), b.const(base, x.dtype), t))

    corrected = b.div(b.mul(r, b.sqrt(left(beta))), left(alpha))
    rate = b.where(b.emit(O.Greater(), t, b.const(0, x.dtype)), corrected, r)
    x = b.sub(x, b.mul(rate, b.div(v, b.add(b.sqrt(h), attribute("epsilon", 1e-6)))))
    after = attribute("norm_coefficient_post", 0.0)
    return [b.mul(x, 1 - after) if after else x, v, h]


def _velocity(b: Build, attribute: Callable[[str, float], float], t: Value, g: Value, v: Value) -> Value:
    """alpha·v + beta·g, in the first iteration alpha·v + g."""
    beta = b.where(b.emit(O.Greater(), t, b.const(0, t.dtype)), b.const(attribute("beta", 1.0), t.dtype), b.const(1, t.dtype))
    return b.add(b.mul(v, attribute("alpha", 0.0)), b.mul(g, beta))


def _momentum(b: Build, attribute: Callable[[str, float], float], r: Value, t: Value, own: list[Value]) -> list[Value]:
    x, g, v = own
    v = _velocity(b, attribute, t, _regularised(b, attribute, x, g), v)
    return [b.sub(x, b.mul(r, v)), v]


def _nesterov(b: Build, attribute: Callable[[str, float], float], r: Value, t: Value, own: list[Value]) -> list[Value]:
    x, g, v = own
    g = _regularised(b, attribute, x, g)
    v = _velocity(b, attribute, t, g, v)
    return [b.sub(x, b.mul(r, b.add(g, b.mul(v, attribute("alpha", 0.0))))), v]


def gradient(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    """dy/dx for the tensors called `xs`, with y recomputed from the inputs given for `xs` and `zs`."""
    names = [*ctx.attr(node, "xs"), *(ctx.attr(node, "zs", ()) or ())]
    given = required(ctx, node, ins, len(names))
    formal = [ctx.named(name) for name in names]
    y = ctx.named(str(ctx.attr(node, "y")))
    if y.type.numel != 1:
        raise ctx.unsupported(f"Gradient of {y.type}, which is not one number")
    moved = {a: v for a, v in zip(formal, given, strict=True) if a != v}
    return differentiate(Build(ctx), y, formal[: len(ctx.attr(node, "xs"))], moved)


TRAINING_HANDLERS: HandlerTable = {
    ("ai.onnx.preview.training::Adagrad", 1): optimiser(_adagrad, 3),
    ("ai.onnx.preview.training::Adam", 1): optimiser(_adam, 4),
    ("ai.onnx.preview.training::Gradient", 1): gradient,
    ("ai.onnx.preview.training::Momentum", 1): optimiser(_momentum, 3),
}
