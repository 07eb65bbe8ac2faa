"""What lowering produces: buffers, and steps in order, of which most run a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..ir import Dim, DType, Limit, Shape, TensorType
from .kernel import Kernel


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory of the plan. kind: "input", "output", "const", "arena", "given", or "alias" of another buffer.

    `index` is the input/output position. What "given" buffers hold, and how large they are, a `Carry` decides when the
    program runs. An alias shares the memory of `of`, shifted by `shift` elements (same dtype). `kept` memory of the arena is
    zero before the first run there, and each run finds what the one before left.
    """

    kind: str
    dtype: DType
    shape: Shape
    index: int = 0
    of: int = -1
    shift: Dim = 0
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Run one kernel on buffers; `loc` are the ONNX nodes it implements."""

    kernel: Kernel
    buffers: tuple[int, ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """If: run `then` when the BOOL scalar in buffer `cond` is true, else `orelse`."""

    cond: int
    then: tuple[PlanStep, ...]
    orelse: tuple[PlanStep, ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """Loop: run `body` at most `trips` (I64 scalar buffer, −1: none) times while BOOL buffer `cond` (−1: none) is true.

    `counter` is an I64 scalar buffer holding the iteration number.
    """

    trips: int
    cond: int
    counter: int
    body: tuple[PlanStep, ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bind:
    """Read sizes that were computed: (symbol, I64 buffer, element). Buffers whose shapes depend on them exist from here on."""

    sizes: tuple[tuple[str, int, int], ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """Buffer `target` (of kind "given") becomes what `source` is: of a size that is known at this moment only.

    `move`: the source is not read any more, and need not be copied.
    """

    source: int
    target: int
    move: bool
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Append:
    """Buffer `target` (of kind "given") holds what `source` holds behind what it held before."""

    source: int
    target: int
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostOperand:
    """A buffer as a host function sees it: `dtype` may be STRING or OBJECT, whose buffers hold I64 handles.

    Of a result, `shape_buffer` (−1: none) gets the shape, as I64. strings: what handles of strings are for ("str": they are
    compared, "text": never, "key": with constants only).
    """

    buffer: int
    dtype: DType
    shape: Shape
    shape_buffer: int = -1
    strings: str = "str"


@dataclass(frozen=True, slots=True)
class HostStep:
    """Run a function of `runtime/host/` on buffers. Results that are tensors become what buffers of kind "given" hold."""

    call: str
    attributes: tuple[tuple[str, object], ...]
    reads: tuple[HostOperand, ...]
    writes: tuple[HostOperand, ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expect:
    """The run fails unless elements 2·k (the least of some integers) and 2·k + 1 (the greatest) of I64 `buffer` are within lo to hi."""

    buffer: int
    k: int
    lo: Dim
    hi: Dim
    loc: tuple[str, ...] = ()


PlanStep = Step | Branch | Repeat | Bind | Carry | Append | HostStep | Expect | Limit  # a run that comes to a `Limit` fails unless it holds


@dataclass(frozen=True, slots=True)
class PrologueCall:
    """Run a function of `runtime/host/` on values; see `Prologue`."""

    call: str
    attributes: tuple[tuple[str, object], ...]
    reads: tuple[int, ...]
    results: tuple[TensorType, ...]
    loc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prologue:
    """What happens before the program runs. Values are numbered: inputs of the model, constants, then results
    of the calls in order.

    `feeds` are the values that the program reads, by input. `outputs`, by output of the model: a value, or −1 for the next of the
    program's outputs.
    """

    input_names: tuple[str, ...]
    inputs: tuple[TensorType, ...]
    constants: tuple[np.ndarray, ...]
    calls: tuple[PrologueCall, ...]
    feeds: tuple[int, ...]
    output_names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def passed(self) -> list[int]:
        """By output of the program, the position among those of the model."""
        return [at for at, number in enumerate(self.outputs) if number < 0]


@dataclass(frozen=True)
class Plan:
    """What lowering produces: buffers, constants' bytes (as arrays, by buffer number), and steps in order."""

    buffers: tuple[Buffer, ...]
    steps: tuple[PlanStep, ...]
    constants: dict[int, object] = field(default_factory=dict)
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    input_dtypes: tuple[DType, ...] = ()  # as users see them: STRING and OBJECT are I64 in buffers
    output_dtypes: tuple[DType, ...] = ()
    output_labels: Mapping[int, tuple[str | int, ...]] = field(default_factory=dict)  # outputs shown as maps by row, by position
    limits: tuple[Limit, ...] = ()  # of sizes
    input_strings: tuple[str, ...] = ()  # as `HostOperand.strings`, of each input
    strings: tuple[str, ...] = ()  # what handles 0, 1, … stand for before anything has run
    prologue: Prologue | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)  # the model's own


def steps_of(steps: tuple[PlanStep, ...]) -> list[Step]:
    """All kernel steps, those inside branches and loops included, in program order."""
    found: list[Step] = []
    stack: list[PlanStep] = list(reversed(steps))
    while stack:
        match stack.pop():
            case Step() as s:
                found.append(s)
            case Branch(then=then, orelse=orelse):
                stack.extend(reversed(then + orelse))
            case Repeat(body=body):
                stack.extend(reversed(body))
    return found
