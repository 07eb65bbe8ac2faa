"""Maps that read some operands along another axis than they write: square tiles of these go through shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import ceildiv, prod
from .emitted import PLACEHOLDER
from .loop_schedule import TileSchedule
from .loop_text import LoopText
from .parts import Part
from .render import render
from .scalars import Term, register, storage
from .writer import Scope


@dataclass(frozen=True)
class StagedTile:
    """An operand's tile: its element type, and where it is in shared memory, in bytes."""

    type: str
    at: int


@dataclass(frozen=True)
class TilesParameters:
    """tiles.cu.j2"""

    name: str
    threads: int
    side: int
    pad: int
    index: str
    along: str
    other: str
    along_type: str
    other_type: str
    along_size: str
    other_size: str
    staged: list[StagedTile]
    parameters: list[str]
    prologue: list[str]
    unravel: list[str]
    load: list[str]
    store: list[str]


class Tiles(LoopText):
    def __init__(self, part: Part, plan: TileSchedule, aligned: Sequence[int]) -> None:
        kernel = part.kernel
        super().__init__(part, 1, plan.along, aligned)
        self.plan = plan
        self.counts = [ceildiv(d, plan.side) if a in (plan.along, plan.other) else d for a, d in enumerate(kernel.axes)]
        self.blocks = prod(self.counts)
        self.staged: list[StagedTile] = []
        for e in plan.loads:
            size = plan.row * plan.side * self.dtypes[e.operand].itemsize
            self.staged.append(StagedTile(storage(self.dtypes[e.operand]), self.shared))
            self.shared += -(-size // 16) * 16

    def source(self) -> str:
        k, p = self.k, self.plan
        axes = range(len(k.axes))
        along, other = self.axis_name(p.along), self.axis_name(p.other)
        tile = Scope(self.root, {a: self.axis_name(a) for a in axes if a not in (p.along, p.other)})
        inside = {p.along: along, p.other: other}
        load, store = Scope(tile, inside), Scope(tile, inside)
        for i, e in enumerate(p.loads):
            dtype = self.dtypes[e.operand]
            load.add(f"t{i}[r * ROW + c] = b{e.operand}[{self.w.value(e.offset, load).text}];")
            name = self.w.fresh("t")
            store.add(f"const {register(dtype)} {name} = t{i}[c * ROW + r]{' != 0' if register(dtype) == 'bool' else ''};")
            store.memo[id(e)] = Term(name, e.dtype)
        self.store_all(k.stores, store)
        index = self.index_type(self.blocks)
        unravel = self._unravel(index)
        return render(
            "tiles.cu.j2",
            TilesParameters(
                name=PLACEHOLDER,
                threads=p.threads,
                side=p.side,
                pad=p.row - p.side,
                index=index,
                along=along,
                other=other,
                along_type=self.index_type(k.axes[p.along], p.side),
                other_type=self.index_type(k.axes[p.other], p.side),
                along_size=self.params.name(k.axes[p.along]),
                other_size=self.params.name(k.axes[p.other]),
                staged=self.staged,
                parameters=self.signature(),
                prologue=self.params.prologue(),
                unravel=[*self.root.lines, *unravel, *tile.lines],
                load=load.lines,
                store=store.lines,
            ),
        )

    def _unravel(self, index: str) -> list[str]:
        """Declares the loop variables of a tile; those that run inside it by where it starts."""
        lines, rest, u = [], "tile", "u32" if index == "int" else "u64"
        for a in reversed(range(len(self.k.axes))):
            inside = a in (self.plan.along, self.plan.other)
            kind, name = self.index_type(self.sizes[a], self.plan.side), self.axis_name(a) + ("_0" if inside else "")
            size = self.params.name(self.counts[a])
            scale = f" * {self.plan.side}" if inside else ""
            if a == 0:
                lines.append(f"const {kind} {name} = ({kind}){rest}{scale};")
                break
            lines.append(f"const {kind} {name} = ({kind})(({u}){rest} % ({u}){size}){scale};")
            after = self.w.fresh("rest")
            lines.append(f"const {index} {after} = ({index})(({u}){rest} / ({u}){size});")
            rest = after
        return lines
