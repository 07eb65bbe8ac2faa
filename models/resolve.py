"""Model names on the command line: `sample:`, `real:`, `suite:`, `quantized:` or `trained:NAME`, or a path."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import InputError
from .sizes import listed

PREFIXES = ("sample", "real", "suite", "quantized", "trained")


def resolve(name: str) -> Path:
    """The file that a model name stands for.

    Raises:
        InputError: an unknown name (all known ones are listed), or a file that is not there.
    """
    prefix, colon, rest = name.partition(":")
    if not colon or prefix not in PREFIXES:
        path = Path(name)
        try:
            kind = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"no such file: {name}",
                expected="a path, - for standard input, or sample:NAME, real:NAME, suite:NAME, quantized:NAME, trained:NAME",
            ) from None
        except (OSError, ValueError) as e:  # a name too long, a folder that may not be searched; NUL in the name
            raise InputError(f"cannot be read: {e.strerror if isinstance(e, OSError) else e}", loc=name) from None
        if stat.S_ISDIR(kind):
            raise InputError(f"{name} is a folder", expected="an .onnx or .mlc file")
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise InputError(f"{name} is a device", expected="an .onnx or .mlc file")
        return path
    from . import quantized, real, samples, suite, trained  # what makes models needs onnx, a path does not

    match prefix:
        case "sample":
            return samples.path_of(rest)
        case "real":
            path, command = real.path_of(rest), f"fetch {rest}"
        case "quantized":
            path, command = quantized.path_of(rest), f"export {name}"
        case "trained":
            path, command = trained.path_of(rest), f"export {name}"
        case _:
            path, command = suite.path_of(rest), f"export {rest}"
    if not path.is_file():
        raise InputError(f"{name} is not here yet", remedy=f"Bring it with: python -m mlc.models {command}")
    return path


def default_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Input sizes that a model's recipe lists; empty for others, whose symbolic dims get default sizes."""
    prefix, colon, rest = name.partition(":")
    return listed(rest) if colon and prefix == "real" else {}
