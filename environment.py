"""What the user's environment says: switches, and the folder of caches. Like `errors`, a leaf that all sub-packages may import.

README.md has the table of variables.
"""

from __future__ import annotations

import os

from .errors import InputError

_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def switch(name: str) -> bool:
    """Whether a variable is on; off when it is not set. Raises InputError for what is neither."""
    value = os.environ.get(name, "").strip().lower()
    if value not in (*_ON, *_OFF):
        raise InputError(f"{name}={value[:40]}", expected="1 or 0", loc="environment")
    return value in _ON


def cache_dir() -> str:
    """The folder of files that may be deleted any time. Relative, and then neither read nor written, if the user has none.

    Relative paths count as none in XDG_CACHE_HOME, as its specification says, and as the home of a user who has none.
    """
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(xdg if os.path.isabs(xdg) else os.path.join(os.path.expanduser("~"), ".cache"), "mlc")
