"""What every function of a kernel of minimal filtering knows."""

from __future__ import annotations

from ....ir import DType, ceildiv
from ...kernel import WinogradKernel
from ...winograd import filtering, positions
from ..build import Params, storage, vec
from ..epilogue import Epilogue
from ..target import CpuTarget
from .place import Places
from .schedule import WinogradSchedule

F32 = storage(DType.F32)


class Frame:
    """`points`: positions of a transformed tile. `strip`: columns of the products. `size`: slots of the params table by name."""

    def __init__(self, kernel: WinogradKernel, schedule: WinogradSchedule, target: CpuTarget) -> None:
        self.kernel, self.schedule, self.target = kernel, schedule, target
        k, s, c = kernel, schedule, kernel.conv
        self.filters = [filtering(m, r) for m, r in zip(k.tile, c.kernel, strict=True)]
        self.points = positions(k.tile, c.kernel)
        self.strip = s.lanes * s.vectors
        self.vector = vec(F32, s.lanes)
        self.places = Places(k)
        self.params = Params()
        self.size = {
            name: self.params.add(dim)
            for name, dim in {
                "n": k.n, "channels": k.channels, "total": k.groups * k.channels,
                "weights": self.points * k.channels * ceildiv(k.n, k.panel) * k.panel,
                "of_group": s.of_group, "lda": k.lda, "ldc": k.ldc, "tile": s.tile, "block": s.block, "most": s.most,
                "blocks": s.blocks, "group": s.group, "groups": s.groups, "strips": s.strips, "tiles": self.places.tiles,
                "lanes": s.lanes, "share": s.share, **self.places.dims,
                # where rows of a register tile begin: as multiples LLVM would find them again for every multiply-add
                **{f"row {r}": r * s.tile for r in range(1, max(s.heights))},
            }.items()
        }  # fmt: skip
        self.epilogue = Epilogue(kernel, self.params, target, s.lanes)
