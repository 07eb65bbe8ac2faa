"""Functions that run in Python at a yield: `prepared(name, attributes)(*operands)` gives a result or a tuple of them.

Tensors come as arrays, views of the program's memory: what is kept of them has to be copied. Tensors of strings are `Texts`
for functions named in `TEXT_CALLS`, object arrays of str for others; sequences are lists, an empty optional is None, maps are
dicts. A result is an array (or a number) of the declared element type, or one of those. What `FAILURES` lists becomes an InputError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...errors import ArtifactError
from .images import IMAGE_CALLS
from .maps import MAP_CALLS
from .sequences import SEQUENCE_CALLS
from .strings import ARRAY_CALLS, STRING_CALLS
from .text import TEXT_CLASSES, Chain

CALLS: dict[str, Callable[..., Any]] = {**ARRAY_CALLS, **IMAGE_CALLS, **MAP_CALLS, **SEQUENCE_CALLS, **STRING_CALLS}

TEXT_CALLS = frozenset({*STRING_CALLS, *TEXT_CLASSES, "chain"})
FAILURES = (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, AttributeError)


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
