"""Whether a lowered module pays on this machine."""

from __future__ import annotations

import warnings

from ...errors import SlowerWarning, TargetError
from ...ir import Graph
from ...runtime.module import Module
from .. import bench
from ..inputs import generate, specs_of_module
from ..options import Options
from ..stages import compile_graph
from .data import load_calibration

_TIMING = bench.Options(seconds=0.4, rounds=5, pause=0.02)
_MARGIN = 1.03  # a difference of less is noise


def faster(module: Module, float32: Graph, options: Options, base: Module | None = None) -> Module:
    """The lowered module, or float32's with a warning where that is faster. One for another machine cannot be measured, and is kept.

    `base`: the module of `float32`, if there is one already.
    """
    try:
        module.prepare()
    except TargetError:
        return module
    if base is None:
        base = compile_graph(float32, target=options.target, threads=options.threads, opt_level=options.opt_level, exact=options.exact)
    specs, source = specs_of_module(module), options.precision.calibration
    feeds = generate(specs, options.shapes or {}) if source is None else load_calibration(source, specs)[0]
    engines: dict[str, bench.Run] = {"fp32": lambda: base.run(feeds), "lowered": lambda: module.run(feeds)}
    times = {t.engine: t.median for t in bench.measure(engines, module.threads, _TIMING)}
    if times["lowered"] <= times["fp32"] * _MARGIN:
        return module
    warnings.warn(
        f"{options.precision.default} takes {times['lowered']:.3g} ms a run here and float32 {times['fp32']:.3g}: float32 is kept. "
        "--keep-slower (keep_slower=True) keeps the lowered module.",
        SlowerWarning,
        stacklevel=4,
    )
    return base
