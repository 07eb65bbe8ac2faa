"""Attributes and operands that all searches have."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from ......ir import Dim, DType, Value
from ......ir import ops as O
from ....compose import Build, optional
from ....context import ImportContext
from .scores import LARGEST_GRAM, Processors, Timestamps


def processors(
    ctx: ImportContext, node: NodeProto, given: Sequence[Value | None], temperature: Value | float | None = None,
    presence: Value | None = None, timestamps: Timestamps | None = None,
) -> Processors:  # fmt: skip
    """`given`: operands min_length, repetition_penalty, vocab_mask and prefix_vocab_mask."""
    b, (least, penalty, vocabulary, prefix) = Build(ctx), (optional(given, i) for i in range(4))
    ngram, eos = int(ctx.attr(node, "no_repeat_ngram_size", 0)), int(ctx.attr(node, "eos_token_id"))
    if not 0 <= ngram <= LARGEST_GRAM:
        raise ctx.unsupported(f"{node.op_type} with no_repeat_ngram_size={ngram}, expected at most {LARGEST_GRAM}")
    known = ctx.known(penalty)
    if known is not None and (known == 1).all():
        penalty = None
    return Processors(
        None if penalty is None else b.reshape(b.cast(penalty, DType.F32), ()), ngram, vocabulary, prefix,
        None if least is None else b.reshape(b.cast(least, DType.I64), ()), eos, temperature, presence, timestamps,
    )  # fmt: skip


def prompt_limits(ctx: ImportContext, ids: Value, most: Value) -> tuple[Dim, Dim]:
    """Lengths of the prompts and of the longest sequence, which is longer."""
    prompt, longest = ids.shape[1], ctx.size(most)
    ctx.require_within(longest, prompt + 1, 2**31)
    return prompt, longest


def going(b: Build, ended: Value) -> Value:
    """Whether some of ended[n] are not true."""
    return b.emit(O.Not(), b.reduce("min", ended, [0], False))


def filled(b: Build, x: Value, axis: int, size: Dim, value: float) -> Value:
    """x as long as `size` along an axis."""
    more = tuple(size - d if k == axis else 0 for k, d in enumerate(x.shape))
    return b.emit(O.Pad((0,) * len(more), more, "constant"), x, b.const(value, x.dtype))
