"""The zip archives that `.mlc` files are: three uncompressed members, the last one at a page boundary, and a comment."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError

NAMES = ("manifest.json", "code.bin", "weights.bin")
PAGE = 4096
_BLOCK = 4 << 20  # bytes written at once
_SIGNATURE = b"PK\x03\x04"  # of a member's header
_HEADER = 30  # bytes of a member's header before its name


def write(f: Any, members: Sequence[memoryview], comment: bytes) -> None:
    """Write the members, named `NAMES`, to a file. The same bytes give the same file."""
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
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as z:  # type: ignore[arg-type]  # a file, too
            infos, comment = z.infolist(), z.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, EOFError, OSError) as e:
        remedy = "" if bytes(source[:4]) == _SIGNATURE else "Of an ONNX model, `mlc compile` (mlc.compile) makes one."
        raise ArtifactError(f"no mlc file, or a truncated one ({str(e)[:80]})", remedy=remedy) from None
    if tuple(i.filename for i in infos) != NAMES:
        raise ArtifactError("no mlc file: other members than expected", expected=", ".join(NAMES))
    return [_span(source, i) for i in infos], comment


def is_module(head: bytes) -> bool:
    """Whether a file that begins with these bytes (64 are enough) is a `.mlc` file, as `write` makes it."""
    return head.startswith(_SIGNATURE) and head.startswith(NAMES[0].encode(), _HEADER)


def _span(source: bytes | mmap.mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member are: behind its header, which has a name and extra fields of its own."""
    at = member.header_offset
    head = source[at : at + _HEADER] if at >= 0 else b""
    if len(head) < _HEADER or head[:4] != _SIGNATURE or member.compress_type != zipfile.ZIP_STORED:
        raise ArtifactError(f"bad header of {member.filename}")
    start = at + _HEADER + sum(struct.unpack("<HH", head[26:30]))
    if member.file_size != member.compress_size or not 0 <= member.file_size <= len(source) - start:
        raise ArtifactError(
            f"{member.filename} reaches beyond the end of the file", remedy="The file is truncated: copy or compile it again."
        )
    return start, member.file_size
