"""What the templates of attention share: parameters, strides and types as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ir import Dim, DType, prod, upper
from ..kernel import AttentionKernel
from .emitted import PLACEHOLDER
from .ranges import divisible, fits
from .scalars import literal
from .writer import Params


@dataclass(frozen=True, kw_only=True)
class AttentionText:
    """What every template of attention is given; sizes and strides are texts."""

    name: str = PLACEHOLDER
    size: int
    value_size: int
    group: int
    causal: bool
    index: str
    scale: str
    mask_strides: list[str]
    out_strides: list[str]
    rows: str
    keys: str
    heads: str
    result: str
    parameters: list[str]
    prologue: list[str]


@dataclass(frozen=True, kw_only=True)
class LoadingText(AttentionText):
    """Of a kernel that finds q, k and v by itself, and whose blocks share keys: `splits` of them, as `sizes_decide` when it is launched."""

    q_strides: list[str]
    k_strides: list[str]
    v_strides: list[str]
    splits: str
    sizes_decide: bool


def shared_text(kernel: AttentionKernel, params: Params, scale: float = 1.0) -> dict[str, Any]:
    """The fields of AttentionText; `scale`: what scores are multiplied by besides."""
    name = params.name
    return {
        "size": kernel.size, "value_size": kernel.value_size, "group": kernel.group, "causal": kernel.causal, "index": index_type(kernel),
        "scale": literal(kernel.scale * scale, DType.F32), "mask_strides": _texts(params, kernel.mask_strides or ()),
        "out_strides": _texts(params, kernel.out_strides), "rows": name(kernel.rows), "keys": name(kernel.keys),
        "heads": name(kernel.heads), "result": f"b{len(kernel.operands) - 1}", "parameters": [], "prologue": [],
    }  # fmt: skip


def loading_text(kernel: AttentionKernel, params: Params, splits: Dim, scale: float = 1.0) -> dict[str, Any]:
    """The fields of LoadingText."""
    strides = {"q_strides": kernel.q_strides, "k_strides": kernel.k_strides, "v_strides": kernel.v_strides}
    shared = {"splits": params.name(splits), "sizes_decide": not isinstance(splits, int)}
    return {**shared_text(kernel, params, scale), **{field: _texts(params, shape) for field, shape in strides.items()}, **shared}


def _texts(params: Params, shape: Sequence[Dim]) -> list[str]:
    return [f"(i64){params.name(d)}" for d in shape]


def index_type(kernel: AttentionKernel) -> str:
    """Of rows, keys and blocks, and of those a little behind the end of a tile."""
    sizes = (kernel.rows * kernel.group, kernel.keys, kernel.heads, prod((kernel.batch, kernel.heads, kernel.rows)))
    return "int" if all(fits((0, upper(d) + 4096)) for d in sizes) else "i64"


def whole_rows(kernel: AttentionKernel, aligned: Sequence[int], piece: int = 16) -> list[bool]:
    """Of q, k and v: whether rows, heads and batches begin at multiples of `piece` bytes, and rows end there."""
    operands = ((kernel.q_strides, kernel.size), (kernel.k_strides, kernel.size), (kernel.v_strides, kernel.value_size))
    return [_divides(kernel, aligned, i, (*strides, size), piece) for i, (strides, size) in enumerate(operands)]


def whole_out(kernel: AttentionKernel, aligned: Sequence[int], count: int = 2) -> bool:
    """Whether `count` neighbours of the result may be stored at once."""
    last = len(kernel.operands) - 1
    return _divides(kernel, aligned, last, (*kernel.out_strides, kernel.value_size), count * kernel.operands[last].dtype.itemsize)


def _divides(kernel: AttentionKernel, aligned: Sequence[int], operand: int, elements: Sequence[Dim], piece: int) -> bool:
    item = kernel.operands[operand].dtype.itemsize
    return aligned[operand] % piece == 0 and all(divisible(d * item, piece) for d in elements)
