"""Reverse-mode differentiation of imported nodes.

An elementwise op is taken apart into scalar functions by running its body on tensors; these have the derivatives in `_SCALAR`.
Ops with a shape of their own have rules in `_RULES`. What has none is an error, never a silent zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ....ir import COMPARISONS, DType, Elementwise, Node, Op, S, Shape, Value
from ....ir import ops as O
from ..compose import Build

_OPS: dict[str, Op] = {
    "abs": O.Abs(), "acos": O.Acos(), "acosh": O.Acosh(), "add": O.Add(), "and_": O.And(), "asin": O.Asin(), "asinh": O.Asinh(),
    "atan": O.Atan(), "atanh": O.Atanh(), "ceil": O.Ceil(), "cos": O.Cos(), "cosh": O.Cosh(), "div": O.Div(), "eq": O.Equal(),
    "erf": O.Erf(), "exp": O.Exp(), "floor": O.Floor(), "fmod": O.Fmod(), "ge": O.GreaterEqual(), "gt": O.Greater(),
    "isinf": O.IsInf(), "isnan": O.IsNaN(), "le": O.LessEqual(), "log": O.Log(), "lt": O.Less(), "max": O.Max(), "min": O.Min(),
    "mod": O.Mod(), "mul": O.Mul(), "neg": O.Neg(), "normcdf": O.NormalCdf(), "not_": O.Not(),
    "or_": O.Or(), "pow": O.Pow(), "round": O.Round(),
    "select": O.Where(), "sin": O.Sin(), "sinh": O.Sinh(), "sqrt": O.Sqrt(), "sub": O.Sub(), "tan": O.Tan(), "tanh": O.Tanh(),
    "xor": O.Xor(),
}  # fmt: skip
# d fn(x)/dx from x and y = fn(x)
_UNARY: dict[str, Callable[[Build, Value, Value], Value]] = {
    "abs": lambda b, x, y: b.emit(O.Sign(), x),
    "acos": lambda b, x, y: b.emit(O.Neg(), _inverse_root(b, b.sub(_one(b, x), b.mul(x, x)))),
    "acosh": lambda b, x, y: _inverse_root(b, b.sub(b.mul(x, x), 1.0)),
    "asin": lambda b, x, y: _inverse_root(b, b.sub(_one(b, x), b.mul(x, x))),
    "asinh": lambda b, x, y: _inverse_root(b, b.add(b.mul(x, x), 1.0)),
    "atan": lambda b, x, y: b.emit(O.Reciprocal(), b.add(b.mul(x, x), 1.0)),
    "atanh": lambda b, x, y: b.emit(O.Reciprocal(), b.sub(_one(b, x), b.mul(x, x))),
    "cos": lambda b, x, y: b.emit(O.Neg(), b.emit(O.Sin(), x)),
    "cosh": lambda b, x, y: b.emit(O.Sinh(), x),
    "erf": lambda b, x, y: b.mul(b.emit(O.Exp(), b.emit(O.Neg(), b.mul(x, x))), 2 / math.sqrt(math.pi)),
    "exp": lambda b, x, y: y,
    "log": lambda b, x, y: b.emit(O.Reciprocal(), x),
    "neg": lambda b, x, y: b.const(-1, x.dtype),
    "normcdf": lambda b, x, y: b.mul(b.emit(O.Exp(), b.mul(b.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi)),
    "sin": lambda b, x, y: b.emit(O.Cos(), x),
    "sinh": lambda b, x, y: b.emit(O.Cosh(), x),
    "sqrt": lambda b, x, y: b.div(b.const(0.5, x.dtype), y),
    "tan": lambda b, x, y: b.add(b.mul(y, y), 1.0),
    "tanh": lambda b, x, y: b.sub(_one(b, x), b.mul(y, y)),
}
_FLAT = frozenset({"ceil", "floor", "round", "trunc", *COMPARISONS})  # derivative 0 wherever there is one


def _one(b: Build, x: Value) -> Value:
    return b.const(1, x.dtype)


def _inverse_root(b: Build, x: Value) -> Value:
    return b.emit(O.Reciprocal(), b.sqrt(x))


class _Tape:
    """ScalarOps on tensors that keeps what was computed: (function, operands, result) in order."""

    def __init__(self, b: Build) -> None:
        self.b = b
        self.steps: list[tuple[str, tuple[Value, ...], Value]] = []

    def const(self, value: float | int | bool, dtype: DType) -> Value:
        return self.b.const(value, dtype)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.dtype is dtype else self._kept("cast", O.Cast(dtype), x)

    def bits(self, x: Value, source: DType, dtype: DType) -> Value:
        return self._kept("floor", O.BitCast(source, dtype), x)

    def dtype(self, x: Value) -> DType:
        return x.dtype

    def call(self, fn: str, *args: Value) -> Value:
        b = self.b
        match fn:
            case "fma":
                return self.call("add", self.call("mul", args[0], args[1]), args[2])
            case "rsqrt":
                return self.call("div", b.const(1, args[0].dtype), self.call("sqrt", args[0]))
            case "trunc":
                return self.call(
                    "select", b.emit(O.Less(), args[0], b.const(0, args[0].dtype)), self.call("ceil", *args), self.call("floor", *args)
                )
        if fn not in _OPS:
            raise b.ctx.unsupported(f"Gradient through the function {fn}")
        return self._kept(fn, _OPS[fn], *args)

    def _kept(self, fn: str, op: Op, *args: Value) -> Value:
        y = self.b.emit(op, *args)
        self.steps.append((fn, args, y))
        return y


class _Adjoints:
    """Derivatives by value, summed as they arrive."""

    def __init__(self, b: Build) -> None:
        self.b = b
        self.of: dict[Value, Value] = {}

    def add(self, v: Value, gradient: Value) -> None:
        if not v.dtype.is_float:
            return
        gradient = summed_to(self.b, gradient, v.shape)
        self.of[v] = self.b.add(self.of[v], gradient) if v in self.of else gradient


def summed_to(b: Build, x: Value, shape: Shape) -> Value:
    """The gradient of a value of `shape` from that of its broadcast (or of a scalar that stands for all elements)."""
    if x.type.rank < len(shape) or any(d != 1 and s == 1 for d, s in zip(shape, x.shape[x.type.rank - len(shape) :], strict=True)):
        x = b.expand(x, shape)
    lead = x.type.rank - len(shape)
    axes = [*range(lead), *(i + lead for i, d in enumerate(shape) if d == 1 and x.shape[i + lead] != 1)]
    return b.reshape(b.reduce("sum", x, axes), shape)


def differentiate(b: Build, y: Value, xs: Sequence[Value], moved: Mapping[Value, Value]) -> list[Value]:
    """dy/dx for each x; `moved` replaces leaves (x among them) by the values at which to differentiate."""
    leaves = set(xs) | set(moved)
    order = _between(y, leaves)
    now: dict[Value, Value] = dict(moved)
    tapes: list[tuple[Node, list[Value], _Tape | None, Value]] = []
    for node in order:
        ins = [now.get(v, v) for v in node.inputs]
        tape: _Tape | None = None
        if isinstance(node.op, Elementwise):
            tape = _Tape(b)
            out = node.op.body(S(tape), *ins)
        else:
            out = b.emit(node.op, *ins)
        now[node.out] = out
        tapes.append((node, ins, tape, out))
    adjoints = _Adjoints(b)
    target = now.get(y, y)
    adjoints.add(target, b.expand(b.const(1, y.dtype), y.shape))
    for node, ins, tape, out in reversed(tapes):
        if tape is not None:
            _through_scalars(b, tape, adjoints)
        elif out in adjoints.of:
            rule = _RULES.get(type(node.op))
            if rule is None:
                raise b.ctx.unsupported(f"Gradient through {node.op.name}")
            for v, gradient in zip(ins, rule(b, node.op, ins, out, adjoints.of[out]), strict=True):
                if gradient is not None:
                    adjoints.add(v, gradient)
    found = [adjoints.of.get(now.get(x, x)) for x in xs]
    return [b.expand(b.const(0, x.dtype), x.shape) if g is None else g for x, g in zip(xs, found, strict=True)]


def _between(y: Value, leaves: set[Value]) -> list[Node]:
    """Nodes on paths from a leaf to y, operands first."""
    order: list[Node] = []
    reached: dict[Node, bool] = {}
    stack: list[tuple[Node, bool]] = [] if y in leaves else [(y.node, False)]
    while stack:
        node, done = stack.pop()
        if done:
            reached[node] = any(v in leaves or reached.get(v.node, False) for v in node.inputs)
            if reached[node]:
                order.append(node)
        elif node not in reached:
            reached[node] = False
            stack.append((node, True))
            stack.extend((v.node, False) for v in node.inputs if v not in leaves)
    return order


def _through_scalars(b: Build, tape: _Tape, adjoints: _Adjoints) -> None:
    for fn, args, y in reversed(tape.steps):
        g = adjoints.of.get(y)
        if g is None or fn in _FLAT:
            continue
        for v, d in zip(args, _local(b, fn, args, y, g), strict=True):
            if d is not None:
                adjoints.add(v, d)


def _local(b: Build, fn: str, args: tuple[Value, ...], y: Value, g: Value) -> Sequence[Value | None]:
    """g·∂y/∂arg for every operand."""
    if fn in _UNARY:
        return [b.mul(g, _UNARY[fn](b, args[0], y))]
    match fn, args:
        case "cast", (x,):
            return [b.cast(g, x.dtype)]
        case "add", _:
            return [g, g]
        case "sub", _:
            return [g, b.emit(O.Neg(), g)]
        case "mul", (x, z):
            return [b.mul(g, z), b.mul(g, x)]
        case "div", (_, z):
            part = b.div(g, z)
            return [part, b.emit(O.Neg(), b.mul(part, y))]
        case (("max" | "min"), (x, z)):
            first = b.emit(O.GreaterEqual() if fn == "max" else O.LessEqual(), x, z)
            zero = b.const(0, g.dtype)
            return [b.where(first, g, zero), b.where(first, zero, g)]
        case "select", (c, _, _):
            zero = b.const(0, g.dtype)
            return [None, b.where(c, g, zero), b.where(c, zero, g)]
        case "pow", (x, z):
            base = b.mul(g, b.mul(z, b.emit(O.Pow(), x, b.sub(z, 1.0))))
            positive = b.emit(O.Greater(), x, b.const(0, x.dtype))
            power = b.where(positive, b.mul(y, b.emit(O.Log(), b.where(positive, x, _one(b, x)))), b.const(0, x.dtype))
            return [base, b.mul(g, power)]
        case (("fmod" | "mod"), (x, z)):
            whole = b.emit(O.Round(), b.div(b.sub(x, y), z))
            return [g, b.emit(O.Neg(), b.mul(g, whole))]
    raise b.ctx.unsupported(f"Gradient through the function {fn}")


Rule = Callable[[Build, Op, list[Value], Value, Value], Sequence[Value | None]]


def _matmul(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    x, w = ins
    return [b.matmul(g, b.swap_last(w)), b.matmul(b.swap_last(x), g)]


def _transpose(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Transpose)
    return [b.transpose(g, [op.perm.index(i) for i in range(len(op.perm))])]


def _reduce(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Reduce)
    (x,) = ins
    kept = tuple(1 if i in op.axes else d for i, d in enumerate(x.shape))
    g, y = b.reshape(g, kept), b.reshape(y, kept)
    match op.kind:
        case "sum":
            return [b.expand(g, x.shape)]
        case "mean":
            count = b.const(1, g.dtype)
            for a in op.axes:
                count = b.mul(count, b.dim(x.shape[a], g.dtype))
            return [b.expand(b.div(g, count), x.shape)]
        case "max" | "min":  # shared by all that are extreme
            extreme = b.cast(b.emit(O.Equal(), x, y), g.dtype)
            return [b.mul(extreme, b.div(g, b.reduce("sum", extreme, op.axes)))]
    raise b.ctx.unsupported(f"Gradient through a {op.kind} over axes")


def _softmax(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Softmax)
    if op.log:
        return [b.sub(g, b.mul(b.emit(O.Exp(), y), b.reduce("sum", g, [op.axis])))]
    return [b.mul(y, b.sub(g, b.reduce("sum", b.mul(g, y), [op.axis])))]


def _concat(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Concat)
    parts, at = [], g.shape[op.axis] - g.shape[op.axis]
    for x in ins:
        parts.append(b.slice(g, op.axis, at, x.shape[op.axis]))
        at = at + x.shape[op.axis]
    return parts


def _slice(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Slice)
    (x,) = ins
    if any(s != 1 for s in op.steps):
        raise b.ctx.unsupported("Gradient through a slice with steps")
    after = tuple(d - s - n for d, s, n in zip(x.shape, op.starts, op.sizes, strict=True))
    return [b.emit(O.Pad(op.starts, after, "constant"), g, b.const(0, g.dtype))]


def _pad(b: Build, op: Op, ins: list[Value], y: Value, g: Value) -> Sequence[Value | None]:
    assert isinstance(op, O.Pad)
    if op.mode != "constant":
        raise b.ctx.unsupported(f"Gradient through a pad in mode {op.mode}")
    x, value = ins
    inner = b.emit(O.Slice(op.lo, x.shape, (1,) * x.type.rank), g)
    axes = range(x.type.rank)
    rest = b.sub(b.reduce("sum", g, axes, False), b.reduce("sum", inner, axes, False))
    return [inner, b.reshape(rest, value.shape)]


_RULES: dict[type[Op], Rule] = {
    O.Concat: _concat,
    O.Expand: lambda b, op, ins, y, g: [g],
    O.MatMul: _matmul,
    O.Pad: _pad,
    O.Reduce: _reduce,
    O.Reshape: lambda b, op, ins, y, g: [b.reshape(g, ins[0].shape)],
    O.Slice: _slice,
    O.Softmax: _softmax,
    O.Transpose: _transpose,
}
