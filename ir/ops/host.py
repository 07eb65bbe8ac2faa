"""Ops that the runtime runs in Python: strings, and values that are no tensors (sequences, optionals, maps).

A value that is no tensor has element type OBJECT and no axes: it is a handle, which control flow copies like any number. What it
refers to never changes, except by `ListAppend`. Tensors of strings move like other tensors, and are compared as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ...errors import VerifyError
from ..dims import Expr
from ..dtypes import DType
from ..op import Op, Trait
from ..types import TensorType

OBJECT = TensorType(DType.OBJECT, ())


@dataclass(frozen=True)
class Host(Op):
    """Base: `results` are the types of the results; symbols in them that are new stand for what the run gives.

    After the results come the shapes of those with symbolic dims, in order, as I64 vectors (see `Graph.sizes`).
    What the op does is `runtime/host/`, the function named `call`; the other fields are its keyword arguments.
    """

    results: tuple[TensorType, ...]
    call: ClassVar[str] = ""
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if not self.call:
            raise VerifyError(f"op {self.name} names no host function")
        return (*self.results, *(TensorType(DType.I64, (t.rank,)) for t in self.results if is_open(t)))

    @property
    def attributes(self) -> dict[str, Any]:
        """Keyword arguments of the host function."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "results"}


def is_open(t: TensorType) -> bool:
    """Whether the shape is only known when the value is there."""
    return any(isinstance(d, Expr) for d in t.shape)


@dataclass(frozen=True)
class SequenceConstruct(Host):
    """A sequence of the operands."""

    call: ClassVar[str] = "sequence_construct"


@dataclass(frozen=True)
class SequenceAt(Host):
    """Element at a position, negative ones from the end; operands (sequence, position)."""

    call: ClassVar[str] = "sequence_at"


@dataclass(frozen=True)
class SequenceInsert(Host):
    """A sequence with one more element, at the end or at a position; operands (sequence, element, position if any)."""

    call: ClassVar[str] = "sequence_insert"


@dataclass(frozen=True)
class SequenceErase(Host):
    """A sequence without the last element or that at a position; operands (sequence, position if any)."""

    call: ClassVar[str] = "sequence_erase"


@dataclass(frozen=True)
class SequenceLength(Host):
    """Number of elements, I64 scalar."""

    call: ClassVar[str] = "sequence_length"


@dataclass(frozen=True)
class ConcatFromSequence(Host):
    """The elements joined along an axis, a new one if `stack`."""

    axis: int
    stack: bool
    call: ClassVar[str] = "concat_from_sequence"


@dataclass(frozen=True)
class SplitToSequence(Host):
    """Parts of a tensor along an axis; operands (x, sizes I64: a scalar for equal parts, or a vector).

    Without `keepdims`, parts of size 1 lose the axis.
    """

    axis: int
    keepdims: bool
    call: ClassVar[str] = "split_to_sequence"


@dataclass(frozen=True)
class ListAppend(Host):
    """The same list, with one more element: only for lists that nothing else reads; operands (list, element)."""

    call: ClassVar[str] = "list_append"


@dataclass(frozen=True)
class ListStack(Host):
    """The elements of a list along a new first axis; operands (list, shape of an element, for an empty list). `dtype`: its name."""

    dtype: str
    call: ClassVar[str] = "list_stack"


@dataclass(frozen=True)
class OptionalHold(Host):
    """An optional that holds the operand, or nothing without one."""

    call: ClassVar[str] = "optional"


@dataclass(frozen=True)
class OptionalGet(Host):
    """What an optional holds; an InputError at run time when that is nothing."""

    call: ClassVar[str] = "optional_get"


@dataclass(frozen=True)
class OptionalHas(Host):
    """Whether an optional holds something, BOOL scalar."""

    call: ClassVar[str] = "optional_has"


@dataclass(frozen=True)
class CastString(Host):
    """Numbers to strings or strings to numbers; `to` is the name of the result's element type."""

    to: str
    call: ClassVar[str] = "cast_string"


@dataclass(frozen=True)
class ImageDecode(Host):
    """Pixels U8 [height, width, channels] of an encoded image U8 [bytes]; format "RGB", "BGR" or "Grayscale"."""

    pixel_format: str
    call: ClassVar[str] = "image_decode"


@dataclass(frozen=True)
class StringConcat(Host):
    """a[i] + b[i], broadcast."""

    call: ClassVar[str] = "string_concat"


@dataclass(frozen=True)
class StringSplit(Host):
    """Substrings along a new last axis, padded with "", and how many there are; no delimiter: split at white space."""

    delimiter: str
    maxsplit: int
    call: ClassVar[str] = "string_split"


@dataclass(frozen=True)
class RegexFullMatch(Host):
    """Whether the whole of each string matches."""

    pattern: str
    call: ClassVar[str] = "regex_full_match"


@dataclass(frozen=True)
class StringNormalizer(Host):
    """Strings without stop words, in one case; `case`: "NONE", "LOWER" or "UPPER"."""

    case: str
    sensitive: bool
    stopwords: tuple[str, ...]
    call: ClassVar[str] = "string_normalizer"


@dataclass(frozen=True)
class TfIdf(Host):
    """Counts of n-grams by row: operands (x), see TfIdfVectorizer in ONNX. `pool` holds numbers or strings."""

    mode: str
    min_gram: int
    max_gram: int
    max_skip: int
    counts: tuple[int, ...]
    indexes: tuple[int, ...]
    pool: tuple[int, ...] | tuple[str, ...]
    weights: tuple[float, ...]
    call: ClassVar[str] = "tf_idf"


@dataclass(frozen=True)
class Tokenize(Host):
    """Substrings between separators, or that match an expression (the other is empty), along a new last axis padded with `pad`.

    Tokens of fewer than `least` characters are dropped; `mark` puts U+0002 before and U+0003 behind those of a string.
    """

    separators: tuple[str, ...]
    expression: str
    least: int
    mark: bool
    pad: str
    call: ClassVar[str] = "tokenize"


@dataclass(frozen=True)
class MurmurHash(Host):
    """MurmurHash3_x86_32 of the UTF-8 bytes of strings, U32."""

    seed: int
    call: ClassVar[str] = "murmur_hash"


@dataclass(frozen=True)
class TimeWarp(Host):
    """The cheapest path from the first to the last element of costs[M, N], by steps right, down, or both: I32 [2, steps]."""

    call: ClassVar[str] = "time_warp"


@dataclass(frozen=True)
class UniqueRows(Host):
    """Distinct elements (axis −1: of the flattened tensor) or slices: values, first places, inverse, counts."""

    axis: int
    sorted: bool
    call: ClassVar[str] = "unique"


@dataclass(frozen=True)
class ZipMap(Host):
    """Rows of x[N, K] (a vector is one row) as a sequence of maps from labels to numbers."""

    labels: tuple[Any, ...]
    call: ClassVar[str] = "zip_map"


@dataclass(frozen=True)
class CastMap(Host):
    """Values of a map from integers, cast, in the order of the keys: [1, entries]; with `size` ≥ 0 at the keys, [1, size]."""

    dtype: str
    size: int
    call: ClassVar[str] = "cast_map"


@dataclass(frozen=True)
class DictVectorizer(Host):
    """Values of a map in the order of `words`, zeros or empty strings for those that are absent: [1, words]."""

    words: tuple[Any, ...]
    dtype: str
    call: ClassVar[str] = "dict_vectorizer"
