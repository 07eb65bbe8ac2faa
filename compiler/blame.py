"""Which pass broke a model: compiled as each pass left it, compared with onnxruntime, the first wrong one by bisection."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ..errors import InputError, MlcError, VerifyError
from ..ir import Graph
from ..ir.printer import print_graph
from ..ir.verify import verify
from ..passes.base import PassContext
from ..passes.fold_constants import FoldConstants
from ..passes.pipelines import optimize
from .compare import BY_TABLE, Tolerance
from .held_arrays import flatten
from .importer import import_model
from .options import Options
from .oracle import Oracle, Source, compare_outputs
from .stages import Progress, compile_graph


@dataclass(frozen=True)
class Stage:
    """The graph as the importer ("import") or a pass left it; `number` counts them."""

    number: int
    name: str
    graph: Graph

    def __str__(self) -> str:
        return self.name if self.number == 0 else f"pass {self.number}, {self.name}"


@dataclass(frozen=True)
class Blame:
    """What was found.

    Attributes:
        culprit: "" when the compiled model agrees; else the stage that broke it.
        why: how its result is wrong.
        tried: the stages compiled, and whether their results agree.
        changes: what the culprit did to the graph, as a diff of its text.
    """

    culprit: str
    why: str
    tried: tuple[tuple[str, bool], ...]
    changes: str = ""

    def as_json(self) -> dict[str, Any]:
        tried = [{"stage": name, "agrees": agrees} for name, agrees in self.tried]
        return {"culprit": self.culprit, "why": self.why, "tried": tried, "changes": self.changes}


def blame(
    source: Source,
    feeds: Mapping[str, np.ndarray],
    *,
    options: Options | None = None,
    tolerance: Tolerance = BY_TABLE,
    progress: Progress | None = None,
) -> Blame:
    """Find the first stage after which the model, compiled from there, differs from onnxruntime on `feeds`.

    Where the graph is wrong from the start, the passes are innocent: then lowering without fusion is tried, and every
    kernel is compared with its definition.
    """
    options = options or Options()
    if not options.precision.is_float32:
        raise InputError(f"precision {options.precision.default}", expected="fp32: a lower one differs from onnxruntime by intent")
    tell = progress or (lambda stage, done, total: None)
    want = Oracle(source, threads=options.threads).run(feeds)
    stages = passed(import_model(source, options.shapes), options.opt_level)
    tried: dict[str, bool] = {}

    def fault(graph: Graph, options: Options) -> str:
        """How the module compiled from a graph is wrong; "" if it is not."""
        try:
            verify(graph)
            module = compile_graph(
                FoldConstants().run(graph, PassContext()), target=options.target, threads=options.threads,
                opt_level=options.opt_level, exact=options.exact, validate=options.validate,
            )  # fmt: skip
            found = compare_outputs(flatten(module.run(feeds)), want, tolerance=tolerance)
        except MlcError as e:
            return f"{type(e).__name__}: {e}"
        return "; ".join(f"output {d.name} {d.why}" for d in found if not d.agrees)

    @cache
    def of(k: int) -> str:
        tell(f"trying {stages[k].name}", len(tried), len(stages).bit_length() + 1)
        why = fault(stages[k].graph, options)
        tried[str(stages[k])] = not why
        return why

    if not of(len(stages) - 1):
        return Blame("", "", tuple(tried.items()))
    if of(0):
        return replace(_not_a_pass(stages[0], of(0), fault, options), tried=tuple(tried.items()))
    good, bad = 0, len(stages) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if of(middle) else (middle, bad)
    return Blame(str(stages[bad]), of(bad), tuple(tried.items()), _diff(stages[good].graph, stages[bad].graph))


def passed(graph: Graph, opt_level: int) -> list[Stage]:
    """The graph, and what each pass in turn made of it."""
    stages: list[Stage] = []

    def keep(name: str, graph: Graph) -> None:
        stages.append(Stage(len(stages), name, graph))

    optimize(graph, PassContext(opt_level=opt_level, dump=keep))
    return stages


def _not_a_pass(first: Stage, why: str, fault: Callable[[Graph, Options], str], options: Options) -> Blame:
    if options.opt_level and not fault(first.graph, replace(options, opt_level=0)):
        return Blame(f"lowering at -O{options.opt_level} (at -O0 it agrees)", why, ())
    kernel = fault(first.graph, replace(options, validate=True))
    if kernel.startswith(VerifyError.__name__):
        return Blame("code generation", kernel, ())
    return Blame("the importer, or lowering: every kernel does what it is defined to do", why, ())


def _diff(before: Graph, after: Graph) -> str:
    old, new = (print_graph(g).splitlines() for g in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm="", n=1))
