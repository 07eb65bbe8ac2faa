"""Weights of GGUF files (Q4_0, Q4_K, Q8_0) as levels, scales and zeros, without rounding them again.

A tensor [N, K] there is N rows of blocks along K. Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the
block structures that ggml's `ggml-common.h` defines. Files are parsed by the package `gguf`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import InputError
from ...passes.precision import WeightOnly

_GROUP = 32


def read_gguf(path: str | os.PathLike[str]) -> dict[str, WeightOnly]:
    """The tensors of a file that have such a type, by name, each as weights [K, N].

    Raises InputError for a file that cannot be read or contradicts itself, or without the package `gguf`.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGUFReader
        from gguf import GGMLQuantizationType as Kind
    except ImportError as e:
        raise InputError("reading GGUF needs the package gguf", remedy="pip install 'mlc[gguf]'", loc=str(path)) from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's about sizes that overflow; what follows from them is an error
            reader = GGUFReader(os.fspath(path))
    except Exception as e:  # the reader's errors on broken files are of any kind
        raise InputError(f"is no GGUF file that can be read: {e}", loc=str(path)) from e
    _check_places(reader, str(path))
    read: dict[Kind, Callable[[np.ndarray, int, int], WeightOnly]] = {Kind.Q4_0: _q4_0, Kind.Q8_0: _q8_0, Kind.Q4_K: _q4_k}
    found = {}
    for t in reader.tensors:
        if t.tensor_type in read and len(t.shape) == 2:
            k, n = (int(d) for d in t.shape)  # the fastest axis first
            block, size = GGML_QUANT_SIZES[t.tensor_type]
            if k < 1 or n < 1 or k % block or t.n_bytes != n * (k // block) * size:
                raise InputError(
                    f"tensor {t.name!r} is {k} by {n}, in {t.n_bytes} bytes", expected=f"rows of a multiple of {block}", loc=str(path)
                )
            made = read[t.tensor_type](np.asarray(t.data).view(np.uint8).reshape(n, -1), k, n)
            if not (np.isfinite(made.scales).all() and np.isfinite(made.zeros).all()):
                raise InputError(f"tensor {t.name!r} has scales that are NaN or infinite", expected="finite numbers", loc=str(path))
            found[t.name] = made
    return found


def _check_places(reader: Any, loc: str) -> None:
    """Tensors begin at the file's alignment, one behind the other. Raises InputError."""
    end = 0
    for t in sorted(reader.tensors, key=lambda t: int(t.data_offset)):
        at = int(t.data_offset)
        if (at - int(reader.data_offset)) % int(reader.alignment) or at < int(reader.data_offset):
            raise InputError(f"tensor {t.name!r} begins at byte {at}", expected=f"a multiple of {reader.alignment} in the data", loc=loc)
        if at < end:
            raise InputError(f"tensor {t.name!r} begins at byte {at}, inside of another", expected=f"{end} or more", loc=loc)
        end = at + int(t.n_bytes)


def _q4_0(raw: np.ndarray, k: int, n: int) -> WeightOnly:
    """Blocks of 32: f16 scale, 16 bytes whose low halves are elements 0 … 15. w = (q − 8)·scale."""
    blocks = _blocks(raw, k // 32, 18)
    halves = blocks[..., 2:]
    levels = np.concatenate([halves & 15, halves >> 4], axis=-1)
    return _made(4, levels, _half(blocks[..., :2]), np.full((n, k // 32), 8, np.float32), k, n)


def _q8_0(raw: np.ndarray, k: int, n: int) -> WeightOnly:
    """Blocks of 32: f16 scale, 32 signed bytes."""
    blocks = _blocks(raw, k // 32, 34)
    levels = (blocks[..., 2:].view(np.int8).astype(np.int16) + 128).astype(np.uint8)
    return _made(8, levels, _half(blocks[..., :2]), np.full((n, k // 32), 128, np.float32), k, n)


def _q4_k(raw: np.ndarray, k: int, n: int) -> WeightOnly:
    """Blocks of 256: f16 d and dmin, eight 6-bit scales and minima in 12 bytes, 4 × 32 bytes. w = d·scale·q − dmin·minimum."""
    blocks = _blocks(raw, k // 256, 144)
    d, dmin = _half(blocks[..., 0:2])[..., None], _half(blocks[..., 2:4])[..., None]
    packed, halves = blocks[..., 4:16], blocks[..., 16:].reshape(*blocks.shape[:-1], 4, 1, 32)
    low, high, rest = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = d * np.concatenate([low & 63, (rest & 15) | ((low >> 6) << 4)], axis=-1)
    minima = dmin * np.concatenate([high & 63, (rest >> 4) | ((high >> 6) << 4)], axis=-1)
    levels = np.concatenate([halves & 15, halves >> 4], axis=-2).reshape(*blocks.shape[:-1], 8, 32)
    flat = scales == 0  # then w = −minimum for every level: (0 − 1)·minimum
    levels = np.where(flat[..., None], 0, levels)
    zeros = np.where(flat, 1.0, minima / np.where(flat, 1.0, scales))
    return _made(4, levels.reshape(n, -1), np.where(flat, minima, scales).reshape(n, -1), zeros.reshape(n, -1), k, n)


def _blocks(raw: np.ndarray, count: int, size: int) -> np.ndarray:
    return raw.reshape(len(raw), count, size)


def _half(pair: np.ndarray) -> np.ndarray:
    """f16 in two bytes -> f32, the last axis gone."""
    return np.ascontiguousarray(pair).view(np.float16)[..., 0].astype(np.float32)


def _made(bits: int, levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray, k: int, n: int) -> WeightOnly:
    rows = (levels.reshape(n, k).astype(np.uint8), scales.astype(np.float32), zeros.astype(np.float32))
    return WeightOnly(bits, _GROUP, *(np.ascontiguousarray(a.T) for a in rows))
