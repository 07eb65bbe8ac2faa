"""Modules whose programs read what functions of `host/` make of what a run is given: texts and sequences, mostly.

Those stay what they are here; inside a program each is a handle, and each call a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .arguments import fit_inputs, given_outputs, shape_text
from .artifact import Parts
from .elements import STRINGS
from .handles import held
from .host import TEXT_CALLS, results_of
from .module import Module
from .prologue import Call, Prologue, Result
from .records import TensorInfo
from .texts import Texts, all_str

_MOST_SHAPES = 32  # that are remembered
_ndarray = np.ndarray


class PrologueModule(Module):
    """A module whose program reads what a prologue gives."""

    def __init__(self, parts: Parts, *, threads: int | None = None) -> None:
        prologue = parts.manifest.prologue
        assert prologue is not None
        self._prologue: Prologue = prologue
        self._calls = [(k, c, c.call in TEXT_CALLS, c.reads, c.writes) for k, c in enumerate(prologue.calls)]
        self._functions: dict[int, Callable[..., Any]] = {}
        self._read = [(i, t, t.dtype, t.kind in STRINGS) for i, t in enumerate(prologue.inputs)]
        self._shared = _shared(prologue)
        self._fitting: dict[tuple[tuple[int, ...], ...], None] = {}  # shapes of inputs that were met
        self._passes = -1 in prologue.numbers
        super().__init__(parts, threads=threads)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._prologue.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._prologue.outputs

    def _execute(self, arrays: Sequence[Any], out: Mapping[str, np.ndarray] | None = None) -> list[Any]:
        p = self._prologue
        values = self._values(arrays)
        given: dict[int, np.ndarray] = {}
        if out:
            own = {t.name for t, n in zip(p.outputs, p.numbers, strict=True) if n >= 0} if isinstance(out, Mapping) else set()
            shapes = [values[n].shape if n >= 0 and t.kind == "tensor" else None for t, n in zip(p.outputs, p.numbers, strict=True)]
            given = given_outputs({k: v for k, v in out.items() if k in own} if own else out, p.outputs, shapes, arrays)
            out = {k: v for k, v in out.items() if k not in own}
        passed: list[Any] = []
        if self._passes:
            passed = super()._execute(self._feeds(values), out)
        outputs = []
        for at, number in enumerate(p.numbers):
            if number < 0:
                outputs.append(passed.pop(0))
                continue
            value = values[number]
            if at in given:
                given[at][...] = value
                value = given[at]
            elif type(value) is Texts:
                value = value.array()
            elif number in self._shared or (type(value) is _ndarray and not value.flags.c_contiguous):
                value = value.copy()
            outputs.append(value)
        return outputs

    def _ahead(self, arrays: Sequence[Any]) -> list[Any]:
        return self._feeds(self._values(arrays))

    def _feeds(self, values: Sequence[Any]) -> list[Any]:
        """What the program reads."""
        return [v.array() if type(v := values[i]) is Texts else v for i in self._prologue.feeds]

    def _values(self, arrays: Sequence[Any]) -> list[Any]:
        """All of them. Raises InputError for inputs that do not fit, or that a function is not defined for."""
        values: list[Any] = []
        shapes = []
        for i, info, dtype, texts in self._read:
            a = arrays[i]
            if info.kind == "object":
                shapes.append(())
                values.append(held(a, f"input {info.name}")[()])
                continue
            if type(a) is not _ndarray or a.dtype != dtype or not a.flags.c_contiguous:
                break  # `_fit_all` makes it fit, or says why it does not
            shape = a.shape
            shapes.append(shape)
            if texts:
                items = a.tolist() if len(shape) == 1 else a.ravel().tolist()
                if not all_str(items):
                    break
                values.append(Texts(items, shape))
            else:
                values.append(a)
        if len(values) < len(arrays) or tuple(shapes) not in self._fitting:
            values = self._fit_all(arrays)
        values += self._prologue.constants
        for k, call, texts, reads, writes in self._calls:
            operands = [values[i] for i in reads]
            if not texts:
                operands = [v.array() if type(v) is Texts else v for v in operands]
            for to, value in zip(writes, results_of(k, call, self._functions, operands), strict=False):
                values.append(_checked(value, to, call))
        return values

    def _fit_all(self, arrays: Sequence[Any]) -> list[Any]:
        """The inputs, whatever they are given as. Raises InputError."""
        p = self._prologue
        values, _ = fit_inputs(arrays, p.inputs, p.shapes, p.symbols)
        for i, info in enumerate(p.inputs):
            if info.kind in STRINGS:
                values[i] = Texts.of(values[i])
            elif info.kind == "object":
                values[i] = values[i][()]
        if len(self._fitting) >= _MOST_SHAPES:
            self._fitting.clear()
        self._fitting[tuple(() if t.kind == "object" else v.shape for t, v in zip(p.inputs, values, strict=True))] = None
        return values


def _shared(p: Prologue) -> frozenset[int]:
    """Values that may be memory of something else: tensors taken from sequences and optionals."""
    kinds = [*(t.kind for t in p.inputs), *("constant" for _ in p.constants)]
    found = []
    for call in p.calls:
        taken = any(kinds[i] == "object" for i in call.reads)
        for to in call.writes:
            if taken and to.info.kind == "tensor":
                found.append(len(kinds))
            kinds.append(to.info.kind)
    return frozenset(found)


def _checked(value: Any, to: Result, call: Call) -> Any:
    """A result as values are. Raises InputError where it is not of the type that the model says."""
    info = to.info
    if info.kind == "object":
        return value
    if info.kind == "tensor":
        if type(value) is not _ndarray:
            value = np.asarray(value)
        if value.dtype != info.dtype and info.dtype == np.int64 and value.dtype.kind in "iu":
            value = value.astype(np.int64)
        fits = value.dtype == info.dtype
    else:
        value = value if type(value) is Texts else Texts.of(value)
        fits = True
    shape = value.shape
    if not fits or len(shape) != len(info.shape) or any(shape[axis] != d for axis, d in to.fixed):
        found = "texts" if type(value) is Texts else value.dtype
        raise InputError(f"{call.call} gives {found}{list(shape)}", expected=f"{info.dtype}{shape_text(info.shape)}", loc=call.loc)
    return value
