"""Functions that run in Python at a yield: `CALLS[name](*operands, **attributes)` gives a result or a tuple of them.

Tensors come as arrays, views of the program's memory: what is kept of them has to be copied. Tensors of strings are object
arrays of str; sequences are lists, an empty optional is None, maps are dicts. A result is an array (or a number) of the
declared element type, or one of those. ValueError, TypeError, IndexError, KeyError and OverflowError become an InputError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .images import IMAGE_CALLS
from .maps import MAP_CALLS
from .sequences import SEQUENCE_CALLS
from .strings import STRING_CALLS

CALLS: dict[str, Callable[..., Any]] = {**IMAGE_CALLS, **MAP_CALLS, **SEQUENCE_CALLS, **STRING_CALLS}
