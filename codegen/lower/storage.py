"""Buffers and constants of a plan while it is made."""

from __future__ import annotations

import numpy as np

from ...ir import Dim, DType, Shape, dim_min, lower, prod
from ..packing import Deferred
from ..plan import Buffer
from ..simplify import strides_of
from .builder import View


class Storage:
    """Shared by nested graphs."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.constants: dict[int, object] = {}
        self._const_of: dict[object, tuple[int, object]] = {}
        self._alias_of: dict[tuple[int, Dim, Shape], int] = {}

    def add(self, kind: str, dtype: DType, shape: Shape, index: int = 0) -> View:
        self.buffers.append(Buffer(kind, dtype, shape, index))
        return View(len(self.buffers) - 1, dtype, shape, strides_of(shape))

    def const_lazy(self, key: object, array: Deferred, keep: object) -> View:
        """A constant computed once per key; `keep` is what the key's ids refer to."""
        dtype = DType.from_numpy(array.dtype)
        if key not in self._const_of:
            buffer = self.add("const", dtype, array.shape).buffer
            self.constants[buffer] = array
            self._const_of[key] = (buffer, keep)
        return View(self._const_of[key][0], dtype, array.shape, (1,))

    def const(self, array: np.ndarray, key: object = None) -> View:
        """A constant buffer; one per array object, or per `key`."""
        name = id(array) if key is None else key
        if name not in self._const_of:
            data = np.ascontiguousarray(array).reshape(array.shape)
            view = self.add("const", DType.from_numpy(array.dtype), tuple(map(int, array.shape)))
            self.constants[view.buffer] = data
            self._const_of[name] = (view.buffer, array)
        shape = tuple(map(int, array.shape))
        return View(self._const_of[name][0], DType.from_numpy(array.dtype), shape, strides_of(shape))

    def shifted(self, view: View, shift: Dim) -> View:
        """The same strides, starting `shift` elements later: an alias buffer, so that kernels do not embed the shift."""
        if shift == 0 and view.span == self.extent(view.buffer)[1]:
            return view
        of, total = view.buffer, shift
        base = self.buffers[of]
        if base.kind == "alias":
            of, total = base.of, base.shift + shift
        key = (of, total, (view.span,))
        if key not in self._alias_of:
            span = view.span
            for d in view.shape:  # nothing is reached where an axis has size 0
                span = span * dim_min(1, d) if lower(d) <= 0 else span
            self.buffers.append(Buffer("alias", view.dtype, (span,), of=of, shift=total))
            self._alias_of[key] = len(self.buffers) - 1
        return View(self._alias_of[key], view.dtype, view.shape, view.strides)

    def extent(self, buffer: int) -> tuple[DType, Dim]:
        b = self.buffers[buffer]
        return b.dtype, prod(b.shape)
