"""The manifest of a `.mlc` file, checked: after `parse` every index, offset and jump is known to be in range.

Object code is trusted (it is covered by a digest, and runs natively by its nature); the manifest is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArtifactError
from .dimexpr import LIMIT, DimTable, brief, show
from .elements import HANDLES, dtype_of

if TYPE_CHECKING:
    from .handlers import Handler, HostHandler
    from .prologue import Prologue

FORMAT = 5  # 1 had other digests, 2 no slots in expressions of dims, 3 one other program at most, 4 no prologues

CALL, JUMP, JUMP_IF_FALSE, INCREMENT, CLEAR, JUMP_IF_GE, TEAM_CALL, YIELD, EXPECT = range(1, 10)
KINDS = ("input", "output", "const", "arena", "given", "alias")
_LENGTHS = {JUMP: 2, JUMP_IF_FALSE: 3, INCREMENT: 2, CLEAR: 2, JUMP_IF_GE: 4, YIELD: 2, EXPECT: 6}


def instruction_length(program: Sequence[int], pc: int) -> int:
    """Words of the instruction at `pc` of a checked program."""
    return 6 + program[pc + 2] + program[pc + 3] if program[pc] in (CALL, TEAM_CALL) else _LENGTHS[program[pc]]


class TensorInfo(NamedTuple):
    """An input or output: NumPy dtype, and a shape of sizes and names (or formulas) of symbolic dims.

    kind: "tensor", "str" (a tensor of strings, dtype object; of inputs also "text" and "key", see `handles.py`), "maps" (a list of
    dicts from `labels` to what a row of a tensor of this dtype and shape holds), or "object" (a list, a dict, an optional that
    may be None …).
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]
    kind: str = "tensor"
    labels: tuple[str | int, ...] = ()

    @property
    def stored(self) -> np.dtype:
        """The element type in memory: strings and objects are handles."""
        return np.dtype(np.int64) if self.kind in HANDLES else self.dtype


class Symbol(NamedTuple):
    """A symbolic dim and the sizes it may take, inclusive."""

    name: str
    lo: int
    hi: int


class BufferSpec(NamedTuple):
    """`size` and `shift` are dim slots, in bytes; `place` is an input or output position, an alias's buffer (never an
    alias itself), or a constant's offset in the weights. Arena and given buffers live from word `first` to `last`.
    Memory of given buffers comes from a handler."""

    kind: str
    size: int
    place: int
    shift: int
    first: int
    last: int


