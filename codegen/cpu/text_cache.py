"""Kernel text on disk, by what it is made from: building it in Python takes longer than reading it, and LLVM's part is cached too.

The key holds the emitters' own source, so that a change of theirs is a change of every key.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

import llvmlite

from ...environment import switch
from ..disk_cache import cache_dir, read_checked, write_checked
from .emitted import Emitted


def cached_text(fingerprint: Hashable, make: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """`make()`, (text, symbol), or what it gave before for an equal fingerprint. `MLC_NO_CACHE=1` turns the cache off."""
    key = None if switch("MLC_NO_CACHE") else stable(fingerprint)
    if key is None:
        return make()
    name = hashlib.sha256(f"{key}\0{_sources()}\0{llvmlite.__version__}".encode()).hexdigest()
    path = cache_dir() / name[:2] / f"{name}.ll"
    found = read_checked(path)
    if found is not None:
        symbol, _, text = found.decode().partition("\n")
        return text, symbol
    text, symbol = make()
    write_checked(path, f"{symbol}\n{text}".encode())
    return text, symbol


class Text(ABC):
    """What writes a text. Those of one family and fingerprint write the same, so that it is written once."""

    family: ClassVar[str]

    @abstractmethod
    def fingerprint(self) -> Hashable:
        """Everything that the text depends on: what the schedule fixes, but no sizes."""

    @abstractmethod
    def text(self) -> tuple[str, str]:
        """(text, symbol). Layers of other sizes have the same text, and building it takes milliseconds."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and self.family == other.family and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash((self.family, self.fingerprint()))


class TextEmitter(Text):
    """What writes the text of a kernel."""

    @abstractmethod
    def described(self, text: str, symbol: str) -> Emitted:
        """The text with what a caller has to know of it: sizes, units and costs of this kernel."""

    def emit(self) -> Emitted:
        return self.described(*text_of(self))


@functools.lru_cache(maxsize=1024)
def text_of(writer: Text) -> tuple[str, str]:
    """`writer.text()`, from this process or the disk where an equal one has written it."""
    return cached_text((writer.family, writer.fingerprint()), writer.text)


def stable(value: object) -> str | None:
    """A text that is equal for equal values in every process; None for values of which that is not known."""
    try:
        return _stable(value)
    except TypeError:
        return None


def _stable(value: object) -> str:
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({','.join(map(_stable, value))})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(_stable, value)))}}}"
    if is_dataclass(value):
        return f"{type(value).__qualname__}({','.join(_stable(getattr(value, f.name)) for f in fields(value))})"
    raise TypeError(type(value))


@functools.cache
def _sources() -> str:
    """A digest of all that emits code and describes kernels."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for folder in ("codegen", "ir"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
