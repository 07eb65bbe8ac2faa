"""Where fetched and exported models are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..environment import cache_dir
from ..errors import InputError


def models_dir() -> Path:
    """The folder of fetched and exported models: `MLC_MODELS_DIR`, else `mlc/models` in the user's cache folder.

    Raises InputError for a user who has neither.
    """
    given = os.environ.get("MLC_MODELS_DIR")
    if given:
        return Path(given)
    folder = Path(cache_dir()) / "models"
    if not folder.is_absolute():
        raise InputError("no folder for models: the user has no home", remedy="Set MLC_MODELS_DIR.", loc="environment")
    return folder


def real_dir() -> Path:
    """The folder of fetched real models."""
    return models_dir() / "real"


def suite_dir() -> Path:
    """The folder of the exported benchmark suite."""
    return models_dir() / "suite"


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which becomes `path` at the end; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
