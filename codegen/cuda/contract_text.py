"""What the templates of contractions share: sizes, operands and offsets as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import CodegenError
from ...ir import Dim, DType, ceildiv, upper
from ..kernel import ContractKernel
from ..packing import padded_k
from .epilogue import EpilogueLines
from .ranges import divisible, fits
from .scalars import SMALL, storage
from .writer import Params, pointer_parameters


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


def columns(kernel: ContractKernel, params: Params) -> str:
    """How many columns of B there are in memory."""
    return params.name(kernel.n) if kernel.b_row != 0 else f"({params.name(ceildiv(kernel.n, kernel.panel))}) * {kernel.panel}"


def b_offset(kernel: ContractKernel, params: Params) -> str:
    """Where element (k, n) of a batch of B is."""
    if kernel.b_row != 0:
        return f"k * {params.name(kernel.b_row)} + n"
    panel, group = kernel.panel, kernel.group
    if group == 1:
        return f"(n / {panel} * K + k) * {panel} + n % {panel}"
    deep = params.name(padded_k(kernel.k, group))
    return f"((n / {panel} * ({deep}) + k / {group} * {group}) * {panel} + n % {panel} * {group} + k % {group})"


def b_word_offset(kernel: ContractKernel, params: Params) -> str:
    """In elements, where word (k, n) of a batch of B is: k counts words of `group` elements."""
    if kernel.group == 1:
        return b_offset(kernel, params)
    panel, group = kernel.panel, kernel.group
    return f"(n / {panel} * ({params.name(padded_k(kernel.k, group))}) + k * {group}) * {panel} + n % {panel} * {group}"


def outside(kernel: ContractKernel) -> str:
    """What a convolution reads outside of the image; behind the end of k, B is zero."""
    return zero(kernel.operands[0].dtype) if kernel.border < 0 else f"b{kernel.border}[0]"


def operand_pointers(kernel: ContractKernel) -> list[str]:
    return pointer_parameters([o.dtype for o in kernel.operands], [o.written for o in kernel.operands], frozenset())


def zero(dtype: DType) -> str:
    return f"{storage(dtype)}{{0}}"


def converted(x: str, dtype: DType, to: DType) -> str:
    return f"to_float({x})" if dtype in SMALL else x if dtype is to else f"({storage(to)}){x}"


def partial_sums(params: Params, kernel: ContractKernel, source: str = "sum[i][j]") -> EpilogueLines:
    """Instead of the epilogue: sums of this split."""
    batch, m, n = (params.name(d) for d in (kernel.batch, kernel.m, kernel.n))
    place = f"((split * {batch} + batch) * {m} + m) * {n} + n"
    return EpilogueLines([], [], [f"partial[{place}] = {source};"], 1)
