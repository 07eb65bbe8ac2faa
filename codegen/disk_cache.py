"""Files in the user's cache folder that carry their own digest: what was compiled once need not be compiled again.

They lie in folders by the first two digits of their names. Each folder is kept below its share of the limit by itself, when some of
its files are written: what was read or written longest ago goes first. That needs no counts that processes would have to agree on,
and no locks: a file that another process is reading stays readable, and one that it misses is made anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .. import environment
from ..errors import InputError

_MAGIC = b"mlcobj1\n"
_FOLDERS = 256
_DEFAULT_LIMIT = "1G"
_FRESH = 3600  # seconds in which a file need not be marked as used again
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


_path = functools.cache(Path)


def cache_dir() -> Path:
    """`environment.cache_dir` as a path."""
    return _path(environment.cache_dir())


def read_checked(path: Path) -> bytes | None:
    """What `write_checked` wrote; None when the file is absent or damaged."""
    if not path.is_absolute():
        return None
    try:
        with path.open("rb") as f:
            raw = f.read()
            mark_used(f.fileno())
    except OSError:
        return None
    head = len(_MAGIC) + 32
    data = raw[head:]
    return data if raw[: len(_MAGIC)] == _MAGIC and hashlib.sha256(data).digest() == raw[len(_MAGIC) : head] else None


def mark_used(file: int | Path) -> None:
    """Say that a file, or folder, is used now: others go first."""
    with suppress(OSError):  # another user's, or a file system that is only read; gone meanwhile
        if abs(time.time() - os.stat(file).st_mtime) > _FRESH:
            os.utime(file)


def write_checked(path: Path, data: bytes) -> None:
    """Atomic; a cache that cannot be written (read-only home, full disk) costs time, not correctness.

    Raises InputError when MLC_CACHE_LIMIT is no size.
    """
    most = limit()
    if not path.is_absolute() or not most:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(_MAGIC + hashlib.sha256(data).digest() + data)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C, too
            os.unlink(temporary)
            raise
    _trim_sometimes(path, most)


def move_in(made: Path, path: Path) -> None:
    """Make a finished file, of the same file system, part of the cache under a name that is a digest; it stays there at any limit, for now.

    Raises OSError, and InputError when MLC_CACHE_LIMIT is no size.
    """
    most = limit()
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, path)
    if most:
        _trim_sometimes(path, most)


def _trim_sometimes(path: Path, most: int) -> None:
    if path.name[2:3] in "07":  # one in eight, as names are digests: listing a folder takes as long as writing three files
        trim(path.parent, most // _FOLDERS)


def limit() -> int:
    """Bytes that the cache may hold, by MLC_CACHE_LIMIT in the environment. Raises InputError when that is no size."""
    return _bytes(os.environ.get("MLC_CACHE_LIMIT", "").strip() or _DEFAULT_LIMIT)


@functools.cache
def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:i?B)?", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise InputError(f"MLC_CACHE_LIMIT={text[:40]}", expected="bytes, such as 500M or 2G; 0 keeps nothing", loc="environment")
    return int(found[1]) * _UNITS[found[2].upper()]


class Entry(NamedTuple):
    """A file of the cache."""

    used: float  # when it was read or written, to within an hour
    size: int
    path: str


def entries(folder: Path) -> list[Entry]:
    """Those of one folder; none where it cannot be read. Files that processes left which were killed count, too."""
    found = []
    with suppress(OSError), os.scandir(folder) as files:
        for f in files:
            with suppress(OSError):  # gone meanwhile
                if f.is_file(follow_symlinks=False):
                    about = f.stat(follow_symlinks=False)
                    found.append(Entry(about.st_mtime, about.st_size, f.path))
    return found


def trim(folder: Path, most: int) -> int:
    """Remove what was used longest ago from a folder that holds more than `most` bytes, until an eighth of that is free; the last one
    stays. Returns the bytes removed."""
    found = sorted(entries(folder))
    total = size = sum(e.size for e in found)
    if total <= most:
        return 0
    for entry in found[:-1] if most else found:
        if size <= most - most // 8:
            break
        with suppress(OSError):
            os.unlink(entry.path)
            size -= entry.size
    return total - size


def trim_all(most: int) -> int:
    """All folders, each to its share of `most` bytes. Returns the bytes removed."""
    return sum(trim(folder, most // _FOLDERS) for folder in folders())


def folders() -> Iterator[Path]:
    """Those that hold entries; none if there is no cache."""
    root = cache_dir()
    if root.is_absolute() and root.is_dir():
        yield from (root / name for name in sorted(os.listdir(root)) if re.fullmatch("[0-9a-f]{2}", name))
