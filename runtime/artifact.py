"""`.mlc` files: an uncompressed zip of manifest.json, code.bin and weights.bin; the same parts in memory make a module too.

- Deterministic: fixed order, times and attributes.
- weights.bin starts at a page boundary of the file, so it is memory-mapped and shared between processes.
- The archive comment holds a 64-bit checksum (native.ll) of the manifest; the manifest holds that of the code, and of every
  4 MiB of the weights. Cryptographic digests would protect no better, as whoever can change the parts can change those as well,
  and take 50 ms and more for 100 MB where the checksum takes 6.
- Manifest and code are verified before anything is made of them. Weights, unless they are few, are verified by other threads;
  `Parts.ready` waits for these, and comes before anything computes with the weights. `verify=False` skips the weights, for
  files larger than what should be read at start.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import ArtifactError
from . import archive, objects
from .address import address, aligned
from .files import write_whole
from .manifest import FORMAT, Manifest, check_format, parse
from .weights import CHUNK, Arrival, checksum, checksums

_FEW = 2 * CHUNK  # bytes of weights that are checked at once: half a millisecond
_COMMENT = b"mlc checksum "  # and 16 hexadecimal digits
_FORMAT_1 = b"mlc sha256 "


class Parts(NamedTuple):
    """What a module is made of. `code` is as `objects.join` makes it; `weights` is a flat uint8 array, 64-byte aligned; `arrival`
    what is still done about them."""

    manifest: Manifest
    code: bytes
    weights: np.ndarray
    arrival: Arrival | None = None

    @property
    def streamed(self) -> np.ndarray | None:
        """A copy of the first bytes of the weights to read them from, if there is one."""
        return None if self.arrival is None else self.arrival.copy

    def ready(self) -> None:
        """Wait until the weights are all there, and checked. Raises ArtifactError, each time, if they are not what was saved."""
        if self.arrival is not None:
            self.arrival.wait()


def make(manifest: dict[str, Any], code: bytes, weights: np.ndarray) -> Parts:
    """Parts from a manifest without digests (they are added) and the bytes that it describes."""
    raw = {
        **manifest,
        "digests": {"code": f"{checksum(code):016x}", "chunk": CHUNK, "weights": checksums(weights)},
    }
    return Parts(parse(raw, objects.count(code), weights.nbytes), code, weights)


def amend(parts: Parts, more: Mapping[str, Any]) -> Parts:
    """The same code and weights, whose digests stay, and more in the manifest."""
    return Parts(parse({**parts.manifest.raw, **more}, objects.count(parts.code), parts.weights.nbytes), parts.code, parts.weights)


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
        parts.ready()
        return parts


@contextmanager
def opened(source: str | os.PathLike[str] | bytes, *, verify: bool = True) -> Iterator[Parts]:
    """Like `load`, but large weights are checked by other threads meanwhile and afterwards: see `Parts.ready`."""
    loc = str(source) if isinstance(source, (str, os.PathLike)) else ""
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    try:
        if isinstance(source, bytes):
            yield _parts(source, verify, loc, None)
        elif not isinstance(source, (str, os.PathLike)):
            raise ArtifactError(f"a {type(source).__name__}", expected="a path, or the bytes of a module")
        else:
            with _open(source) as f:
                about = os.fstat(f.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise ArtifactError("no plain file, which could be mapped", remedy="Give the bytes of the module.")
                if about.st_size == 0:
                    raise ArtifactError("an empty file")
                pages = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
                parts = _parts(pages, verify, loc, f.fileno())
            yield parts
    except OSError as e:
        raise ArtifactError(f"cannot read: {e.strerror or e}", loc=loc) from None
    except ArtifactError as e:
        if loc and not e.loc:
            raise ArtifactError(e.found, expected=e.expected, remedy=e.remedy or "Compile the model again.", loc=loc) from None
        raise


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to read; that of a pipe does not wait for somebody to write to it. Raises OSError."""
    try:
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except ValueError as e:  # a NUL in the name
        raise OSError(0, str(e)) from None


def _write(parts: Parts, f: Any) -> None:
    manifest = json.dumps(parts.manifest.raw, sort_keys=True, separators=(",", ":")).encode()
    archive.write(f, (memoryview(manifest), memoryview(parts.code), parts.weights.data), _comment(manifest))


def _comment(manifest: bytes) -> bytes:
    return b"%s%016x" % (_COMMENT, checksum(manifest))


def _parts(source: bytes | mmap.mmap, verify: bool, loc: str, file: int | None) -> Parts:
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
    expected = _digests(raw, code)
    count = raw.get("streamed", 0)
    copied = count if file is not None and type(count) is int and CHUNK <= count <= size else 0
    arrival = Arrival(weights, expected if verify else None, loc, copied, None if file is None else (file, at))
    parts = Parts(parse(raw, objects.count(code), size), code, weights, arrival)
    if size <= _FEW:
        parts.ready()
    return parts


def _digests(raw: dict[str, Any], code: bytes) -> object:
    """What the manifest says of the weights. Raises ArtifactError unless the code is what it says."""
    digests = raw.get("digests")
    if not isinstance(digests, dict) or digests.get("chunk") != CHUNK:
        raise ArtifactError("the manifest has no digests")
    if digests.get("code") != f"{checksum(code):016x}":
        raise ArtifactError("the code does not match its digest")
    return digests.get("weights", [])
