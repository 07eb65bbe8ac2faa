"""The graphs that generation runs, by the operands that onnxruntime gives them: GPT-2's decoder, and encoders with decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from ......ir import Dim, DType, Value
from ......ir import ops as O
from ....compose import Build
from ....context import ImportContext
from .growing import Inside


@dataclass
class Decoder(ABC):
    """Caches have their rows along `rows` and the tokens before along `length`. `ids`: i32[batch, prompt], what sequences begin with."""

    ctx: ImportContext
    node: NodeProto
    ids: Value
    rows: int
    length: int

    @abstractmethod
    def first(self) -> tuple[Value, list[Value]]:
        """f32 logits [batch, V] behind the prompts, and caches of them."""

    @abstractmethod
    def repeat(self, times: Dim) -> None:
        """Every prompt is continued by so many rows from now on; called once, between `first` and `step`."""

    @abstractmethod
    def step(self, inside: Inside, tokens: Value, sequences: Value, caches: list[Value], past: Dim) -> tuple[Value, list[Value]]:
        """Logits f32[R, V] and caches behind the last tokens i32[R] of sequences i32[R, past + 1]."""

    def graph(self, name: str) -> GraphProto:
        found = self.ctx.attr(self.node, name)
        if not isinstance(found, GraphProto):
            raise self.ctx.unsupported(f"{self.node.op_type} without a graph {name!r}")
        return found

    def run(self, graph: GraphProto, operands: Sequence[Value]) -> list[Value]:
        """The graph's results for these operands, in the element types that it declares."""
        if len(operands) != len(graph.input):
            taken = ", ".join(i.name for i in graph.input)
            raise self.ctx.unsupported(
                f"{self.node.op_type} with a graph of {len(graph.input)} operands ({taken}), expected {len(operands)}"
            )
        b = Build(self.ctx)
        types = [DType.from_onnx(i.type.tensor_type.elem_type) for i in graph.input]
        return self.ctx.inline(graph, [b.cast(v, t) for v, t in zip(operands, types, strict=True)])

    def last(self, logits: Value) -> Value:
        """[R, L, V] -> f32[R, V] of the last position."""
        b = Build(self.ctx)
        rows, length, vocabulary = logits.shape
        return b.cast(b.reshape(b.slice(logits, 1, length - 1, 1), (rows, vocabulary)), DType.F32)


def repeated(b: Build, x: Value, times: Dim, axis: int = 0) -> Value:
    """Every row along an axis so many times, one behind the other."""
    if times == 1:
        return x
    lead, size, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    wide = b.expand(b.reshape(x, (*lead, size, 1, *rest)), (*lead, size, times, *rest))
    return b.reshape(wide, (*lead, size * times, *rest))


def not_padding(b: Build, ids: Value, pad: int) -> Value:
    return b.emit(O.Not(), b.emit(O.Equal(), ids, b.const(pad, ids.dtype)))


@dataclass
class Gpt(Decoder):
    """(input_ids, position_ids, attention_mask, past [2, R, heads, length, size] of each layer) -> (logits, presents).

    Prompts are padded in front; padding has position 0. `init_decoder` serves the prompts if there is one.
    """

    pad: int
    mask: Value | None

    def first(self) -> tuple[Value, list[Value]]:
        b, ctx = Build(self.ctx), self.ctx
        decoder = self.graph("decoder")
        initial = self.graph("init_decoder") if ctx.attr(self.node, "init_decoder") is not None else decoder
        rows, length = self.ids.shape
        counted = not_padding(b, self.ids, self.pad)
        number = b.emit(O.CumSum(1), b.cast(counted, DType.I32))
        position = b.where(counted, b.sub(number, 1), b.const(0, DType.I32))
        self.count = b.reduce("sum", b.cast(counted, DType.I32), [1])  # [batch, 1], the next position
        self.mask = b.cast(counted, DType.I32) if self.mask is None else self.mask
        caches = []
        for i in initial.input[3:]:
            dims = i.type.tensor_type.shape.dim
            if len(dims) != 5 or dims[2].dim_value < 1 or dims[4].dim_value < 1 or not i.name.startswith("past"):
                raise ctx.unsupported(
                    f"{self.node.op_type} with a decoder that takes {i.name!r}, expected past [2, rows, heads, length, size]"
                )
            shape = (2, rows, dims[2].dim_value, 0, dims[4].dim_value)
            caches.append(b.expand(b.const([[[[[0]]]]], DType.F32), shape))
        logits, *presents = self.run(initial, [self.ids, position, self.mask, *caches])
        if not presents or len(presents) != len(caches):
            raise ctx.unsupported(f"{self.node.op_type} with a decoder that turns {len(caches)} caches into {len(presents)}")
        self.prompt = length
        return self.last(logits), presents

    def repeat(self, times: Dim) -> None:
        b = Build(self.ctx)
        assert self.mask is not None
        self.mask, self.count = repeated(b, self.mask, times), repeated(b, self.count, times)

    def step(self, inside: Inside, tokens: Value, sequences: Value, caches: list[Value], past: Dim) -> tuple[Value, list[Value]]:
        b, rows = Build(self.ctx), tokens.shape[0]
        assert self.mask is not None
        mask = b.concat(1, inside(self.mask), b.expand(b.const([[1]], self.mask.dtype), (rows, past + 1 - self.prompt)))
        position = b.add(inside(self.count), b.dim(past - self.prompt, DType.I32))
        logits, *caches = self.run(self.graph("decoder"), [b.reshape(tokens, (rows, 1)), position, mask, *caches])
        return self.last(logits), caches


