"""The constants of a plan in one block, as a module maps them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..codegen.packing import Deferred
from ..codegen.plan import Buffer, Plan
from ..errors import CodegenError
from ..ir import prod
from ..runtime.address import address, aligned
from ..runtime.memory import align
from ..runtime.native import native


@dataclass(frozen=True, slots=True)
class Packed:
    """The block, (offset, size) in it by buffer, and how many of its first bytes are streamed (`packing.Deferred`)."""

    block: np.ndarray
    spans: dict[int, tuple[int, int]]
    streamed: int
    more: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # spans of what no buffer holds, by name


def pack_constants(plan: Plan) -> Packed:
    """Each equal content once. Raises CodegenError for a constant that misfits its buffer.

    Several threads fill in the block, in place: where memory is first touched costs as much as what is written to it.
    """
    checksum = native().checksum
    spans: dict[int, tuple[int, int]] = {}
    end = 0
    held = [i for i, b in enumerate(plan.buffers) if b.kind == "const"]
    for i in sorted(held, key=lambda i: not _streamed(plan, i)):
        b = plan.buffers[i]
        size = int(prod(b.shape)) * b.dtype.itemsize
        spans[i] = end, size
        end += align(size)
    block = aligned(end)

    def fill(i: int) -> int:
        at, size = spans[i]
        data = block[at : at + size]
        _write(i, plan.buffers[i], plan.constants[i], data)
        block[at + size : at + align(size)] = 0
        return int(checksum(address(data), size))

    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        sums = dict(zip(spans, pool.map(fill, spans), strict=True))
    block, spans = _without_twins(block, spans, sums)
    first = max((spans[i][0] + align(spans[i][1]) for i in held if _streamed(plan, i)), default=0)
    return Packed(block, spans, first)


def _streamed(plan: Plan, i: int) -> bool:
    source = plan.constants[i]
    return isinstance(source, Deferred) and source.streamed


def behind(base: np.ndarray, spans: Iterable[tuple[int, int]], packed: Packed) -> Packed:
    """The base block with another block's contents behind it, those left out that the base has; (offset, size) are its spans."""
    checksum = native().checksum
    block, wanted = packed.block, packed.spans
    places = {(size, int(checksum(address(base[at : at + size]), size))): at for at, size in spans if size}
    found: dict[tuple[int, int], int] = {}
    more: list[tuple[int, int]] = []
    end = len(base)
    for at, size in dict.fromkeys([*wanted.values(), *packed.more.values()]):
        data = block[at : at + size]
        twin = places.get((size, int(checksum(address(data), size)))) if size else 0
        if twin is None or not np.array_equal(base[twin : twin + size], data):
            more.append((at, size))
            twin, end = end, end + align(size)
        found[at, size] = twin
    joined = aligned(end)
    joined[: len(base)] = base
    for at, size in more:
        to = found[at, size]
        joined[to : to + size] = block[at : at + size]
        joined[to + size : to + align(size)] = 0
    moved = {i: (found[span], span[1]) for i, span in wanted.items()}
    return Packed(joined, moved, 0, {name: (found[span], span[1]) for name, span in packed.more.items()})


def also(packed: Packed, arrays: Mapping[str, np.ndarray]) -> Packed:
    """The block with arrays behind it that no buffer holds."""
    spans: dict[str, tuple[int, int]] = {}
    end = len(packed.block)
    for name, a in arrays.items():
        spans[name] = end, a.nbytes
        end += align(a.nbytes)
    block = aligned(end)
    block[:] = 0
    block[: len(packed.block)] = packed.block
    for name, (at, size) in spans.items():
        block[at : at + size] = np.frombuffer(arrays[name].tobytes(), np.uint8)
    return Packed(block, packed.spans, packed.streamed, spans)


def _write(i: int, buffer: Buffer, source: object, data: np.ndarray) -> None:
    array = source if isinstance(source, Deferred) else np.asarray(source)
    expected = prod(buffer.shape)
    if array.dtype != buffer.dtype.np or array.size != expected:
        raise CodegenError(f"constant {i} is {array.dtype}[{array.size}]", expected=f"{buffer.dtype.np}[{expected}]")
    out = data.view(array.dtype)
    if isinstance(array, Deferred):
        array.write(out)
    else:
        out[:] = array.reshape(-1)


def _without_twins(
    block: np.ndarray, spans: dict[int, tuple[int, int]], sums: dict[int, int]
) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """The block with what is there twice left out, and the rest moved up."""
    places: dict[tuple[int, int], list[int]] = {}  # by size and checksum
    found: dict[int, tuple[int, int]] = {}
    end = 0
    for i, (at, size) in spans.items():
        twins = places.setdefault((size, sums[i]), [])
        data = block[at : at + align(size)]
        twin = next((other for other in twins if np.array_equal(block[other : other + align(size)], data)), None)
        if twin is None:
            twins.append(end)
            if end != at:
                block[end : end + len(data)] = data  # to the left: NumPy minds the overlap
            twin, end = end, end + len(data)
        found[i] = twin, size
    return block[:end], found