class StepInfo(NamedTuple):
    """For people: what the call at `word` of the program implements, and its cost (dim slots)."""

    word: int
    symbol: str
    loc: tuple[str, ...]
    flops: int
    bytes: int


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
    expected: tuple[str, ...] = ()  # where the model needs what EXPECT checks
    others: tuple[Manifest, ...] = ()  # programs with the same inputs and outputs, for sizes that `equal` forbids
    prologue: Prologue | None = None  # gives what the program reads as inputs

    @property
    def programs(self) -> tuple[Manifest, ...]:
        """This one and the others."""
        return (self, *self.others)


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
        symbols = tuple(Symbol(_text(s["name"]), _int(s["lo"]), _int(s["hi"])) for s in _list(raw["symbols"]))
        if len({s.name for s in symbols}) != len(symbols):
            raise ArtifactError("a symbol is declared twice")
        exprs = list(_list(raw["dims"]))
        self.n_dims = len(exprs)
        inputs, input_shapes = self._tensors("inputs", exprs)
        outputs, output_shapes = self._tensors("outputs", exprs)
        handlers: tuple[Handler, ...] = ()
        stages: dict[str, int] = {}
        if given := _list(raw.get("handlers", [])):
            from .handlers import parse_handlers, stages_of  # only where they are needed: loading is to be quick

            handlers = parse_handlers(given, len(_list(raw["buffers"])))
            stages = stages_of(handlers)
        if stages.keys() & {s.name for s in symbols}:
            raise ArtifactError("a symbol of the inputs is bound again")
        dims = DimTable.build(exprs, [s.name for s in symbols], stages)
        self._bound(symbols, raw["inputs"])
        if any(dims.slot_stages[slot] for shape in input_shapes for slot in shape):
            raise ArtifactError("the shape of an input depends on what the program computes")
        self.handlers = handlers
        self.expected = tuple(_text(loc) for loc in _list(raw.get("expected", [])))
        self.inputs, self.outputs = inputs, outputs
        self.streamed = _index(raw.get("streamed", 0), self.weights_size + 1, "streamed bytes")
        specs = _list(raw["buffers"])
        self.kinds = [s["kind"] for s in specs]
        buffers = tuple(self._buffer(s) for s in specs)
        self.buffers = buffers
        program = tuple(_index(w, LIMIT, "program word") for w in _list(raw["program"]))
        checked = _Program(self, program)
        return Manifest(
            raw, inputs, outputs, input_shapes, output_shapes, symbols, dims,
            tuple(self.slot(s) for s in _list(raw["sizes"])),
            tuple((self.slot(a), self.slot(b)) for a, b in _list(raw["equal"])),
            buffers, tuple(checked.control.items()), program, checked.scratch, self._layout(), self._steps(program), handlers,
            tuple(checked.yields),
            tuple(_text(s) for s in _list(raw.get("strings", []))), self.streamed,
            tuple((self.slot(d), self.slot(lo), self.slot(hi), _text(loc)) for d, lo, hi, loc in _list(raw.get("limits", []))),
            self.expected, self._others(inputs, outputs, symbols), self._prologue(inputs, outputs),
        )  # fmt: skip

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
        for raw in _list(self.raw.get("others", [])):
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
        for t in _list(self.raw[key]):
            shape = _list(t["shape"])
            if len(shape) > 64:
                raise ArtifactError(f"{key}: rank {len(shape)}", expected="at most 64")
            shapes.append(tuple(range(len(exprs), len(exprs) + len(shape))))
            exprs.extend(shape)
            dtype = t["dtype"]
            labels = tuple(_list(t.get("labels", [])))
            if any(type(label) not in (int, str) for label in labels) or (labels and (key == "inputs" or dtype in HANDLES)):
                raise ArtifactError(f"labels of {key}", expected="texts or whole numbers, for an output that is a tensor")
            kind = "maps" if labels else dtype if dtype in HANDLES else "tensor"
            infos.append(TensorInfo(_text(t["name"]), dtype_of(dtype), tuple(show(d, exprs) for d in shape), kind, labels))
        if len({i.name for i in infos}) != len(infos) and key == "inputs":
            raise ArtifactError("two inputs have one name")
        return tuple(infos), tuple(shapes)

    def _bound(self, symbols: Sequence[Symbol], inputs: list[Any]) -> None:
        given = {d[1] for t in inputs for d in t["shape"] if isinstance(d, list) and d[0] == "sym"}
        missing = [s.name for s in symbols if s.name not in given]
        if missing:
            raise ArtifactError(f"symbolic dims {', '.join(missing)[:80]} are in no input shape")

    def slot(self, value: object) -> int:
        return _index(value, self.n_dims, "dim slot")

    def _span(self, value: Any, size: int, what: str) -> tuple[int, int]:
        offset, length = value
        if _index(offset, size + 1, what) + _index(length, size + 1, what) > size:
            raise ArtifactError(f"{what} at {offset} of {length} bytes", expected=f"at most {size} bytes in all")
        return offset, length

    def _buffer(self, s: dict[str, Any]) -> BufferSpec:
        kind = s["kind"]
        first, last = _int(s.get("first", 0)), _int(s.get("last", 0))
        if kind == "const":
            offset, size = self._span((s["offset"], s["size"]), self.weights_size, "constant")
            if offset < self.streamed < offset + size:
                raise ArtifactError(
                    f"a constant at {offset} of {size} bytes", expected=f"none across {self.streamed}, where streaming ends"
                )
            return BufferSpec(kind, size, offset, 0, 0, 0)
        size, shift = self.slot(s["bytes"]), 0
        if kind == "input" or kind == "output":
            index = _index(s["index"], len(self.inputs if kind == "input" else self.outputs), kind)
        elif kind == "alias":
            index, shift = _index(s["of"], len(self.kinds), "buffer"), self.slot(s["shift"])
            if self.kinds[index] == "alias":
                raise ArtifactError("an alias of an alias")
        elif kind in ("arena", "given"):
            index = 0
        else:
            raise ArtifactError(f"buffer kind {brief(kind)}", expected=", ".join(KINDS))
        return BufferSpec(kind, size, index, shift, first, last)

    def _layout(self) -> tuple[tuple[int, ...], int] | None:
        value = self.raw.get("layout")
        if value is None:
            return None
        total = _index(value["total"], LIMIT, "arena size")
        offsets = tuple(_index(o, total + 1, "arena offset") for o in _list(value["offsets"]))
        if len(offsets) != len(self.buffers):
            raise ArtifactError("the memory layout does not match the buffers")
        return offsets, total

    def _steps(self, program: tuple[int, ...]) -> tuple[StepInfo, ...]:
        return tuple(
            StepInfo(
                _index(s["word"], len(program), "program word"), _text(s["symbol"]), tuple(_text(t) for t in _list(s["loc"])),
                self.slot(s["flops"]), self.slot(s["bytes"]),
            )
            for s in _list(self.raw["steps"])
        )  # fmt: skip


