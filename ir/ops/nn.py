"""Channels-last windows: convolution, pooling, local response normalisation.

All shapes are [N, *spatial, C]; every tuple field runs over the spatial axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ...errors import VerifyError
from ..dims import Dim, Shape, ceildiv, dim_min, floordiv
from ..dtypes import DType
from ..op import Op
from ..types import TensorType

_MOST_CHANNELS = 1 << 20  # of one sum of LRN, which runs over those, too, that are outside of the tensor


def wide(dtype: np.dtype) -> np.dtype:
    """The dtype in which a reference accumulates: half precisions in float32, small integers in int32."""
    kind = DType.from_numpy(dtype)
    if kind.is_float and dtype.itemsize < 4:
        return np.dtype(np.float32)
    return np.dtype(np.int32) if kind.is_int and dtype.itemsize < 4 else dtype


def _spatial(op: Op, x: TensorType, **fields: Sequence[object]) -> int:
    """The number of spatial axes of x. Raises VerifyError where there is none, or a field does not fit them."""
    rank = x.rank - 2
    if rank < 1:
        raise VerifyError(f"{op.name}: input of rank {x.rank}", expected="[N, *spatial, C]")
    for name, value in fields.items():
        if len(value) != rank:
            raise VerifyError(f"{op.name}: {name} has {len(value)} entries", expected=f"{rank}, one per spatial axis")
        if name in ("kernel", "strides", "dilations") and not all(isinstance(v, int) and v > 0 for v in value):
            raise VerifyError(f"{op.name}: {name} {list(value)}", expected="positive numbers")
    return rank


def _groups(op: Op, groups: int, *channels: Dim) -> None:
    if groups < 1 or any(isinstance(c, int) and c % groups for c in channels):
        raise VerifyError(f"{op.name}: {groups} groups of {', '.join(map(str, channels))} channels", expected="equal groups")


def _kernel(op: Op, w: TensorType, rank: int) -> tuple[int, ...]:
    if w.rank != rank + 2:
        raise VerifyError(f"{op.name}: weights of rank {w.rank}", expected=f"rank {rank + 2}")
    out = []
    for d in w.shape[:rank]:
        if not isinstance(d, int) or d < 1:
            raise VerifyError(f"{op.name}: kernel size {d}", expected="a positive size that is known at compile time")
        out.append(d)
    return tuple(out)


def _same_dtype(op: Op, *types: TensorType) -> None:
    if len({t.dtype for t in types}) > 1:
        raise VerifyError(f"{op.name}: operand dtypes {', '.join(t.dtype.value for t in types)}", expected="one dtype")


def _fits(a: Dim, b: Dim) -> bool:
    return a == b or not (isinstance(a, int) and isinstance(b, int))


def _pad_or_crop(x: np.ndarray, lo: Sequence[int], hi: Sequence[int], value: Any) -> np.ndarray:
    """Pad the spatial axes of [N, *S, C]; negative pads crop."""
    crop = (slice(None), *(slice(max(0, -a), n - max(0, -b)) for a, b, n in zip(lo, hi, x.shape[1:-1], strict=True)))
    widths = [(0, 0), *((max(0, a), max(0, b)) for a, b in zip(lo, hi, strict=True)), (0, 0)]
    return np.pad(x[crop], widths, constant_values=value)


def _taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, kernel))


def _tap_view(x: np.ndarray, tap: Sequence[int], out: Sequence[int], strides: Sequence[int], dil: Sequence[int]) -> np.ndarray:
    """The elements of padded x that window tap `tap` sees, for all outputs: [N, *out, C]."""
    return x[(slice(None), *(slice(t * d, t * d + (o - 1) * s + 1, s)
                             for t, o, s, d in zip(tap, out, strides, dil, strict=True)))]  # fmt: skip


def _ints(dims: Sequence[Dim]) -> tuple[int, ...]:
    return tuple(int(d) for d in dims)


@dataclass(frozen=True)
class Convolution(Op):
    """What all kinds of convolutions say of their windows."""

    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    pads_hi: tuple[Dim, ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def of_kind(self, kind: type[Kind]) -> Kind:
        """Another kind of convolution over the same windows."""
        return kind(self.strides, self.pads_lo, self.pads_hi, self.dilations, self.groups)


Kind = TypeVar("Kind", bound=Convolution)


@dataclass(frozen=True)
class Conv(Convolution):
    """(x[N, *S, C], w[*K, C/groups, O]) -> [N, *out, O], out = ⌊(S + lo + hi − d(K−1) − 1) / stride⌋ + 1. No bias.

    Output channel o belongs to group o // (O/groups), which sees input channels [g·C/groups, (g+1)·C/groups).
    Float (accumulated in f32 or f64) or i32.
    """

    def out_spatial(self, spatial: Shape, kernel: Sequence[int]) -> Shape:
        return tuple(
            floordiv(n + lo + hi - d * (k - 1) - 1, s) + 1
            for n, lo, hi, d, k, s in zip(spatial, self.pads_lo, self.pads_hi, self.dilations, kernel, self.strides,
                                          strict=True)
        )  # fmt: skip

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = types
        _same_dtype(self, x, w)
        rank = _spatial(self, x, strides=self.strides, pads_lo=self.pads_lo, pads_hi=self.pads_hi, dilations=self.dilations)
        kernel = _kernel(self, w, rank)
        if not _fits(x.shape[-1], w.shape[-2] * self.groups):
            raise VerifyError(f"conv: {x.shape[-1]} input channels", expected=f"{w.shape[-2]} × {self.groups} groups")
        _groups(self, self.groups, w.shape[-1])
        return (TensorType(x.dtype, (x.shape[0], *self.out_spatial(x.shape[1:-1], kernel), w.shape[-1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = args
        kernel, (cg, o) = w.shape[:-2], w.shape[-2:]
        out = _ints(self.out_spatial(x.shape[1:-1], kernel))
        acc_type = wide(x.dtype)
        xp = _pad_or_crop(x, _ints(self.pads_lo), _ints(self.pads_hi), 0).astype(acc_type, copy=False)
        w = w.astype(acc_type, copy=False)
        g, m = self.groups, x.shape[0] * math.prod(out)
        acc = np.zeros((g, m, o // g), acc_type)
        for tap in _taps(kernel):
            seen = _tap_view(xp, tap, out, self.strides, self.dilations).reshape(m, g, cg).transpose(1, 0, 2)
            wt = w[tap].reshape(cg, g, o // g).transpose(1, 0, 2)
            acc += seen * wt if cg == 1 else seen @ wt
        return (np.ascontiguousarray(acc.transpose(1, 0, 2)).reshape(x.shape[0], *out, o).astype(x.dtype, copy=False),)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """(x[N, *S, C], w[*K, O/groups, C]) -> [N, *out, O], out = (S−1)·stride + d(K−1) + 1 + output_padding − lo − hi.

    Input pixel i and tap k add to output pixel i·stride + k·d − lo. Input channel c belongs to group c // (C/groups),
    which writes output channels [g·O/groups, (g+1)·O/groups). No bias.
    """

    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    pads_hi: tuple[Dim, ...]
    output_padding: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1

    def out_spatial(self, spatial: Shape, kernel: Sequence[int]) -> Shape:
        return tuple(
            (n - 1) * s + d * (k - 1) + 1 + op - lo - hi
            for n, s, d, k, op, lo, hi in zip(spatial, self.strides, self.dilations, kernel, self.output_padding,
                                              self.pads_lo, self.pads_hi, strict=True)
        )  # fmt: skip

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        x, w = types
        _same_dtype(self, x, w)
        rank = _spatial(self, x, strides=self.strides, pads_lo=self.pads_lo, pads_hi=self.pads_hi, dilations=self.dilations,
                        output_padding=self.output_padding)  # fmt: skip
        kernel = _kernel(self, w, rank)
        if not _fits(x.shape[-1], w.shape[-1]):
            raise VerifyError(f"convtranspose: {x.shape[-1]} input channels", expected=str(w.shape[-1]))
        _groups(self, self.groups, w.shape[-1])
        return (TensorType(x.dtype, (x.shape[0], *self.out_spatial(x.shape[1:-1], kernel), w.shape[-2] * self.groups)),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = args
        n, c, spatial = x.shape[0], x.shape[-1], x.shape[1:-1]
        kernel, og, g = w.shape[:-2], w.shape[-2], self.groups
        lo, out = _ints(self.pads_lo), _ints(self.out_spatial(spatial, kernel))
        acc_type = wide(x.dtype)
        # The full result before cropping, wide enough for the window that pads leave over.
        full = [max((i - 1) * s + d * (k - 1) + 1, p + o) + max(0, -p)
                for i, s, d, k, p, o in zip(spatial, self.strides, self.dilations, kernel, lo, out, strict=True)]  # fmt: skip
        acc = np.zeros((n, *full, og * g), acc_type)
        rows = x.astype(acc_type, copy=False).reshape(-1, g, c // g).transpose(1, 0, 2)
        shift = [max(0, -p) for p in lo]
        for tap in _taps(kernel):
            wt = w[tap].astype(acc_type, copy=False).reshape(og, g, c // g).transpose(1, 2, 0)
            part = (rows @ wt).transpose(1, 0, 2).reshape(n, *spatial, g * og)
            start = [z + t * d for t, d, z in zip(tap, self.dilations, shift, strict=True)]
            ends = [a + (i - 1) * s + 1 for a, i, s in zip(start, spatial, self.strides, strict=True)]
            at = (slice(None), *map(slice, start, ends, self.strides))
            acc[at] += part
        crop = (slice(None), *(slice(p + z, p + z + o) for p, z, o in zip(lo, shift, out, strict=True)))
        return (np.ascontiguousarray(acc[crop]).astype(x.dtype, copy=False),)


@dataclass(frozen=True)
class Pool(Op):
    """x[N, *S, C] -> [N, *out, C]; kind "max", "avg", "lp" ((Σ|x|^p)^(1/p)) or "argmax". Taps outside x do not take part.

    argmax gives where the first maximum of each window is: its pixel, counted row-major over S, as I64.

    avg divides by the number of taps inside x, or, with `count_include_pad`, by those inside [−lo, S + hi).
    `ceil_mode` rounds the output size up, but no window may start beyond S + lo.
    """

    kind: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    pads_hi: tuple[Dim, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = False
    p: int = 2

    def out_spatial(self, spatial: Shape) -> Shape:
        out = []
        fields = zip(spatial, self.kernel, self.strides, self.pads_lo, self.pads_hi, self.dilations, strict=True)
        for n, k, s, lo, hi, d in fields:
            room = n + lo + hi - d * (k - 1) - 1
            out.append(dim_min(ceildiv(room, s) + 1, ceildiv(n + lo, s)) if self.ceil_mode else floordiv(room, s) + 1)
        return tuple(out)

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        (x,) = types
        if self.kind not in ("max", "avg", "lp", "argmax"):
            raise VerifyError(f"pool: kind {self.kind!r}", expected="max, avg, lp or argmax")
        _spatial(self, x, kernel=self.kernel, strides=self.strides, pads_lo=self.pads_lo, pads_hi=self.pads_hi,
                 dilations=self.dilations)  # fmt: skip
        dtype = DType.I64 if self.kind == "argmax" else x.dtype
        return (TensorType(dtype, (x.shape[0], *self.out_spatial(x.shape[1:-1]), x.shape[-1])),)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = args
        spatial = x.shape[1:-1]
        out, lo, hi = _ints(self.out_spatial(spatial)), _ints(self.pads_lo), _ints(self.pads_hi)
        # ceil_mode may reach past the declared padding
        need = [
            (o - 1) * s + d * (k - 1) + 1 - n - a
            for o, s, d, k, n, a in zip(out, self.strides, self.dilations, self.kernel, spatial, lo, strict=True)
        ]
        ext = [max(a, b) for a, b in zip(need, hi, strict=True)]
        acc_type = x.dtype if self.kind in ("max", "argmax") else wide(x.dtype)
        fill = _lowest(x.dtype) if self.kind in ("max", "argmax") else 0
        xp = _pad_or_crop(x, lo, ext, fill).astype(acc_type, copy=False)
        views = (_tap_view(xp, tap, out, self.strides, self.dilations) for tap in _taps(self.kernel))
        if self.kind == "max":
            best = next(views).copy()
            for v in views:
                np.maximum(best, v, out=best)
            return (best,)
        if self.kind == "argmax":
            pixel = np.arange(np.prod(spatial, dtype=np.int64)).reshape(1, *spatial, 1)
            pixels = _pad_or_crop(pixel, lo, ext, -1)
            windows = [
                (_tap_view(pixels, tap, out, self.strides, self.dilations), v) for tap, v in zip(_taps(self.kernel), views, strict=True)
            ]
            best = np.maximum.reduce([v for _, v in windows])
            none = np.iinfo(np.int64).max
            found = [np.where((p >= 0) & ((v == best) | (v != v)), p, none) for p, v in windows]
            first = np.minimum.reduce(found)
            return (np.where(first == none, 0, first),)
        if self.kind == "lp":
            total = sum(np.abs(v) ** self.p for v in views)
            return (np.asarray(total ** (1.0 / self.p)).astype(x.dtype),)
        total = np.zeros((x.shape[0], *out, x.shape[-1]), acc_type)
        for v in views:
            total += v
        inside = np.ones((1, *spatial, 1), acc_type)
        inside = _pad_or_crop(inside, lo, hi, 1 if self.count_include_pad else 0)
        inside = _pad_or_crop(inside, [0] * len(lo), [e - h for e, h in zip(ext, hi, strict=True)], 0)
        count = sum(_tap_view(inside, tap, out, self.strides, self.dilations) for tap in _taps(self.kernel))
        return ((total / np.maximum(count, 1)).astype(x.dtype),)


def _lowest(dtype: np.dtype) -> object:
    kind = DType.from_numpy(dtype)
    return -np.inf if kind.is_float else np.iinfo(dtype).min


@dataclass(frozen=True)
class LRN(Op):
    """x[…, C] -> x / (bias + alpha/size · Σ x²)^beta, the sum over channels [c − ⌊(size−1)/2⌋, c + ⌈(size−1)/2⌉]."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if not 1 <= self.size <= _MOST_CHANNELS:
            raise VerifyError(f"lrn: a sum over {self.size} channels", expected=f"1 to {_MOST_CHANNELS}")
        return (types[0],)

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = args
        c = x.shape[-1]
        lo, hi = (self.size - 1) // 2, self.size // 2
        square = np.pad(x.astype(np.float64) ** 2, [(0, 0)] * (x.ndim - 1) + [(lo, hi)])
        total = sum(square[..., i : i + c] for i in range(self.size))
        return ((x / (self.bias + self.alpha / self.size * total) ** self.beta).astype(x.dtype),)
