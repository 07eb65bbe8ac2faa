"""Which passes run, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import PassError
from ..ir import Graph
from ..ir.verify import verify
from .base import Pass, PassContext
from .channels_first import ChannelsFirst
from .cse import Cse
from .float8_products import Float8Products
from .fold_constants import FoldConstants
from .fold_scale import FoldScale
from .fuse_attention import FuseAttention
from .fuse_patterns import FusePatterns
from .fuse_rotary import FuseRotary
from .grouped_weights import GroupedWeights, NameDequantizers
from .hoist_invariants import HoistInvariants
from .integer_products import IntegerProducts
from .repeated_matrices import RepeatedMatrices
from .repeated_rows import RepeatedRows
from .simplify import Simplify
from .sink_transposes import SinkTransposes
from .stacked_products import StackedProducts
from .subgraphs import Subgraphs
from .subpixel_convolutions import SubpixelConvolutions


@dataclass(frozen=True)
class Fixpoint(Pass):
    """A group of passes, run until none of them changes anything (or `limit` times: each round only improves)."""

    passes: tuple[Pass, ...]
    limit: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> Graph:
        for _ in range(self.limit):
            new = run_passes(graph, self.passes, ctx)
            if new is graph:
                break
            graph = new
        return graph


CLEAN = Fixpoint((FoldConstants(), Simplify(), Cse()))

# O0 folds constants and nothing else: lowering wants weights, not computations of weights.
O0: tuple[Pass, ...] = (FoldConstants(),)
QUANTIZED: tuple[Pass, ...] = (NameDequantizers(), IntegerProducts(), Float8Products(), GroupedWeights())
O1: tuple[Pass, ...] = (*QUANTIZED, CLEAN)
O2: tuple[Pass, ...] = (
    HoistInvariants(),
    *QUANTIZED,  # before constants fold: quantized weights must not become floats
    CLEAN,
    FusePatterns(moved_norms=False),  # before layout: fewer nodes to choose for
    FuseRotary(),
    FuseAttention(),  # before layout: what it makes of kᵀ merges there
    StackedProducts(),
    SinkTransposes(),
    CLEAN,  # before scales: factors must meet their convolution, without reshapes of constants between
    FoldScale(),
    SubpixelConvolutions(),  # after scales, which fold into one set of weights
    ChannelsFirst(),  # after scales, which fold into convolutions
    FusePatterns(),  # again: norms of channels are over the last axis only now, others stay what they are composed of
    RepeatedMatrices(),  # after constants fold (those of moderate size become weights like any other) and transposes are gone
    RepeatedRows(),
    CLEAN,
)
LEVELS: tuple[tuple[Pass, ...], ...] = (O0, O1, O2, O2)


def run_passes(graph: Graph, passes: Iterable[Pass], ctx: PassContext) -> Graph:
    """Run passes in order; verifies and dumps as the context asks."""
    for p in passes:
        new = p.run(graph, ctx)
        if new is graph or isinstance(p, Fixpoint):
            graph = new
            continue
        graph = new
        if ctx.verify:
            verify(graph)
        if ctx.dump is not None:
            ctx.dump(p.name, graph)
    return graph


def optimize(graph: Graph, ctx: PassContext | None = None) -> Graph:
    """The graph as `-O<ctx.opt_level>` leaves it. Raises PassError for an unknown level."""
    ctx = ctx or PassContext()
    if not 0 <= ctx.opt_level < len(LEVELS):
        raise PassError(f"optimisation level {ctx.opt_level}", expected=f"0..{len(LEVELS) - 1}")
    if ctx.verify:
        verify(graph)
    if ctx.dump is not None:
        ctx.dump("import", graph)
    passes = LEVELS[ctx.opt_level]
    return run_passes(graph, (*passes, Subgraphs(passes)), ctx)
