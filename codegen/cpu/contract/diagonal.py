"""Products with a block-diagonal B, of convolutions in groups of few channels: every lane takes the inputs of its own group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....ir import DType
from .. import llvm_ir as ir
from ..build import I32, Builder, storage, vec
from ..target import CpuTarget

_F32 = storage(DType.F32)


@dataclass(frozen=True, slots=True)
class DiagonalProduct:
    """float32. Blocks have `inputs` rows and `outputs` columns, `columns` in all; row j of all of them is `panel` elements at
    j·panel. One permutation and one multiply-add serve `lanes` columns."""

    inputs: int
    outputs: int
    columns: int
    lanes: int
    panel: int
    target: CpuTarget

    @property
    def element(self) -> Any:
        return _F32

    def accumulate(self, b: Builder, starts: Sequence[Any], b_ptr: Any, acc: Sequence[Any], vectors: int) -> list[Any]:
        """acc[r·vectors + v][l] += Σ_j starts[r][block(l)·inputs + j] · b_ptr[j·panel + v·lanes + l]."""
        i, out = b.ir, list(acc)
        for v in range(vectors):
            blocks = [min(v * self.lanes + lane, self.columns - 1) // self.outputs for lane in range(self.lanes)]
            span = (blocks[-1] - blocks[0] + 1) * self.inputs
            t = vec(_F32, span)
            rows = [b.load(t, b.at(start, b.i64(blocks[0] * self.inputs), _F32), 4) for start in starts]
            for j in sorted(range(self.inputs), key=lambda j: (j % 4, j)):  # those 4 apart share half of their permutation
                weights = b.load(vec(_F32, self.lanes), b.at(b_ptr, b.i64(j * self.panel + v * self.lanes), _F32), 4)
                lanes = ir.Constant(vec(I32, self.lanes), [(g - blocks[0]) * self.inputs + j for g in blocks])
                for r, row in enumerate(rows):
                    x = i.shuffle_vector(row, ir.Constant(t, ir.Undefined), lanes)
                    at = r * vectors + v
                    out[at] = b.fma(x, weights, out[at], self.target.fma)
        return out
