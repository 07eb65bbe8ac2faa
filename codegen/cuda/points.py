"""Loop kernels with a thread for each pack of points, which runs over the reduce axes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, ceildiv, prod
from ..kernel import Reduction
from .emitted import PLACEHOLDER
from .loop_schedule import PointSchedule
from .loop_text import LoopText
from .parts import Part
from .render import render
from .writer import STAGES, Scope

IN_FLIGHT = 64  # elements that a thread may have asked memory for at once


@dataclass(frozen=True)
class PointsParameters:
    """points.cu.j2"""

    title: str
    name: str
    threads: int
    pack: int
    index: str
    items: str
    parameters: list[str]
    prologue: list[str]
    unravel: list[str]
    body: list[str]


class Points(LoopText):
    def __init__(self, part: Part, plan: PointSchedule, aligned: Sequence[int]) -> None:
        kernel = part.kernel
        super().__init__(part, plan.pack, plan.axis, aligned)
        self.plan = plan
        sizes = [ceildiv(d, plan.pack) if a == plan.axis else d for a, d in enumerate(kernel.axes)]
        self.items = prod(sizes)
        self.blocks: Dim = ceildiv(self.items, plan.threads)
        self.done = 0  # stages whose accumulators are complete

    def source(self) -> str:
        k, n = self.k, len(self.k.axes)
        index = self.index_type(self.items, 2 * self.plan.threads)
        unravel = self.unravel(range(n), "item", self.items, self.pack)
        point = Scope(self.root, {**{a: self.axis_name(a) for a in range(n)}, STAGES: ""})
        for number, stage in enumerate(k.stages):
            self._stage(number, stage, point)
        per_point = [s for s in k.stores if not s.per_element]
        if per_point:
            self.store_all(per_point, point)
        per_element = [s for s in k.stores if s.per_element]
        if per_element:
            inner = self._reduce_scope(point)
            self.store_all(per_element, inner)
            self._nest(inner, point)
        items = self.params.name(self.items)
        return render(
            "points.cu.j2",
            PointsParameters(
                title="map" if not k.reduce_axes else "reduction",
                name=PLACEHOLDER,
                threads=self.plan.threads,
                pack=self.pack,
                index=index,
                items=items,
                parameters=self.signature(),
                prologue=self.params.prologue(),
                unravel=[*self.root.lines, *unravel],
                body=point.lines,
            ),
        )

    def _reduce_scope(self, point: Scope) -> Scope:
        n = len(self.k.axes)
        return Scope(point, {n + j: self.axis_name(n + j) for j in range(len(self.k.reduce_axes))})

    def _nest(self, inner: Scope, point: Scope) -> None:
        """Wrap a scope's statements into loops over the reduce axes."""
        n, depth = len(self.k.axes), len(self.k.reduce_axes)
        length = prod(self.k.reduce_axes)
        short = isinstance(length, int) and length * self.pack <= IN_FLIGHT and not self.read_back
        for j, size in enumerate(self.k.reduce_axes):
            t, i = self.index_type(size), self.axis_name(n + j)
            if short:
                point.add("#pragma unroll")
            elif j == depth - 1 and not self.read_back:
                point.add("#pragma unroll 4")
            point.add(f"for ({t} {i} = 0; {i} < {self.params.name(size)}; ++{i}) {{")
        point.add(*inner.lines, *["}"] * depth)

    def _stage(self, number: int, stage: Reduction, point: Scope) -> None:
        t, start = self.accumulator(stage)
        acc = f"acc{number}"
        point.add(f"{t} {acc}[{self.pack}];", "#pragma unroll",
                  f"for (int l = 0; l < {self.pack}; ++l) {{", f"{acc}[l] = {start};", "}")  # fmt: skip
        inner = self._reduce_scope(point)
        self.read_packs([stage.value], inner)
        lane = self.lanes(inner)
        lane.add(self.combine(stage, f"{acc}[{lane.lane or 0}]", lane))
        self.close(lane, inner)
        self._nest(inner, point)
        self.done = number + 1

    def lanes(self, scope: Scope) -> Scope:
        lane = super().lanes(scope)
        if lane is not scope:
            lane.own[STAGES] = ""  # results of reductions differ between lanes
        for number in range(self.done):
            self.w.reduced[number] = self.result(self.k.stages[number], f"acc{number}[{lane.lane or 0}]")
        return lane
