"""LoopKernel to CUDA, by schedule."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Dim, prod
from ..expr import Call, postorder
from ..kernel import LoopKernel
from .emitted import Emitted, Launch, named
from .loop_schedule import PointSchedule, RowSchedule, TileSchedule, schedule_loop
from .points import Points
from .rows import Rows
from .split_reduction import split_reduction
from .tiles import Tiles

WORKSPACE_ALIGNED = 16


def emit_loop(kernel: LoopKernel, aligned: Sequence[int]) -> Emitted:
    """Emit a loop kernel. `aligned`: alignment in bytes of each operand. Raises CodegenError for a type or function CUDA lacks."""
    calls = sum(isinstance(e, Call) and e.dtype.is_float for e in postorder(kernel.roots))
    moved: Dim = 0
    for o in kernel.operands:
        moved = moved + o.numel * o.dtype.itemsize
    split = split_reduction(kernel)
    launches: tuple[Launch, ...]
    spaces: tuple[Dim, ...] = ()
    if split is None:
        launches = (_launch(kernel, aligned),)
    else:
        wide = [*aligned, *[WORKSPACE_ALIGNED] * len(split.sizes)]
        launches, spaces = (_launch(split.parts, wide), _launch(split.whole, wide)), split.sizes
    return Emitted(launches, prod((*kernel.axes, *kernel.reduce_axes)) * calls, moved, spaces)


def _launch(kernel: LoopKernel, aligned: Sequence[int]) -> Launch:
    body = _text(kernel, aligned)
    source, symbol = named(body.source())
    operands = tuple(range(len(kernel.operands)))
    return Launch(source, symbol, operands, tuple(body.params.dims), body.blocks, body.plan.threads, body.shared)


def _text(kernel: LoopKernel, aligned: Sequence[int]) -> Points | Rows | Tiles:
    match schedule_loop(kernel, aligned):
        case PointSchedule() as plan:
            return Points(kernel, plan, aligned)
        case RowSchedule() as plan:
            return Rows(kernel, plan, aligned)
        case TileSchedule() as plan:
            return Tiles(kernel, plan, aligned)
