"""The zip archives that `.mlc` files are: three uncompressed members, the last one at a page boundary, and a comment.

Python's zipfile writes them; they are read here, as its import takes 4 ms and half of loading a small module. Format:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError

NAMES = ("manifest.json", "code.bin", "weights.bin")
PAGE = 4096
_BLOCK = 4 << 20  # bytes written at once
_COMMENT = 200  # the most bytes of a comment
_ALL_ONES = 0xFFFFFFFF  # a number that is in the zip64 field
_ZIP64 = 1
_LOCAL, _CENTRAL, _END, _LOCATOR, _END64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
# After the signatures: of a member's header, of a directory entry, of the end of the directory, of what tells where its
# 64-bit form is, and of that.
_HEADER = struct.Struct("<4sHHHHHIIIHH")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_TAIL = struct.Struct("<4sHHHHIIH")
_WHERE = struct.Struct("<4sIQI")
_TAIL64 = struct.Struct("<4sQHHIIQQQQ")


def write(f: Any, members: Sequence[memoryview], comment: bytes) -> None:
    """Write the members, named `NAMES`, to a file. The same bytes give the same file."""
    import zipfile  # only where it is needed: loading is to be quick

    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
        for name, data in zip(NAMES, members, strict=True):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            size = len(data)
            zip64 = size >= 1 << 31
            if name == NAMES[-1]:
                # an extra field (id 0xffff, unused) that fills up to the page; zipfile puts zip64's own 20 bytes first
                start = z.start_dir + _HEADER.size + len(name) + (20 if zip64 else 0) + 4
                pad = -start % PAGE
                info.extra = struct.pack("<HH", 0xFFFF, pad) + bytes(pad)
            info.file_size = size
            with z.open(info, "w", force_zip64=zip64) as member:
                for at in range(0, size, _BLOCK):
                    member.write(data[at : at + _BLOCK])
        z.comment = comment


def read(view: memoryview) -> tuple[list[tuple[int, int]], bytes]:
    """(offset, size) of each member's bytes, and the comment. Raises ArtifactError."""
    try:
        return _read(view)
    except (ValueError, struct.error) as e:
        raise ArtifactError(f"no mlc file, or a truncated one ({e})") from None


def _read(view: memoryview) -> tuple[list[tuple[int, int]], bytes]:
    last = bytes(view[-_TAIL.size - _COMMENT :])
    end = len(view) - len(last) + last.rfind(_END)
    signature, *_, count, _, at, length = _unpack(_TAIL, view, end)
    if signature != _END or end + _TAIL.size + length != len(view):
        raise ValueError("no end of a zip directory")
    if at == _ALL_ONES:
        signature, _, where, _ = _unpack(_WHERE, view, end - _WHERE.size)
        signature64, *_, count, _, at = _unpack(_TAIL64, view, where)
        if (signature, signature64) != (_LOCATOR, _END64):
            raise ValueError("no end of a zip64 directory")
    if count != len(NAMES):
        raise ArtifactError(f"no mlc file: {count} members", expected=", ".join(NAMES))
    spans = []
    for name in NAMES:
        span, at = _member(view, at, name)
        spans.append(span)
    return spans, bytes(view[end + _TAIL.size :])


def _member(view: memoryview, at: int, name: str) -> tuple[tuple[int, int], int]:
    """Where the bytes of the directory's entry at `at` are, and where the next entry is."""
    signature, _, _, _, method, _, _, _, packed, size, name_size, extra_size, remark, _, _, _, header = _unpack(_ENTRY, view, at)
    at += _ENTRY.size
    if signature != _CENTRAL:
        raise ValueError("no entry of a zip directory")
    if bytes(view[at : at + name_size]) != name.encode():
        raise ArtifactError("no mlc file: other members than expected", expected=", ".join(NAMES))
    extra = view[at + name_size : at + name_size + extra_size]
    size, packed, header = _large((size, packed, header), extra)
    local, *_, local_name, local_extra = _unpack(_HEADER, view, header)
    start = header + _HEADER.size + local_name + local_extra
    if local != _LOCAL or method != 0:
        raise ArtifactError(f"bad header of {name}")
    if size != packed or start + size > len(view):
        raise ArtifactError(f"{name} reaches beyond the end of the file", remedy="The file is truncated: copy or compile it again.")
    return (start, size), at + name_size + extra_size + remark


def _large(numbers: tuple[int, int, int], extra: memoryview) -> tuple[int, ...]:
    """Numbers of an entry, those of all ones taken from the zip64 field of its extra fields, where they are in this order."""
    if _ALL_ONES not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64:
            found = iter(struct.unpack_from(f"<{numbers.count(_ALL_ONES)}Q", extra[at + 4 : at + 4 + length]))
            return tuple(next(found) if n == _ALL_ONES else n for n in numbers)
        at += 4 + length
    raise ValueError("a large member without its size")


def _unpack(form: struct.Struct, view: memoryview, at: int) -> tuple[Any, ...]:
    if not 0 <= at <= len(view) - form.size:
        raise ValueError("a record outside of the file")
    return form.unpack_from(view, at)
