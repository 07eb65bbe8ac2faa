"""GroupedKernel to CUDA: few rows read the weights as they are, some more expand them on the way to tensor cores (`grouped_mma.py`);
for many, the weights are made floats of A's type once, and multiplied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import CodegenError
from ...ir import Dim, ceildiv, dim_max, lower, upper
from ..kernel import ContractKernel, GroupedKernel, Operand, bytes_of
from .contract import emit_contract
from .contract_text import PIECE, index_type
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .epilogue import epilogue
from .grouped_mma import MOST_ROWS as ROWS_OF_TILES
from .grouped_mma import RANGES, Weights, levels_tiles, schedule_levels, takes_levels
from .launching import between
from .ranges import divisible
from .render import render
from .scalars import storage
from .target import CudaTarget
from .writer import Params, operand_pointers

THREADS = 256
COLUMNS = 4  # of a warp, which share what is loaded of A
FEW_ROWS = 8  # of a warp; kernels for one row and for so many
MOST_ROWS = 16  # that still read the weights as they are, in float32


@dataclass(frozen=True)
class GroupedParameters:
    """grouped_rows.cu.j2"""

    name: str
    threads: int
    rows: int
    columns: int
    bits: int
    group: int
    each: int
    run: int
    pack: int
    a_pack: int
    k: int
    n: int
    m: str
    lda: str
    index: str
    zero: str
    whole: str
    values: list[str]
    parameters: list[str]
    prologue: list[str]
    finish: list[str]


@dataclass(frozen=True)
class ExpandParameters:
    """grouped_expand.cu.j2"""

    name: str
    threads: int
    element: str
    bits: int
    group: int
    each: int
    run: int
    pack: int
    k: int
    n: int
    zero: str
    whole: str
    values: list[str]
    parameters: list[str]
    prologue: list[str]


def emit_grouped(kernel: GroupedKernel, aligned: Sequence[int], target: CudaTarget) -> Emitted:
    """Emit a product with weights of few bits. Which of its launches have blocks follows from the number of rows.

    Raises CodegenError for weights that are packed for vectors, or of 16 bits, which tensor cores take as they are.
    """
    if kernel.bits not in (4, 8):
        raise CodegenError(f"weights of {kernel.bits} bits in groups on CUDA", expected="4 or 8 bits")
    if kernel.panel != 1:
        raise CodegenError(f"weights in panels of {kernel.panel} columns", expected="columns one by one, on CUDA")
    product = _product(kernel)
    launches: list[Launch] = []
    spaces: list[Dim] = []
    counters = 0
    count, by_tiles = len(kernel.operands), takes_levels(kernel)
    for rows, least, most in ((1, 0, 1), *(() if by_tiles else ((FEW_ROWS, 2, MOST_ROWS),))):
        if _may_be(kernel.m, least, most):
            launches.append(_few_rows(kernel, product, rows, least, most, aligned))
    for least, most in RANGES if by_tiles else ():
        if _may_be(kernel.m, least, most):
            gate, plan = between(kernel.m, least, most), schedule_levels(kernel, most)
            weights = Weights(_zero(kernel), _whole(kernel), _values(kernel))
            launch, shares = levels_tiles(kernel, product, plan, most, aligned, weights, gate)
            launches.append(launch)
            if shares.counters:
                counters = max(counters, shares.counters)
                spaces = [dim_max(spaces[0] if spaces else 0, shares.bytes)]
    expanded_from = (ROWS_OF_TILES if by_tiles else MOST_ROWS) + 1
    if upper(kernel.m) >= expanded_from:
        at = count + len(spaces)  # of the expanded weights; workspaces of the product itself lie behind them
        many = emit_contract(replace(product, m=dim_max(product.m, expanded_from)), [*aligned[:1], 16, *aligned[2:]], target)
        gate = between(kernel.m, expanded_from, None)
        launches.append(_expand(kernel, at, gate))
        for k in many.launches:
            operands = tuple(at if o == 1 else o if o < count else o - count + at + 1 for o in k.operands)
            launches.append(replace(k, operands=operands, blocks=k.blocks * gate))
        spaces += [kernel.k * kernel.n * kernel.operands[0].dtype.itemsize, *many.workspaces]
        counters = max(counters, many.counters)
    return Emitted(tuple(launches), 2 * kernel.m * kernel.n * kernel.k, bytes_of(kernel.operands), tuple(spaces), counters)


def _product(k: GroupedKernel) -> ContractKernel:
    """The contraction of expanded weights [n, k]: operand 1 is these, the others keep their numbers."""
    weights = Operand(k.operands[0].dtype, k.k * k.n)
    operands = (k.operands[0], weights, *k.operands[2:])
    return ContractKernel(
        batch=1,
        m=k.m,
        n=k.n,
        k=k.k,
        operands=operands,
        lda=k.lda,
        a_batch=0,
        b_batch=0,
        ldc=k.ldc,
        c_batch=0,
        epilogue=k.epilogue,
        panel=1,
    )


def _may_be(m: Dim, least: int, most: int) -> bool:
    return lower(m) <= most and upper(m) >= least


def _zero(k: GroupedKernel) -> str:
    return "b3[at]" if k.zero is None else f"{float(k.zero)!r}f"


def _whole(k: GroupedKernel) -> str:
    """Whether the zero of all levels is a whole number, small enough to be exact beside 2^23."""
    return "true" if k.zero is not None and k.zero.is_integer() and abs(k.zero) < 2**22 else "false"


def _values(k: GroupedKernel) -> list[str]:
    return [f"{float(v)!r}f" for v in k.values]


def _pointers(k: GroupedKernel) -> list[str]:
    return operand_pointers(k.operands)


def _widest(limit: int, *sizes: Dim) -> int:
    """The widest pack that all sizes are multiples of."""
    while limit > 1 and not all(divisible(s, limit) for s in sizes):
        limit //= 2
    return limit


def _few_rows(k: GroupedKernel, product: ContractKernel, rows: int, least: int, most: int, aligned: Sequence[int]) -> Launch:
    params = Params()
    lines = epilogue(product, params, [1] * len(aligned), source="mine")
    each = 32 // k.bits
    run = math.gcd(k.group, each)
    a_pack = _widest(PIECE // k.operands[0].dtype.itemsize, run, k.lda, k.k) if aligned[0] >= PIECE else 1
    if k.k % run:
        a_pack = 1
    pack = _widest(4, -(-k.k // each)) if aligned[1] >= 16 else 1
    values = GroupedParameters(
        name=PLACEHOLDER,
        threads=THREADS,
        rows=rows,
        columns=COLUMNS,
        bits=k.bits,
        group=k.group,
        each=each,
        run=run,
        pack=pack,
        a_pack=a_pack,
        k=k.k,
        n=k.n,
        m=params.name(k.m),
        lda=params.name(k.lda),
        index=index_type(product),
        zero=_zero(k),
        whole=_whole(k),
        values=_values(k),
        parameters=_pointers(k) + params.signature(),
        prologue=params.prologue(),
        finish=[*lines.batch, *lines.row, *lines.column],
    )
    source, symbol = named(render("grouped_rows.cu.j2", values))
    teams = ceildiv(k.n, COLUMNS) * ceildiv(k.m, rows)
    blocks = ceildiv(teams, THREADS // 32) * between(k.m, least, most)
    return Launch(source, symbol, tuple(range(len(k.operands))), tuple(params.dims), blocks, THREADS, 4 * len(k.values))


def _expand(k: GroupedKernel, at: int, gate: Dim) -> Launch:
    each = 32 // k.bits
    run = math.gcd(k.group, each)
    to = k.operands[0].dtype
    pack = 1 if k.k % run else _widest(PIECE // to.itemsize, run, k.k)
    params = Params()
    values = ExpandParameters(
        name=PLACEHOLDER,
        threads=THREADS,
        element=storage(to),
        bits=k.bits,
        group=k.group,
        each=each,
        run=run,
        pack=pack,
        k=k.k,
        n=k.n,
        zero=_zero(k),
        whole=_whole(k),
        values=_values(k),
        parameters=[*_pointers(k), f"{storage(to)}* __restrict__ expanded"],
        prologue=params.prologue(),
    )
    source, symbol = named(render("grouped_expand.cu.j2", values))
    blocks = ceildiv(-(-k.k // each) * k.n, THREADS) * gate
    return Launch(source, symbol, (*range(len(k.operands)), at), (), blocks, THREADS, 4 * len(k.values))
