"""Epilogues of contractions: the scalar body on accumulators in registers, stored in packs along n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType
from ..affine import stride_along
from ..expr import Axis, Call, DimParam, E, Load, Num, postorder
from ..kernel import ContractKernel
from .ranges import divisible, multiple
from .scalars import storage
from .writer import STAGES, Params, Scope, Writer

PACK = 4  # accumulators that lie side by side in a thread of multiply-adds
_B, _M, _N = 0, 1, 2


@dataclass(frozen=True)
class EpilogueLines:
    """Statements: once a block (`batch` is known), once a row (`m`), once a pack of columns (`n`, `i`, `j`: sum[i][j + …])."""

    batch: list[str]
    row: list[str]
    column: list[str]
    pack: int


def result_offset(kernel: ContractKernel) -> E:
    """Where C[b, m, n] is stored."""

    def number(d: Dim) -> E:
        return Num(d) if isinstance(d, int) else DimParam(d)

    rows = Call("add", (Call("mul", (Axis(_B), number(kernel.c_batch))), Call("mul", (Axis(_M), number(kernel.ldc)))))
    return Call("add", (rows, Axis(_N)))


def pack_of(kernel: ContractKernel, aligned: Sequence[int], width: int) -> int:
    """`width` where whole packs of C can be stored at once, else 1."""
    out = kernel.operands[-1].dtype.itemsize
    offset = result_offset(kernel)
    return width if divisible(kernel.n, width) and multiple(offset, width, _N) and aligned[-1] % (width * out) == 0 else 1


def epilogue(kernel: ContractKernel, params: Params, aligned: Sequence[int], width: int = PACK,
             source: str = "sum[i][j{lane}]", place: str = "") -> EpilogueLines:  # fmt: skip
    """The statements; `source` names an accumulator, `{lane}` standing for " + l"; `width` of them lie side by side.
    `place`: a pointer to where packs go, if not to the result."""
    pack = pack_of(kernel, aligned, width)
    offset = result_offset(kernel)
    writer = Writer([kernel.epilogue, offset], (kernel.batch, kernel.m, kernel.n), [o.dtype for o in kernel.operands], params)
    root = Scope()
    batch = Scope(root, {_B: "batch"})
    row = Scope(batch, {_M: "m"})
    column = Scope(row, {_N: "n", STAGES: ""})
    lane = column
    c = len(kernel.operands) - 1
    if pack > 1:
        for e in postorder([kernel.epilogue]):
            if isinstance(e, Load) and _packed(kernel, e, pack, aligned):
                home = writer.home(e, column)
                at, name = writer.value(e.offset, home).text, writer.fresh("p")
                home.add(f"const auto {name} = load_pack<{pack}>(b{e.operand} + {at});")
                home.packs[id(e)] = name
        to = place or f"b{c} + {writer.value(offset, column).text}"
        lane = Scope(column, {_N: "nl", STAGES: ""})
        lane.lane = "l"
        lane.add("const auto nl = n + l;")
    writer.acc = source.format(lane=" + l" if pack > 1 else "")
    value = writer.to_storage(writer.value(kernel.epilogue, lane))
    dtype: DType = kernel.operands[c].dtype
    if pack > 1:
        column.add(f"Pack<{storage(dtype)}, {pack}> out;", "#pragma unroll", f"for (int l = 0; l < {pack}; ++l) {{",
                   *lane.lines, f"out.v[l] = {value};", "}", f"store_pack<{pack}>({to}, out);")  # fmt: skip
    else:
        column.add(f"b{c}[{writer.value(offset, column).text}] = {value};")
    return EpilogueLines([*root.lines, *batch.lines], row.lines, column.lines, pack)


def _packed(kernel: ContractKernel, e: Load, pack: int, aligned: Sequence[int]) -> bool:
    size = kernel.operands[e.operand].dtype.itemsize * pack
    return size <= 16 and aligned[e.operand] % size == 0 and stride_along(e.offset, _N) == 1 and multiple(e.offset, pack, _N)
