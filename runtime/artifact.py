"""`.mlc` files: an uncompressed zip of manifest.json, code.bin and weights.bin; the same parts in memory make a module too.

- Deterministic: fixed order, times and attributes.
- weights.bin starts at a page boundary of the file, so it is memory-mapped and shared between processes.
- The archive comment holds a 64-bit checksum (native.ll) of the manifest; the manifest holds that of the code, and of every
  4 MiB of the weights. All are verified on load: cryptographic digests would protect no better, as whoever can change the
  parts can change those as well, and take 50 ms and more for 100 MB where the checksum takes 6. `verify=False` skips the
  weights, for files larger than what should be read at start.
"""

from __future__ import annotations

import io
import itertools
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArtifactError
from . import archive, objects
from .address import address
from .files import write_whole
from .manifest import FORMAT, Manifest, check_format, parse
from .native import native

CHUNK = 4 << 20
_COMMENT = b"mlc checksum "  # and 16 hexadecimal digits
_FORMAT_1 = b"mlc sha256 "


class Parts(NamedTuple):
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
        "digests": {"code": f"{_checksum(code):016x}", "chunk": CHUNK, "weights": Checksums(weights).all()},
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
    with opened(source, verify=verify) as parts:
        return parts


@contextmanager
def opened(source: str | os.PathLike[str] | bytes, *, verify: bool = True) -> Iterator[Parts]:
    """Like `load`, for what can be done while other threads check the weights: at the end it waits for them and may raise."""
    loc = "" if isinstance(source, bytes) else str(source)
    try:
        if isinstance(source, bytes):
            parts, finish = _parts(source, verify, None)
        elif not isinstance(source, (str, os.PathLike)):
            raise ArtifactError(f"a {type(source).__name__}", expected="a path, or the bytes of a module")
        else:
            with open(source, "rb") as f:
                if os.fstat(f.fileno()).st_size == 0:
                    raise ArtifactError("an empty file")
                pages = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
                parts, finish = _parts(pages, verify, f.fileno())
        yield parts
        finish()
    except OSError as e:
        raise ArtifactError(f"cannot read: {e.strerror or e}", loc=loc) from None
    except ArtifactError as e:
        if loc and not e.loc:
            raise ArtifactError(e.found, expected=e.expected, remedy=e.remedy or "Compile the model again.", loc=loc) from None
        raise


def _write(parts: Parts, f: Any) -> None:
    manifest = json.dumps(parts.manifest.raw, sort_keys=True, separators=(",", ":")).encode()
    archive.write(f, (memoryview(manifest), memoryview(parts.code), parts.weights.data), _comment(manifest))


def _comment(manifest: bytes) -> bytes:
    return b"%s%016x" % (_COMMENT, _checksum(manifest))


def _checksum(data: bytes) -> int:
    """Without a sign."""
    held = np.frombuffer(data, np.uint8)
    return int(native().checksum(address(held), held.nbytes)) % 2**64


def _parts(source: bytes | mmap.mmap, verify: bool, file: int | None) -> tuple[Parts, Callable[[], None]]:
    """What a file holds, and what raises ArtifactError unless its weights are what they were."""
    spans, comment = archive.read(source)
    if comment.startswith(_FORMAT_1):
        raise ArtifactError("format 1", expected=f"format {FORMAT}", remedy="Compile the model again.")
    manifest_bytes, code = (source[at : at + size] for at, size in spans[:2])
    if comment != _comment(manifest_bytes):
        raise ArtifactError("the manifest does not match its digest")
    try:
        raw = json.loads(manifest_bytes)
    except (ValueError, RecursionError):
        raise ArtifactError("the manifest is no JSON") from None
    check_format(raw)
    at, size = spans[2]
    weights: np.ndarray = np.frombuffer(source, np.uint8, size, at) if size else np.empty(0, np.uint8)
    if size and address(weights) % 64:
        weights, mapped = aligned(size), weights
        weights[:] = mapped
    copied = raw.get("streamed", 0)
    streamed = _streamed(file, at, copied) if file is not None and type(copied) is int and CHUNK <= copied <= size else None
    digests = _digests(raw, code)
    sums = Checksums(weights, streamed) if verify else None
    manifest = parse(raw, objects.count(code), size)

    def finish() -> None:
        if sums is not None and digests.get("weights") != sums.all():
            raise ArtifactError("the weights do not match their digests")

    return Parts(manifest, code, weights, streamed), finish


def _streamed(file: int, at: int, size: int) -> np.ndarray:
    """A copy of what runs stream, in memory of large pages: a file's own pages are small, and finding 100 MB of them takes a
    fifth of the time of a run that does little else. NumPy asks for large pages itself, from 4 MB on. It is read, not copied
    from the mapping, which would have to find those pages.
    """
    copy = aligned(size)
    chunks = itertools.count()

    def fill() -> None:
        while (done := next(chunks) * CHUNK) < size:  # one step under the GIL: each thread gets another
            end = min(done + CHUNK, size)
            while done < end:
                count = os.preadv(file, [copy[done:end].data], at + done)
                if count == 0:
                    return  # the file became shorter meanwhile: its checksums tell
                done += count

    threads = _start(fill, size)
    fill()
    for t in threads:
        t.join()
    return copy


def _digests(raw: dict[str, Any], code: bytes) -> dict[str, Any]:
    digests = raw.get("digests")
    if not isinstance(digests, dict) or digests.get("chunk") != CHUNK:
        raise ArtifactError("the manifest has no digests")
    if digests.get("code") != f"{_checksum(code):016x}":
        raise ArtifactError("the code does not match its digest")
    return digests


class Checksums:
    """Of every chunk of the weights, computed by other threads until `all` asks for them; `streamed` has the first bytes."""

    def __init__(self, weights: np.ndarray, streamed: np.ndarray | None = None) -> None:
        size = weights.nbytes
        self._sums, self._taken = np.zeros(-(-size // CHUNK), np.int64), np.zeros(2, np.int64)
        copied = 0 if streamed is None else streamed.nbytes // CHUNK  # chunks
        self._spans = [(weights[copied * CHUNK :], self._taken[1:], self._sums[copied:])]
        if streamed is not None:
            self._spans.insert(0, (streamed[: copied * CHUNK], self._taken, self._sums))
        self._threads = _start(self._work, size)

    def all(self) -> list[int]:
        self._work()
        for t in self._threads:
            t.join()
        return self._sums.tolist()

    def _work(self) -> None:
        checksums = native().checksums
        for held, taken, sums in self._spans:
            checksums(address(held), held.nbytes, CHUNK, address(taken), address(sums))


def _start(work: Callable[[], None], size: int) -> list[threading.Thread]:
    """Threads that do a part of the work on so many bytes; the caller does one as well."""
    threads = [threading.Thread(target=work) for _ in range(1, min(size // (2 * CHUNK), len(os.sched_getaffinity(0)), 8))]
    for t in threads:
        t.start()
    return threads