class _Program:
    """A program whose words are known to make sense, and what follows from them.

    control: bytes of buffers that the program itself touches. scratch: operands of its largest call. yields: where it does.
    """

    def __init__(self, parser: _Parser, words: tuple[int, ...]) -> None:
        self.of, self.words = parser, words
        self.control: dict[int, int] = {}
        self.scratch = 0
        self.yields: list[int] = []
        self.targets: set[int] = set()  # of jumps
        starts, pc, n = set(), 0, len(words)
        while pc < n:
            starts.add(pc)
            w = self._words(pc, _LENGTHS.get(words[pc], 6))
            pc += self._call(pc, w) if w[0] in (CALL, TEAM_CALL) else self._instruction(pc, w)
        if not self.targets <= starts | {n}:
            raise ArtifactError("a jump leads into the middle of an instruction")
        if len(self.yields) != len(parser.handlers):
            raise ArtifactError(f"{len(self.yields)} yields", expected=f"one for each of {len(parser.handlers)} handlers")

    def _words(self, pc: int, length: int) -> tuple[int, ...]:
        if pc + length > len(self.words):
            raise ArtifactError("the program ends within an instruction")
        return self.words[pc : pc + length]

    def _call(self, pc: int, w: tuple[int, ...]) -> int:
        """Its length, which its operands and sizes are a part of."""
        _index(w[1], self.of.n_functions, "function")
        self.of.slot(w[4]), self.of.slot(w[5])
        self.scratch = max(self.scratch, w[2] + w[3])
        more = self._words(pc, 6 + w[2] + w[3])[6:]
        for b in more[: w[2]]:
            _index(b, len(self.of.buffers), "buffer")
        for d in more[w[2] :]:
            self.of.slot(d)
        return 6 + len(more)

    def _instruction(self, pc: int, w: tuple[int, ...]) -> int:
        """The length of any other."""
        op = w[0]
        if op == JUMP:
            self.targets.add(w[1])
        elif op == JUMP_IF_FALSE:
            self._touch(w[1], 1, False)
            self.targets.add(w[2])
        elif op in (INCREMENT, CLEAR):
            self._touch(w[1], 8, True)
        elif op == JUMP_IF_GE:
            self._touch(w[1], 8, False)
            self._touch(w[2], 8, False)
            self.targets.add(w[3])
        elif op == EXPECT:
            _index(w[1], len(self.of.expected), "expectation")
            self._touch(w[2], 16 * (_index(w[3], 2**20, "element") + 1), False)
            self.of.slot(w[4]), self.of.slot(w[5])
        elif op == YIELD:
            handlers = self.of.handlers
            if w[1] != len(self.yields) or w[1] >= len(handlers):
                raise ArtifactError(f"yield to handler {w[1]}", expected=f"handler {len(self.yields)} of {len(handlers)}")
            self.yields.append(pc)
            self._handler(handlers[w[1]])
        else:
            raise ArtifactError(f"unknown instruction {op}")
        return len(w)

    def _touch(self, buffer: int, size: int, writes: bool) -> None:
        spec = self.of.buffers[_index(buffer, len(self.of.buffers), "buffer")]
        root = self.of.buffers[spec.place] if spec.kind == "alias" else spec
        if writes and root.kind in ("const", "input"):
            raise ArtifactError("the program writes a constant or an input")
        self.control[buffer] = max(self.control.get(buffer, 0), size)

    def _handler(self, handler: Handler) -> None:
        from .handlers import BindHandler, HostHandler

        if isinstance(handler, BindHandler):
            for size in handler.sizes:
                self._touch(size.buffer, 8 * (size.element + 1), False)
        elif isinstance(handler, HostHandler):
            self._host(handler)
        elif (kind := self.of.kinds[handler.target]) != "given":
            raise ArtifactError(f"a handler gives buffer {handler.target}, which is of kind {brief(kind)}")

    def _host(self, handler: HostHandler) -> None:
        for o in (*handler.reads, *handler.writes):
            for slot in o.shape:
                self.of.slot(slot)
        for o in handler.reads:
            if o.kind == "object":
                self._touch(o.buffer, 8, False)
        for o in handler.writes:
            if o.kind == "object":
                self._touch(o.buffer, 8, True)
            elif (kind := self.of.kinds[o.buffer]) != "given":
                raise ArtifactError(f"a host function gives buffer {o.buffer}, which is of kind {brief(kind)}")
            if o.shape_buffer >= 0:
                self._touch(o.shape_buffer, 8 * len(o.shape), True)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a text")
    return value


def _int(value: Any) -> int:
    if type(value) is not int or not -LIMIT <= value <= LIMIT:
        raise ArtifactError(f"{brief(value)} in the manifest", expected="a whole number")
    return value


def _index(value: Any, end: int, what: str) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise ArtifactError(f"{what} {brief(value)}", expected=f"0 to {end - 1}")
    return value
