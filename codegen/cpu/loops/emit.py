"""LoopKernel to LLVM: explicit vectors along one axis, everything uniform along it in single lanes."""

from __future__ import annotations

from ....ir import prod
from ...expr import Call, postorder
from ...kernel import LoopKernel, bytes_of
from ..emitted import REPEATS, TIDY, Emitted, named
from ..target import CpuTarget
from .form import form_of
from .repeated import repeated
from .schedule import NO_HINTS, LoopHints, operations
from .units import nonzero
from .writer import Writer


def emit_loop(kernel: LoopKernel, target: CpuTarget, hints: LoopHints = NO_HINTS) -> Emitted:
    """Emit a loop kernel. Raises CodegenError for an element type or function the CPU backend lacks."""
    form = form_of(kernel, target, hints)
    kernel = form.kernel
    writer = Writer(form, target)
    writer.write()
    units = writer.units
    text, symbol = named(str(writer.module), REPEATS if repeated(writer.kernels, form.schedule.axis) else TIDY)
    nodes = postorder(kernel.roots)
    points = nonzero(prod(kernel.reduce_axes) * max(1, len(kernel.stages)))
    cost = units.elements * points * operations(kernel, form.schedule)
    flops = prod(kernel.axes) * points * sum(isinstance(e, Call) and e.dtype.is_float for e in nodes)
    dims, moved = tuple(writer.params.dims), bytes_of(kernel.operands)
    return Emitted(text, symbol, dims, units.count, cost, flops, moved, shared=units.joins)
