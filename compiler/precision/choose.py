"""From a layer and a precision to the numbers that lowering needs: scales, zero points, rounded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...errors import InputError
from ...ir import Graph, Node, Value
from ...ir.ops import MatMul
from ...passes.precision import BFloat16, Choice, DynamicInt8, Float16, StaticInt8, WeightOnly, layers, weights_of
from .gguf_weights import read_gguf
from .observers import LEVELS, OBSERVERS
from .options import GGUF, Precision
from .search import Assignment
from .statistics import Statistics
from .weights import awq, gptq, nearest, per_column, smoothing

Stays = Callable[[Node, str], bool]


def supported(node: Node) -> tuple[str, ...]:
    """Precisions that a layer can have, float32 not listed."""
    if weights_of(node) is None:
        return ("bf16", "fp16")
    return ("int8", "int8-dynamic", "int8-weight", "int4", "bf16", "fp16") if isinstance(node.op, MatMul) else ("int8", "bf16", "fp16")


def assign(graph: Graph, options: Precision, stays: Stays = lambda node, precision: False) -> Assignment:
    """The precision of every layer that is not float32, by the default and the overrides; a layer that cannot have it keeps float32.

    `stays`: which layers float32 serves better than the default does; overrides lower them all the same.

    Raises InputError when an override matches no layer, or one that cannot have its precision.
    """
    known = layers(graph)
    default = options.default
    chosen = {name: default for name, node in known.items() if default in supported(node) and not stays(node, default)}
    for pattern, precision in options.overrides:
        matched = [name for name, node in known.items() if _matches(name, node, pattern)]
        if not matched:
            others = [node.loc[0] for node in graph.nodes if node.loc and fnmatchcase(node.loc[0], pattern)]
            if others and precision == "fp32":
                continue  # as it is anyway
            found = f"{others[0]} cannot be lowered" if others else f"no layer matches {pattern!r}"
            names = "MatMul, Conv, or a name such as " + ", ".join(list(known)[:3])
            raise InputError(found, expected=names if known else "none: the model has no layer that can be lowered", loc="--layer")
        for name in matched:
            if precision == "fp32":
                chosen.pop(name, None)
            elif precision in supported(known[name]):
                chosen[name] = precision
            else:
                raise InputError(f"{name} cannot be {precision}", expected=", ".join(("fp32", *supported(known[name]))), loc="--layer")
    for name in options.weights or {}:
        if name not in known or "int4" not in supported(known[name]):
            raise InputError(f"no layer matches {name!r}", expected="a matrix product with constant weights", loc="weights")
        chosen[name] = GGUF
    return chosen


@dataclass
class Chooser:
    """Makes choices, each once.

    Attributes:
        graph: optimized, float32.
        options: observer, smoothing and so on.
        statistics: of the layers' inputs, for those precisions that need them.
    """

    graph: Graph
    options: Precision
    statistics: Mapping[Value, Statistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._layers = layers(self.graph)
        self._known: dict[tuple[str, str], Choice] = {}
        self._files: dict[Any, dict[str, WeightOnly]] = {}

    def choices(self, assignment: Assignment) -> dict[str, Choice]:
        """For `passes.precision.LowerPrecision`."""
        return {name: self.choice(name, precision) for name, precision in assignment.items()}

    def choice(self, name: str, precision: str) -> Choice:
        """What lowers one layer."""
        key = name, precision
        if key not in self._known:
            node = self._layers[name]
            match precision:
                case "bf16":
                    made: Choice = BFloat16()
                case "fp16":
                    made = Float16()
                case "int8-dynamic":
                    made = DynamicInt8(*_columns(_weights(node)))
                case "gguf":
                    made = self._from_file(name, node)
                case "int4" | "int8-weight":
                    made = self._weight_only(node, 4 if precision == "int4" else 8)
                case "int8":
                    made = self._static(node)
                case _:
                    raise InputError(f"{name} cannot be {precision}", expected=", ".join(supported(node)))
            self._known[key] = made
        return self._known[key]

    def _from_file(self, name: str, node: Node) -> WeightOnly:
        path, tensor = (self.options.weights or {})[name]
        if path not in self._files:
            self._files[path] = read_gguf(path)
        held = self._files[path]
        if tensor not in held:
            raise InputError(f"no tensor {tensor!r} of Q4_0, Q4_K or Q8_0", expected="one of " + ", ".join(held), loc=str(path))
        found, wanted = held[tensor], list(_weights(node).shape)
        if list(found.levels.shape) != wanted:
            raise InputError(f"tensor {tensor!r} is {list(found.levels.shape)}", expected=f"{wanted} for {name}", loc=str(path))
        return found

    def _weight_only(self, node: Node, bits: int) -> WeightOnly:
        o, w = self.options, _weights(node)
        settings: dict[str, Any] = {"bits": bits, "group": min(o.group, len(w)), "symmetric": o.symmetric}
        if o.method == "nearest":
            return nearest(w, **settings)
        hessian = self.statistics[node.inputs[0]].hessian
        assert hessian is not None
        return (gptq if o.method == "gptq" else awq)(w, hessian, **settings)

    def _static(self, node: Node) -> StaticInt8:
        seen = self.statistics[node.inputs[0]]
        w, smooth = _weights(node), None
        lo, hi = OBSERVERS[self.options.observer](seen.histogram)
        if isinstance(node.op, MatMul) and seen.factors is not None:
            smooth, w = seen.factors, w / seen.factors.reshape(-1, 1)
        scale, zero = affine_range(lo, hi)
        weights, scales = _columns(w)
        shift = None
        if self.options.correct_bias:
            error = (w - weights.astype(np.float32) * scales).astype(np.float64)
            mean = seen.mean if smooth is None else seen.mean * smooth
            shift = _mean_error(error, mean).astype(np.float32)
        return StaticInt8(scale, zero, weights, scales, smooth, shift)


def smoothing_of(graph: Graph, options: Precision) -> Callable[[Value, Statistics], np.ndarray | None]:
    """For `statistics.collect`: 1/s of SmoothQuant for inputs of matrix products only, where it pays; all that read x share it.

    It makes the ranges of all channels equal, so that none has room to spare: of n rows, another one leaves the range of a channel with
    probability 1 / (n + 1). With fewer rows than channels, most rows of other data would leave some.
    """
    readers: dict[Value, list[Node]] = {}
    for node in layers(graph).values():
        readers.setdefault(node.inputs[0], []).append(node)

    def factors(x: Value, seen: Statistics) -> np.ndarray | None:
        nodes = [n for n in readers[x] if weights_of(n) is not None]
        if options.smooth == 0 or seen.rows < seen.channels or not all(isinstance(n.op, MatMul) for n in nodes):
            return None
        together = np.concatenate([_weights(n) for n in nodes], axis=1)
        found = (1.0 / smoothing(seen.largest, together, options.smooth)).astype(np.float32)
        return found if _rounding_error(seen, together, found) < _rounding_error(seen, together, np.ones_like(found)) else None

    return factors


def _rounding_error(seen: Statistics, w: np.ndarray, factors: np.ndarray) -> float:
    """Expected squared error of a row of (x·f)·(w/f) in 8 bits, ranges by min-max: a step Δ makes an error of variance Δ²/12, in x on every
    element of w, in w on every element of x."""
    scaled = w.astype(np.float64) / factors[:, None]
    step = (float((seen.highs * factors).max()) - float((seen.lows * factors).min())) / (LEVELS - 1)
    steps = np.abs(scaled).max(axis=0) / 127
    squares = float((seen.squares / max(seen.rows, 1) * factors.astype(np.float64) ** 2).sum())
    return (step**2 * float((scaled**2).sum()) + float((steps**2).sum()) * squares) / 12


def affine_range(lo: float, hi: float) -> tuple[float, int]:
    """(scale, zero point) of u8 levels over a range, widened to hold 0 exactly."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = (hi - lo) / (LEVELS - 1)
    if scale == 0.0:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-lo / scale), 0, LEVELS - 1))


def _mean_error(error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Σ_k mean[k] · error[k, n] over K, and over taps; groups of a convolution have channels of their own."""
    k, n = error.shape[-2:]
    flat = error.reshape(-1, k, n).sum(axis=0)
    groups = len(mean) // k
    each = n // groups
    return np.concatenate([mean[g * k : (g + 1) * k] @ flat[:, g * each : (g + 1) * each] for g in range(groups)])


def _columns(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, scales = per_column(w.reshape(-1, w.shape[-1]))
    return levels.reshape(w.shape), scales


def _weights(node: Node) -> np.ndarray:
    data = weights_of(node)
    assert data is not None
    return data.reshape(data.shape[-2:]) if isinstance(node.op, MatMul) else data


def _matches(name: str, node: Node, pattern: str) -> bool:
    operators = ("MatMul", "Gemm") if isinstance(node.op, MatMul) else ("Conv",)
    return any(fnmatchcase(known, pattern) for known in (name, *operators))
