"""What activations look like on calibration data: the float32 graph runs natively with them as further outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir import Graph, Value
from ..stages import compile_graph
from .data import Feeds
from .observers import Histogram

Progress = Callable[[str, int, int], None]
_HESSIAN_ROWS = 1 << 14  # enough rows of x for xᵀ·x: more change it little, and cost rows·K² operations


@dataclass
class Statistics:
    """Of one activation [..., K], whose last axis are channels.

    Attributes:
        factors: f32 [K] that the histogram's values are multiplied by, or None.
        histogram: all values.
        lows, highs: f32 [K], the range by channel, 0 included.
        sums, squares: f64 [K], of x and x² by channel.
        rows: how many values each channel had.
        hessian: f64 [K, K], Σ xᵀ·x over the first rows, when asked for.
    """

    channels: int
    factors: np.ndarray | None = None
    histogram: Histogram = field(default_factory=Histogram)
    rows: int = 0
    hessian: np.ndarray | None = None
    hessian_rows: int = 0

    def __post_init__(self) -> None:
        self.lows, self.highs = (np.zeros(self.channels, np.float32) for _ in range(2))
        self.sums, self.squares = (np.zeros(self.channels, np.float64) for _ in range(2))

    @property
    def largest(self) -> np.ndarray:
        """f32 [K], of |x| by channel."""
        return np.maximum(-self.lows, self.highs)

    @property
    def mean(self) -> np.ndarray:
        """f64 [K]."""
        return self.sums / max(self.rows, 1)

    def add(self, x: np.ndarray) -> None:
        """Take in one array [..., K]. Raises InputError for NaN or infinity."""
        self.histogram.add(x if self.factors is None else x * self.factors)
        flat = x.reshape(-1, self.channels)
        self.rows += len(flat)
        self.sums += flat.sum(axis=0, dtype=np.float64)
        self.squares += np.einsum("mk,mk->k", flat, flat, dtype=np.float64)
        self.lows = np.minimum(self.lows, flat.min(axis=0, initial=0.0))
        self.highs = np.maximum(self.highs, flat.max(axis=0, initial=0.0))
        if self.hessian is not None and self.hessian_rows < _HESSIAN_ROWS:
            some = flat[: _HESSIAN_ROWS - self.hessian_rows]
            self.hessian += (some.T @ some).astype(np.float64)
            self.hessian_rows += len(some)


def collect(
    graph: Graph,
    values: Sequence[Value],
    samples: Sequence[Feeds],
    *,
    hessians: bool = False,
    smoothing: Callable[[Value, Statistics], np.ndarray | None] | None = None,
    threads: int | None = None,
    tell: Progress | None = None,
) -> dict[Value, Statistics]:
    """Statistics of float values of a graph, over all samples.

    Args:
        graph: optimized, float32.
        values: values of it, whose last dim is an int.
        samples: input arrays by name.
        hessians: gather xᵀ·x too.
        smoothing: gives `factors` from the statistics of a first pass over the samples.
        threads: of the runs.
        tell: progress, called with (stage, done, total).

    Raises:
        InputError: an activation becomes NaN or infinite.
    """
    tell = tell or (lambda stage, done, total: None)
    wanted = list(dict.fromkeys(values))
    names = [f"activation {i}" for i in range(len(wanted))]
    module = compile_graph(replace(graph, outputs=(*graph.outputs, *wanted), output_names=(*graph.output_names, *names)), threads=threads)
    found: dict[Value, Statistics] = {}
    for v in wanted:
        k = v.shape[-1]
        assert isinstance(k, int)
        found[v] = Statistics(k, hessian=np.zeros((k, k)) if hessians else None)
    by_name = dict(zip(names, wanted, strict=True))

    def watch(into: dict[str, Statistics]) -> None:
        for i, sample in enumerate(samples):
            tell("calibrate", i, len(samples))
            out = module.run(sample)
            for name, seen in into.items():
                seen.add(out[name])

    watch({name: found[v] for name, v in by_name.items()})
    if smoothing is not None:
        factors = {name: smoothing(v, found[v]) for name, v in by_name.items()}
        again = {name: Statistics(found[by_name[name]].channels, f) for name, f in factors.items() if f is not None}
        if again:
            watch(again)
        for name, seen in again.items():
            first = found[by_name[name]]
            first.factors, first.histogram = seen.factors, seen.histogram
    tell("calibrate", len(samples), len(samples))
    return found
