"""LoopKernel to CUDA, by schedule."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import prod
from ..expr import Call, postorder
from ..kernel import LoopKernel, bytes_of
from .emitted import Emitted, Launch, named
from .loop_schedule import PointSchedule, RowSchedule, TileSchedule, schedule_loop
from .parts import Part, Parts
from .points import Points
from .rows import Rows
from .scan import Scans, ScanSchedule, schedule_scan
from .scatter import scattered
from .split_reduction import split_reduction
from .tiles import Tiles

WORKSPACE_ALIGNED = 16


def emit_loop(kernel: LoopKernel, aligned: Sequence[int]) -> Emitted:
    """Emit a loop kernel. `aligned`: alignment in bytes of each operand. Raises CodegenError for a type or function CUDA lacks."""
    calls = sum(isinstance(e, Call) and e.dtype.is_float for e in postorder(kernel.roots))
    parts = split_reduction(kernel) or scattered(kernel) or Parts((Part(kernel),))
    wide = [*aligned, *[WORKSPACE_ALIGNED] * len(parts.sizes)]
    launches = tuple(_launch(p, wide) for p in parts.kernels)
    return Emitted(launches, prod((*kernel.axes, *kernel.reduce_axes)) * calls, bytes_of(kernel.operands), parts.sizes)


def _launch(part: Part, aligned: Sequence[int]) -> Launch:
    body = _text(part, aligned)
    source, symbol = named(body.source())
    operands = tuple(range(len(part.kernel.operands)))
    return Launch(source, symbol, operands, tuple(body.params.dims), body.blocks, body.plan.threads, body.shared)


def _text(part: Part, aligned: Sequence[int]) -> Points | Rows | Scans | Tiles:
    match schedule_scan(part.kernel, aligned) or schedule_loop(part.kernel, aligned):
        case ScanSchedule() as plan:
            return Scans(part, plan, aligned)
        case PointSchedule() as plan:
            return Points(part, plan, aligned)
        case RowSchedule() as plan:
            return Rows(part, plan, aligned)
        case TileSchedule() as plan:
            return Tiles(part, plan, aligned)
