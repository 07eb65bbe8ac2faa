"""What the templates of contractions share: parameters, operands and offsets as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...errors import CodegenError
from ...ir import Dim, DType, upper
from ..kernel import ContractKernel
from ..packing import padded_k
from .contract_schedule import WAVE
from .emitted import PLACEHOLDER, Launch, TensorMap
from .epilogue import EpilogueLines
from .launching import launch_of
from .ranges import divisible, fits
from .scalars import SMALL, storage
from .writer import Params, operand_pointers

PIECE = 16  # bytes that the widest loads and copies take


@dataclass(frozen=True)
class ConvAxis:
    """One spatial axis of a convolution, as texts."""

    size: str
    out: str
    kernel: int
    stride: int
    pad: str
    dilation: int


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
    return max(1, kernel.k // math.prod(kernel.conv.kernel))


def a_pack(kernel: ContractKernel, aligned: int, limit: int) -> int:
    """Elements of A that one load takes along k: rows, batches, k and channels are multiples of them."""
    pack = min(limit, PIECE // kernel.operands[0].dtype.itemsize)
    runs: list[Dim] = [kernel.lda, kernel.k]
    runs += [channels_of(kernel)] if kernel.conv else [kernel.a_batch]
    while pack > 1 and not (aligned % (pack * kernel.operands[0].dtype.itemsize) == 0 and all(divisible(d, pack) for d in runs)):
        pack //= 2
    return pack


def b_depth(kernel: ContractKernel) -> Dim:
    """Elements from one column of a packed B to the next."""
    return padded_k(kernel.k, kernel.group)


def b_pack(kernel: ContractKernel, aligned: int, limit: int) -> int:
    """Elements of B that one load takes: along n where B lies in rows, along k where it lies in columns."""
    size = kernel.operands[1].dtype.itemsize
    pack = min(limit, PIECE // size)
    runs = (b_depth(kernel), kernel.b_batch) if kernel.b_row == 0 else (kernel.b_row, kernel.b_batch, kernel.n)
    while pack > 1 and not (aligned % (pack * size) == 0 and all(divisible(d, pack) for d in runs)):
        pack //= 2
    return pack


def b_offset(kernel: ContractKernel, params: Params) -> str:
    """Where element (k, n) of a batch of B is."""
    return f"n * {params.name(b_depth(kernel))} + k" if kernel.b_row == 0 else f"k * {params.name(kernel.b_row)} + n"


def outside(kernel: ContractKernel) -> str:
    """What a convolution reads outside of the image; behind the end of k, B is zero."""
    return zero(kernel.operands[0].dtype) if kernel.border < 0 else f"b{kernel.border}[0]"


def zero(dtype: DType) -> str:
    return f"{storage(dtype)}{{0}}"


def converted(x: str, dtype: DType, to: DType) -> str:
    return f"to_float({x})" if dtype in SMALL else x if dtype is to else f"({storage(to)}){x}"


@dataclass(frozen=True, kw_only=True)
class ContractParameters:
    """What every template of a contraction is given; offsets and sizes are texts."""

    name: str = PLACEHOLDER
    threads: int
    splits: str  # blocks that share k
    sizes_decide: bool  # when it is launched, on `splits`
    stream: int = 0  # blocks that share all steps along k, if not 0
    pack: int
    acc: str
    a_type: str
    b_type: str
    a_zero: str
    b_zero: str
    index: str
    batch: str
    m: str
    n: str
    k: str
    lda: str
    a_batch: str
    b_batch: str
    b_offset: str
    b_rows: bool  # B lies in rows of n, not in columns of k
    outside: str
    conv: list[ConvAxis]
    channels: int
    raster: int
    cluster: int = 1  # blocks below each other that share the columns of B they read
    parameters: list[str]
    prologue: list[str]
    batch_lines: list[str]
    row_lines: list[str]
    column_lines: list[str]


def raster(bm: int, bn: int) -> int:
    """Tiles of rows that a wave of blocks works on: of as many elements as its columns have, it reads the least of A and B."""
    return max(1, round(math.sqrt(WAVE * bn / bm)))


def shared_parameters(kernel: ContractKernel, params: Params, lines: EpilogueLines, threads: int, splits: Dim,
                      tile: tuple[int, int] = (1, 1)) -> dict[str, Any]:  # fmt: skip
    """The fields of ContractParameters; `tile`: rows and columns of a block's tile."""
    a, b, name = kernel.operands[0].dtype, kernel.operands[1].dtype, params.name
    return {
        "threads": threads, "splits": str(splits) if isinstance(splits, int) else f"(int){name(splits)}",
        "sizes_decide": not isinstance(splits, int), "pack": lines.pack, "acc": storage(accumulator(kernel)), "a_type": storage(a),
        "b_type": storage(b), "a_zero": zero(a), "b_zero": zero(b), "index": index_type(kernel), "batch": name(kernel.batch),
        "m": name(kernel.m), "n": name(kernel.n), "k": name(kernel.k), "lda": name(kernel.lda), "a_batch": name(kernel.a_batch),
        "b_batch": name(kernel.b_batch), "b_offset": b_offset(kernel, params), "b_rows": kernel.b_row != 0, "outside": outside(kernel),
        "conv": conv_axes(kernel, params), "channels": channels_of(kernel), "raster": raster(*tile), "parameters": [], "prologue": [],
        "batch_lines": lines.batch, "row_lines": lines.row, "column_lines": lines.column,
    }  # fmt: skip


def contract_launch(template: str, kernel: ContractKernel, values: ContractParameters, params: Params, blocks: Dim, shared: int,
                    maps: tuple[TensorMap, ...] = (), map_names: tuple[str, ...] = ()) -> Launch:  # fmt: skip
    """The launch of a rendered template. Where blocks share k, they hand partial sums to each other (`contract_shares.py`)."""
    sums = values.acc if values.stream or values.splits != "1" else ""
    pointers = operand_pointers(kernel.operands)
    return launch_of(template, pointers, values, params, blocks, values.threads, shared, sums=sums, maps=maps, map_names=map_names)
