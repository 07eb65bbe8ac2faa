"""What a manifest says of a prologue: functions of `host/` that run before the program does (`prologue_module.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArtifactError
from .elements import HANDLES, dtype_of
from .fields import LIMIT, below, brief, text
from .records import Symbol, TensorInfo
from .texts import Texts


class Result(NamedTuple):
    """Of a call: its type, and the sizes that its shape is sure to have (axis, size)."""

    info: TensorInfo
    fixed: tuple[tuple[int, int], ...]


class Call(NamedTuple):
    """Runs the function `call` of `host/` on values, see `Prologue`."""

    call: str
    attributes: Mapping[str, Any]
    reads: tuple[int, ...]
    writes: tuple[Result, ...]
    loc: str


class Prologue(NamedTuple):
    """Values are numbered: inputs of the model, constants, then results of the calls in order. `feeds` are the values that the
    program reads, by input; `numbers`, by output of the model: a value, or −1 for the next of the program's outputs."""

    inputs: tuple[TensorInfo, ...]
    shapes: tuple[list[Any], ...]  # of the inputs, as dim expressions
    symbols: tuple[Symbol, ...]
    constants: tuple[Texts | np.ndarray, ...]
    calls: tuple[Call, ...]
    feeds: tuple[int, ...]
    outputs: tuple[TensorInfo, ...]
    numbers: tuple[int, ...]


def parse_prologue(raw: Mapping[str, Any], inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> Prologue:
    """That of a program with these inputs and outputs. Raises ArtifactError (or a KeyError, TypeError … that the caller turns into one)."""
    given = tuple(_info(t["name"], t) for t in raw["inputs"])
    constants = tuple(map(_constant, raw["constants"]))
    infos = [*given, *(_info("", t) for t in raw["constants"])]
    calls = []
    for c in raw["calls"]:
        reads = tuple(below(i, len(infos), "value") for i in c["reads"])
        name = c["call"]
        if type(c["attributes"]) is not dict or type(name) is not str:
            raise ArtifactError(f"host function {brief(name)}")
        writes = tuple(map(_result, (_info(name, t) for t in c["writes"])))
        calls.append(Call(name, c["attributes"], reads, writes, " + ".join(map(text, c["loc"]))))
        infos += [w.info for w in writes]
    feeds = tuple(below(i, len(infos), "value") for i in raw["feeds"])
    if len(feeds) != len(inputs) or any(
        infos[i].dtype != t.dtype or len(infos[i].shape) != len(t.shape) for i, t in zip(feeds, inputs, strict=True)
    ):
        raise ArtifactError("the prologue does not give what the program reads")
    numbers = [-1 if number == -1 else below(number, len(infos), "value") for _, number in raw["outputs"]]
    if numbers.count(-1) != len(outputs) or any(-1 < n < len(given) + len(constants) for n in numbers):
        raise ArtifactError("outputs that the prologue does not give")
    passed, names = iter(outputs), [text(name) for name, _ in raw["outputs"]]
    shown = [next(passed) if n == -1 else infos[n]._replace(name=name) for name, n in zip(names, numbers, strict=True)]
    symbols = tuple(Symbol(text(s["name"]), _size(s["lo"]), _size(s["hi"])) for s in raw["symbols"])
    shapes = tuple([d if type(d) is int else ["sym", d] for d in t.shape] for t in given)
    if {s.name for s in symbols} != {d for t in given for d in t.shape if type(d) is str}:
        raise ArtifactError("symbolic dims of a prologue are not those of its inputs")
    return Prologue(
        given, shapes, symbols, constants, tuple(calls), feeds, tuple(shown), tuple(numbers),
    )  # fmt: skip


def _info(name: object, raw: Mapping[str, Any]) -> TensorInfo:
    dtype, shape = raw["dtype"], raw["shape"]
    if type(shape) is not list or len(shape) > 64 or (dtype == "object" and shape):
        raise ArtifactError(f"{brief(dtype)} of shape {brief(shape)} in a prologue")
    dims = tuple(d if type(d) is str else _size(d) for d in shape)
    return TensorInfo(text(name), dtype_of(dtype), dims, dtype if dtype in HANDLES else "tensor")


def _constant(raw: Mapping[str, Any]) -> Texts | np.ndarray:
    items, dtype, shape = raw["items"], raw["dtype"], tuple(map(_size, raw["shape"]))
    if type(items) is not list or len(items) != math.prod(shape) or dtype == "object":
        raise ArtifactError(f"a constant of shape {brief(list(shape))} in a prologue")
    if dtype in HANDLES:
        return Texts([*map(text, items)], shape)
    found = np.array(items, dtype_of(dtype)).reshape(shape)
    found.flags.writeable = False
    return found


def _result(info: TensorInfo) -> Result:
    return Result(info, tuple((axis, d) for axis, d in enumerate(info.shape) if isinstance(d, int)))


def _size(value: Any) -> int:
    return below(value, LIMIT + 1, "size")
