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

    def stands_for(self, other: TensorType) -> bool:
        """Whether values of this type may take the place of those of another: of one dtype and rank, and no other known size."""
        same = self.dtype is other.dtype and self.rank == other.rank
        return same and not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(self.shape, other.shape, strict=True))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"
