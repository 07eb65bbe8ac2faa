"""mlc: compiles ONNX models into native code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import MlcError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .compiler.api import compile
    from .compiler.precision.options import Precision
    from .runtime.loading import load
    from .runtime.module import Module

__all__ = ["MlcError", "Module", "Precision", "__version__", "compile", "load"]

# Lazy, so that `mlc.load` pulls in the runtime only, never the compiler.
_HOMES = {"compile": ".compiler.api", "Precision": ".compiler.precision.options", "load": ".runtime.loading", "Module": ".runtime.module"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
