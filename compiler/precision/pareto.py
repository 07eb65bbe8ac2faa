"""Latency, size and fidelity of every sensible assignment of precisions, and which of them nothing else beats.

Each point is timed in turns with float32 in one process, so that points measured at different times compare by their ratio.
Finished points are kept in the JSON file, from which an interrupted measurement goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import bench
from .choose import assign
from .metrics import METRICS
from .search import Assignment
from .switches import Switches
from .workbench import Workbench

Progress = Callable[[str, int, int], None]
_FORMAT = 1
_UNIFORM = ("bf16", "int8-dynamic", "int8", "int8-weight", "int4")
_SHARES = (0.25, 0.5, 0.75)  # of the layers at the fastest precision, in the order of what they lose alone
_WEIGHED = 4  # samples on which layers are weighed one by one
_TIMING = bench.Options(seconds=1.0, rounds=5)


@dataclass(frozen=True)
class Point:
    """One assignment, measured.

    Attributes:
        name: how it was made.
        layers: how many layers have which precision.
        milliseconds: median of a run.
        speedup: float32's median in the same interleaved measurement, divided by that.
        size: bytes of the compiled module.
        losses: by metric, on the calibration data; 0 is as float32.
        assignment: precision by layer.
    """

    name: str
    layers: dict[str, int]
    milliseconds: float
    speedup: float
    size: int
    losses: dict[str, float]
    assignment: Assignment


def measure(bench_: Workbench, state: Path | None, tell: Progress | None = None) -> list[Point]:
    """Measure all points, those in the file `state` excepted, and keep each there when it is done.

    Raises InputError when the file holds something else.
    """
    tell = tell or (lambda stage, done, total: None)
    key = _key(bench_)
    done = _read(state, key) if state is not None else {}
    points: list[Point] = []
    plan = list(_UNIFORM) + [f"mixed {share:.0%}" for share in _SHARES]
    for i, (name, assignment) in enumerate(_candidates(bench_, done, tell)):
        tell(f"pareto: {name}", i, 1 + len(plan))
        if name not in done:
            done[name] = _point(bench_, name, assignment)
            if state is not None:
                _write(state, key, list(done.values()))
        points.append(done[name])
    return points


def frontier(points: Sequence[Point], metric: str) -> list[Point]:
    """Points that no other is faster than at the same or a smaller loss, the fastest first."""
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (p.losses[metric], -p.speedup)):
        if not best or p.speedup > best[-1].speedup:
            best.append(p)
    return best[::-1]


def choice(points: Sequence[Point], metric: str, limit: float) -> Point | None:
    """The fastest point within a bound."""
    fit = [p for p in points if p.losses[metric] <= limit]
    return max(fit, key=lambda p: p.speedup, default=None)


def _candidates(bench_: Workbench, done: dict[str, Point], tell: Progress) -> Iterator[tuple[str, Assignment]]:
    """Float32, every precision for all layers that can have it, and mixtures of the fastest one with bf16."""
    yield "fp32", {}
    uniform: dict[str, Assignment] = {}
    for precision in _UNIFORM:
        asked = assign(bench_.graph, replace(bench_.options, default=precision))
        if asked:
            uniform[precision] = asked
            yield precision, asked
    measured = [done[p] for p in uniform if p in done]
    if not measured:
        return
    fastest = max(measured, key=lambda p: p.speedup)
    names = [f"mixed {share:.0%}" for share in _SHARES]
    if fastest.name == "bf16" or "bf16" not in uniform:
        return
    if all(n in done for n in names):
        yield from ((n, done[n].assignment) for n in names)
        return
    low, metric = uniform[fastest.name], next(iter(METRICS.values()))
    some, wanted = bench_.samples[:_WEIGHED], bench_.wanted[:_WEIGHED]
    tell("pareto: layers one by one", 0, len(low))
    switches = Switches(bench_.graph, bench_.chooser, {layer: [precision] for layer, precision in low.items()}, bench_.built)
    alone: dict[str, float] = {}
    for i, (layer, precision) in enumerate(low.items()):
        tell("pareto: layers one by one", i, len(low))
        alone[layer] = metric(switches.outputs({layer: precision}, some), wanted)
    order = sorted(low, key=lambda layer: alone[layer])
    for name, share in zip(names, _SHARES, strict=True):
        first = order[: round(share * len(order))]
        yield name, {**uniform["bf16"], **{layer: low[layer] for layer in first}}


def _point(bench_: Workbench, name: str, assignment: Assignment) -> Point:
    module = bench_.module(assignment) if assignment else bench_.float32
    outputs = bench_.outputs(module)
    losses = {m: fn(outputs, bench_.wanted) for m, fn in METRICS.items()}
    bound = bench_.options.bound
    if bound is not None and bound.name not in losses:
        losses[bound.name] = bound.metric(outputs, bench_.wanted)
    feeds, base = bench_.samples[0], bench_.float32
    engines: dict[str, bench.Run] = {"fp32": lambda: base.run(feeds), "lowered": lambda: module.run(feeds)}
    times = {t.engine: t.median for t in bench.measure(engines, module.threads, _TIMING)}
    counts = Counter(assignment.values())
    counts["fp32"] = len(bench_.layers) - len(assignment)
    speedup = times["fp32"] / times["lowered"] if assignment else 1.0
    return Point(name, dict(counts), times["lowered"], speedup, len(module.to_bytes()), losses, assignment)


def _key(bench_: Workbench) -> str:
    """What measurements belong to: the model, the samples, the options and the threads."""
    h = hashlib.sha256(str(bench_.float32.threads).encode())
    h.update(bench_.float32.to_bytes())
    o = bench_.options
    h.update(repr((o.observer, o.smooth, o.correct_bias, o.group, o.symmetric, o.method, o.overrides, o.max_drop)).encode())
    for sample in bench_.samples:
        for name, array in sorted(sample.items()):
            h.update(name.encode() + str((array.dtype, array.shape)).encode() + array.tobytes())
    return h.hexdigest()


def _read(state: Path, key: str) -> dict[str, Point]:
    if not state.exists():
        return {}
    try:
        found: Any = json.loads(state.read_text())
        if found["format"] != _FORMAT or found["key"] != key:
            raise InputError(
                "holds the measurement of another model, other data or options",
                expected="a new file, or the same arguments as before",
                loc=str(state),
            )
        points = [Point(**p) for p in found["points"]]
        if not all(map(_is_plausible, points)):
            raise ValueError("a point whose fields have other types")
        return {p.name: p for p in points}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(f"is no measurement of mlc pareto: {e}", expected="a new file", loc=str(state)) from e


def _is_plausible(p: Point) -> bool:
    """Whether the fields have the types that they say."""
    tables = (p.layers, p.losses, p.assignment)
    if not all(type(table) is dict for table in tables):
        return False
    numbers = (p.milliseconds, p.speedup, p.size, *p.layers.values(), *p.losses.values())
    return all(type(n) in (int, float) for n in numbers) and all(type(t) is str for t in (p.name, *p.assignment.values()))


def _write(state: Path, key: str, points: Sequence[Point]) -> None:
    from ..commands.common import write_json

    write_json(str(state), {"format": _FORMAT, "key": key, "points": [asdict(p) for p in points]})
