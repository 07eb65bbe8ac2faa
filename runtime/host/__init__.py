"""Functions that run in Python at a yield: `prepared(name, attributes)(*operands)` gives a result or a tuple of them.

Tensors come as arrays, views of the program's memory: what is kept of them has to be copied. Tensors of strings are `Texts`
for functions named in `TEXT_CALLS`, object arrays of str for others; sequences are lists, an empty optional is None, maps are
dicts. A result is an array (or a number) of the declared element type, or one of those. What `FAILURES` lists becomes an InputError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ...errors import ArtifactError, InputError
from .images import IMAGE_CALLS
from .maps import MAP_CALLS
from .sequences import SEQUENCE_CALLS
from .strings import ARRAY_CALLS, STRING_CALLS
from .text import TEXT_CLASSES, Chain

CALLS: dict[str, Callable[..., Any]] = {**ARRAY_CALLS, **IMAGE_CALLS, **MAP_CALLS, **SEQUENCE_CALLS, **STRING_CALLS}

TEXT_CALLS = frozenset({*STRING_CALLS, *TEXT_CLASSES, "chain"})
FAILURES = (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, AttributeError)


class HostCall(Protocol):
    """Of a handler, or of a prologue: a function by name, its keyword arguments, its results, and the ONNX nodes it stands for."""

    @property
    def call(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def writes(self) -> Sequence[Any]: ...
    @property
    def loc(self) -> str: ...


def results_of(k: int, of: HostCall, functions: dict[int, Callable[..., Any]], operands: Sequence[Any]) -> tuple[Any, ...]:
    """What call number `k` gives; `functions` keeps what was prepared. Raises InputError for operands that it is not defined for."""
    try:
        function = functions.get(k)
        if function is None:
            function = functions[k] = prepared(of.call, of.attributes)
        got = function(*operands)
    except FAILURES as e:
        raise InputError(f"{of.call}: {e}", expected="operands that it is defined for", loc=of.loc) from e
    results = got if isinstance(got, tuple) else (got,)
    if len(results) < len(of.writes):
        raise ArtifactError(f"{of.call} gives {len(results)} results", expected=str(len(of.writes)))
    return results


def prepared(call: str, attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """The function of a name with its keyword arguments. Raises ArtifactError when there is none, ValueError and so on for odd ones."""
    if call == "chain":
        return Chain([prepared(name, of) for name, of in attributes["steps"]])
    if call in TEXT_CLASSES:
        return TEXT_CLASSES[call](**attributes)
    if call not in CALLS:
        known = ", ".join(sorted({*CALLS, *TEXT_CLASSES, "chain"}))
        raise ArtifactError(f"host function {call[:40]!r}", expected=f"one of {known}")
    return partial(CALLS[call], **attributes)
