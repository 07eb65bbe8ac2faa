"""BeamSearch and WhisperBeamSearch: of all continuations of the best sequences, the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ......ir import Dim, DType, Value
from ......ir import ops as O
from ....compose import Build, optional, required, wanted
from ....context import HandlerTable, ImportContext
from .decoders import Decoder, EncoderDecoder, Gpt, not_padding, repeated
from .growing import Inside, growing_loop
from .parameters import filled, going, processors, prompt_limits
from .scores import Processors, Timestamps

Ins = list[Value | None]
_GPT, _T5, _WHISPER = range(3)


@dataclass(frozen=True)
class _Beams:
    """What does not change. R = batch·beams rows."""

    rules: Processors
    batch: Dim
    beams: Dim
    penalty: Value | None  # scores of finished sequences are divided by length^penalty
    early: bool  # a batch is done with the first `beams` finished sequences
    pad: int
    collects: bool  # scores of all tokens

    def denominator(self, b: Build, inside: Inside, length: Dim) -> Value:
        size = b.dim(length, DType.F32)
        return size if self.penalty is None else b.emit(O.Pow(), size, inside(self.penalty))


@dataclass(frozen=True)
class _State:
    """sequences i32[R, L]; token i32[R], the last of each; score f32[R]; done bool[batch]; the best finished sequences of each batch,
    best first: scores f32[batch, beams], their number i64[batch], tokens i32[batch, beams, L]; and scores f32[L − prompt, R, V]."""

    sequences: Value
    token: Value
    score: Value
    done: Value
    finished: Value
    number: Value
    texts: Value
    all_scores: Value | None

    def values(self) -> list[Value]:
        return [self.sequences, self.token, self.score, self.done, self.finished, self.number, self.texts, *self._collected()]

    def _collected(self) -> list[Value]:
        return [] if self.all_scores is None else [self.all_scores]

    def axes(self) -> list[int | None]:
        return [1, None, None, None, None, None, 2, *(0 for _ in self._collected())]

    def of(self, values: Sequence[Value]) -> _State:
        sequences, token, score, done, finished, number, texts, *collected = values[: len(self.values())]
        return _State(sequences, token, score, done, finished, number, texts, collected[0] if collected else None)


def beam_search(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Sequences i32[batch, returned, max_length] filled up with pad_token_id, their scores, and those of all tokens on the way.

    WhisperBeamSearch also has the probability that nothing is said, behind the prompt; scores of attention (cross_qk) it has not.
    """
    first, most = required(ctx, node, ins, 2)
    wide, count = (optional(ins, i) for i in (3, 4))
    if wanted(node, 3):
        raise ctx.unsupported(f"{node.op_type} with the output cross_qk (onnxruntime has it on GPUs only)")
    if wide is None or count is None:
        raise ctx.unsupported(f"{node.op_type} without num_beams or num_return_sequences")
    b, pad = Build(ctx), int(ctx.attr(node, "pad_token_id"))
    decoder, rules = _decoder(ctx, node, ins, first, pad)
    prompt, longest = prompt_limits(ctx, decoder.ids, most)
    beams, returned = ctx.size(wide, lo=1), ctx.size(count, lo=1)
    ctx.require_within(returned, 1, beams)
    batch, penalty = decoder.ids.shape[0], optional(ins, 5)
    penalty = None if penalty is None else b.reshape(b.cast(penalty, DType.F32), ())
    if rules.prefix is not None:
        rules = replace(rules, prefix=repeated(b, rules.prefix, beams))
    fixed = _Beams(rules, batch, beams, penalty, ctx.flag(node, "early_stopping", False), pad, wanted(node, 2))
    logits, caches = decoder.first()
    decoder.repeat(beams)
    state, rows = _extended(b, lambda v: v, fixed, repeated(b, logits, beams), _start(b, fixed, decoder.ids), True)
    batches = b.div(_cached(b, fixed, rows), b.dim(beams, DType.I64))  # caches of prompts have one row for a batch
    caches = [b.emit(O.Gather(decoder.rows), v, batches) for v in caches]

    def body(inside: Inside, states: list[Value], length: Dim) -> tuple[Value, list[Value]]:
        old = state.of(states)
        logits, after = decoder.step(inside, old.token, old.sequences, states[len(old.values()) :], length)
        new, rows = _extended(b, inside, fixed, logits, old, False)
        after = [b.emit(O.Gather(decoder.rows), v, _cached(b, fixed, rows)) for v in after] if beams != 1 else after
        return going(b, new.done), [*new.values(), *after]

    axes = [*state.axes(), *(decoder.length for _ in caches)]
    trips = b.dim(longest - prompt - 1, DType.I64)
    # onnxruntime looks whether all is done behind the first token of a decoder without encoder only
    start = going(b, state.done) if isinstance(decoder, Gpt) else ctx.const(np.bool_(True))
    found, _ = growing_loop(
        ctx, [*state.values(), *caches], axes, caches[0].shape[decoder.length], trips, start, body, node.op_type
    )  # fmt: skip
    results = _results(b, fixed, state.of(found), returned, longest, prompt)
    if not wanted(node, 4):
        return results
    silence = int(ctx.attr(node, "no_speech_token_id", -1))
    ctx.require_within(silence, 0, logits.shape[1] - 1)
    silent = b.slice(b.emit(O.Softmax(1), logits), 1, silence, 1)
    return [*results, *results[:1] * (4 - len(results)), b.reshape(silent, (batch,))]


