"""Handlers of onnxruntime's operators on numbered tokens (com.microsoft): hashes of n-grams, copies from a source, embedded words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from onnx import NodeProto

from .....ir import Dim, DType, Value
from .....ir import ops as O
from ...compose import Build, one_size, optional, required, sized
from ...context import HandlerTable, ImportContext

Ins = list[Value | None]
_LARGEST_GRAM = 256  # n-grams are compared word by word, which takes a few nodes for each


def bifurcation_detector(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Appends predicted tokens to the current ones up to the first that is not what the source has behind the last match.

    Predictions are compared with source tokens from the previous match on; the first one that differs is still taken. Then the
    place behind the last tokens of the result is looked for in the source, with n-grams of growing size until one of them occurs
    only once: -1 if there is none.
    """
    src, cur, previous = required(ctx, node, ins, 3)
    b, predicted = Build(ctx), optional(ins, 3)
    low, high = (int(ctx.attr(node, name, default)) for name, default in (("min_ngram_size", 1), ("max_ngram_size", 3)))
    if not 1 <= low <= high <= _LARGEST_GRAM:
        raise ctx.unsupported(f"BifurcationDetector of n-grams from {low} to {high}, expected from 1 to {_LARGEST_GRAM}")
    size, tokens = src.shape[0], cur
    if predicted is not None:
        compared = predicted.shape[0] - 1
        ctx.require_within(compared, 0, size)
        start = ctx.checked(b.reshape(previous, ()), [size - compared], [size - compared])
        place = b.iota(compared)
        same = b.emit(O.Equal(), b.slice(predicted, 0, 0, compared), b.emit(O.Gather(0), src, b.add(place, start)))
        first = b.where(same, b.dim(compared, DType.I64), place)
        first = b.reduce("min", b.concat(0, first, b.reshape(b.dim(compared, DType.I64), (1,))), [0], False)
        tokens = b.concat(0, cur, b.slice(predicted, 0, 0, ctx.size(b.add(first, 1), 0, 1)))
    found, going = b.const(-1, DType.I64), b.const(True, DType.BOOL)
    for gram in range(low, high + 1):
        going, found = _search(b, src, tokens, gram, going, found)
    return [tokens, b.reshape(found, previous.shape)]


def _search(b: Build, src: Value, tokens: Value, gram: int, going: Value, found: Value) -> tuple[Value, Value]:
    """Whether to go on with longer n-grams, and the place in src behind the last `gram` tokens."""
    size, length = src.shape[0], tokens.shape[0]
    place = b.iota(size)
    matches = b.emit(O.LessEqual(), place, b.dim(size - gram, DType.I64))
    enough = b.emit(O.GreaterEqual(), b.dim(length, DType.I64), b.const(gram, DType.I64))
    for k in range(gram):
        wanted = b.emit(O.Gather(0), tokens, b.max(b.dim(length - gram + k, DType.I64), 0))
        at = b.min(b.add(place, k), b.dim(size - 1, DType.I64))
        matches = b.emit(O.And(), matches, b.emit(O.Equal(), b.emit(O.Gather(0), src, at), wanted))
    count = b.reduce("sum", b.cast(matches, DType.I64), [0], False)
    nowhere = b.reshape(b.dim(size, DType.I64), (1,))
    first = b.reduce("min", b.concat(0, b.where(matches, place, nowhere), nowhere), [0], False)
    behind = b.add(first, gram)
    going = b.emit(O.And(), b.emit(O.And(), going, enough), b.emit(O.Greater(), count, b.const(0, DType.I64)))
    inside = b.emit(O.Less(), behind, b.dim(size, DType.I64))
    several = b.emit(O.And(), inside, b.emit(O.Greater(), count, b.const(1, DType.I64)))
    found = b.where(going, b.where(several, b.const(-1, DType.I64), behind), found)
    return b.emit(O.And(), going, inside), found


