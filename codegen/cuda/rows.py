"""Loop kernels with a group of threads for each point, which share its reduce axes: softmax, norms, long reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, ceildiv, prod
from ..expr import E, Load, postorder
from ..kernel import Reduction
from .emitted import PLACEHOLDER
from .loop_schedule import KEPT, RowSchedule
from .loop_text import FUNCTORS, LoopText
from .parts import Part
from .render import render
from .scalars import Term, register, storage
from .writer import STAGES, Scope


@dataclass(frozen=True)
class RowsParameters:
    """rows.cu.j2"""

    title: str
    name: str
    threads: int
    group: int
    index: str
    items: str
    parameters: list[str]
    prologue: list[str]
    unravel: list[str]
    body: list[str]


class Rows(LoopText):
    def __init__(self, part: Part, plan: RowSchedule, aligned: Sequence[int]) -> None:
        kernel = part.kernel
        super().__init__(part, plan.pack, len(kernel.axes) + len(kernel.reduce_axes) - 1, aligned)
        self.plan = plan
        self.items = prod(kernel.axes)
        self.blocks: Dim = ceildiv(self.items, plan.threads // plan.group)
        self.length = prod(kernel.reduce_axes)
        self.shared = 16 * (plan.group // 32) if plan.group > 32 else 0
        self.keeps: dict[int, str] = {}
        self.loaded: set[int] = set()

    def source(self) -> str:
        k, n = self.k, len(self.k.axes)
        index = self.index_type(self.items, 2 * self.plan.threads)
        unravel = self.unravel(range(n), "item", self.items)
        row = Scope(self.root, {**{a: self.axis_name(a) for a in range(n)}, STAGES: ""})
        self._keep(row)
        for number, stage in enumerate(k.stages):
            self._stage(number, stage, row)
        per_element = [s for s in k.stores if s.per_element]
        if per_element:
            inner, head = self._inner(row, [e for s in per_element for e in (s.offset, s.value, s.guard) if e is not None])
            self.store_all(per_element, inner)
            row.add(*head, *inner.lines, *["}"] * self._braces)
        per_point = [s for s in k.stores if not s.per_element]
        if per_point:
            for s in per_point:
                offset, value = self.w.value(s.offset, row).text, self.w.to_storage(self.w.value(s.value, row))
                guard = "" if s.guard is None else f" && {self.w.value(s.guard, row).text}"
                row.add(f"if (lane == 0{guard}) b{s.operand}[{offset}] = {value};")
        items = self.params.name(self.items)
        return render(
            "rows.cu.j2",
            RowsParameters(
                title="row",
                name=PLACEHOLDER,
                threads=self.plan.threads,
                group=self.plan.group,
                index=index,
                items=items,
                parameters=self.signature(),
                prologue=self.params.prologue(),
                unravel=[*self.root.lines, *unravel],
                body=row.lines,
            ),
        )

    def _keep(self, row: Scope) -> None:
        """Loads that several stages read stay in registers, when the row is static and short enough."""
        if not self.plan.steps:
            return
        phases = [[s.value] for s in self.k.stages] + [[e for s in self.k.stores if s.per_element for e in (s.offset, s.value)]]
        uses: dict[int, int] = {}
        found: dict[int, Load] = {}
        for phase in phases:
            for e in postorder(phase):
                if isinstance(e, Load) and (id(e) in self.packed or self.pack == 1):
                    if not any(a >= len(self.k.axes) for a in self.w.depends[id(e)]):
                        continue
                    uses[id(e)] = uses.get(id(e), 0) + 1
                    found[id(e)] = e
        room = KEPT
        for i, e in found.items():
            size = -(-self.plan.steps * self.pack * self.dtypes[e.operand].itemsize // 4)
            if uses[i] > 1 and size <= room:
                room -= size
                name = self.w.fresh("kept")
                row.add(f"Pack<{storage(self.dtypes[e.operand])}, {self.pack}> {name}[{self.plan.steps}];")
                self.keeps[i] = name

    def _inner(self, row: Scope, roots: Sequence[E]) -> tuple[Scope, list[str]]:
        """The scope of one pack of the row, and the loop around it."""
        n, p = len(self.k.axes), self.plan
        t = self.index_type(self.length, 2 * p.group * self.pack)
        size = self.params.name(self.length)
        at, step = self.w.fresh("e"), self.w.fresh("s")
        stride = p.group * self.pack
        if p.steps:
            head = ["#pragma unroll", f"for (int {step} = 0; {step} < {p.steps}; ++{step}) {{",
                    f"const {t} {at} = {step} * {stride} + lane * {self.pack};"]  # fmt: skip
            whole = isinstance(self.length, int) and self.length == p.steps * stride
            self._braces = 1 if whole else 2
            head += [] if whole else [f"if ({at} < {size}) {{"]
        else:
            head = [f"for ({t} {at} = lane * {self.pack}; {at} < {size}; {at} += {stride}) {{"]
            self._braces = 1
        inner = Scope(row, {n + j: self.axis_name(n + j) for j in range(len(self.k.reduce_axes))})
        names = self._unravel_element(at, t)
        inner.add(*names)
        for e in postorder(list(roots)):
            if id(e) in self.keeps and isinstance(e, Load):
                slot = f"{self.keeps[id(e)]}[{step}]"
                if id(e) not in self.loaded:
                    offset = self.w.value(e.offset, inner).text
                    inner.add(f"{slot} = load_pack<{self.pack}>(b{e.operand} + {offset});")
                if self.pack == 1:
                    dtype = self.dtypes[e.operand]
                    name = self.w.fresh()
                    inner.add(f"const {register(dtype)} {name} = {slot}.v[0]{' != 0' if dtype is DType.BOOL else ''};")
                    inner.memo[id(e)] = Term(name, dtype)
                else:
                    inner.packs[id(e)] = slot
        self.loaded |= {id(e) for e in postorder(list(roots)) if id(e) in self.keeps}
        return inner, head

    def _unravel_element(self, at: str, t: str) -> list[str]:
        """Loop variables of the reduce axes from an element's number in the row."""
        n, lines, rest = len(self.k.axes), [], at
        u = "u32" if t == "int" else "u64"
        axes = range(n, n + len(self.k.reduce_axes))
        for a in reversed(axes):
            kind, size = self.index_type(self.sizes[a]), self.params.name(self.sizes[a])
            if a == n:
                lines.append(f"const {kind} {self.axis_name(a)} = ({kind}){rest};")
                break
            lines.append(f"const {kind} {self.axis_name(a)} = ({kind})(({u}){rest} % ({u}){size});")
            name = self.w.fresh("rest")
            lines.append(f"const {t} {name} = ({t})(({u}){rest} / ({u}){size});")
            rest = name
        return lines

    def _stage(self, number: int, stage: Reduction, row: Scope) -> None:
        t, start = self.accumulator(stage)
        acc = f"acc{number}"
        row.add(f"{t} {acc} = {start};")
        inner, head = self._inner(row, [stage.value])
        self.read_packs([stage.value], inner)
        lane = self.lanes(inner)
        lane.add(self.combine(stage, acc, lane))
        self.close(lane, inner)
        row.add(*head, *inner.lines, *["}"] * self._braces)
        functor = FUNCTORS[stage.fn]
        if self.plan.group > 32:
            row.add(f"{acc} = block_reduce<{functor}, {self.plan.group // 32}>({acc}, scratch);")
        else:
            row.add(f"{acc} = warp_reduce<{functor}>({acc});")
        name = self.w.fresh("r")
        row.add(f"const {self.result_type(stage)} {name} = {self.result(stage, acc)};")
        self.w.reduced[number] = name
