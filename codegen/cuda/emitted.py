"""What every CUDA emitter returns: source text, and how to launch its kernels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...ir import Dim

PLACEHOLDER = "mlc_kernel"  # name of the function before it is known by the hash of its text
COUNTERS = -1  # among the operands of a launch


@dataclass(frozen=True, slots=True)
class TensorMap:
    """An operand of a launch as the bulk copy engine sees it: elements of `itemsize` bytes, `sizes` innermost first, `strides`
    in bytes of all but the innermost; copied in boxes of `box` elements, whose rows of 128, 64 or 32 bytes are swizzled by as many bits."""

    operand: int
    itemsize: int
    sizes: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    box: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """One grid: `symbol<<<blocks, threads, shared>>>(operands…, dims…, maps…)`.

    `operands` are operands of the step by number; those from its number of operands on are its workspaces, and
    COUNTERS are the words by which blocks wait for each other, of all steps.
    `dims` are passed as 64-bit integers behind the pointers; they hold every size in `maps` that is not known.
    `shared` is dynamic shared memory in bytes.
    """

    source: str
    symbol: str
    operands: tuple[int, ...]
    dims: tuple[Dim, ...]
    blocks: Dim
    threads: int
    shared: int = 0
    maps: tuple[TensorMap, ...] = ()


@dataclass(frozen=True, slots=True)
class Emitted:
    """The launches of a step, in order. `workspaces` are bytes of memory that only this step needs; `counters` of them are words of
    64 bits that are 0 before it and behind it (headers/blocks.cuh); `flops` and `bytes` are of the whole step."""

    launches: tuple[Launch, ...]
    flops: Dim
    bytes: Dim
    workspaces: tuple[Dim, ...] = field(default=())
    counters: int = 0


@dataclass(frozen=True, slots=True)
class Form:
    """What a step is on devices of some architectures ("sm_NN", or "compute_NN" for PTX)."""

    archs: tuple[str, ...]
    emitted: Emitted


def map_notes(maps: Sequence[TensorMap], names: Sequence[str], dim: Callable[[Dim], str]) -> str:
    """Comments that say what the tensor maps of a kernel are of. Code is known by its text, which alone would be the same for other
    strides. `dim` gives a size as the kernel knows it."""
    lines = []
    for name, m in zip(names, maps, strict=True):
        sizes, strides, box = (" × ".join(x) for x in (map(dim, m.sizes), map(dim, m.strides), map(str, m.box)))
        lines.append(f"// {name}: b{m.operand} of {m.itemsize} bytes an element, {sizes}, {strides} bytes apart, in boxes of {box}\n")
    return "".join(lines)


def named(source: str) -> tuple[str, str]:
    """(text, symbol) with the placeholder name replaced by one derived from the content."""
    symbol = "mlc_" + hashlib.sha256(source.encode()).hexdigest()[:24]
    return source.replace(PLACEHOLDER, symbol), symbol
