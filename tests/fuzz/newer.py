"""Operators for random graphs: those of opsets 19 to 24, QDQ forms, 16-bit floats, recurrence, sizes that data decide, control flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from graphs import Program, Tensor
from onnx import TensorProto as T
from onnx import helper

OPSET = 23
QUANTIZED = {"c": np.int8, "C": np.uint8, "s": np.int16, "S": np.uint16}


def floats(p: Program, n: int | Sequence[int], low: float = 0.5, high: float = 1.5) -> str:
    return p.const(p.rng.uniform(low, high, n).astype(np.float32))


def activation(p: Program) -> None:
    x = p.any()
    if x:
        op, attributes = p.pick([("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("ThresholdedRelu", {"alpha": -9.0}), ("HardSigmoid", {}),
                                 ("Clip", {}), ("Exp", {}), ("Sign", {})])  # fmt: skip
        x = p.emit("Tanh", [x.name], x.shape) if op == "Exp" else p.pick(p.inputs) if op == "Sign" else x
        bounds = [p.const(np.float32(-0.4).reshape(())), p.const(np.float32(0.9).reshape(()))] if op == "Clip" else []
        if x:
            p.emit(op, [x.name, *bounds], x.shape, **attributes)


def norm(p: Program) -> None:
    x = p.any(rank=range(3, 5))
    if not x or math.prod(x.shape[2:]) < 2:
        return
    c = x.shape[1]
    match p.pick(["GroupNormalization", "InstanceNormalization", "BatchNormalization", "RMSNormalization", "LpNormalization"]):
        case "GroupNormalization":
            g = p.pick([g for g in range(1, c + 1) if c % g == 0])
            p.emit("GroupNormalization", [x.name, floats(p, c), floats(p, c)], x.shape, num_groups=g, epsilon=1e-2)
        case "InstanceNormalization":
            p.emit("InstanceNormalization", [x.name, floats(p, c), floats(p, c)], x.shape, epsilon=1e-2)
        case "BatchNormalization":
            p.emit("BatchNormalization", [x.name, *(floats(p, c) for _ in range(4))], x.shape, epsilon=1e-2)
        case "RMSNormalization":
            axis = p.below(1, len(x.shape) - 1)
            p.emit("RMSNormalization", [x.name, floats(p, x.shape[axis:])], x.shape, axis=axis, epsilon=1e-2)
        case op:
            y = p.emit("Add", [x.name, floats(p, (), 3, 4)], x.shape)
            if y:
                p.emit(op, [y.name], x.shape, axis=p.below(0, len(x.shape) - 1), p=p.pick([1, 2]))


def attention(p: Program) -> None:
    """Of heads as axes or side by side, with other keys than queries, causal, masked, soft-capped, grouped."""
    x = p.any(rank=range(4, 5))
    if not x:
        return
    b, h, s, d = x.shape
    keys = p.pick([s, 3, 9])
    group = p.pick([g for g in range(1, h + 1) if h % g == 0])
    k, v = p.weight([b, h // group, keys, d]), p.weight([b, h // group, keys, e := p.pick([d, 2])])
    mask = p.pick([None, None, [s, keys], [b, 1, s, keys]])
    masks = [] if mask is None else [p.weight(mask) if p.below(0, 1) else p.const(p.rng.random(mask) < 0.8)]
    attributes = p.pick([{}, {"is_causal": 1}, {"softcap": 2.0}, {"scale": 0.3}])
    if "is_causal" in attributes or (masks and p.constants[-1].data_type == T.BOOL):
        masks = []  # rows of which nothing is attended are as each runtime likes
    p.emit("Attention", [x.name, k, v, *masks], (b, h, s, e), **attributes)


def rotary(p: Program) -> None:
    x = p.any(rank=range(4, 5))
    if x and x.shape[3] % 2 == 0:
        b, _, s, d = x.shape
        tables = [floats(p, (50, d // 2), -1, 1) for _ in range(2)]
        positions = p.const(p.rng.integers(0, 50, (b, s)))
        p.emit("RotaryEmbedding", [x.name, *tables, positions], x.shape, interleaved=p.below(0, 1))


def _step(kind: str, rng: np.random.Generator, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    info = np.iinfo(QUANTIZED[kind])
    scale = (rng.uniform(4, 8, shape) / (int(info.max) - int(info.min))).astype(np.float32)
    return scale, rng.integers(max(info.min, -9), min(info.max, 9), shape, endpoint=True).astype(QUANTIZED[kind])


def quantized(p: Program) -> Tensor | None:
    """An input there and back: of one scale, one for each index of an axis, or one for each block."""
    x = p.pick(p.inputs)
    kind = p.pick(list(QUANTIZED))
    form = p.pick(["tensor", "axis", "block"]) if x.shape else "tensor"
    axis = p.below(0, len(x.shape) - 1) if x.shape else 0
    shape: tuple[int, ...] = ()
    attributes = {}
    if form == "axis":
        shape, attributes = (x.shape[axis],), {"axis": axis}
    elif form == "block":
        block = p.pick([1, 2, 4])
        shape = tuple(-(-n // block) if a == axis else n for a, n in enumerate(x.shape))
        attributes = {"axis": axis, "block_size": block}
    scale, zero = _step(kind, p.rng, shape)
    names = [p.const(scale), p.const(zero)]
    q = p.emit("QuantizeLinear", [x.name, *names], x.shape, kind, **attributes)
    return q and p.emit("DequantizeLinear", [q.name, *names], x.shape, **attributes)


def quantized_product(p: Program) -> None:
    """Of dequantized operands, into floats or into 8 bits."""
    x = quantized(p)
    if not x or not x.shape:
        return
    k, n = x.shape[-1], p.pick([1, 3, 8, 17])
    per_column = p.below(0, 1)
    kind = p.pick(["c", "C", "s"])
    scale, zero = _step(kind, p.rng, (n,) if per_column else ())
    info = np.iinfo(QUANTIZED[kind])
    w = p.const(p.rng.integers(info.min, info.max, (k, n), endpoint=True).astype(QUANTIZED[kind]))
    w_ = p.emit("DequantizeLinear", [w, p.const(scale), p.const(zero)], (k, n), **({"axis": 1} if per_column else {}))
    y = w_ and p.emit("MatMul", [x.name, w_.name], [*x.shape[:-1], n])
    if y and p.below(0, 1):
        names = [p.const(np.float32(0.05).reshape(())), p.const(np.uint8(100).reshape(()))]
        p.emit("QuantizeLinear", [y.name, *names], y.shape, "C")
        return
    p.bounded(y)


def half(p: Program) -> None:
    x = p.any()
    if x:
        bounded = p.emit("Tanh", [x.name], x.shape)
        y = bounded and p.emit("Cast", [bounded.name], x.shape, "h", to=T.FLOAT16)
        for _ in range(p.below(1, 2)):
            y = y and p.emit(p.pick(["Neg", "Sigmoid", "Relu", "Abs"]), [y.name], x.shape, "h")
        if y and x.shape and p.below(0, 1):
            w = p.const((p.rng.standard_normal((x.shape[-1], 5)) / x.shape[-1]).astype(np.float16))
            y = p.emit("MatMul", [y.name, w], [*x.shape[:-1], 5], "h")
        if y:
            p.emit("Cast", [y.name], y.shape, to=T.FLOAT)


def scatter(p: Program) -> None:
    x = p.any(rank=range(1, 5))
    if not x:
        return
    a = p.below(0, len(x.shape) - 1)
    d = x.shape[a]
    match p.pick(["GatherElements", "ScatterElements", "GatherND", "ScatterND", "OneHot", "ReverseSequence"]):
        case "GatherElements":
            shape = [p.below(1, n) for n in x.shape]
            p.emit("GatherElements", [x.name, p.const(p.rng.integers(-d, d, shape))], shape, axis=a)
        case "ScatterElements":
            shape = [p.below(1, n) for n in x.shape]
            index = np.argsort(p.rng.random([d if i == a else n for i, n in enumerate(shape)]), axis=a)
            index = np.take(index, range(shape[a]), axis=a)  # without repetitions
            p.emit("ScatterElements", [x.name, p.const(index), p.weight(shape)], x.shape, axis=a, reduction=p.pick(["none", "add", "max"]))
        case "GatherND":
            k = p.below(1, len(x.shape))
            index = np.stack([p.rng.integers(-n, n, (2, 3)) for n in x.shape[:k]], -1)
            p.emit("GatherND", [x.name, p.const(index)], [2, 3, *x.shape[k:]])
        case "ScatterND":
            index = p.rng.permutation(x.shape[0])[: p.below(1, x.shape[0])].reshape(-1, 1)
            p.emit("ScatterND", [x.name, p.const(index), p.weight([len(index), *x.shape[1:]])], x.shape, reduction=p.pick(["none", "mul"]))
        case "OneHot":
            index = p.const(p.rng.integers(-5, 5, (3,)))
            p.emit("OneHot", [index, p.const([5]), p.const(np.float32([0.2, 0.9]))], [3, 5])
        case "ReverseSequence" if len(x.shape) > 1:
            lengths = p.const(p.rng.integers(1, x.shape[0] + 1, x.shape[1]))
            p.emit("ReverseSequence", [x.name, lengths], x.shape, time_axis=0, batch_axis=1)


def arranged(p: Program) -> None:
    x = p.any(rank=range(2, 5))
    if not x:
        return
    match p.pick(["DepthToSpace", "SpaceToDepth", "Trilu", "Einsum", "CenterCropPad", "Split", "Flatten", "EyeLike"]):
        case "DepthToSpace" if len(x.shape) == 4 and x.shape[1] % 4 == 0:
            n, c, h, w = x.shape
            p.emit("DepthToSpace", [x.name], [n, c // 4, 2 * h, 2 * w], blocksize=2, mode=p.pick(["DCR", "CRD"]))
        case "SpaceToDepth" if len(x.shape) == 4 and x.shape[2] % 2 == x.shape[3] % 2 == 0:
            n, c, h, w = x.shape
            p.emit("SpaceToDepth", [x.name], [n, c * 4, h // 2, w // 2], blocksize=2)
        case "Trilu":
            p.emit("Trilu", [x.name, p.const(np.array(p.below(-3, 3)))], x.shape, upper=p.below(0, 1))
        case "Einsum":
            n = p.pick([1, 3, 6])
            p.emit("Einsum", [x.name, p.weight([n, x.shape[-1]])], [n, *x.shape[:-1]], equation="...k,nk->n...")
        case "CenterCropPad":
            a = p.below(0, len(x.shape) - 1)
            size = p.below(1, 9)
            p.emit("CenterCropPad", [x.name, p.const([size])], [size if i == a else n for i, n in enumerate(x.shape)], axes=[a])
        case "Flatten":
            a = p.below(0, len(x.shape))
            p.emit("Flatten", [x.name], [math.prod(x.shape[:a]), math.prod(x.shape[a:])], axis=a)
        case "EyeLike" if len(x.shape) == 2:
            p.emit("EyeLike", [x.name], x.shape, k=p.below(-2, 2))


def squeezed(p: Program) -> None:
    """Whatever is 1."""
    x = p.any(rank=range(1, 5))
    if x:
        p.emit("Squeeze", [x.name], [n for n in x.shape if n != 1])


def transposed_conv(p: Program) -> None:
    x = p.any(rank=range(3, 5))
    if not x:
        return
    rank = len(x.shape) - 2
    kernel, strides = ([p.pick([1, 2, 3]) for _ in range(rank)] for _ in range(2))
    pads = [min(1, k - 1) for k in kernel] * 2
    out = [(d - 1) * s + k - pads[i] - pads[rank + i] for i, (d, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))]
    if all(n > 0 for n in out):
        o = p.pick([1, 2, 3])
        w = p.const((p.rng.standard_normal((x.shape[1], o, *kernel)) / x.shape[1]).astype(np.float32))
        p.emit("ConvTranspose", [x.name, w], [x.shape[0], o, *out], kernel_shape=kernel, strides=strides, pads=pads)


def recurrent(p: Program) -> None:
    x = p.any(rank=range(3, 4))
    if x:
        (t, n, c), h = x.shape, p.pick([1, 4, 9])
        op, gates = p.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
        direction = p.pick(["forward", "reverse", "bidirectional"])
        sides = 1 + (direction == "bidirectional")
        w, r = p.weight([sides, gates * h, c]), p.weight([sides, gates * h, h])
        p.emit(op, [x.name, w, r], [t, sides, n, h], hidden_size=h, direction=direction)


def sampled(p: Program) -> None:
    x = p.any(rank=range(4, 5))
    if x:
        n, c = x.shape[:2]
        h, w = p.below(1, 5), p.below(1, 5)
        attributes = {
            "mode": p.pick(["linear", "cubic"]),
            "padding_mode": p.pick(["zeros", "border", "reflection"]),
            "align_corners": p.below(0, 1),
        }
        p.emit("GridSample", [x.name, floats(p, (n, h, w, 2), -0.9, 0.9)], [n, c, h, w], **attributes)


def data_decide(p: Program) -> None:
    """As many rows as an input has large elements; then their sum, whose shape is known."""
    x = p.pick(p.inputs)
    if not x.shape:
        return
    flat = p.emit("Reshape", [x.name, p.const([-1])], [math.prod(x.shape)])
    some = flat and p.emit("Greater", [flat.name, p.const(np.float32(0.3).reshape(()))], flat.shape, "b")
    if not some:
        return
    name = f"t{len(p.nodes)}"
    p.nodes.append(helper.make_node("Compress", [flat.name, some.name], [name], axis=0))
    p.emit("ReduceSumSquare", [name, p.const([0])], [1], keepdims=1)
    p.bounded(p.pool[-1])


Typed = Sequence[tuple[str, int, Sequence[int | None] | None]]


def _graph(name: str, nodes: list[onnx.NodeProto], ins: Typed, outs: Typed) -> onnx.GraphProto:
    inputs = [helper.make_tensor_value_info(*i) for i in ins]
    return helper.make_graph(nodes, name, inputs, [helper.make_tensor_value_info(*o) for o in outs])


def branches(p: Program) -> None:
    """What an element of an input decides; both branches read values from outside, and may give other sizes."""
    x, y = p.any(), p.inputs[0]
    if not x or not y.shape:
        return
    first = p.emit("Slice", [y.name, *(p.const(v) for v in ([0] * len(y.shape), [1] * len(y.shape)))], [1] * len(y.shape))
    scalar = first and p.emit("Reshape", [first.name, p.const(np.array([], np.int64))], [])
    c = scalar and p.emit("Less", [scalar.name, p.const(np.float32(0.1).reshape(()))], [], "b")
    if not c:
        return
    k = len(p.nodes)
    then = _graph("then", [helper.make_node("Tanh", [x.name], [f"a{k}"])], [], [(f"a{k}", T.FLOAT, None)])
    other = [helper.make_node("Neg", [x.name], [f"n{k}"]), helper.make_node("Sin", [f"n{k}"], [f"b{k}"])]
    p.emit("If", [c.name], x.shape, then_branch=then, else_branch=_graph("else", other, [], [(f"b{k}", T.FLOAT, None)]))


def loop(p: Program) -> None:
    """A state, and rows that are collected; it may end early."""
    x = p.any(rank=range(4))
    if not x or math.prod(x.shape) > 400:
        return
    k, trips, last = len(p.nodes), p.below(1, 5), p.below(1, 5)
    body = [
        helper.make_node("Cast", [f"i{k}"], [f"f{k}"], to=T.FLOAT),
        helper.make_node("Add", [f"s{k}", f"f{k}"], [f"u{k}"]),
        helper.make_node("Mul", [f"u{k}", x.name], [f"m{k}"]),
        helper.make_node("Tanh", [f"m{k}"], [f"v{k}"]),
        helper.make_node("Identity", [f"v{k}"], [f"w{k}"]),
        helper.make_node("Less", [f"i{k}", p.const(np.array(last))], [f"on{k}"]),
    ]
    ins = [(f"i{k}", T.INT64, []), (f"go{k}", T.BOOL, []), (f"s{k}", T.FLOAT, None)]
    graph = _graph("body", body, ins, [(f"on{k}", T.BOOL, []), (f"v{k}", T.FLOAT, None), (f"w{k}", T.FLOAT, None)])
    count = min(trips, last + 1)
    outs = [Tensor(f"t{k}_state", x.shape, "f"), Tensor(f"t{k}_rows", (count, *x.shape), "f")]
    p.nodes.append(helper.make_node("Loop", [p.const(np.array(trips)), "", x.name], [t.name for t in outs], body=graph))
    p.pool += outs


def scan(p: Program) -> None:
    x = p.any(rank=range(2, 4))
    if not x:
        return
    k = len(p.nodes)
    zero = p.emit("ReduceMin", [x.name, p.const([0])], x.shape[1:], keepdims=0)
    if not zero:
        return
    ins = [(f"s{k}", T.FLOAT, None), (f"x{k}", T.FLOAT, None)]
    body = [
        helper.make_node("Add", [f"s{k}", f"x{k}"], [f"u{k}"]),
        helper.make_node("Sigmoid", [f"u{k}"], [f"v{k}"]),
        helper.make_node("Identity", [f"v{k}"], [f"w{k}"]),
    ]
    graph = _graph("step", body, ins, [(f"{v}{k}", T.FLOAT, [None] * (len(x.shape) - 1)) for v in "vw"])
    outs = [Tensor(f"t{k}_state", x.shape[1:], "f"), Tensor(f"t{k}_rows", x.shape, "f")]
    back = p.below(0, 1)
    node = helper.make_node(
        "Scan", [zero.name, x.name], [t.name for t in outs], body=graph, num_scan_inputs=1, scan_input_directions=[back]
    )
    p.nodes.append(node)
    p.pool += outs


OPERATORS = (
    activation, norm, norm, attention, attention, rotary, quantized, quantized, quantized_product, quantized_product, half, half, scatter,
    scatter, arranged, arranged, squeezed, transposed_conv, recurrent, sampled, data_decide, branches, loop, scan,
)  # fmt: skip