def ngram_hash_mapping(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """Hashes of the n-grams that end at each token of ids[B, S], for n from 2 on, and the last ids for the next call."""
    (ids,) = required(ctx, node, ins, 1)
    b, reach = Build(ctx), int(ctx.attr(node, "max_ngram_size")) - 1
    batch, steps = ids.shape
    before, fill, resets = _history(ctx, node, b, ids, ins[3:6], (batch, reach))
    seen = b.concat(1, before, ids)
    changes = None
    segments = optional(ins, 6)
    if segments is not None:  # boundaries within this call only
        changes = b.emit(O.Not(), b.emit(O.Equal(), b.slice(segments, 1, 1, steps - 1), b.slice(segments, 1, 0, steps - 1)))
        changes = b.concat(1, b.expand(b.const(False, DType.BOOL), (batch, reach + 1)), changes)
    shifted = [b.slice(seen, 1, reach - k, steps) for k in range(reach + 1)]
    cuts = [] if changes is None else [b.slice(changes, 1, reach - k, steps) for k in range(reach)]
    hashes = _hashes(ctx, node, b, shifted, cuts, fill, resets, ins)
    return [hashes, b.slice(seen, 1, steps, reach)]


def varlen_ngram_hash_mapping(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """The same of packed requests: tokens starts[i] to starts[i + 1] of ids[T] are one, with a history of its own."""
    ids, _, _, starts = required(ctx, node, ins, 4)
    b, reach = Build(ctx), int(ctx.attr(node, "max_ngram_size")) - 1
    if int(ctx.attr(node, "state_update_capacity", 0)) or optional(ins, 9) is not None:
        raise ctx.unsupported("VarlenNGramHashMapping with captured states (onnxruntime has them on GPUs only)")
    total, batch = ids.shape[0], starts.shape[0] - 1
    before, fill, resets = _history(ctx, node, b, ids, [optional(ins, i) for i in (4, 5, 6)], (batch, reach))
    starts = b.cast(starts, DType.I64)
    starts = ctx.checked(starts, [0], [total])
    place = b.iota(total)
    ends = b.slice(starts, 0, 1, batch)
    request = b.emit(O.LessEqual(), b.reshape(ends, (1, batch)), b.reshape(place, (total, 1)))
    request = b.min(b.reduce("sum", b.cast(request, DType.I64), [1], False), b.dim(batch - 1, DType.I64))
    offset = b.sub(place, b.emit(O.Gather(0), starts, request))  # of the token in its request

    def reader(past: Value, now: Value) -> tuple[list[Value], Value]:
        """What is k places before each token, and the last places of every request."""
        both = b.concat(0, b.reshape(past, (batch * reach,)), now)

        def read(row: Value, at: Value, first: Value) -> Value:
            old = b.add(b.mul(row, reach), b.min(b.max(b.add(at, reach), 0), reach - 1))
            new = b.add(b.min(b.max(b.add(first, at), 0), b.dim(total - 1, DType.I64)), b.dim(batch * reach, DType.I64))
            return b.emit(O.Gather(0), both, b.where(b.emit(O.Less(), at, b.const(0, DType.I64)), old, new))

        first = b.emit(O.Gather(0), starts, request)
        shifted = [read(request, b.sub(offset, k), first) for k in range(reach + 1)]
        lead = b.reshape(b.slice(starts, 0, 0, batch), (batch, 1))
        length = b.sub(b.reshape(ends, (batch, 1)), lead)
        last = b.add(b.sub(length, reach), b.reshape(b.iota(reach), (1, reach)))
        return shifted, read(b.reshape(b.iota(batch), (batch, 1)), last, lead)

    shifted, present = reader(before, ids)
    outs, cuts = [present], []
    segments, past_segments = optional(ins, 7), optional(ins, 8)
    if segments is not None:
        known = past_segments
        if known is None:  # the history is of the request's first segment
            known = b.expand(b.reshape(b.emit(O.Gather(0), segments, b.slice(starts, 0, 0, batch)), (batch, 1)), (batch, reach))
        parts, present_segments = reader(known, segments)
        cuts = [b.emit(O.Not(), b.emit(O.Equal(), now, before_it)) for now, before_it in pairwise(parts)]
        outs.append(present_segments)
    return [_hashes(ctx, node, b, shifted, cuts, fill, resets, [*ins[:3], None, optional(ins, 5), optional(ins, 6)]), *outs]


def _history(
    ctx: ImportContext, node: NodeProto, b: Build, ids: Value, given: Sequence[Value | None], shape: tuple[Dim, Dim]
) -> tuple[Value, Value, bool]:  # fmt: skip
    """Ids before the first one, what stands for missing ones, and whether that token cuts histories. `given`: ids, offsets, eos."""
    past, eos = optional(given, 0), optional(given, 2)
    pad = b.const(int(ctx.attr(node, "pad_id")), ids.dtype)
    fill = pad if eos is None else b.reshape(eos, ())
    before = b.expand(b.reshape(fill, (1, 1)), shape) if past is None else past
    return before, fill, eos is not None and bool(ctx.attr(node, "reset_on_eos", 0))


def _hashes(
    ctx: ImportContext, node: NodeProto, b: Build, shifted: list[Value], cuts: list[Value], fill: Value, resets: bool, ins: Ins
) -> Value:  # fmt: skip
    """[…, (n − 1)·heads]: xor of the tokens times their multipliers, modulo the size of each head's vocabulary.

    Token k back is missing where a cut or the token that resets lies between it and the current one.
    """
    _, multipliers, sizes = required(ctx, node, ins, 3)
    offsets, heads = optional(ins, 4), int(ctx.attr(node, "n_head_per_ngram"))
    if len(shifted) < 2 or heads < 1:
        raise ctx.unsupported(f"{node.op_type} of {len(shifted)}-grams with {heads} heads")
    count = (len(shifted) - 1) * heads
    ctx.require_within(multipliers.shape[0], len(shifted), 2**31)
    ctx.require_equal(sizes.shape[0], count)
    sizes = b.reshape(sizes, (count,))
    offsets = None if offsets is None else b.reshape(offsets, (count,))
    sizes = b.cast(ctx.checked(sizes, [1], [2**62]), sizes.dtype)
    lost: Value | None = None
    mixed: list[Value] = []
    for k, token in enumerate(shifted):
        if k:
            broken = [cuts[k - 1]] if cuts else []
            broken += [b.emit(O.Equal(), token, fill)] if resets else []
            for cut in broken:
                lost = cut if lost is None else b.emit(O.Or(), lost, cut)
            token = token if lost is None else b.where(lost, fill, token)
        factor = b.mul(token, b.reshape(b.slice(multipliers, 0, k, 1), ()))
        mixed.append(b.emit(O.BitXor(), mixed[-1], factor) if mixed else factor)
    parts = []
    for n, mix in enumerate(mixed[1:]):
        wide = b.reshape(mix, (*mix.shape, 1))
        parts.append(b.emit(O.Mod(), wide, b.slice(sizes, 0, n * heads, heads)))
    y = b.concat(parts[0].type.rank - 1, *parts)
    return y if offsets is None else b.add(y, offsets)


def word_conv_embedding(ctx: ImportContext, node: NodeProto, ins: Ins) -> Sequence[Value]:
    """For words[S, W] of characters (0: none) the greatest tanh of a convolution over the embedded characters, by filter."""
    words, w, bias, table = required(ctx, node, ins, 4)
    b, (count, width) = Build(ctx), words.shape
    if w.type.rank != 4 or table.type.rank != 2:
        raise ctx.unsupported(f"WordConvEmbedding with weights {w.type} and characters {table.type}")
    found = []
    filters, _, taps, size = w.shape
    equal = {"embedding_size": (filters, *bias.shape), "conv_window_size": (taps,), "char_embedding_size": (size, table.shape[1])}
    for name, sizes in equal.items():
        said = int(ctx.attr(node, name, -1))
        if said != -1 and any(isinstance(d, int) and d != said for d in sizes):
            raise ctx.unsupported(f"WordConvEmbedding with {name}={said} for {', '.join(map(str, sizes))}")
        found.append(one_size(ctx, *sizes, *([] if said == -1 else [said])))
    filters, taps, size = found
    if not isinstance(taps, int):
        raise ctx.unsupported(f"WordConvEmbedding with weights {w.type}")
    w = sized(ctx, w, (filters, 1, taps, size))
    ctx.require_within(width, taps, 2**31)
    zero = b.const(0, words.dtype)
    some = b.emit(O.Greater(), words, zero)
    length = b.reduce("sum", b.cast(some, DType.I64), [1])
    length = b.where(b.slice(some, 1, 0, 1), length, b.const(0, DType.I64))  # a word that begins with no character is none
    read = b.max(length, taps)
    inside = b.emit(O.Less(), b.reshape(b.iota(width), (1, width)), read)
    characters = b.emit(O.Gather(0), table, ctx.checked(b.where(inside, words, zero), [0], [table.shape[0] - 1]))
    kernel = b.transpose(b.reshape(w, (filters, taps, size)), (1, 2, 0))
    y = b.emit(O.Tanh(), b.add(b.emit(O.Conv((1,), (0,), (0,), (1,), 1), characters, kernel), bias))
    spans = width - taps + 1
    valid = b.emit(O.Less(), b.reshape(b.iota(spans), (1, spans)), b.sub(read, taps - 1))
    y = b.reduce("max", b.where(b.reshape(valid, (count, spans, 1)), y, b.const(-1e12, y.dtype)), [1], False)
    return [b.where(b.emit(O.Greater(), length, b.const(0, DType.I64)), y, b.const(0, y.dtype))]


TOKEN_MS_HANDLERS: HandlerTable = {
    ("com.microsoft::BifurcationDetector", 1): bifurcation_detector,
    ("com.microsoft::NGramHashMapping", 1): ngram_hash_mapping,
    ("com.microsoft::VarlenNGramHashMapping", 1): varlen_ngram_hash_mapping,
    ("com.microsoft::WordConvEmbedding", 1): word_conv_embedding,
}