@dataclass
class EncoderDecoder(Decoder):
    """encoder: (inputs, mask, decoder_input_ids) -> (logits, hidden states, own caches of each layer, caches of the encoder's).

    decoder: (input_ids, mask, hidden states if it wants them, own caches, the encoder's caches) -> (logits, own caches). Masks are
    those of T5; Whisper has none. An encoder may give its caches only, for the same operands but for decoder_input_ids; then the
    decoder serves the first token too.
    """

    inputs: Value
    mask: Value | None

    def first(self) -> tuple[Value, list[Value]]:
        b, decoder, encoder = Build(self.ctx), self.graph("decoder"), self.graph("encoder")
        own = len(decoder.output) - 1
        lead = [self.inputs] if self.mask is None else [self.inputs, self.mask]
        names = [i.name for i in decoder.input]
        dims = decoder.input[0].type.tensor_type.shape.dim
        self.whole = len(dims) == 2 and dims[1].dim_value != 1  # sequences, not the last token only
        wants_hidden = "encoder_hidden_states" in names
        if encoder.output and encoder.output[0].name == "logits":
            logits, hidden, *caches = self.run(encoder, [*lead, self.ids])
            caches, self.crossed = caches[:own], caches[own:]
            self.fixed = [v for v in (self.mask, hidden if wants_hidden else None) if v is not None]
        else:
            self.crossed, self.fixed = self.run(encoder, lead), [] if self.mask is None else [self.mask]
            empty = []
            for i in decoder.input[len(self.fixed) + 1 :][:own]:
                size = [d.dim_value for d in i.type.tensor_type.shape.dim]
                if len(size) != 4 or size[1] < 1 or size[3] < 1:
                    raise self.ctx.unsupported(
                        f"{self.node.op_type} with a decoder that takes {i.name!r}, expected [rows, heads, length, size]"
                    )
                empty.append(b.expand(b.const([[[[0]]]], DType.F32), (self.ids.shape[0], size[1], 0, size[3])))
            logits, *caches = self.run(decoder, [self.ids, *self.fixed, *empty, *self.crossed])
        if len(caches) != own or own < 1 or len(names) != 1 + len(self.fixed) + own + len(self.crossed):
            raise self.ctx.unsupported(
                f"{self.node.op_type} with a decoder of {own} caches that takes {', '.join(names)}, after {len(caches)} and "
                f"{len(self.crossed)} of the encoder"
            )
        return self.last(logits), caches

    def repeat(self, times: Dim) -> None:
        b = Build(self.ctx)
        self.fixed = [repeated(b, v, times) for v in self.fixed]
        self.crossed = [repeated(b, v, times) for v in self.crossed]

    def step(self, inside: Inside, tokens: Value, sequences: Value, caches: list[Value], past: Dim) -> tuple[Value, list[Value]]:
        b = Build(self.ctx)
        ids = sequences if self.whole else b.reshape(tokens, (tokens.shape[0], 1))
        fixed, crossed = [inside(v) for v in self.fixed], [inside(v) for v in self.crossed]
        logits, *caches = self.run(self.graph("decoder"), [ids, *fixed, *caches, *crossed])
        return self.last(logits), caches
