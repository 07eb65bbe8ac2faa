"""code.bin of a CUDA module: per function how it is launched, and its code by architecture.

Its index is part of the code, not of the manifest, so that code is either exactly what the compiler wrote or refused.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import ArtifactError

MAGIC = b"mlccuda2"
MAX_THREADS = 1024
MAX_SHARED = 227 << 10
MAX_ARGUMENTS = 256


@dataclass(frozen=True)
class MapSpec:
    """A tensor map that a kernel takes behind its arguments. Sizes and strides: numbers, or `(i,)` for argument i of the launch.

    Attributes:
        pointer: the argument that is its address.
        itemsize: bytes of an element.
        sizes: innermost first. strides: in bytes, of all but the innermost.
        box: elements of a copy, whose rows of 32, 64 or 128 bytes are swizzled.
    """

    pointer: int
    itemsize: int
    sizes: tuple[Number, ...]
    strides: tuple[Number, ...]
    box: tuple[int, ...]


Number = int | tuple[int]


@dataclass(frozen=True)
class Image:
    """A kernel: threads of a block, dynamic shared memory in bytes, code by architecture ("sm_NN", "compute_NN" for PTX), and
    the tensor maps it takes."""

    threads: int
    shared: int
    code: Mapping[str, bytes]
    maps: tuple[MapSpec, ...] = ()


def join(functions: Sequence[tuple[str, Image]]) -> bytes:
    """One block from (symbol, image) pairs; function i of a program is the i-th."""
    index = [[s, i.threads, i.shared, [[a, len(c)] for a, c in sorted(i.code.items())],
              [[m.pointer, m.itemsize, m.sizes, m.strides, m.box] for m in i.maps]] for s, i in functions]  # fmt: skip
    text = json.dumps(index, separators=(",", ":")).encode()
    blobs = [i.code[a] for _, i in functions for a in sorted(i.code)]
    return b"".join([MAGIC, struct.pack("<Q", len(text)), text, *blobs])


def split(code: bytes) -> list[tuple[str, Image]]:
    """The pairs again. Raises ArtifactError when the block is not what `join` makes."""
    try:
        if code[:8] != MAGIC:
            raise ValueError
        at = 16 + struct.unpack("<Q", code[8:16])[0]
        out = []
        for symbol, threads, shared, entries, maps in json.loads(code[16:at]):
            images: dict[str, bytes] = {}
            for arch, size in entries:
                blob = code[at : at + size]
                binary = arch.startswith("sm_") and blob[:4] == b"\x7fELF"
                known = re.fullmatch(r"(sm|compute)_\d{2,4}a?", arch, re.ASCII)
                if not known or size < 1 or len(blob) != size or binary == arch.startswith("compute_"):
                    raise ValueError
                images[arch] = blob
                at += size
            fits = type(threads) is int and type(shared) is int and 0 < threads <= MAX_THREADS and 0 <= shared <= MAX_SHARED
            if type(symbol) is not str or not re.fullmatch(r"\w{1,80}", symbol) or not images or not fits:
                raise ValueError
            out.append((symbol, Image(threads, shared, images, tuple(_map(*m) for m in maps))))
    except (ValueError, TypeError, struct.error, RecursionError, AttributeError):
        raise ArtifactError("the CUDA code is malformed") from None
    if at != len(code):
        raise ArtifactError("the CUDA code is longer than its index says")
    return out


def _map(pointer: object, itemsize: object, sizes: object, strides: object, box: object) -> MapSpec:
    def numbers(values: object) -> tuple[Number, ...]:
        if not isinstance(values, list):
            raise ValueError
        out: list[Number] = []
        for v in values:
            argument = isinstance(v, list) and len(v) == 1
            n = v[0] if argument else v
            if type(n) is not int or n < 0 or (argument and n >= MAX_ARGUMENTS):
                raise ValueError
            out.append((n,) if argument else n)
        return tuple(out)

    if type(pointer) is not int or not 0 <= pointer < MAX_ARGUMENTS or type(itemsize) is not int or itemsize not in (1, 2, 4):
        raise ValueError
    plain = tuple(n for n in numbers(box) if isinstance(n, int))
    known = MapSpec(pointer, itemsize, numbers(sizes), numbers(strides), plain)
    if not (len(known.sizes) == len(known.strides) + 1 == len(plain) and 2 <= len(plain) <= 4):
        raise ValueError
    if not all(0 < b <= 256 for b in plain) or plain[0] * itemsize not in (32, 64, 128):
        raise ValueError
    return known


def choose(image: Mapping[str, bytes], capability: int) -> str | None:
    """The architecture whose code a device of `capability` (10 · major + minor) runs best, or None.

    Machine code runs on its own major version from its minor version on, that of "sm_NNa" on exactly NN; PTX from NN on.
    """
    best: tuple[int, int, str] | None = None
    for arch in image:
        n = number(arch)
        if arch.endswith("a"):
            runs, rank = n == capability, 3
        elif arch.startswith("sm_"):
            runs, rank = n // 10 == capability // 10 and n <= capability, 2
        else:
            runs, rank = n <= capability, 1
        if runs and (best is None or (rank, n, arch) > best):
            best = rank, n, arch
    return best[2] if best else None


def number(arch: str) -> int:
    """90 of "sm_90a"."""
    return int(re.sub(r"\D", "", arch))
