"""The driver: ONNX in, module out. Each stage is one line here, and lives in its own folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..errors import CodegenError, MlcError
from ..ir import Graph
from ..passes.attention_precision import LowerAttention
from ..passes.base import PassContext
from ..passes.grouped_activations import GroupedActivations
from ..passes.pipelines import CLEAN, optimize, run_passes
from ..passes.shared_rounding import SharedRounding
from ..runtime.arguments import require
from ..runtime.module import Module
from .backend import Backend
from .backends import backend_of
from .dump import Dump
from .garbage import rare_collections
from .importer import import_variants
from .options import Options, whole_sizes
from .precision.options import FLOAT32, Precision
from .stages import Clock, Compilation, Overridden, Progress, build_code, compile_graph, module_of

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from .importer.overridable import Variants
    from .precision.lowering import Lowered

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"


def compile(
    model: Source,
    *,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    overridable: str | Collection[str] = "auto",
    threads: int | None = None,
    opt_level: int = 3,
    exact: bool = False,
    precision: str | Precision = "fp32",
    tune: float | None = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Module:
    """Compile an ONNX model to a module that runs it.

    Args:
        model: path, serialized bytes, or ModelProto.
        target, shapes, constants, overridable, threads, opt_level, exact, tune, dump: see `Options`. None in a shape leaves a dim
            open, too.
        precision: "fp32", "bf16", "fp16", "int8-dynamic" …, or a `Precision` with calibration data and bounds.
        progress: called with (stage, done, total).

    Raises:
        MlcError: a typed error that says what was found, what was expected and what to do.
    """
    if isinstance(precision, str):
        precision = Precision(precision)
    require(progress is None or callable(progress), "progress", progress, "a function of (stage, done, total)")
    sizes = whole_sizes(shapes)
    options = Options(target, sizes, threads, opt_level, exact, precision, tune, dump, constants=constants, overridable=overridable)
    return compile_with(model, options, progress)


def compile_with(model: Source, options: Options, progress: Progress | None = None) -> Module:
    """`compile`, with all knobs in one value. A lowered module that turns out slower than float32 here is not kept, with a
    warning, unless the options say so."""
    try:
        result = compile_stages(model, options, progress)
        if options.tune is not None:
            from .tuning.search import tune

            result = tune(result, options, progress or (lambda stage, done, total: None))
        module = module_of(result, options.threads, options.validate)
    except MemoryError as e:
        asked = f": {e}" if str(e) else ""  # NumPy says for what
        raise CodegenError(f"compiling takes more memory than there is{asked}", remedy="Check the model's shapes.") from e
    if result.float32 is None or options.precision.keep_slower or not result.backend.runs_here:
        return module
    from .precision.speed import faster

    kept = faster(module, result.float32, options, result.base)
    if kept is not module and (result.others or result.overridden):  # float32's other programs come with it
        return module_of(compile_stages(model, replace(options, precision=FLOAT32), progress), options.threads)
    return kept


def compile_stages(model: Source, options: Options, progress: Progress | None = None, backend: Backend | None = None) -> Compilation:
    """All stages up to machine code, for the options' target, or a backend itself. Errors as `compile`."""
    tell = progress or (lambda stage, done, total: None)
    backend = backend or backend_of(options.target)
    writer = Dump(Path(options.dump)) if options.dump is not None else None
    clock = Clock()
    with backend, rare_collections():
        tell("import", 0, 1)
        variants = import_variants(model, options.shapes, options.constants, options.overridable)
        first, *others = variants.graphs
        backend.prepare(len(first.nodes))
        clock.lap("import")
        tell("optimize", 0, 1)
        context = PassContext(opt_level=options.opt_level, dump=writer.graph if writer else None)
        graph = float32 = optimize(first, context)
        clock.lap("optimize")
        lowered = None
        if not options.precision.is_float32:
            lowered = _lowered(graph, backend, options, tell)
            graph = _with_attention(lowered.graph, backend, options)
            if writer:
                writer.graph("lower_precision", graph)
            clock.lap("precision")
        last, lowering = backend.passes(options.opt_level), backend.options(options.opt_level, options.exact)
        if lowered is not None and not options.exact:
            lowering = replace(lowering, between=backend.attention(options.precision.default))
        alone = replace(lowering, prologue=False)  # one prologue for several programs; a program that watches all of its calls
        result = build_code(run_passes(graph, last, context), backend, alone if others or options.validate else lowering, tell, clock)

        def built(other: Graph) -> Compilation:
            quiet = PassContext(opt_level=options.opt_level)
            other = optimize(other, quiet)
            if lowered is not None:
                from .precision.lowering import lower_alike

                other = _with_attention(lower_alike(other, lowered), backend, options)
            known = {symbol: code for r in result.programs for symbol, code in r.objects.items()}
            return build_code(run_passes(other, last, quiet), backend, alone, tell, Clock(), known)

        _add_variants(result, variants, built, named=not isinstance(options.overridable, str))
        if len(result.programs) > 1:
            clock.lap("others")
    if lowered is not None:
        result.float32, result.base = float32, lowered.float32
    if writer:
        writer.kernels(result)
    return result


def _lowered(graph: Graph, backend: Backend, options: Options, tell: Progress) -> Lowered:
    """A graph in the precision that the options ask for."""
    from .precision.lowering import lower_precision

    build = partial(compile_graph, target=options.target, threads=options.threads, opt_level=options.opt_level, exact=options.exact)
    costs = backend.options(options.opt_level, options.exact)
    return lower_precision(
        graph,
        options.precision,
        threads=options.threads,
        tell=tell,
        build=build if backend.runs_here else None,
        stays=lambda layer, precision: backend.stays(layer, precision, costs),
    )


def _add_variants(result: Compilation, variants: Variants, built: Callable[[Graph], Compilation], named: bool) -> None:
    """The programs beside the first: for sizes that it does not serve, and with initializers as inputs (errors of that one only
    if the caller `named` them)."""

    def add(graphs: list[Graph], to: Compilation) -> None:
        for graph in graphs:
            with suppress(CodegenError):  # as where no such graph can be built: those sizes stay refused, by a typed error
                to.others.append(built(graph))

    add(variants.graphs[1:], result)
    result.listed = variants.kept
    if not variants.overridden:
        return
    try:
        first = built(variants.overridden[0])
    except MlcError:
        if named:
            raise
        result.listed += tuple(variants.defaults)
        return
    result.overridden = Overridden(first, variants.defaults)
    add(variants.overridden[1:], first)


def _with_attention(graph: Graph, backend: Backend, options: Options) -> Graph:
    """A lowered graph, its attention, and what weights of few bits are multiplied by, rounded too where the backend does that."""
    heads = backend.attention(options.precision.default)
    if heads is None:
        return graph
    passes = (LowerAttention(heads), GroupedActivations(heads), CLEAN, SharedRounding(heads), CLEAN)
    return run_passes(graph, passes, PassContext(opt_level=options.opt_level))
