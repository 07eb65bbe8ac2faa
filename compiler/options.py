"""Every knob of a compilation, in one typed value."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING

from ..environment import switch
from ..runtime.arguments import flag, is_number, is_whole, require
from .precision.options import FLOAT32, Precision

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    Attributes:
        target: "cpu" (this machine), or "cpu:NAME" with an LLVM CPU name such as x86-64-v3 or znver4; "cuda" (the GPU here), or
            "cuda:ARCH" such as cuda:sm_90a, several by comma, which needs no GPU.
        shapes: sizes that replace symbolic dims, by input name; −1 leaves a dim open.
        constants: values of inputs that never change, by name; the module does not take them.
        overridable: initializers that the model lists as inputs, too, and that a run may give another value: their names; "all" of them,
            from ONNX's IR version 4 on (before, they are constants); "auto", all if they hold at most 1 MiB; "none". They make a second
            program, which only runs that override one of them use.
        threads: threads that `run` may use; the module's default when None.
        opt_level: 0 (only what lowering needs) to 3.
        exact: sum convolutions directly. Otherwise, above level 0, minimal filtering replaces the sum where it is faster; a
            float32 convolution then has a relative L2 error of about 1e-6 instead of 2e-7.
            On GPUs in bf16 or fp16: sums between products stay float32, whose range is larger.
        precision: of matrix products and convolutions.
        tune: seconds to search schedules by measuring kernels here, beyond those on record from earlier searches; 0 uses the
            record only, None the rules only. The result then depends on this machine and on what was measured.
        dump: a folder to write every stage to.
        validate: run every kernel a second time by `codegen/interpret`, and raise VerifyError for the first that differs.
            By default as MLC_VALIDATE in the environment says. Raises InputError when that is neither yes nor no.

    Raises InputError for values that are none of these.
    """

    target: str = "cpu"
    shapes: Mapping[str, Sequence[int]] | None = None
    threads: int | None = None
    opt_level: int = 3
    exact: bool = False
    precision: Precision = FLOAT32
    tune: float | None = None
    dump: str | os.PathLike[str] | None = None
    validate: bool = field(default_factory=lambda: switch("MLC_VALIDATE"))
    constants: Mapping[str, np.ndarray] | None = None
    overridable: str | Collection[str] = "auto"

    def __post_init__(self) -> None:
        require(isinstance(self.target, str), "target", self.target, "a text, such as 'cpu'")
        require(isinstance(self.precision, Precision), "precision", self.precision, "a text, such as 'bf16', or an mlc.Precision")
        require(is_whole(self.opt_level) and self.opt_level in range(4), "opt_level", self.opt_level, "0 to 3")
        flag("exact", self.exact)
        fits = self.tune is None or (is_number(self.tune) and 0 <= self.tune < math.inf)
        require(fits, "tune", self.tune, "seconds from 0, or None")
        fits = self.dump is None or (isinstance(self.dump, (str, os.PathLike)) and str(self.dump) != "")
        require(fits, "dump", self.dump, "the path of a folder")
        require(self.constants is None or isinstance(self.constants, Mapping), "constants", self.constants, "a dict from input to array")
        named = isinstance(self.overridable, Collection) and all(isinstance(name, str) for name in self.overridable)
        fits = self.overridable in ("auto", "all", "none") if isinstance(self.overridable, str) else named
        require(fits, "overridable", self.overridable, "'auto', 'all', 'none' or names of initializers")


def whole_sizes(shapes: Mapping[str, Iterable[int | None]] | None) -> dict[str, tuple[int, ...]] | None:
    """Sizes as `Options` has them, of those that a user gives, with None for a dim that is left open. Raises InputError."""
    if shapes is None:
        return None
    require(isinstance(shapes, Mapping), "shapes", shapes, "a dict from input name to sizes")
    return {name: _sizes(name, given) for name, given in shapes.items()}


def _sizes(name: str, given: Iterable[int | None]) -> tuple[int, ...]:
    try:
        sizes = tuple(-1 if n is None else index(n) for n in given)
    except TypeError:  # no sequence, or no whole number in it
        sizes = (-2,)
    require(all(n >= -1 for n in sizes), f"shapes[{name!r}]", given, "whole numbers, such as (1, 3, 224, 224), or -1 for a dim left open")
    return sizes
