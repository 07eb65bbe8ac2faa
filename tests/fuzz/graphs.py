"""Random small ONNX graphs of supported operators, with odd shapes: a hypothesis strategy.

Operators keep values bounded and away from jumps, so that two correct compilers agree within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
SIZES = (1, 2, 3, 4, 5, 7, 16, 17, 33)
LIMIT = 4000  # elements of any tensor
KINDS = {
    "f": TensorProto.FLOAT, "h": TensorProto.FLOAT16, "i": TensorProto.INT64, "b": TensorProto.BOOL,
    "c": TensorProto.INT8, "C": TensorProto.UINT8, "s": TensorProto.INT16, "S": TensorProto.UINT16,
}  # fmt: skip
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class Tensor:
    """A name in the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a letter of KINDS


@dataclass
class Program:
    """A graph being written."""

    draw: Draw
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    pool: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def below(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def any(self, dtype: str = "f", rank: range | None = None) -> Tensor | None:
        found = [t for t in self.pool if t.dtype in dtype and (rank is None or len(t.shape) in rank)]
        return self.pick(found) if found else None

    def const(self, data: np.ndarray | Sequence[int]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def weight(self, shape: Sequence[int]) -> str:
        return self.const((self.rng.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(np.float32))

    def emit(self, op: str, inputs: Sequence[str], shape: Sequence[int], dtype: str = "f", **attributes: Any) -> Tensor | None:
        if math.prod(shape) > LIMIT:
            return None
        out = Tensor(f"t{len(self.nodes)}", tuple(shape), dtype)
        self.nodes.append(helper.make_node(op, inputs, [out.name], **attributes))
        self.pool.append(out)
        return out

    def bounded(self, t: Tensor | None) -> None:
        """Bring a result back to moderate size."""
        if t is not None:
            self.emit(self.pick(["Tanh", "Sigmoid", "Softsign"]), [t.name], t.shape)


UNARY = ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "LeakyRelu", "Elu", "Softplus", "Softsign", "HardSigmoid", "HardSwish",
         "Sin", "Cos", "Atan", "Identity", "Mish", "Selu", "Celu")  # fmt: skip


def unary(p: Program) -> None:
    x = p.any()
    if x:
        p.emit(p.pick(UNARY), [x.name], x.shape)


def binary(p: Program) -> None:
    x = p.any()
    if not x:
        return
    partners = [t for t in p.pool if t.dtype == "f" and _broadcast(x.shape, t.shape) is not None]
    y = p.pick(partners)
    shape = _broadcast(x.shape, y.shape)
    pair = [x.name, y.name] if p.below(0, 1) else [y.name, x.name]
    p.emit(p.pick(["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"]), pair, shape)


def divide(p: Program) -> None:
    x, y = p.any(), p.any()
    if x and y and _broadcast(x.shape, y.shape) is not None:
        a = p.emit("Abs", [y.name], y.shape)
        d = a and p.emit("Add", [a.name, p.const(np.float32([1.5]).reshape(()))], y.shape)
        if d:
            p.emit("Div", [x.name, d.name], _broadcast(x.shape, y.shape))


def power(p: Program) -> None:
    x = p.any()
    if x:
        p.emit("Pow", [x.name, p.const(np.array(p.pick([2, 3, 1]), p.pick([np.float32, np.int64])))], x.shape)
        p.bounded(p.pool[-1])


def select(p: Program) -> None:
    x, y = p.inputs[0], p.any()
    if y and _broadcast(x.shape, y.shape) is not None:
        c = p.emit(p.pick(["Greater", "Less"]), [x.name, p.const(np.float32(0.3).reshape(()))], x.shape, "b")
        if c:
            p.emit("Where", [c.name, y.name, p.const(np.float32(-0.7).reshape(()))], _broadcast(x.shape, y.shape))


def transpose(p: Program) -> None:
    x = p.any()
    if x and x.shape:
        perm = p.draw(st.permutations(range(len(x.shape))))
        p.emit("Transpose", [x.name], [x.shape[a] for a in perm], perm=list(perm))


def reshape(p: Program) -> None:
    x = p.any()
    if not x:
        return
    left, shape = math.prod(x.shape), []
    while left > 1 and len(shape) < 4:
        d = p.pick([d for d in range(1, min(left, 40) + 1) if left % d == 0])
        shape.append(d)
        left //= d
    shape.append(left)
    asked = [0 if i < len(x.shape) and d == x.shape[i] and p.below(0, 1) else d for i, d in enumerate(shape)]
    if p.below(0, 1) and 0 not in shape:
        asked[p.below(0, len(asked) - 1)] = -1
    p.emit("Reshape", [x.name, p.const(np.array(asked))], shape)


def squeeze(p: Program) -> None:
    x = p.any()
    if not x:
        return
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    if ones and p.below(0, 1):
        a = p.pick(ones)
        p.emit("Squeeze", [x.name, p.const([a])], [d for i, d in enumerate(x.shape) if i != a])
    elif len(x.shape) < 5:
        a = p.below(0, len(x.shape))
        p.emit("Unsqueeze", [x.name, p.const([a])], [*x.shape[:a], 1, *x.shape[a:]])


def slice_(p: Program) -> None:
    x = p.any()
    if not x or not x.shape:
        return
    a = p.below(0, len(x.shape) - 1)
    d = x.shape[a]
    start, stop = p.below(-d - 1, d + 1), p.below(-d - 1, d + 1)
    step = p.pick([1, 1, 2, 3, -1, -2])
    length = len(range(d)[slice(start, stop, step)])
    if length:
        names = [p.const([v]) for v in (start, stop, a, step)]
        p.emit("Slice", [x.name, *names], [length if i == a else n for i, n in enumerate(x.shape)])


def concat(p: Program) -> None:
    x = p.any()
    if not x or not x.shape:
        return
    a = p.below(0, len(x.shape) - 1)
    rest = [*x.shape[:a], *x.shape[a + 1 :]]
    same = [t for t in p.pool if t.dtype == "f" and len(t.shape) == len(x.shape) and [*t.shape[:a], *t.shape[a + 1 :]] == rest]
    parts = [x, *(p.pick(same) for _ in range(p.below(1, 2)))]
    shape = [sum(t.shape[a] for t in parts) if i == a else d for i, d in enumerate(x.shape)]
    p.emit("Concat", [t.name for t in parts], shape, axis=a)


def split(p: Program) -> None:
    x = p.any()
    axes = [i for i, d in enumerate(x.shape) if d > 1] if x else []
    if not x or not axes:
        return
    a = p.pick(axes)
    first = p.below(1, x.shape[a] - 1)
    sizes = (first, x.shape[a] - first)
    outs = [Tensor(f"t{len(p.nodes)}_{k}", (*x.shape[:a], n, *x.shape[a + 1 :]), "f") for k, n in enumerate(sizes)]
    p.nodes.append(helper.make_node("Split", [x.name, p.const(sizes)], [t.name for t in outs], axis=a))
    p.pool += outs


def gather(p: Program) -> None:
    x = p.any()
    if not x or not x.shape:
        return
    a = p.below(0, len(x.shape) - 1)
    index = p.rng.integers(-x.shape[a], x.shape[a], p.pick([(), (2,), (1, 3)]))
    p.emit("Gather", [x.name, p.const(index)], [*x.shape[:a], *index.shape, *x.shape[a + 1 :]], axis=a)


def pad(p: Program) -> None:
    x = p.any(rank=range(1, 5))
    if not x:
        return
    mode = p.pick(["constant", "edge", "reflect"])
    most = [2 if mode != "reflect" else min(2, d - 1) for d in x.shape]
    lo, hi = ([p.below(0, m) for m in most] for _ in range(2))
    extra = [p.const(np.float32(0.5).reshape(()))] if mode == "constant" else []
    p.emit("Pad", [x.name, p.const([*lo, *hi]), *extra], [d + a + b for d, a, b in zip(x.shape, lo, hi, strict=True)], mode=mode)


def expand(p: Program) -> None:
    x = p.any(rank=range(4))
    if x:
        shape = [*p.pick([(), (2,), (3, 1)]), *(p.pick([1, 3]) if d == 1 else d for d in x.shape)]
        p.emit("Expand", [x.name, p.const(np.array(shape, np.int64))], shape)


def tile(p: Program) -> None:
    x = p.any(rank=range(1, 4))
    if x:
        repeats = [p.pick([1, 1, 2]) for _ in x.shape]
        p.emit("Tile", [x.name, p.const(repeats)], [d * r for d, r in zip(x.shape, repeats, strict=True)])


def reduce(p: Program) -> None:
    x = p.any(rank=range(1, 6))
    if not x:
        return
    axes = sorted(p.draw(st.sets(st.integers(0, len(x.shape) - 1), min_size=1)))
    keep = p.below(0, 1)
    op = p.pick(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceL1", "ReduceLogSumExp"])
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    y = p.emit(op, [x.name, p.const(axes)], shape, keepdims=keep)
    if op not in ("ReduceMean", "ReduceMax", "ReduceMin"):
        p.bounded(y)


def softmax(p: Program) -> None:
    x = p.any(rank=range(1, 6))
    if x:
        p.emit(p.pick(["Softmax", "LogSoftmax"]), [x.name], x.shape, axis=p.below(0, len(x.shape) - 1))


def normalise(p: Program) -> None:
    x = p.any(rank=range(2, 6))
    if x and x.shape[-1] > 1:
        p.emit("LayerNormalization", [x.name, p.weight([x.shape[-1]]), p.weight([x.shape[-1]])], x.shape, axis=-1, epsilon=1e-2)


def running(p: Program) -> None:
    x = p.any(rank=range(1, 5))
    if x:
        axis = p.const(np.array(p.below(0, len(x.shape) - 1)))
        p.bounded(p.emit("CumSum", [x.name, axis], x.shape, exclusive=p.below(0, 1), reverse=p.below(0, 1)))


def matmul(p: Program) -> None:
    x = p.any(rank=range(1, 5))
    if x:
        n = p.pick(SIZES)
        p.emit("MatMul", [x.name, p.weight([x.shape[-1], n])], [*x.shape[:-1], n])


def product(p: Program) -> None:
    """Of two computed operands."""
    x = p.any(rank=range(2, 5))
    if x:
        perm = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
        y = p.emit("Transpose", [x.name], [x.shape[a] for a in perm], perm=perm)
        if y:
            p.bounded(p.emit("MatMul", [x.name, y.name], [*x.shape[:-1], x.shape[-2]]))


def gemm(p: Program) -> None:
    x = p.any(rank=range(2, 3))
    if x:
        n, trans = p.pick(SIZES), p.below(0, 1)
        w = p.weight([n, x.shape[1]] if trans else [x.shape[1], n])
        bias = p.weight(p.pick([[n], [1, n], [x.shape[0], 1], []]))
        p.emit("Gemm", [x.name, w, bias], [x.shape[0], n], transB=trans, alpha=0.5, beta=1.5)


def _window(p: Program, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]] | None:
    rank = len(x.shape) - 2
    kernel = [p.pick([1, 2, 3]) for _ in range(rank)]
    strides, dilations = [p.pick([1, 1, 2]) for _ in range(rank)], [p.pick([1, 1, 2]) for _ in range(rank)]
    pads = [p.below(0, k - 1) for k in kernel] + [p.below(0, k - 1) for k in kernel]
    out = [(d + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i, d in enumerate(x.shape[2:])]
    return (kernel, strides, dilations, pads, out) if all(o > 0 for o in out) else None


def conv(p: Program) -> None:
    x = p.any(rank=range(3, 5))
    window = x and _window(p, x)
    if x and window:
        kernel, strides, dilations, pads, out = window
        c = x.shape[1]
        group = p.pick([g for g in (1, 2, c) if c % g == 0])
        o = group * p.pick([1, 2, 3])
        names = [x.name, p.weight([o, c // group, *kernel]), *([p.weight([o])] if p.below(0, 1) else [])]
        p.emit("Conv", names, [x.shape[0], o, *out], kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, group=group)


def pool(p: Program) -> None:
    x = p.any(rank=range(3, 5))
    window = x and _window(p, x)
    if x and window:
        kernel, strides, _, pads, _ = window
        out = [(d + pads[i] + pads[len(kernel) + i] - kernel[i]) // strides[i] + 1 for i, d in enumerate(x.shape[2:])]
        if all(o > 0 for o in out):
            kind = p.pick(["MaxPool", "AveragePool"])
            extra = {"count_include_pad": p.below(0, 1)} if kind == "AveragePool" else {}
            p.emit(kind, [x.name], [*x.shape[:2], *out], kernel_shape=kernel, strides=strides, pads=pads, **extra)


def resize(p: Program) -> None:
    x = p.any(rank=range(3, 5))
    if x:
        sizes = [*x.shape[:2], *(max(1, p.below(d // 2, 2 * d)) for d in x.shape[2:])]
        p.emit("Resize", [x.name, "", "", p.const(sizes)], sizes, mode="linear", coordinate_transformation_mode="half_pixel")


def extreme(p: Program) -> None:
    """Of an input, whose elements differ."""
    x = p.inputs[p.below(0, len(p.inputs) - 1)]
    if x.shape and x.dtype == "f":
        a, keep = p.below(0, len(x.shape) - 1), p.below(0, 1)
        shape = [1 if i == a else d for i, d in enumerate(x.shape) if keep or i != a]
        y = p.emit(p.pick(["ArgMax", "ArgMin"]), [x.name], shape, "i", axis=a, keepdims=keep)
        if y:
            p.emit("Cast", [y.name], shape, to=TensorProto.FLOAT)


def top(p: Program) -> None:
    x = p.inputs[p.below(0, len(p.inputs) - 1)]
    if x.shape and x.dtype == "f":
        a = p.below(0, len(x.shape) - 1)
        k = p.below(1, x.shape[a])
        shape = tuple(k if i == a else d for i, d in enumerate(x.shape))
        outs = [Tensor(f"t{len(p.nodes)}_v", shape, "f"), Tensor(f"t{len(p.nodes)}_i", shape, "i")]
        p.nodes.append(helper.make_node("TopK", [x.name, p.const([k])], [t.name for t in outs], axis=a, largest=p.below(0, 1)))
        p.pool += outs


def integers(p: Program) -> None:
    x = p.any("i")
    if x:
        y = p.emit(p.pick(["Add", "Mul", "Sub", "Mod", "Div", "Max"]), [x.name, p.const(np.array(p.pick([2, 3, -3])))], x.shape, "i")
        if y:
            p.emit("Cast", [y.name], y.shape, to=TensorProto.FLOAT)
            p.bounded(p.pool[-1])


OPERATORS = (
    unary, unary, unary, binary, binary, divide, power, select, transpose, transpose, reshape, reshape, squeeze, slice_, slice_, concat,
    concat, split, gather, pad, expand, tile, reduce, reduce, softmax, normalise, running, matmul, matmul, product, gemm, conv, conv,
    pool, resize, extreme, top, integers,
)  # fmt: skip


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...] | None:
    try:
        return tuple(np.broadcast_shapes(tuple(a), tuple(b)))
    except ValueError:
        return None


@st.composite
def models(
    draw: Draw, operators: Sequence[Callable[[Program], object]] = OPERATORS, opset: int = OPSET, least: int = 3, most: int = 12
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model and inputs for it. Every value that nothing reads is an output."""
    p = Program(draw)
    p.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    feeds = {}
    for i in range(draw(st.integers(1, 2))):
        shape = tuple(draw(st.lists(st.sampled_from(SIZES), max_size=4)))
        while math.prod(shape) > LIMIT // 4:
            shape = shape[1:]
        t = Tensor(f"x{i}", shape, "f")
        p.inputs.append(t)
        p.pool.append(t)
        # different values, in random order
        feeds[t.name] = (p.rng.permutation(max(1, math.prod(shape))) / max(1, math.prod(shape)) * 4 - 2).astype(np.float32).reshape(shape)
    for _ in range(draw(st.integers(least, most))):
        p.pick(operators)(p)
    read = {n for node in p.nodes for n in node.input}
    ends = [t for t in p.pool if t.name not in read and t not in p.inputs] or [p.emit("Neg", [p.inputs[0].name], p.inputs[0].shape)]
    graph = helper.make_graph(
        p.nodes, "g", [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in p.inputs],
        [helper.make_tensor_value_info(t.name, KINDS[t.dtype], None) for t in ends if t], p.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), feeds


def with_symbols(model: onnx.ModelProto, ones: bool = False) -> onnx.ModelProto:
    """The same model with every input dim symbolic, those of size 1 only if asked for."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for value in out.graph.input:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if ones or dim.dim_value != 1:
                dim.Clear()
                dim.dim_param = f"{value.name}_{i}"
    return out
