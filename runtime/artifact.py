"""`.mlc` files: an uncompressed zip of manifest.json, code.bin and weights.bin; the same parts in memory make a module too.

- Deterministic: fixed order, times and attributes.
- weights.bin starts at a page boundary of the file, so it is memory-mapped and shared between processes.
- The archive comment holds the SHA-256 of the manifest; the manifest holds that of the code, and a 64-bit
  checksum (native.ll) of every 4 MiB of the weights. All are verified on load: a cryptographic digest of the weights
  would protect no better, as whoever can change them can change the manifest, and takes 50 ms and more for 100 MB where
  the checksum takes 10. `verify=False` skips the weights, for files larger than what should be read at start.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import struct
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArtifactError
from . import objects
from .address import address
from .files import write_whole
from .manifest import Manifest, check_format, parse
from .native import native

NAMES = ("manifest.json", "code.bin", "weights.bin")
CHUNK = 4 << 20
PAGE = 4096
_COMMENT = b"mlc sha256 "
_HEADER = 30  # bytes of a zip local file header before the name


@dataclass(frozen=True)
class Parts:
    """What a module is made of. `code` is as `objects.join` makes it; `weights` is a flat uint8 array, 64-byte aligned;
    `streamed` a copy of its first bytes to read them from, if there is one."""

    manifest: Manifest
    code: bytes
    weights: np.ndarray
    streamed: np.ndarray | None = None


def make(manifest: dict[str, Any], code: bytes, weights: np.ndarray) -> Parts:
    """Parts from a manifest without digests (they are added) and the bytes that it describes."""
    raw = {
        **manifest,
        "digests": {"code": hashlib.sha256(code).hexdigest(), "chunk": CHUNK, "weights": _checksums(weights)},
    }
    return Parts(parse(raw, objects.count(code), weights.nbytes), code, weights)


def aligned(size: int) -> np.ndarray:
    """Uninitialised bytes at a 64-byte boundary."""
    block = np.empty(size + 64, np.uint8)
    skip = -address(block) % 64
    return block[skip : skip + size]


def aligned_array(shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
    """An uninitialised array of `size` bytes at a 64-byte boundary, where NumPy's lie at multiples of 16.

    Vectors of 64 bytes that are stored across two lines of the cache take twice as long.
    """
    block = np.empty(size + 64, np.uint8)
    return np.ndarray(shape, dtype, block, -address(block) % 64)


def save(parts: Parts, path: str | os.PathLike[str]) -> None:
    """Write atomically: a reader sees the old file or the new one. Raises ArtifactError, leaving no partial file."""
    write_whole(path, lambda f: _write(parts, f))


def to_bytes(parts: Parts) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    _write(parts, buffer)
    return buffer.getvalue()


def load(source: str | os.PathLike[str] | bytes, *, verify: bool = True) -> Parts:
    """Read, check and map a file (or its bytes). Raises ArtifactError."""
    loc = "" if isinstance(source, bytes) else str(source)
    try:
        if isinstance(source, bytes):
            return _parts(memoryview(source), verify, None)
        if not isinstance(source, (str, os.PathLike)):
            raise ArtifactError(f"a {type(source).__name__}", expected="a path, or the bytes of a module")
        with open(source, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise ArtifactError("an empty file")
            pages = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            return _parts(memoryview(pages), verify, f.fileno())
    except OSError as e:
        raise ArtifactError(f"cannot read: {e.strerror or e}", loc=loc) from None
    except ArtifactError as e:
        if loc and not e.loc:
            raise ArtifactError(e.found, expected=e.expected, remedy=e.remedy or "Compile the model again.", loc=loc) from None
        raise


def _write(parts: Parts, f: Any) -> None:
    manifest = json.dumps(parts.manifest.raw, sort_keys=True, separators=(",", ":")).encode()
    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
        members = (memoryview(manifest), memoryview(parts.code), parts.weights.data)
        for name, data in zip(NAMES, members, strict=True):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            size = len(data)
            zip64 = size >= 1 << 31
            if name == NAMES[2]:
                # an extra field (id 0xffff, unused) that fills up to the page; zipfile puts zip64's own 20 bytes first
                start = z.start_dir + _HEADER + len(name) + (20 if zip64 else 0) + 4
                pad = -start % PAGE
                info.extra = struct.pack("<HH", 0xFFFF, pad) + bytes(pad)
            info.file_size = size
            with z.open(info, "w", force_zip64=zip64) as member:
                for at in range(0, size, CHUNK):
                    member.write(data[at : at + CHUNK])
        z.comment = _COMMENT + hashlib.sha256(manifest).hexdigest().encode()


def _parts(view: memoryview, verify: bool, file: int | None) -> Parts:
    spans, comment = _members(view)
    manifest_bytes, code = (bytes(view[at : at + size]) for at, size in spans[:2])
    if comment != _COMMENT + hashlib.sha256(manifest_bytes).hexdigest().encode():
        raise ArtifactError("the manifest does not match its digest")
    try:
        raw = json.loads(manifest_bytes)
    except (ValueError, RecursionError):
        raise ArtifactError("the manifest is no JSON") from None
    check_format(raw)
    at, size = spans[2]
    weights: np.ndarray = np.frombuffer(view, np.uint8, size, at) if size else np.empty(0, np.uint8)
    digests = _digests(raw, code)
    manifest = parse(raw, objects.count(code), size)
    streamed = None if file is None else _streamed(file, at, manifest.streamed)
    if verify and digests.get("weights") != _checksums(weights, streamed):
        raise ArtifactError("the weights do not match their digests")
    if size and address(weights) % 64:
        copy = aligned(size)
        copy[:] = weights
        weights = copy
    return Parts(manifest, code, weights, streamed)


def _streamed(file: int, at: int, size: int) -> np.ndarray | None:
    """A copy of what runs stream, in memory of large pages: a file's own pages are small, and finding 100 MB of them takes a
    fifth of the time of a run that does little else. NumPy asks for large pages itself, from 4 MB on. It is read, not copied
    from the mapping, which would have to find those pages.
    """
    if size < CHUNK:
        return None
    copy = aligned(size)

    def fill(i: int) -> None:
        done, end = i * CHUNK, min((i + 1) * CHUNK, size)
        while done < end:
            count = os.preadv(file, [copy[done:end].data], at + done)
            if count == 0:
                return  # the file became shorter meanwhile: its checksums tell
            done += count

    _in_chunks(size, fill)
    return copy


def _members(view: memoryview) -> tuple[list[tuple[int, int]], bytes]:
    """(offset, size) of each member's bytes, and the archive comment."""
    try:
        with zipfile.ZipFile(_Reader(view)) as z:
            infos, comment = z.infolist(), z.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, EOFError, OSError) as e:
        raise ArtifactError(f"no mlc file, or a truncated one ({str(e)[:80]})") from None
    if tuple(i.filename for i in infos) != NAMES:
        raise ArtifactError("no mlc file: other members than expected", expected=", ".join(NAMES))
    spans = []
    for i in infos:
        head = view[i.header_offset : i.header_offset + _HEADER]
        if i.header_offset < 0 or len(head) < _HEADER or head[:4] != b"PK\x03\x04" or i.compress_type != zipfile.ZIP_STORED:
            raise ArtifactError(f"bad header of {i.filename}")
        name, extra = struct.unpack("<HH", head[26:30])
        start = i.header_offset + _HEADER + name + extra
        if i.file_size != i.compress_size or i.file_size < 0 or start + i.file_size > len(view):
            raise ArtifactError(
                f"{i.filename} reaches beyond the end of the file", remedy="The file is truncated: copy or compile it again."
            )
        spans.append((start, i.file_size))
    return spans, comment


