"""The zip archives that `.mlc` files are: three uncompressed members, the last one at a page boundary, and a comment.

zipfile writes them, and any tool opens them. They are read by the headers of their members alone, which follow each other: importing
zipfile takes as long as all else that loading a small module does. Field offsets are those of PKWARE's APPNOTE, sections 4.3.7 and 4.3.16.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError

NAMES = ("manifest.json", "code.bin", "weights.bin")
PAGE = 4096
_BLOCK = 4 << 20  # bytes written at once
_SIGNATURE = b"PK\x03\x04"  # of a member's header
_HEADER = 30  # bytes of a member's header before its name
_END = b"PK\x05\x06"  # signature of the record before the comment
_END_SIZE = 22  # bytes of that record, of which the last two are the comment's length
_LONGEST_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF  # a size that is in the extra field 1 instead, as 64 bits


def write(f: Any, members: Sequence[memoryview], comment: bytes) -> None:
    """Write the members, named `NAMES`, to a file. The same bytes give the same file."""
    import zipfile  # only where files are written: loading is to be quick

    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
        for name, data in zip(NAMES, members, strict=True):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            size = len(data)
            zip64 = size >= 1 << 31
            if name == NAMES[-1]:
                # an extra field (id 0xffff, unused) that fills up to the page; zipfile puts zip64's own 20 bytes first
                start = z.start_dir + _HEADER + len(name) + (20 if zip64 else 0) + 4
                pad = -start % PAGE
                info.extra = struct.pack("<HH", 0xFFFF, pad) + bytes(pad)
            info.file_size = size
            with z.open(info, "w", force_zip64=zip64) as member:
                for at in range(0, size, _BLOCK):
                    member.write(data[at : at + _BLOCK])
        z.comment = comment


def read(source: bytes | mmap.mmap) -> tuple[list[tuple[int, int]], bytes]:
    """(offset, size) of each member's bytes, and the comment. Raises ArtifactError."""
    end = source.rfind(_END, max(0, len(source) - _END_SIZE - _LONGEST_COMMENT))
    record, comment = (source[end : end + _END_SIZE], source[end + _END_SIZE :]) if end >= 0 else (b"", b"")
    if len(record) < _END_SIZE or int.from_bytes(record[-2:], "little") != len(comment):
        remedy = "" if source[:4] == _SIGNATURE else "Of an ONNX model, `mlc compile` (mlc.compile) makes one."
        raise ArtifactError("no mlc file, or a truncated one (its last record is missing)", remedy=remedy)
    spans = []
    at = 0
    for name in NAMES:
        start, size = _span(source, at, end, name.encode())
        spans.append((start, size))
        at = start + size
    return spans, comment


def is_module(head: bytes) -> bool:
    """Whether a file that begins with these bytes (64 are enough) is a `.mlc` file, as `write` makes it."""
    return head.startswith(_SIGNATURE) and head.startswith(NAMES[0].encode(), _HEADER)


def _span(source: bytes | mmap.mmap, at: int, end: int, name: bytes) -> tuple[int, int]:
    """(offset, size) of the bytes of the member whose header is at `at`, before `end`. Raises ArtifactError."""
    head = source[at : at + _HEADER + len(name)]
    if len(head) < _HEADER + len(name) or head[:4] != _SIGNATURE or head[_HEADER:] != name:
        raise ArtifactError("no mlc file: other members than expected", expected=", ".join(NAMES))
    _, _, method, _, _, _, packed, size, name_size, extra_size = struct.unpack("<HHHHHIIIHH", head[4:_HEADER])
    start = at + _HEADER + name_size + extra_size
    if size == packed == _IN_ZIP64:
        size, packed = _zip64(source[start - extra_size : start])
    if method or name_size != len(name) or size != packed:
        raise ArtifactError(f"bad header of {name.decode()}")
    if size > end - start:
        raise ArtifactError(
            f"{name.decode()} reaches beyond the end of the file", remedy="The file is truncated: copy or compile it again."
        )
    return start, size


def _zip64(extra: bytes) -> tuple[int, int]:
    """The sizes, as they are and as stored, in the extra field that has them; (0, 1), which nothing has, without such a field."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == 1 and size == 16 and len(extra) >= 20:
            return struct.unpack("<QQ", extra[4:20])
        extra = extra[4 + size :]
    return 0, 1