def _decoder(ctx: ImportContext, node: NodeProto, ins: Ins, inputs: Value, pad: int) -> tuple[Decoder, Processors]:
    b, kind = Build(ctx), int(ctx.attr(node, "model_type", _WHISPER if node.op_type == "WhisperBeamSearch" else _GPT))
    start, mask = int(ctx.attr(node, "decoder_start_token_id", -1)), optional(ins, 9)
    rules = processors(ctx, node, [optional(ins, i) for i in (2, 6, 7, 8)])
    if kind == _GPT:
        return Gpt(ctx, node, inputs, 1, 3, pad, mask), rules
    ids = optional(ins, 10) if kind == _WHISPER else None
    if kind not in (_T5, _WHISPER) or (ids is None and start < 0):
        raise ctx.unsupported(f"{node.op_type} with model_type={kind} and decoder_start_token_id={start}")
    if ids is None:
        ids = b.expand(b.const([[start]], DType.I32), (inputs.shape[0], 1))
    if kind == _WHISPER:
        return EncoderDecoder(ctx, node, b.cast(ids, DType.I32), 0, 2, inputs, None), _whisper_rules(ctx, node, ins)
    if mask is None:  # of padding in front
        mask = b.emit(O.Greater(), b.emit(O.CumSum(1), b.cast(not_padding(b, inputs, pad), DType.I32)), b.const(0, DType.I32))
    return EncoderDecoder(ctx, node, ids, 0, 2, inputs, b.cast(mask, DType.I32)), rules


def _whisper_rules(ctx: ImportContext, node: NodeProto, ins: Ins) -> Processors:
    """logits_processor=1 asks for the rules of timestamps."""
    b, kind, temperature = Build(ctx), optional(ins, 11), optional(ins, 14)
    stamps = None
    if kind is not None:
        names = "translate", "transcribe", "start_of_lm", "no_timestamps", "beginning_timestamp"
        tokens = [int(ctx.attr(node, f"{name}_token_id", -1)) for name in names]
        asked = b.reshape(b.emit(O.Equal(), kind, b.const(1, kind.dtype)), ())
        stamps = Timestamps(asked, int(ctx.attr(node, "eos_token_id")), int(ctx.attr(node, "decoder_start_token_id", -1)), *tokens)
    temperature = None if temperature is None else b.reshape(b.cast(temperature, DType.F32), ())
    return processors(ctx, node, [optional(ins, i) for i in (2, 6, 7, 8)], temperature, None, stamps)


def _start(b: Build, fixed: _Beams, ids: Value) -> _State:
    """Before the first token: all beams but the first of each batch are next to impossible, so that they do not say the same."""
    batch, beams = fixed.batch, fixed.beams
    first = b.emit(O.Equal(), b.iota(beams), b.const(0, DType.I64))
    score = b.where(b.reshape(first, (1, beams)), b.const(0, DType.F32), b.const(-1e9, DType.F32))
    score = b.reshape(b.expand(score, (batch, beams)), (batch * beams,))
    sequences = repeated(b, b.cast(ids, DType.I32), beams)
    return _State(
        sequences, b.expand(b.const([0], DType.I32), (batch * beams,)), score, b.expand(b.const([False], DType.BOOL), (batch,)),
        b.expand(b.const([[-np.inf]], DType.F32), (batch, beams)), b.expand(b.const([0], DType.I64), (batch,)),
        b.expand(b.const([[[fixed.pad]]], DType.I32), (batch, beams, ids.shape[1])), None,
    )  # fmt: skip


def _cached(b: Build, fixed: _Beams, rows: Value) -> Value:
    """Whose cache each row gets: as in onnxruntime, a single beam keeps its own, also in batches that are done."""
    single = b.emit(O.Equal(), b.dim(fixed.beams, DType.I64), b.const(1, DType.I64))
    return b.where(single, b.iota(fixed.batch * fixed.beams), rows)