def _digests(raw: dict[str, Any], code: bytes) -> dict[str, Any]:
    digests = raw.get("digests")
    if not isinstance(digests, dict) or digests.get("chunk") != CHUNK:
        raise ArtifactError("the manifest has no digests")
    if digests.get("code") != hashlib.sha256(code).hexdigest():
        raise ArtifactError("the code does not match its digest")
    return digests


def _checksums(weights: np.ndarray, streamed: np.ndarray | None = None) -> list[int]:
    """Of every chunk; `streamed`, if there is one, has the first bytes."""
    checksum, size, copied = native().checksum, weights.nbytes, 0 if streamed is None else streamed.nbytes
    out = [0] * -(-size // CHUNK)

    def check(i: int) -> None:
        start, end = i * CHUNK, min((i + 1) * CHUNK, size)
        held = weights if streamed is None or end > copied else streamed
        out[i] = checksum(address(held) + start, end - start)

    _in_chunks(size, check)
    return out


def _in_chunks(size: int, work: Callable[[int], None]) -> None:
    """Calls `work` with the number of every chunk, from several threads: it releases the GIL."""
    count = -(-size // CHUNK)
    workers = max(1, min(count // 2, len(os.sched_getaffinity(0)), 8))

    def some(first: int) -> None:
        for i in range(first, count, workers):
            work(i)

    threads = [threading.Thread(target=some, args=(i,)) for i in range(1, workers)]
    for t in threads:
        t.start()
    some(0)
    for t in threads:
        t.join()


class _Reader(io.RawIOBase):
    """A seekable file over a buffer, without copying it."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, len(self.view))[whence]
        if self.at < 0:
            self.at = 0
            raise OSError("seek before the start")
        return self.at

    def read(self, size: int | None = -1, /) -> bytes:
        end = len(self.view) if size is None or size < 0 else self.at + size
        data = bytes(self.view[self.at : end])
        self.at += len(data)
        return data
