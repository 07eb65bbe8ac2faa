"""code.bin: the object files of a module and the function each defines.

Its index is part of the code, not of the manifest, so that code is either exactly what the compiler wrote or refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from ..errors import ArtifactError

_MAGIC = b"mlccode1"
_CUDA = b"mlccuda2"  # that of `cuda/images.py`


def join(objects: Sequence[tuple[str, bytes]]) -> bytes:
    """One block from (symbol, object file) pairs; function i of a program is the i-th."""
    index = json.dumps([[symbol, len(blob)] for symbol, blob in objects], separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<Q", len(index)), index, *(blob for _, blob in objects)])


def count(code: bytes) -> int:
    """Functions in the code of a module of any kind. Raises ArtifactError."""
    if code[:8] != _CUDA:
        return len(split(code))
    from .cuda import images  # only where it is needed: loading is to be quick

    return len(images.split(code))


def split(code: bytes) -> list[tuple[str, bytes]]:
    """The pairs again. Raises ArtifactError when the block is not what `join` makes."""
    try:
        if code[:8] != _MAGIC:
            raise ValueError
        at = 16 + struct.unpack("<Q", code[8:16])[0]
        pairs = []
        index = json.loads(code[16:at])
        if type(index) is not list:
            raise ValueError
        for symbol, size in index:
            blob = code[at : at + size]
            if type(symbol) is not str or size < 64 or len(blob) != size or blob[:4] != b"\x7fELF":
                raise ValueError
            pairs.append((symbol, blob))
            at += size
    except (ValueError, TypeError, struct.error, RecursionError):
        raise ArtifactError("the code is malformed") from None
    if at != len(code):
        raise ArtifactError("the code is longer than its index says")
    return pairs
