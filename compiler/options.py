"""Every knob of a compilation, in one typed value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .precision.options import FLOAT32, Precision


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    Attributes:
        target: "cpu" (this machine), or "cpu:NAME" with an LLVM CPU name such as x86-64-v3 or znver4.
        shapes: sizes that replace symbolic dims, by input name.
        threads: threads that `run` may use; the module's default when None.
        opt_level: 0 (only what lowering needs) to 3.
        exact: sum convolutions directly. Otherwise, above level 0, minimal filtering replaces the sum where it is faster; a
            float32 convolution then has a relative L2 error of about 1e-6 instead of 2e-7.
        precision: of matrix products and convolutions.
        dump: a folder to write every stage to.
    """

    target: str = "cpu"
    shapes: Mapping[str, Sequence[int]] | None = None
    threads: int | None = None
    opt_level: int = 3
    exact: bool = False
    precision: Precision = FLOAT32
    dump: str | os.PathLike[str] | None = None
