"""Files in the user's cache folder that carry their own digest: what was compiled once need not be compiled again."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_MAGIC = b"mlcobj1\n"


@functools.cache
def _default_cache_dir(xdg: str, home: str) -> Path:
    """Relative paths count as none: in XDG_CACHE_HOME, as its specification says, and as the home of a user who has none."""
    return Path(xdg if os.path.isabs(xdg) else os.path.join(home, ".cache")) / "mlc"


def cache_dir() -> Path:
    """The user's cache folder: what is in it may be deleted any time. Relative, and then neither read nor written, if there is none."""
    return _default_cache_dir(os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~"))


def read_checked(path: Path) -> bytes | None:
    """What `write_checked` wrote; None when the file is absent or damaged."""
    if not path.is_absolute():
        return None
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    data = raw[head:]
    return data if raw[: len(_MAGIC)] == _MAGIC and hashlib.sha256(data).digest() == raw[len(_MAGIC) : head] else None


def write_checked(path: Path, data: bytes) -> None:
    """Atomic; a cache that cannot be written (read-only home, full disk) costs time, not correctness."""
    if not path.is_absolute():
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
