"""The manifest of a `.mlc` file, checked: after `parse` every index, offset and jump is known to be in range.

Object code is trusted (it is covered by a digest, and runs natively by its nature); the manifest is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArtifactError
from .dimexpr import DimTable, show
from .elements import HANDLES, dtype_of
from .fields import LIMIT, all_below, below, brief, items, text, whole
from .instructions import CheckedProgram
from .records import BufferSpec, StepInfo, Symbol, TensorInfo

if TYPE_CHECKING:
    from .handlers import Handler
    from .prologue import Prologue

# 1 had other digests, 2 no slots in expressions of dims, 3 one other program at most, 4 no prologues, 5 no REQUIRE, 6 no kept buffers.
FORMAT = 7

KINDS = ("input", "output", "const", "arena", "given", "alias")


class Manifest(NamedTuple):
    """A checked manifest; `raw` is the JSON it came from."""

    raw: dict[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_shapes: tuple[tuple[int, ...], ...]  # dim slots
    output_shapes: tuple[tuple[int, ...], ...]
    symbols: tuple[Symbol, ...]
    dims: DimTable
    sizes: tuple[int, ...]  # slots that must not be negative
    equal: tuple[tuple[int, int], ...]  # slots that must agree
    buffers: tuple[BufferSpec, ...]
    control: tuple[tuple[int, int], ...]  # (buffer, bytes the program itself touches)
    program: tuple[int, ...]
    scratch: int  # operands of the largest call
    layout: tuple[tuple[int, ...], int] | None  # arena offsets by buffer, total; for static shapes
    steps: tuple[StepInfo, ...]
    handlers: tuple[Handler, ...] = ()
    yields: tuple[int, ...] = ()  # the word of each handler's YIELD
    strings: tuple[str, ...] = ()  # of the first handles
    streamed: int = 0  # the first bytes of the weights, which every run reads from end to end
    limits: tuple[tuple[int, int, int, str], ...] = ()  # slots of a size and its limits; where this is needed
    expected: tuple[str, ...] = ()  # where the model needs what EXPECT and REQUIRE check
    others: tuple[Manifest, ...] = ()  # programs with the same inputs and outputs, for sizes that `equal` forbids
    prologue: Prologue | None = None  # gives what the program reads as inputs
    metadata: Mapping[str, str] = {}  # of the ONNX model
    overridden: Manifest | None = None  # runs where initializers are given other values, which are inputs of it,
    defaults: Mapping[str, tuple[int, tuple[int, ...]]] = {}  # where their own are in the weights, and the shapes of these
    listed: tuple[str, ...] = ()  # initializers that are inputs of the ONNX model, and constants here

    @property
    def programs(self) -> tuple[Manifest, ...]:
        """This one and the others."""
        return (self, *self.others)

    def number(self, program: Manifest) -> int:
        """Of one of the programs, among them."""
        return next(i for i, m in enumerate(self.programs) if m is program)


def check_format(raw: object) -> None:
    """Raise ArtifactError unless this is a manifest of a format that this version reads."""
    if not isinstance(raw, dict):
        raise ArtifactError("the manifest is no JSON object")
    version = raw.get("format")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"format {brief(version)}", expected=f"format {FORMAT}")
    if version != FORMAT:
        remedy = "Install a newer mlc to load this file." if version > FORMAT else "Compile the model again."
        raise ArtifactError(f"format {version}", expected=f"format {FORMAT}", remedy=remedy)


def parse(raw: object, n_functions: int, weights_size: int) -> Manifest:
    """Check everything. Raises ArtifactError for the first thing that is wrong."""
    check_format(raw)
    assert isinstance(raw, dict)
    try:
        return _Parser(raw, n_functions, weights_size).parse()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as e:
        raise ArtifactError(f"malformed manifest ({type(e).__name__})") from None


Infos = tuple[TensorInfo, ...]


class _Parser:
    def __init__(self, raw: dict[str, Any], n_functions: int, weights_size: int) -> None:
        self.raw, self.n_functions, self.weights_size = raw, n_functions, weights_size

    def parse(self) -> Manifest:
        raw = self.raw
        symbols = tuple(Symbol(text(s["name"]), whole(s["lo"]), whole(s["hi"])) for s in items(raw["symbols"]))
        if len({s.name for s in symbols}) != len(symbols):
            raise ArtifactError("a symbol is declared twice")
        exprs = list(items(raw["dims"]))
        self.n_dims = len(exprs)
        inputs, input_shapes = self._tensors("inputs", exprs)
        outputs, output_shapes = self._tensors("outputs", exprs)
        handlers: tuple[Handler, ...] = ()
        stages: dict[str, int] = {}
        if given := items(raw.get("handlers", [])):
            from .handlers import parse_handlers, stages_of  # only where they are needed: loading is to be quick

            handlers = parse_handlers(given, len(items(raw["buffers"])))
            stages = stages_of(handlers)
        if stages.keys() & {s.name for s in symbols}:
            raise ArtifactError("a symbol of the inputs is bound again")
        dims = DimTable.build(exprs, [s.name for s in symbols], stages)
        self._bound(symbols, raw["inputs"])
        if any(dims.slot_stages[slot] for shape in input_shapes for slot in shape):
            raise ArtifactError("the shape of an input depends on what the program computes")
        expected = tuple(text(loc) for loc in items(raw.get("expected", [])))
        self.inputs, self.outputs = inputs, outputs
        self.streamed = below(raw.get("streamed", 0), self.weights_size + 1, "streamed bytes")
        specs = items(raw["buffers"])
        self.kinds = [s["kind"] for s in specs]
        buffers = tuple(self._buffer(s) for s in specs)
        program = tuple(all_below(items(raw["program"]), LIMIT, "program word"))
        prologue = self._prologue(inputs, outputs)
        checked = CheckedProgram(program, buffers, handlers, self.n_functions, self.n_dims, len(expected))
        return Manifest(
            raw, inputs, outputs, input_shapes, output_shapes, symbols, dims,
            tuple(all_below(items(raw["sizes"]), self.n_dims, "dim slot")),
            tuple((self.slot(a), self.slot(b)) for a, b in items(raw["equal"])),
            buffers, tuple(checked.control.items()), program, checked.scratch, self._layout(len(buffers)), self._steps(program), handlers,
            tuple(checked.yields),
            tuple(text(s) for s in items(raw.get("strings", []))), self.streamed,
            tuple((self.slot(d), self.slot(lo), self.slot(hi), text(loc)) for d, lo, hi, loc in items(raw.get("limits", []))),
            expected, self._others(inputs, outputs, symbols), prologue,
            {text(key): text(value) for key, value in raw.get("metadata", {}).items()},
            self._overridden(*((inputs, outputs) if prologue is None else (prologue.inputs, prologue.outputs))), self._defaults(),
            tuple(text(name) for name in items(raw.get("listed", []))),
        )  # fmt: skip

    def _overridden(self, inputs: Infos, outputs: Infos) -> Manifest | None:
        raw = self.raw.get("overridden")
        if raw is None:
            return None
        if not isinstance(raw, dict) or raw.keys() & {"overridden", "prologue"}:
            raise ArtifactError("the manifest of the program with overridden initializers is no program")
        check_format(raw)
        found = _Parser(raw, self.n_functions, self.weights_size).parse()
        shown = {t.name for t in found.inputs}
        same = {t.name for t in inputs} == shown - found.defaults.keys() and [t.name for t in found.outputs] == [t.name for t in outputs]
        if not found.defaults or not same:
            raise ArtifactError("the program with overridden initializers has other inputs or outputs")
        return found

    def _defaults(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        found = {}
        for name, (offset, size, shape) in self.raw.get("defaults", {}).items():
            info = next((t for t in self.inputs if t.name == name and t.kind == "tensor"), None)
            dims = tuple(all_below(items(shape), LIMIT, "size"))
            self._span((offset, size), self.weights_size, "default")
            if info is None or math.prod(dims) * info.dtype.itemsize != size:
                raise ArtifactError(f"the default of {brief(name)} is not of its type")
            found[text(name)] = offset, dims
        return found

    def _prologue(self, inputs: Infos, outputs: Infos) -> Prologue | None:
        raw = self.raw.get("prologue")
        if raw is None:
            return None
        if "others" in self.raw:
            raise ArtifactError("a prologue of several programs")
        from .prologue import parse_prologue  # only where it is needed: loading is to be quick

        return parse_prologue(raw, inputs, outputs)

    def _others(self, inputs: Infos, outputs: Infos, symbols: tuple[Symbol, ...]) -> tuple[Manifest, ...]:
        every = []
        results = [(t.name, t.dtype, t.kind, t.labels) for t in outputs]
        for raw in items(self.raw.get("others", [])):
            if not isinstance(raw, dict) or raw.keys() & {"others", "prologue"}:
                raise ArtifactError("the manifest of another program is no program")
            found = _Parser(raw, self.n_functions, self.weights_size).parse()
            same = found.inputs == inputs and [(t.name, t.dtype, t.kind, t.labels) for t in found.outputs] == results
            if not same or {s.name for s in found.symbols} != {s.name for s in symbols}:
                raise ArtifactError("programs of the manifest have different inputs or outputs")
            every.append(found)
        return tuple(every)

    def _tensors(self, key: str, exprs: list[Any]) -> tuple[tuple[TensorInfo, ...], tuple[tuple[int, ...], ...]]:
        infos, shapes = [], []
        for t in items(self.raw[key]):
            shape = items(t["shape"])
            if len(shape) > 64:
                raise ArtifactError(f"{key}: rank {len(shape)}", expected="at most 64")
            shapes.append(tuple(range(len(exprs), len(exprs) + len(shape))))
            exprs.extend(shape)
            dtype = t["dtype"]
            labels = tuple(items(t.get("labels", [])))
            if any(type(label) not in (int, str) for label in labels) or (labels and (key == "inputs" or dtype in HANDLES)):
                raise ArtifactError(f"labels of {key}", expected="texts or whole numbers, for an output that is a tensor")
            kind = "maps" if labels else dtype if dtype in HANDLES else "tensor"
            infos.append(TensorInfo(text(t["name"]), dtype_of(dtype), tuple(show(d, exprs) for d in shape), kind, labels))
        if len({i.name for i in infos}) != len(infos) and key == "inputs":
            raise ArtifactError("two inputs have one name")
        return tuple(infos), tuple(shapes)

    def _bound(self, symbols: Sequence[Symbol], inputs: list[Any]) -> None:
        given = {d[1] for t in inputs for d in t["shape"] if isinstance(d, list) and d[0] == "sym"}
        missing = [s.name for s in symbols if s.name not in given]
        if missing:
            raise ArtifactError(f"symbolic dims {', '.join(missing)[:80]} are in no input shape")

    def slot(self, value: object) -> int:
        return below(value, self.n_dims, "dim slot")

    def _span(self, value: Any, size: int, what: str) -> tuple[int, int]:
        offset, length = value
        if below(offset, size + 1, what) + below(length, size + 1, what) > size:
            raise ArtifactError(f"{what} at {offset} of {length} bytes", expected=f"at most {size} bytes in all")
        return offset, length

    def _buffer(self, s: dict[str, Any]) -> BufferSpec:
        kind = s["kind"]
        first, last = whole(s.get("first", 0)), whole(s.get("last", 0))
        if kind == "const":
            offset, size = self._span((s["offset"], s["size"]), self.weights_size, "constant")
            if offset < self.streamed < offset + size:
                raise ArtifactError(
                    f"a constant at {offset} of {size} bytes", expected=f"none across {self.streamed}, where streaming ends"
                )
            return BufferSpec(kind, size, offset, 0, 0, 0)
        size, shift = self.slot(s["bytes"]), 0
        if kind == "input" or kind == "output":
            index = below(s["index"], len(self.inputs if kind == "input" else self.outputs), kind)
        elif kind == "alias":
            index, shift = below(s["of"], len(self.kinds), "buffer"), self.slot(s["shift"])
            if self.kinds[index] == "alias":
                raise ArtifactError("an alias of an alias")
        elif kind in ("arena", "given"):
            index = 0
        else:
            raise ArtifactError(f"buffer kind {brief(kind)}", expected=", ".join(KINDS))
        return BufferSpec(kind, size, index, shift, first, last, s.get("kept") is True)

    def _layout(self, n_buffers: int) -> tuple[tuple[int, ...], int] | None:
        value = self.raw.get("layout")
        if value is None:
            return None
        total = below(value["total"], LIMIT, "arena size")
        offsets = tuple(all_below(items(value["offsets"]), total + 1, "arena offset"))
        if len(offsets) != n_buffers:
            raise ArtifactError("the memory layout does not match the buffers")
        return offsets, total

    def _steps(self, program: tuple[int, ...]) -> tuple[StepInfo, ...]:
        return tuple(
            StepInfo(
                below(s["word"], len(program), "program word"), text(s["symbol"]), tuple(text(t) for t in items(s["loc"])),
                self.slot(s["flops"]), self.slot(s["bytes"]),
            )
            for s in items(self.raw["steps"])
        )  # fmt: skip
