"""ContractKernel to CUDA: matrix products and convolutions as tiles of multiply-adds, for every element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, prod, upper
from ..kernel import ContractKernel
from .contract_schedule import FmaSchedule, schedule_fma, tiles
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .epilogue import EpilogueLines, epilogue
from .ranges import divisible, fits
from .render import render
from .scalars import SMALL, storage
from .writer import Params, pointer_parameters

FINISH_THREADS = 256


@dataclass(frozen=True)
class ConvAxis:
    """One spatial axis of a convolution, as texts."""

    size: str
    out: str
    kernel: int
    stride: int
    pad: str
    dilation: int


@dataclass(frozen=True)
class FmaParameters:
    """contract_fma.cu.j2"""

    name: str
    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int
    splits: int
    threads: int
    pack_a: int
    pack_b: int
    pack: int
    acc: str
    a_type: str
    b_type: str
    b_zero: str
    a_convert: str
    b_convert: str
    multiply_add: str
    index: str
    m: str
    n: str
    k: str
    lda: str
    a_batch: str
    b_batch: str
    columns: str
    b_offset: str
    outside: str
    conv: list[ConvAxis]
    channels: int
    parameters: list[str]
    prologue: list[str]
    batch_lines: list[str]
    row_lines: list[str]
    column_lines: list[str]


@dataclass(frozen=True)
class FinishParameters:
    """contract_finish.cu.j2"""

    name: str
    threads: int
    pack: int
    splits: int
    acc: str
    index: str
    batch: str
    m: str
    n: str
    parameters: list[str]
    prologue: list[str]
    batch_lines: list[str]
    row_lines: list[str]
    column_lines: list[str]


def emit_contract(kernel: ContractKernel, aligned: Sequence[int]) -> Emitted:
    """Emit a contraction. Raises CodegenError for element types that cannot be multiplied."""
    plan = schedule_fma(kernel)
    a, b = (kernel.operands[i].dtype for i in (0, 1))
    if kernel.group != 1:
        raise CodegenError(f"a contraction of {a.value} and {b.value} packed for dot instructions", expected="tensor cores")
    if a is DType.BOOL or b is DType.BOOL:
        raise CodegenError(f"a contraction of {a.value} and {b.value}", expected="numbers")
    batch, m, n, k = kernel.batch, kernel.m, kernel.n, kernel.k
    size: Dim = 0
    for o in kernel.operands:
        size = size + o.numel * o.dtype.itemsize
    launches = [_tiles(kernel, plan, aligned)]
    spaces: tuple[Dim, ...] = ()
    if plan.splits > 1:
        spaces = (prod((plan.splits, batch, m, n)) * accumulator(kernel).itemsize,)
        launches.append(_finish(kernel, plan.splits, aligned))
    return Emitted(tuple(launches), 2 * prod((batch, m, n, k)), size, spaces)


def accumulator(kernel: ContractKernel) -> DType:
    """float for floats of 16 and 32 bits, int for small integers, else the type of A."""
    dtype = kernel.operands[0].dtype
    return DType.F32 if dtype in SMALL else DType.I32 if dtype.itemsize < 4 else dtype


def index_type(kernel: ContractKernel) -> str:
    """ "int" where every offset, and every number of a tile, fits 32 bits."""
    sizes = [upper(o.numel) for o in kernel.operands] + [upper(d) for d in (kernel.m, kernel.n, kernel.k)]
    blocks = upper(kernel.batch) * upper(kernel.m) * upper(kernel.n)
    return "int" if all(fits((0, s + 4096)) for s in (*sizes, blocks)) else "i64"


def conv_axes(kernel: ContractKernel, params: Params) -> list[ConvAxis]:
    c = kernel.conv
    if c is None:
        return []
    return [
        ConvAxis(params.name(s), params.name(o), k, st, params.name(p), d)
        for s, o, k, st, p, d in zip(c.spatial, c.out_spatial, c.kernel, c.strides, c.pads_lo, c.dilations, strict=True)
    ]


def channels_of(kernel: ContractKernel) -> int:
    """Channels of a group; k runs over taps × channels."""
    if kernel.conv is None:
        return 0
    if not isinstance(kernel.k, int):
        raise CodegenError("a convolution with an unknown number of channels on CUDA")
    return max(1, kernel.k // prod_int(kernel.conv.kernel))


def prod_int(values: Sequence[int]) -> int:
    out = 1
    for v in values:
        out *= v
    return out


def a_pack(kernel: ContractKernel, aligned: int, limit: int) -> int:
    """Elements of A that one load takes along k: rows, batches, k and channels are multiples of them."""
    pack = min(limit, 16 // kernel.operands[0].dtype.itemsize)
    runs: list[Dim] = [kernel.lda, kernel.k]
    runs += [channels_of(kernel)] if kernel.conv else [kernel.a_batch]
    while pack > 1 and not (aligned % (pack * kernel.operands[0].dtype.itemsize) == 0 and all(divisible(d, pack) for d in runs)):
        pack //= 2
    return pack


def b_pack(kernel: ContractKernel, aligned: int) -> int:
    """Elements of B that one load takes along n."""
    size = kernel.operands[1].dtype.itemsize
    pack = min(4, 16 // size)
    runs: tuple[Dim, ...] = (kernel.panel,) if kernel.b_row == 0 else (kernel.b_row, kernel.b_batch, kernel.n)
    return pack if aligned % (pack * size) == 0 and all(divisible(d, pack) for d in runs) else 1


def _columns(kernel: ContractKernel, params: Params) -> tuple[str, str]:
    """How many columns of B there are in memory, and where element (k, n) of a batch is."""
    if kernel.b_row != 0:
        return params.name(kernel.n), f"k * {params.name(kernel.b_row)} + n"
    panel = kernel.panel
    return f"({params.name(ceildiv(kernel.n, panel))}) * {panel}", f"(n / {panel} * K + k) * {panel} + n % {panel}"


def outside(kernel: ContractKernel) -> str:
    """What a convolution reads outside of the image; behind the end of k, B is zero."""
    return zero(kernel.operands[0].dtype) if kernel.border < 0 else f"b{kernel.border}[0]"


def _tiles(kernel: ContractKernel, plan: FmaSchedule, aligned: Sequence[int]) -> Launch:
    params = Params()
    acc = accumulator(kernel)
    a, b = kernel.operands[0].dtype, kernel.operands[1].dtype
    pack_b = b_pack(kernel, aligned[1])
    lines = _partial(params, kernel) if plan.splits > 1 else epilogue(kernel, params, aligned)
    t = storage(acc)
    name = params.name
    values = FmaParameters(
        PLACEHOLDER, plan.bm, plan.bn, plan.bk, plan.tm, plan.tn, plan.slices, plan.splits, plan.threads,
        a_pack(kernel, aligned[0], 4), pack_b, lines.pack, t, storage(a), storage(b), zero(b),
        converted("next_a[i].v[e]", a, acc), converted("next_b[i].v[e]", b, acc), multiply_add(acc), index_type(kernel),
        name(kernel.m), name(kernel.n), name(kernel.k), name(kernel.lda), name(kernel.a_batch), name(kernel.b_batch),
        *_columns(kernel, params), outside(kernel), conv_axes(kernel, params), channels_of(kernel),
        [], [], lines.batch, lines.row, lines.column,
    )  # fmt: skip
    split = plan.splits > 1
    operands = tuple(range(len(kernel.operands)))
    pointers = operand_pointers(kernel)
    if split:
        operands, pointers = (*operands[:-1], len(kernel.operands)), [*pointers[:-1], f"{t}* __restrict__ partial"]
    values = replace(values, parameters=pointers + params.signature(), prologue=params.prologue())
    source, symbol = named(render("contract_fma.cu.j2", values))
    blocks = tiles(kernel, plan) * plan.splits
    return Launch(source, symbol, operands, tuple(params.dims), blocks, plan.threads, plan.shared(acc.itemsize))


def operand_pointers(kernel: ContractKernel) -> list[str]:
    return pointer_parameters([o.dtype for o in kernel.operands], [o.written for o in kernel.operands], frozenset())


def zero(dtype: DType) -> str:
    return f"{storage(dtype)}{{0}}"


def converted(x: str, dtype: DType, to: DType) -> str:
    return f"to_float({x})" if dtype in SMALL else x if dtype is to else f"({storage(to)}){x}"


def multiply_add(acc: DType) -> str:
    if acc is DType.F32:
        return "fmaf(left[i], right[j], sum[i][j])"
    if acc is DType.F64:
        return "fma(left[i], right[j], sum[i][j])"
    t = storage(acc)
    return f"wrap_add<{t}>(sum[i][j], wrap_mul<{t}>(left[i], right[j]))"


def _partial(params: Params, kernel: ContractKernel) -> EpilogueLines:
    """Instead of the epilogue: sums of this split."""
    batch, m, n = (params.name(d) for d in (kernel.batch, kernel.m, kernel.n))
    place = f"((split * {batch} + batch) * {m} + m) * {n} + n"
    return EpilogueLines([], [], [f"partial[{place}] = sum[i][j];"], 1)


def _finish(kernel: ContractKernel, splits: int, aligned: Sequence[int]) -> Launch:
    params = Params()
    lines = epilogue(kernel, params, aligned)
    t = storage(accumulator(kernel))
    pointers = [*operand_pointers(kernel), f"const {t}* __restrict__ partial"]
    batch, m, n = (params.name(d) for d in (kernel.batch, kernel.m, kernel.n))
    values = FinishParameters(PLACEHOLDER, FINISH_THREADS, lines.pack, splits, t, index_type(kernel), batch, m, n,
                              pointers + params.signature(), params.prologue(), lines.batch, lines.row, lines.column)  # fmt: skip
    source, symbol = named(render("contract_finish.cu.j2", values))
    blocks = ceildiv(prod((kernel.batch, kernel.m, kernel.n)), FINISH_THREADS * lines.pack)
    return Launch(source, symbol, tuple(range(len(kernel.operands) + 1)), tuple(params.dims), blocks, FINISH_THREADS)
