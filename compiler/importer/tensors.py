"""TensorProto -> NumPy, with external data memory-mapped and contained in the model's folder."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import SparseTensorProto, TensorProto

from ...errors import OnnxImportError
from ...ir import DType
from .bits import unpack
from .wire import HERE

# Typed data fields of TensorProto by element type; what is not here is stored in int32_data.
_FIELDS: dict[DType, str] = {
    DType.F32: "float_data", DType.C64: "float_data", DType.F64: "double_data", DType.C128: "double_data",
    DType.I64: "int64_data", DType.U64: "uint64_data", DType.U32: "uint64_data",
}  # fmt: skip
_MOST = 1 << 60  # elements
_MOST_DENSE = 1 << 31  # bytes: what a tensor inside a file may have, too
_MOST_AXES = 64  # NumPy's


class TensorReader:
    """Decodes tensors of one model. `folder` is where its external data lies (None: it may have none), `data` its own bytes."""

    def __init__(self, folder: Path | None, data: memoryview | None = None) -> None:
        self.folder, self.data = folder, data or memoryview(b"")
        self._maps: dict[str, mmap.mmap | bytes] = {}

    def __call__(self, t: TensorProto) -> np.ndarray:
        """The array; read-only, sharing memory (that may be unaligned) with the file where its bytes lie there as they are.

        Raises OnnxImportError for data of the wrong size, or external data that is missing, outside the model's folder, or
        beyond the end of its file.
        """
        loc = f"tensor {t.name!r}"
        dtype = DType.from_onnx(t.data_type)
        shape, count = tuple(t.dims), _count(t.dims, loc)
        if t.data_location == TensorProto.EXTERNAL:
            if dtype is DType.STRING:
                raise OnnxImportError("strings as external data", expected="string_data", loc=loc)
            return self._decode(self._external(t, dtype, count, loc), dtype, count, loc).reshape(shape)
        if dtype is DType.STRING:
            return _strings(t, count, loc).reshape(shape)
        if t.HasField("raw_data"):
            return self._decode(t.raw_data, dtype, count, loc).reshape(shape)
        values = np.array(getattr(t, _FIELDS.get(dtype, "int32_data")))
        return _from_field(values, dtype, count, loc).reshape(shape)

    def sparse(self, s: SparseTensorProto) -> np.ndarray:
        """A sparse tensor as a dense array. Raises OnnxImportError where that would be larger than a tensor may be."""
        values, indices, shape = self(s.values), self(s.indices), tuple(s.dims)
        loc = f"tensor {s.values.name!r}"
        count = _count(shape, loc)
        if count * values.itemsize > _MOST_DENSE:
            raise OnnxImportError(f"a sparse tensor of shape {list(shape)}", expected=f"at most {_MOST_DENSE} bytes when dense", loc=loc)
        dense = np.zeros(count, values.dtype)
        flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
        dense[flat] = values
        return dense.reshape(shape)

    def _decode(self, raw: bytes | memoryview, dtype: DType, count: int, loc: str) -> np.ndarray:
        bits = dtype.bits
        expected = (count * bits + 7) // 8
        if len(raw) != expected:
            raise OnnxImportError(f"data of {len(raw)} bytes", expected=f"{expected} bytes for {count} × {dtype.value}", loc=loc)
        if bits < 8:
            return _unpack(np.frombuffer(raw, np.uint8), dtype, bits, count)
        return np.frombuffer(raw, dtype.np.newbyteorder("<") if dtype.np.isbuiltin else dtype.np, count)

    def _external(self, t: TensorProto, dtype: DType, count: int, loc: str) -> memoryview:
        entries = {e.key: e.value for e in t.external_data}
        name = entries.get("location", "")
        if name == HERE:
            data: mmap.mmap | bytes | memoryview = self.data
        elif self.folder is None:
            raise OnnxImportError("external data in a model that is not given as a path", remedy="Pass the model's path", loc=loc)
        else:
            data = self._map(name, loc)
        try:
            offset, length = int(entries.get("offset", "0") or 0), int(entries.get("length", "0") or 0)
        except ValueError:
            raise OnnxImportError(f"external data offset or length is not a number in {entries}", loc=loc) from None
        length = length or (count * dtype.bits + 7) // 8
        if offset < 0 or length < 0 or offset + length > len(data):
            raise OnnxImportError(
                f"external data at {offset} of {length} bytes in {name!r}",
                expected=f"inside the file of {len(data)} bytes",
                loc=loc,
            )
        return memoryview(data)[offset : offset + length]

    def _map(self, name: str, loc: str) -> mmap.mmap | bytes:
        if name not in self._maps:
            assert self.folder is not None
            fd = open_contained(self.folder, name, loc)
            try:
                size = os.fstat(fd).st_size
                self._maps[name] = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""
            finally:
                os.close(fd)
        return self._maps[name]


def open_contained(folder: Path, name: str, loc: str) -> int:
    """A file descriptor of a regular file below `folder`, reached without `..`, symbolic links or hard links."""
    parts = name.replace("\\", "/").split("/")
    if not name or name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in name:
        raise OnnxImportError(f"external data location {name!r} leaves the model's folder", expected="a relative path inside it", loc=loc)
    parts = [p for p in parts if p not in ("", ".")]
    nofollow = getattr(os, "O_NOFOLLOW", 0)
    fd = -1
    try:
        fd = os.open(folder, os.O_RDONLY)
        for i, part in enumerate(parts):
            # O_NONBLOCK: opening a FIFO must not hang.
            flags = os.O_RDONLY | nofollow | getattr(os, "O_NONBLOCK", 0) | (os.O_DIRECTORY if i < len(parts) - 1 else 0)
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            raise OnnxImportError(f"external data {name!r} is not a plain file, or a hard link to one elsewhere", loc=loc)
        return fd
    except OSError as e:
        if fd >= 0:
            os.close(fd)
        below = [folder.joinpath(*parts[: i + 1]) for i in range(len(parts))]
        link = any(os.path.islink(p) for p in below)
        what = "is reached through a symbolic link" if link else f"cannot be opened ({e.strerror})"
        raise OnnxImportError(f"external data {name[:200]!r} {what}", expected=f"a file in {folder}", loc=loc) from e
    except OnnxImportError:
        os.close(fd)
        raise


def _count(shape: Sequence[int], loc: str) -> int:
    """Elements of a tensor of this shape. Raises OnnxImportError for one that no array can have."""
    shown = f"{list(shape[:_MOST_AXES])}"
    if any(d < 0 for d in shape):
        raise OnnxImportError(f"shape {shown} has a negative dimension", loc=loc)
    if len(shape) > _MOST_AXES:
        raise OnnxImportError(f"{len(shape)} dimensions", expected=f"at most {_MOST_AXES}", loc=loc)
    if int(np.prod([d for d in shape if d], dtype=object)) >= _MOST:
        raise OnnxImportError(f"shape {shown}", expected="sizes whose product memory could hold", loc=loc)
    return int(np.prod(shape, dtype=object)) if shape else 1


def _strings(t: TensorProto, count: int, loc: str) -> np.ndarray:
    if len(t.string_data) != count:
        raise OnnxImportError(f"data of {len(t.string_data)} strings", expected=str(count), loc=loc)
    out = np.empty(count, object)
    out[:] = [s.decode("utf-8", "replace") for s in t.string_data]
    return out


def _from_field(values: np.ndarray, dtype: DType, count: int, loc: str) -> np.ndarray:
    packed = dtype.bits < 8
    stored = (count * dtype.bits + 7) // 8 if packed else count * (2 if dtype in (DType.C64, DType.C128) else 1)
    if len(values) != stored:
        raise OnnxImportError(f"data of {len(values)} elements", expected=f"{stored} for {count} × {dtype.value}", loc=loc)
    if packed:
        return _unpack(values.astype(np.uint8), dtype, dtype.bits, count)
    if dtype is DType.C64:
        return values.astype(np.float32).view(np.complex64)
    if dtype is DType.C128:
        return values.astype(np.float64).view(np.complex128)
    if dtype.is_float and dtype.itemsize <= 2:  # stored as bit patterns
        return values.astype(np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype.np)
    return values.astype(dtype.np)


def _unpack(packed: np.ndarray, dtype: DType, bits: int, count: int) -> np.ndarray:
    """Elements of 2 or 4 bits, the first in the lowest bits."""
    codes = unpack(packed, bits)[:count]
    if dtype is DType.F4E2M1:
        return codes.view(dtype.np)
    if dtype.is_signed:
        sign = 1 << (bits - 1)
        codes = (codes ^ sign).view(np.int8) - np.int8(sign)
    return codes.astype(dtype.np)
