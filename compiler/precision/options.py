"""What a user says about precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.arguments import flag, is_number, is_whole, require
from .metrics import Bound, Metric, bound_of, parse_bound
from .observers import OBSERVERS

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-dynamic", "int8-weight", "int4", "auto")
METHODS = ("nearest", "gptq", "awq")
CALIBRATED = frozenset({"int8"})
GGUF = "gguf"  # a layer whose weights come from a file; no precision to ask for by name
WEIGHT_ONLY = frozenset({"int4", "int8-weight"})


@dataclass(frozen=True)
class Precision:
    """How a model is lowered.

    Attributes:
        default: of all layers. "fp32"; "bf16", "fp16": both operands; "int8": 8-bit integers with ranges found on the
            calibration data; "int8-dynamic": ranges found at run time, for matrix products; "int8-weight" and "int4": weights
            alone; "auto": the fastest of them, layer by layer, within `max_drop`.
        overrides: (pattern, precision) for layers whose name or operator (MatMul, Conv) matches a shell pattern; the last wins.
        calibration: see `data.load_calibration`; what can be read only once is kept here.
        observer: how ranges are chosen: "min-max", "percentile", "entropy" or "mse".
        smooth: power of the outliers of activations that moves into the weights (SmoothQuant) of layers where less error is expected
            with it; 0 for none.
        correct_bias: add the mean error of rounding the weights back.
        group: rows of weights that share a scale, for "int4" and "int8-weight".
        symmetric: no zero points for those.
        method: "nearest", "gptq" or "awq"; the last two need calibration data.
        max_drop: METRIC=VALUE, see `metrics.parse_bound`: lower no more layers than this allows on the calibration data.
        seconds: how long the search under `max_drop` may take, about; the fastest that was found until then is taken.
        keep_slower: keep a lowered module that is slower than float32 on this machine.
        report: called with what was chosen (`compiler.precision.lowering.Lowered`): the precision of each layer and, under a bound,
            the loss and which layers stayed higher and why.
        weights: (GGUF file, tensor) by layer: its weights as they are quantized there, whatever else is said of the layer.
    """

    default: str = "fp32"
    overrides: tuple[tuple[str, str], ...] = ()
    calibration: str | os.PathLike[str] | Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]] | None = None
    observer: str = "min-max"
    smooth: float = 0.5
    correct_bias: bool = True
    group: int = 32
    symmetric: bool = True
    method: str = "nearest"
    max_drop: str | tuple[Metric, float] | None = None
    seconds: float = 120.0
    keep_slower: bool = False
    weights: Mapping[str, tuple[str | os.PathLike[str], str]] | None = None
    report: Callable[[Any], object] | None = field(default=None, repr=False, compare=False)
    bound: Bound | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        _one_of("precision", self.default, PRECISIONS)
        fits = isinstance(self.overrides, Iterable) and all(isinstance(o, tuple) and len(o) == 2 for o in self.overrides)
        require(fits, "overrides", self.overrides, "(pattern, precision) pairs")
        for _, precision in self.overrides:
            _one_of("precision", precision, tuple(p for p in PRECISIONS if p != "auto"))
        _one_of("observer", self.observer, tuple(OBSERVERS))
        _one_of("method", self.method, METHODS)
        require(is_number(self.smooth) and 0 <= self.smooth <= 1, "smooth", self.smooth, "a number from 0 to 1")
        require(is_number(self.seconds) and self.seconds > 0, "seconds", self.seconds, "more than 0")
        require(is_whole(self.group) and self.group >= 1, "group", self.group, "1 or more, such as 32, 64 or 128")
        for name in ("correct_bias", "symmetric", "keep_slower"):
            flag(name, getattr(self, name))
        require(self.report is None or callable(self.report), "report", self.report, "a function")
        self._check_weights()
        if self.max_drop is not None:
            fits = isinstance(self.max_drop, str) or (isinstance(self.max_drop, tuple) and len(self.max_drop) == 2)
            require(fits, "max_drop", self.max_drop, "a text, such as 'relative-l2=0.01', or (function, limit)")
            object.__setattr__(self, "bound", parse_bound(self.max_drop) if isinstance(self.max_drop, str) else bound_of(*self.max_drop))
        elif self.default == "auto":
            raise InputError("precision auto without a bound", remedy="Say what may be lost: --max-drop relative-l2=0.01", loc="--max-drop")
        if self.calibration is not None and not isinstance(self.calibration, (str, os.PathLike, Mapping)):
            require(isinstance(self.calibration, Iterable), "calibration", self.calibration, "a path, or a dict of arrays, or several")
            object.__setattr__(self, "calibration", tuple(self.calibration))
        if self.calibration is None and (need := self._needs_data()):
            raise InputError(
                f"{need} without calibration data", expected="sample inputs", remedy="Give --calibration FILE.npz (calibration=)."
            )

    @property
    def is_float32(self) -> bool:
        """Nothing is lowered."""
        return self.default == "fp32" and all(p == "fp32" for _, p in self.overrides) and not self.weights

    def _check_weights(self) -> None:
        """Raises InputError."""
        if self.weights is None:
            return
        fits = isinstance(self.weights, Mapping) and all(isinstance(w, tuple) and len(w) == 2 for w in self.weights.values())
        require(fits, "weights", self.weights, "a dict from layer to (GGUF file, tensor)")

    def _needs_data(self) -> str:
        if self.bound is not None:
            return "--max-drop"
        asked = {self.default, *(p for _, p in self.overrides)}
        if "int8" in asked:
            return "precision int8"
        return f"method {self.method}" if self.method != "nearest" and asked & WEIGHT_ONLY else ""


def parse_override(text: str) -> tuple[str, str]:
    """`PATTERN=PRECISION`. Raises InputError."""
    pattern, eq, precision = text.rpartition("=")
    if not (pattern and eq):
        raise InputError(f"override {text!r}", expected="PATTERN=PRECISION, such as '*lm_head*=fp32'", loc="--layer")
    return pattern, precision


def _one_of(what: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{what} {value!r}", expected="one of " + ", ".join(known))


FLOAT32 = Precision()