def _extended(b: Build, inside: Inside, fixed: _Beams, logits: Value, s: _State, first: bool) -> tuple[_State, Value]:
    """The state with one more token, and which row each row continues."""
    batch, beams, vocabulary = fixed.batch, fixed.beams, logits.shape[1]
    total, length = batch * beams, s.sequences.shape[1]
    scores = fixed.rules.apply(b, inside, b.emit(O.Softmax(1, True), logits), s.sequences, first)
    scores = b.add(scores, b.reshape(s.score, (total, 1)))
    best = b.ctx.emit(O.TopK(1, beams * 2), b.reshape(scores, (batch, beams * vocabulary))).outputs
    value, size = best[0], b.dim(vocabulary, DType.I64)  # [batch, 2·beams]
    row = b.add(b.div(best[1], size), b.mul(b.reshape(b.iota(batch), (batch, 1)), b.dim(beams, DType.I64)))
    token = b.cast(b.emit(O.Mod(), best[1], size), DType.I32)
    ends = b.emit(O.Equal(), token, b.const(fixed.rules.eos, DType.I32))
    running = b.emit(O.Not(), b.reshape(s.done, (batch, 1)))

    # The best candidates that do not end go on; a beam ends in one candidate at most, so that there are enough others.
    key = b.add(b.reshape(b.iota(beams * 2), (1, beams * 2)), b.where(ends, b.dim(beams * 2, DType.I64), b.const(0, DType.I64)))
    chosen = b.emit(O.Mod(), b.ctx.emit(O.TopK(1, beams, False), key).outputs[0], b.dim(beams * 2, DType.I64))

    def taken(x: Value, other: float) -> Value:
        """The chosen ones, and `other` in batches that are done."""
        return b.reshape(b.where(running, b.emit(O.GatherElements(1), x, chosen), b.const(other, x.dtype)), (total,))

    rows, following = taken(row, 0), taken(token, fixed.pad)
    sequences = b.concat(1, b.emit(O.Gather(0), s.sequences, rows), b.reshape(following, (total, 1)))

    # Those among the best `beams` candidates that end are finished, without the token that ends them.
    divisor = fixed.denominator(b, inside, length)
    added = b.emit(O.And(), b.slice(ends, 1, 0, beams), running)
    texts = b.emit(O.Gather(0), s.sequences, b.slice(row, 1, 0, beams))
    finished, number, texts = _merged(b, fixed, s, b.div(b.slice(value, 1, 0, beams), divisor), added, texts)

    # As in onnxruntime, what the best score is is looked up from candidate batch·beams of all batches on.
    window = b.add(b.mul(b.reshape(b.iota(batch), (batch, 1)), b.dim(beams, DType.I64)), b.reshape(b.iota(beams * 2), (1, beams * 2)))
    hope = b.reduce("max", b.emit(O.Gather(0), b.reshape(value, (total * 2,)), window), [1], False)
    full = b.emit(O.Equal(), number, b.dim(beams, DType.I64))
    if not fixed.early:
        worst = b.reshape(b.slice(finished, 1, beams - 1, 1), (batch,))
        full = b.emit(O.And(), full, b.emit(O.GreaterEqual(), worst, b.div(hope, divisor)))
    collected = b.reshape(scores, (1, total, vocabulary)) if fixed.collects else None
    if collected is not None and s.all_scores is not None:
        collected = b.concat(0, s.all_scores, collected)
    return _State(
        sequences, following, taken(value, 0.0), b.emit(O.Or(), s.done, full), finished, number,
        filled(b, texts, 2, length + 1, fixed.pad), collected,
    ), rows  # fmt: skip


def _merged(b: Build, fixed: _Beams, s: _State, scores: Value, valid: Value, texts: Value) -> tuple[Value, Value, Value]:
    """The best finished sequences with more of them, [batch, beams]; among equal scores, those that were there before come first."""
    batch, beams, length = fixed.batch, fixed.beams, texts.shape[2]
    both = b.concat(1, s.finished, b.where(valid, scores, b.const(-np.inf, DType.F32)))
    finished, order = b.ctx.emit(O.TopK(1, beams), both).outputs
    number = b.min(b.add(s.number, b.reduce("sum", b.cast(valid, DType.I64), [1], False)), b.dim(beams, DType.I64))
    rows = b.add(order, b.mul(b.reshape(b.iota(batch), (batch, 1)), b.dim(beams * 2, DType.I64)))
    flat = b.reshape(b.concat(1, s.texts, texts), (batch * beams * 2, length))
    return finished, number, b.emit(O.Gather(0), flat, rows)


def _results(b: Build, fixed: _Beams, s: _State, returned: Dim, longest: Dim, prompt: Dim) -> list[Value]:
    batch, beams, length = fixed.batch, fixed.beams, s.sequences.shape[1]
    scores = b.div(b.reshape(s.score, (batch, beams)), fixed.denominator(b, lambda v: v, length))
    running = b.expand(b.emit(O.Not(), b.reshape(s.done, (batch, 1))), (batch, beams))
    finished, _, texts = _merged(b, fixed, s, scores, running, b.reshape(s.sequences, (batch, beams, length)))
    results = [b.slice(filled(b, texts, 2, longest, fixed.pad), 1, 0, returned), b.slice(finished, 1, 0, returned)]
    if s.all_scores is not None:
        every = filled(b, s.all_scores, 0, longest - prompt, 0.0)
        results.append(b.reshape(every, (longest - prompt, batch, beams, every.shape[2])))
    return results


BEAM_HANDLERS: HandlerTable = {
    ("com.microsoft::BeamSearch", 1): beam_search,
    ("com.microsoft::WhisperBeamSearch", 1): beam_search,
}
