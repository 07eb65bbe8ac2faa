"""The type of a tensor value."""

from __future__ import annotations

from dataclasses import dataclass

from .dims import Dim, Shape, is_static, prod
from .dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape, row-major; derived by `Op.infer`, never set by hand."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> Dim:
        return prod(self.shape)

    @property
    def nbytes(self) -> Dim:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def static(self) -> bool:
        return is_static(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"
