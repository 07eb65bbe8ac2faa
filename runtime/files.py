"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from ..errors import ArtifactError


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Calls `write` with a file beside `path`, then renames it: a reader sees the old file or the new one.

    A device or pipe is written to, and a symbolic link followed. Raises ArtifactError, leaving no partial file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArtifactError(f"a {type(path).__name__}", expected="a path")
    temporary: str | None = None
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(0, "it is a folder")
        if mode and not stat.S_ISREG(mode):
            whole = io.BytesIO()  # archives go back and forth in their files
            write(whole)
            with open(path, "wb") as f:  # the path as given: where /dev/stdout is a pipe, that has no path of its own
                f.write(whole.getbuffer())
            return
        target = os.path.realpath(path)
        temporary = os.path.join(os.path.dirname(target), f".mlc-{os.urandom(8).hex()}")
        with open(temporary, "xb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
        temporary = None
    except (OSError, ValueError) as e:  # ValueError: NUL in the name; a second failure of zipfile, while it closes
        cause = e if isinstance(e, OSError) or not isinstance(e.__context__, OSError) else e.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise ArtifactError(f"cannot be written: {reason}", loc=str(path), remedy="Nothing was left behind.") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _mode(path: str | os.PathLike[str]) -> int:
    """0 for what does not exist."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0
