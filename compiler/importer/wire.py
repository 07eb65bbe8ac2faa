"""Large weights of a serialized model, left where they are: protobuf would copy them three times over.

Protocol buffers, as far as it takes to find `raw_data` of the main graph's initializers
(https://protobuf.dev/programming-guides/encoding, onnx.proto): what else there is stays for the real parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

Pieces = list[bytes | memoryview]
Rewrite = Callable[[memoryview, int, int], Pieces | None]

HERE = "\0"
"""The `location` of external data that lies in the model's own bytes (no path can hold this character)."""

_LARGE = 4096  # bytes of raw data from which on a tensor is left where it is
_VARINT, _LEN = 0, 2
_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # of TensorProto


class _OddError(Exception):
    """Something that needs the real parser, if only for its message."""


def without_weights(model: memoryview) -> bytes | None:
    """The model with large initializers made external data at HERE, by offset into `model`; None if the bytes are odd."""
    try:
        changed = _replace(model, 0, len(model), _GRAPH, partial(_replace, field=_INITIALIZER, rewrite=_reference))
    except _OddError:
        return None
    return b"".join(changed) if changed is not None else bytes(model)


def _replace(model: memoryview, begin: int, end: int, field: int, rewrite: Rewrite) -> Pieces | None:
    """The message with submessages in `field` replaced where `rewrite` gives pieces; None if it changed nothing."""
    out: Pieces = []
    kept = begin
    for number, start, at, stop in _fields(model, begin, end):
        pieces = rewrite(model, at, stop) if number == field and at >= 0 else None
        if pieces is not None:
            out += [model[kept:start], _tag(field, _LEN), _varint(sum(map(len, pieces))), *pieces]
            kept = stop
    return [*out, model[kept:end]] if out else None


def _reference(model: memoryview, begin: int, end: int) -> Pieces | None:
    """A tensor with its raw data replaced by where they lie."""
    raw: list[tuple[int, int, int]] = []
    for number, start, at, stop in _fields(model, begin, end):
        if number == _RAW_DATA and at >= 0:
            raw.append((start, at, stop))
        elif number in (_EXTERNAL_DATA, _DATA_LOCATION):
            return None
    if len(raw) != 1 or raw[0][2] - raw[0][1] < _LARGE:
        return None
    start, at, stop = raw[0]
    entries = [_entry("location", HERE), _entry("offset", str(at)), _entry("length", str(stop - at))]
    return [model[begin:start], model[stop:end], *entries, _tag(_DATA_LOCATION, _VARINT), _varint(1)]


def _entry(key: str, value: str) -> bytes:
    pair = b"".join(_tag(n, _LEN) + _varint(len(t)) + t.encode() for n, t in ((1, key), (2, value)))
    return _tag(_EXTERNAL_DATA, _LEN) + _varint(len(pair)) + pair


def _fields(model: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of its tag, start of its content if length-delimited else −1, end)."""
    while at < end:
        start = at
        tag, at = _read_varint(model, at, end)
        content = -1
        match tag & 7:
            case 0:
                _, at = _read_varint(model, at, end)
            case 1:
                at += 8
            case 2:
                length, content = _read_varint(model, at, end)
                at = content + length
            case 5:
                at += 4
            case _:
                raise _OddError
        if at > end or not tag >> 3:
            raise _OddError
        yield tag >> 3, start, content, at


def _read_varint(model: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = model[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _OddError


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)
