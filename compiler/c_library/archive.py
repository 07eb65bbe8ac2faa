"""Static libraries: object files in one file, with an index of what they define (the `ar` format of System V and GNU)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MAGIC = b"!<arch>\n"
_HEADER = 60


def archive(members: Sequence[tuple[bytes, Sequence[str]]]) -> bytes:
    """A static library of (object file, functions it defines) pairs, the same bytes for the same members."""
    symbols = [(i, s) for i, (_, defined) in enumerate(members) for s in defined]
    names = b"".join(s.encode() + b"\0" for _, s in symbols)
    index = 4 + 4 * len(symbols) + len(names)
    at, offsets = len(_MAGIC) + _HEADER + _even(index), []
    for blob, _ in members:
        offsets.append(at)
        at += _HEADER + _even(len(blob))
    table = struct.pack(f">{1 + len(symbols)}I", len(symbols), *(offsets[i] for i, _ in symbols)) + names
    files = [_member("/", table), *(_member(f"k{i}.o/", blob) for i, (blob, _) in enumerate(members))]
    return _MAGIC + b"".join(files)


def _member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def _even(size: int) -> int:
    return size + size % 2
