"""Handlers of operators on strings. What they do is in `runtime/host/strings.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import NodeProto

from ....ir import DType, TensorType, Value, broadcast
from ....ir import ops as O
from ..compose import required
from ..context import HandlerTable, ImportContext
from ..held import Element


def _texts(ctx: ImportContext, node: NodeProto, ins: Sequence[Value | None], count: int) -> list[Value]:
    values = required(ctx, node, ins, count)
    for v in values:
        if v.dtype is not DType.STRING:
            raise ctx.unsupported(f"{node.op_type} of {v.type}")
    return values


def cast_string(ctx: ImportContext, x: Value, dtype: DType) -> Value:
    """Numbers to strings, or back."""
    return ctx.emit(O.CastString((TensorType(dtype, x.shape),), dtype.value), x).outputs[0]


def concat(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    a, b = _texts(ctx, node, ins, 2)
    shape = tuple(None if _may_stretch(d) else d for d in broadcast(a.shape, b.shape))
    return [ctx.run_host(O.StringConcat, (a, b), Element(DType.STRING, shape))[0]]


def _may_stretch(d: object) -> bool:
    return not isinstance(d, int)


def split(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = _texts(ctx, node, ins, 1)
    delimiter, most = str(ctx.attr(node, "delimiter", "")), int(ctx.attr(node, "maxsplit", -1))
    elements = Element(DType.STRING, (*x.shape, None)), Element(DType.I64, x.shape)
    return ctx.run_host(lambda results: O.StringSplit(results, delimiter, most), (x,), *elements)


def full_match(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = _texts(ctx, node, ins, 1)
    pattern = str(ctx.attr(node, "pattern"))
    return ctx.run_host(lambda results: O.RegexFullMatch(results, pattern), (x,), Element(DType.BOOL, x.shape))


def normalizer(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = _texts(ctx, node, ins, 1)
    case = str(ctx.attr(node, "case_change_action", "NONE"))
    if case not in ("NONE", "LOWER", "UPPER") or x.type.rank not in (1, 2):
        raise ctx.unsupported(f"StringNormalizer {case!r} of {x.type}")
    sensitive, stop = bool(ctx.attr(node, "is_case_sensitive", 0)), tuple(ctx.attr(node, "stopwords", ()))
    shape: tuple[Any, ...] = x.shape
    if stop:
        shape = (None,) if x.type.rank == 1 else (1, None)
    return ctx.run_host(lambda results: O.StringNormalizer(results, case, sensitive, stop), (x,), Element(DType.STRING, shape))


def tf_idf(ctx: ImportContext, node: NodeProto, ins: list[Value | None]) -> Sequence[Value]:
    (x,) = required(ctx, node, ins, 1)
    numbers, texts = ctx.attr(node, "pool_int64s", ()), ctx.attr(node, "pool_strings", ())
    indexes = tuple(ctx.attr(node, "ngram_indexes"))
    shape = (*x.shape[:-1], max(indexes, default=-1) + 1)
    least, most, skip = (int(ctx.attr(node, name)) for name in ("min_gram_length", "max_gram_length", "max_skip_count"))
    mode, counts = str(ctx.attr(node, "mode")), tuple(ctx.attr(node, "ngram_counts"))
    pool, weights = tuple(texts or numbers), tuple(ctx.attr(node, "weights", ()))

    def op(results: tuple[TensorType, ...]) -> O.TfIdf:
        return O.TfIdf(results, mode, least, most, skip, counts, indexes, pool, weights)

    return ctx.run_host(op, (x,), Element(DType.F32, shape))


STRING_HANDLERS: HandlerTable = {
    ("RegexFullMatch", 20): full_match,
    ("StringConcat", 20): concat,
    ("StringNormalizer", 10): normalizer,
    ("StringSplit", 20): split,
    ("TfIdfVectorizer", 9): tf_idf,
}
