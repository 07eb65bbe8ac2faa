"""GreedySearch and Sampling: one token after the other, the best one or one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from ......ir import DType, Value
from ......ir import ops as O
from ....compose import Build, optional, required
from ....context import HandlerTable, ImportContext
from ...random import draw, stream_of
from .decoders import Gpt
from .growing import Inside, growing_loop
from .parameters import filled, going, processors, prompt_limits
from .scores import Processors

Ins = list[Value | None]
Choose = Callable[[Build, Inside, Value, Value], tuple[Value, Value]]  # (scores, step) -> (indices [batch], what it chose from)


def greedy_search(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Sequences i32[batch, max_length], filled up with pad_token_id."""
    return _search(ctx, node, ins, processors(ctx, node, ins[2:6]), _best)[:1]


def _best(b: Build, inside: Inside, scores: Value, step: Value) -> tuple[Value, Value]:
    best = b.ctx.emit(O.TopK(1, 1), scores).outputs[1]
    return b.reshape(best, scores.shape[:1]), scores


def sampling(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Like GreedySearch, with tokens drawn from the most probable ones; and the scores that the last ones were drawn from.

    Those that are left out (their scores become filter_value) are, in the order of growing probability, the ones of together
    1 − top_p at most, but for min_tokens_to_keep; with `custom`, in the order of falling probability, all behind top_p.
    presence_penalty is taken off the scores of all tokens that presence_mask marks; onnxruntime's CPU kernel takes the penalties
    of all tokens off the first score.
    """
    b, custom = Build(ctx), ctx.flag(node, "custom", False)
    presence, seed = optional(ins, 7), optional(ins, 8)
    penalty, temperature = float(ctx.attr(node, "presence_penalty", 0.0)), float(ctx.attr(node, "temperature", 1.0))
    if not temperature > 0:
        raise ctx.unsupported(f"Sampling with temperature={temperature}, expected more than 0")
    taken = None if presence is None or not penalty else b.mul(b.cast(presence, DType.F32), penalty)
    keep = int(ctx.attr(node, "min_tokens_to_keep", 0))
    top, filler = float(ctx.attr(node, "top_p", 0.0)), float(ctx.attr(node, "filter_value", -1e20))
    stream = stream_of(ctx, node, b, seed)

    def choose(b: Build, inside: Inside, scores: Value, step: Value) -> tuple[Value, Value]:
        scores = _head(b, scores, top, filler) if custom else _tail(b, scores, top, keep, filler)
        return draw(b, inside(stream), scores, step), scores

    found = processors(ctx, node, ins[2:6], None if temperature == 1 else temperature, taken)
    return _search(ctx, node, ins, found, choose)


def _sorted(b: Build, scores: Value, largest: bool) -> tuple[Value, Value, Value]:
    """Sums of probabilities up to each place, the place itself, and a token's place."""
    size = scores.shape[1]
    values, order = b.ctx.emit(O.TopK(1, size, largest), scores).outputs
    place = b.expand(b.reshape(b.iota(size), (1, size)), scores.shape)
    where = b.emit(O.ScatterElements(1), b.expand(b.const([[0]], DType.I64), scores.shape), order, place)
    return b.emit(O.CumSum(1), b.emit(O.Softmax(1), values)), place, where


def _tail(b: Build, scores: Value, top: float, keep: int, filler: float) -> Value:
    total, place, where = _sorted(b, scores, False)
    lost = b.emit(O.LessEqual(), total, b.const(1 - top, DType.F32))
    kept = b.emit(O.GreaterEqual(), place, b.dim(scores.shape[1] - keep, DType.I64))
    kept = b.emit(O.And(), kept, b.emit(O.Greater(), place, b.const(0, DType.I64)))  # the least probable one is never kept so
    lost = b.emit(O.And(), lost, b.emit(O.Not(), kept))
    return b.where(b.emit(O.GatherElements(1), lost, where), b.const(filler, DType.F32), scores)


def _head(b: Build, scores: Value, top: float, filler: float) -> Value:
    total, _, where = _sorted(b, scores, True)
    before = b.emit(O.GatherElements(1), total, b.max(b.sub(where, 1), 0))
    lost = b.emit(O.And(), b.emit(O.Greater(), where, b.const(0, DType.I64)), b.emit(O.Greater(), before, b.const(top, DType.F32)))
    return b.where(lost, b.const(filler, DType.F32), scores)


def _search(ctx: ImportContext, node: NodeProto, ins: Ins, rules: Processors, choose: Choose) -> list[Value]:
    """Sequences, and the scores that the last tokens were chosen from."""
    ids, most = required(ctx, node, ins, 2)
    if int(ctx.attr(node, "model_type", 0)) != 0:
        raise ctx.unsupported(
            f"{node.op_type} with model_type={ctx.attr(node, 'model_type')}, expected 0 (onnxruntime has no other either)"
        )
    b, pad = Build(ctx), int(ctx.attr(node, "pad_token_id"))
    prompt, longest = prompt_limits(ctx, ids, most)
    decoder = Gpt(ctx, node, ids, 1, 3, pad, optional(ins, 6))
    logits, caches = decoder.first()

    def extend(b: Build, inside: Inside, logits: Value, sequences: Value, ended: Value, first: bool) -> list[Value]:
        """Longer sequences, the tokens that are new, which sequences have ended, and the scores behind the choice."""
        rows, length = sequences.shape
        scores = rules.apply(b, inside, logits, sequences, first)
        token, scores = choose(b, inside, scores, b.dim(length, DType.I64))
        token = b.cast(token, DType.I32)
        ended = b.emit(O.Or(), ended, b.emit(O.Equal(), token, b.const(rules.eos, DType.I32)))
        token = b.where(ended, b.const(pad, DType.I32), token)
        return [b.concat(1, sequences, b.reshape(token, (rows, 1))), token, ended, scores]

    batch = ids.shape[0]
    state = extend(b, lambda v: v, logits, ids, b.expand(b.const([False], DType.BOOL), (batch,)), True)

    def body(inside: Inside, states: list[Value], length: object) -> tuple[Value, list[Value]]:
        sequences, token, ended, _, *caches = states
        logits, caches = decoder.step(inside, token, sequences, caches, caches[0].shape[decoder.length])
        after = extend(b, inside, logits, sequences, ended, False)
        return going(b, after[2]), [*after, *caches]

    axes = [1, None, None, None, *(decoder.length for _ in caches)]
    trips = b.dim(longest - prompt - 1, DType.I64)
    found, _ = growing_loop(ctx, [*state, *caches], axes, caches[0].shape[decoder.length], trips, going(b, state[2]), body, node.op_type)
    return [filled(b, found[0], 1, longest, pad), found[3]]


GREEDY_HANDLERS: HandlerTable = {
    ("com.microsoft::GreedySearch", 1): greedy_search,
    ("com.microsoft::Sampling", 1): sampling,
}
