"""What a backend asks of lowering."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import DType
from .scattered_taps import ScatterCosts
from .winograd import ConvCosts

DEEPEST_WALK = 48  # steps in one kernel; each is code


@dataclass(frozen=True)
class LowerOptions:
    """opt_level 0 stores every computed value. `panel`: columns of 4 bytes in a packed panel of B; 1 stores B by
    columns, as tensor cores read it, and `in_place` is the number of rows of A up to which a B that is not constant is read where it is.

    `own_last`: the last panel of weights has a width of its own (`packing.last_panel`).
    `few_rows`, `few_panel`: products of so many rows have panels of so many columns, of which one register tile has all rows.
    `inner`: the number of rows of A up to which vectors go along k, where that pays, if B is not constant and lies by columns.
    `winograd`: estimates by which convolutions are computed by minimal filtering; None: never.
    `scatter`: the same for those of few channels that become products by all taps at once.
    `overwrite`: results of contractions may take the memory of an operand of their epilogue.
    `diagonal`: products of groups of few channels keep the blocks of B only, not the zeros between them.
    `planes`: convolutions store channels first where that is what is read.
    `attention`: element types of heads that there is a kernel for.
    `attention_units`: heads and groups of queries below which the keys of attention are cut into parts; 0: never.
    `mask_turns`: heads of attention for which a mask is turned as they read it, rather than stored transposed once; more share one.
    `ranked`: longest rows whose first k are found by counting ranks, which is n² comparisons in vectors.
    `abreast`: the first k along an axis that is not the last are kept for neighbouring lines at once, in lanes of vectors.
    `walk`: steps that few rows go down trees in one kernel; deeper ones are walked in turns, after each of which the program asks
    whether any row still moves.
    `passes`: pooling over large windows goes along one axis after the other.
    `beside`: small maps of equal axes are one kernel where they may be (`side_by_side.py`).
    `prologue`: what is done to texts before anything else is no part of the program.
    `between`: the 16-bit type in which sums between products of that type are stored (`narrow.py`); None: as the graph has them.
    `divide`: kernels divide indices where that takes the place of a copy of whole rows.
    `rounded_rows`: rows by weights of few bits may be rounded as far as the model lets them be.
    `rounds_queries`: attention of up to so many queries, of heads up to 256, stores what is read in 16 bits alone in 16 bits.
    `float8`: the type in which products of float8 are multiplied: itself, bfloat16 or float32, all of which hold it exactly.
    `checks`: indices that data give are compared with their limits; otherwise they are clamped without a word.
    """

    opt_level: int = 3
    panel: int = 64
    own_last: bool = False
    few_rows: tuple[int, ...] = ()
    few_panel: int = 0
    in_place: int = 128  # packing costs as much as about 3 rows of A on CPUs
    inner: int = 0
    winograd: ConvCosts | None = None
    scatter: ScatterCosts | None = None
    diagonal: bool = False
    overwrite: bool = False
    planes: bool = False
    attention: frozenset[DType] = frozenset({DType.F32})
    attention_units: int = 0
    mask_turns: int = 0
    ranked: int = 0
    abreast: bool = False
    walk: int = DEEPEST_WALK
    passes: bool = False
    divide: bool = False
    rounded_rows: bool = False
    float8: DType = DType.F32
    checks: bool = False
    beside: bool = False
    prologue: bool = False
    between: DType | None = None
    rounds_queries: int = 0
