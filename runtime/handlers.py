"""What a program asks of its caller at a yield: to bind sizes that it computed, to hand a tensor on, or to run Python code.

A native run returns at `YIELD k`; the caller runs handler k and goes on behind it (see `resume.py`). Handlers are numbered in
program order, each used once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArtifactError
from .elements import HANDLES, dtype_of
from .fields import below, brief, text, whole


class SizeRead(NamedTuple):
    """`symbol`, between lo and hi, is the I64 element `element` of a buffer."""

    symbol: str
    buffer: int
    element: int
    lo: int
    hi: int


class BindHandler(NamedTuple):
    """Reads sizes; what depends on them, `stage`, is computed and allocated (`stages.py`). Stages count from 1."""

    sizes: tuple[SizeRead, ...]
    stage: int


class CarryHandler(NamedTuple):
    """Buffer `target` becomes what `source` is, whatever its size; `move`: the source gives up its memory."""

    source: int
    target: int
    move: bool


class AppendHandler(NamedTuple):
    """Buffer `target`, which owns its memory, holds what `source` holds behind what it held before."""

    source: int
    target: int


class HostOperand(NamedTuple):
    """A tensor, a tensor of strings ("str", "text" or "key": what its handles are for) or an "object" in a buffer; `shape` are dim slots.

    Of a result, `shape_buffer` (−1: none) gets the shape.
    """

    buffer: int
    kind: str
    dtype: np.dtype
    shape: tuple[int, ...]
    shape_buffer: int


class HostHandler(NamedTuple):
    """Runs a function of `host/`: its operands, its results, its keyword arguments, and the ONNX nodes it stands for."""

    call: str
    attributes: Mapping[str, Any]
    reads: tuple[HostOperand, ...]
    writes: tuple[HostOperand, ...]
    loc: str


Handler = BindHandler | CarryHandler | AppendHandler | HostHandler


def parse_handlers(raw: Sequence[Any], n_buffers: int) -> tuple[Handler, ...]:
    """Raises ArtifactError (or a KeyError, TypeError … that the caller turns into one)."""
    found: list[Handler] = []
    stage = 0
    for h in raw:
        stage += h["kind"] == "bind"
        found.append(_PARSERS[h["kind"]](h, n_buffers, stage))
    return tuple(found)


def stages_of(handlers: Sequence[Handler]) -> dict[str, int]:
    """Run-time symbols, and the stage (from 1) at which each is bound. Raises ArtifactError for one bound twice."""
    found: dict[str, int] = {}
    for handler in handlers:
        if not isinstance(handler, BindHandler):
            continue
        for size in handler.sizes:
            if size.symbol in found:
                raise ArtifactError(f"size {size.symbol[:40]} is bound twice")
            found[size.symbol] = handler.stage
    return found


def _bind(raw: Mapping[str, Any], n_buffers: int, stage: int) -> BindHandler:
    sizes = []
    for symbol, buffer, index, lo, hi in raw["sizes"]:
        if whole(lo) > whole(hi):
            raise ArtifactError(f"size {brief(symbol)} from {lo} to {hi}")
        sizes.append(SizeRead(text(symbol), below(buffer, n_buffers, "buffer"), below(index, 2**20, "element"), lo, hi))
    return BindHandler(tuple(sizes), stage)


def _carry(raw: Mapping[str, Any], n_buffers: int, stage: int) -> CarryHandler:
    return CarryHandler(*_ends(raw, n_buffers), bool(raw["move"]))


def _append(raw: Mapping[str, Any], n_buffers: int, stage: int) -> AppendHandler:
    return AppendHandler(*_ends(raw, n_buffers))


def _ends(raw: Mapping[str, Any], n_buffers: int) -> tuple[int, int]:
    """Where a tensor is and where it goes to."""
    return below(raw["source"], n_buffers, "buffer"), below(raw["target"], n_buffers, "buffer")


def _host(raw: Mapping[str, Any], n_buffers: int, stage: int) -> HostHandler:
    call, attributes = raw["call"], raw["attributes"]
    if type(call) is not str or type(attributes) is not dict or not call.isidentifier():
        raise ArtifactError(f"host function {brief(call)}")
    reads, writes = (tuple(_operand(o, n_buffers) for o in raw[key]) for key in ("reads", "writes"))
    return HostHandler(call, attributes, reads, writes, " + ".join(map(str, raw["loc"])))


def _operand(raw: Any, n_buffers: int) -> HostOperand:
    buffer, dtype, shape, shape_buffer = raw
    kind = dtype if dtype in HANDLES else "tensor"
    if type(shape) is not list or len(shape) > 64:
        raise ArtifactError(f"shape {brief(shape)} in a handler")
    place = -1 if shape_buffer == -1 else below(shape_buffer, n_buffers, "buffer")
    return HostOperand(below(buffer, n_buffers, "buffer"), kind, dtype_of(dtype), tuple(shape), place)


_PARSERS: dict[str, Callable[[Mapping[str, Any], int, int], Handler]] = {
    "bind": _bind, "carry": _carry, "append": _append, "host": _host,
}  # fmt: skip
