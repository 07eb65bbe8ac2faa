"""Kernels that take chunks of their units by themselves, instead of being called for each.

Such a kernel keeps what it prepared for one chunk for the next, and may begin with the next before it is done with one. So chunks can be
small, and a thread whose core another program slows down takes fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import llvm_ir as ir
from .build import I64, PTR, Builder
from .emitted import PLACEHOLDER

_TAKE = ir.FunctionType(I64, [PTR, PTR])  # i64 take(share, chunk)


def taking_function(module: ir.Module, more: Sequence[Any] = ()) -> Builder:
    """void kernel(bufs, dims, take, share): see `Emitted`. `more`: types of further arguments."""
    return Builder(ir.Function(module, ir.FunctionType(ir.VoidType(), [*[PTR] * 4, *more]), PLACEHOLDER))


def take(b: Builder, function: Any, share: Any, chunk: Any) -> Any:
    """Whether there was another chunk; its units are in `chunk` then."""
    return b.ir.icmp_signed("!=", b.ir.call_through(_TAKE, function, [share, chunk]), b.i64(0))


def each_chunk(b: Builder, function: Any, share: Any, body: Callable[[Any, Any], object]) -> None:
    """`body` of the first unit of a chunk and the one behind its last, until none is left."""
    chunk = b.alloca(I64, b.i64(2))

    def one(_: list[Any]) -> Sequence[Any]:
        body(b.load(I64, chunk, 8), b.load(I64, b.at(chunk, b.i64(1), I64), 8))
        return ()

    b.during([], lambda _: take(b, function, share, chunk), one)
