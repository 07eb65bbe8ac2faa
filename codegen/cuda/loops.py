"""LoopKernel to CUDA: threads over points, or groups of threads over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, DType, ceildiv, prod, upper
from ..expr import Call, E, Load, postorder
from ..kernel import LoopKernel, Reduction, Store
from .emitted import PLACEHOLDER, Emitted, Launch, named
from .loop_schedule import KEPT, PointSchedule, RowSchedule, loads, packable, reads_own_result, schedule_loop
from .ranges import fits
from .render import render
from .scalars import SMALL, Term, literal, register, storage
from .writer import STAGES, Params, Scope, Writer, pointer_parameters

FUNCTORS = {"sum": "Sum", "prod": "Prod", "max": "Max", "min": "Min", "and": "And", "or": "Or", "argmax": "ArgMax", "argmin": "ArgMin"}


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


def emit_loop(kernel: LoopKernel, aligned: Sequence[int]) -> Emitted:
    """Emit a loop kernel. `aligned`: alignment in bytes of each operand. Raises CodegenError for a type or function CUDA lacks."""
    plan = schedule_loop(kernel, aligned)
    body = _Points(kernel, plan, aligned) if isinstance(plan, PointSchedule) else _Rows(kernel, plan, aligned)
    source, symbol = named(body.source())
    calls = sum(isinstance(e, Call) and e.dtype.is_float for e in postorder(kernel.roots))
    moved: Dim = 0
    for o in kernel.operands:
        moved = moved + o.numel * o.dtype.itemsize
    launch = Launch(source, symbol, tuple(range(len(kernel.operands))), tuple(body.params.dims), body.blocks, plan.threads, body.shared)
    return Emitted((launch,), prod((*kernel.axes, *kernel.reduce_axes)) * calls, moved)


class _Loop:
    """What points and rows share: names of loop variables, packs, stores."""

    def __init__(self, kernel: LoopKernel, pack: int, pack_axis: int, aligned: Sequence[int]) -> None:
        self.k, self.pack, self.pack_axis, self.aligned = kernel, pack, pack_axis, aligned
        self.params = Params()
        self.sizes = (*kernel.axes, *kernel.reduce_axes)
        written = frozenset(i for i, o in enumerate(kernel.operands) if o.written)
        self.read_back = written if reads_own_result(kernel) else frozenset()
        self.dtypes = [o.dtype for o in kernel.operands]
        self.w = Writer(kernel.roots, self.sizes, self.dtypes, self.params, self.read_back)
        self.packed = {id(e) for e in loads(kernel) if packable(kernel, e.operand, e.offset, pack_axis, pack, aligned)}
        self.root = Scope()
        self.shared = 0

    def axis_name(self, axis: int) -> str:
        return f"i{axis}"

    def index_type(self, size: Dim, room: int = 0) -> str:
        return "int" if fits((0, upper(size) + room)) else "i64"

    def signature(self) -> list[str]:
        pointers = pointer_parameters(self.dtypes, [o.written for o in self.k.operands], self.read_back)
        return pointers + self.params.signature()

    def unravel(self, axes: Sequence[int], item: str, total: Dim, scale: int = 1) -> list[str]:
        """Declares the loop variables `axes` from a linear number; that of the pack axis counts packs."""
        lines: list[str] = []
        t = self.index_type(total)
        u = "u32" if t == "int" else "u64"
        rest = item
        for n, a in enumerate(reversed(axes)):
            size: Dim = ceildiv(self.sizes[a], scale) if a == self.pack_axis else self.sizes[a]
            kind = self.index_type(self.sizes[a])
            last = n == len(axes) - 1
            value = rest if last else f"({u}){rest} % ({u}){self.params.name(size)}"
            lines.append(
                f"const {kind} {self.axis_name(a)} = ({kind})({value}){f' * {scale}' if a == self.pack_axis and scale > 1 else ''};"
            )
            if not last:
                name = self.w.fresh("rest")
                lines.append(f"const {t} {name} = ({t})(({u}){rest} / ({u}){self.params.name(size)});")
                rest = name
        return lines

    # --- packs -------------------------------------------------------------------------------------------------------
    def read_packs(self, roots: Sequence[E], scope: Scope) -> None:
        """Load the packs that the lanes of `scope` will want, each once, where its offset is known."""
        for e in postorder(roots):
            if isinstance(e, Load) and id(e) in self.packed:
                home = self.w.home(e, scope)
                if id(e) not in home.packs:
                    offset = self.w.value(e.offset, home)
                    name = self.w.fresh("p")
                    home.add(f"const auto {name} = load_pack<{self.pack}>(b{e.operand} + {offset.text});")
                    home.packs[id(e)] = name

    def lanes(self, scope: Scope) -> Scope:
        """The scope of single elements: `scope` itself unless packs have several."""
        if self.pack == 1:
            return scope
        name = self.w.fresh("l")
        lane = Scope(scope, {self.pack_axis: f"{self.axis_name(self.pack_axis)}_{name}"})
        lane.lane = name
        lane.add(f"const auto {lane.own[self.pack_axis]} = {scope.names[self.pack_axis]} + {name};")
        return lane

    def close(self, lane: Scope, scope: Scope) -> None:
        if lane is not scope:
            scope.add("#pragma unroll", f"for (int {lane.lane} = 0; {lane.lane} < {self.pack}; ++{lane.lane}) {{", *lane.lines, "}")

    def store_all(self, stores: Sequence[Store], scope: Scope) -> None:
        """Stores at the points of a scope, packs where they are aligned."""
        self.read_packs([e for s in stores for e in (s.offset, s.value, s.guard) if e is not None], scope)
        lane = self.lanes(scope)
        after: list[str] = []
        for s in stores:
            packed = s.guard is None and self.pack > 1 and packable(self.k, s.operand, s.offset, self.pack_axis, self.pack, self.aligned)
            value = self.w.to_storage(self.w.value(s.value, lane))
            if packed:
                base = self.w.value(s.offset, scope).text
                name = self.w.fresh("q")
                scope.add(f"Pack<{storage(self.dtypes[s.operand])}, {self.pack}> {name};")
                lane.add(f"{name}.v[{lane.lane}] = {value};")
                after.append(f"store_pack<{self.pack}>(b{s.operand} + {base}, {name});")
                continue
            offset = self.w.value(s.offset, lane).text
            guard = "" if s.guard is None else f"if ({self.w.value(s.guard, lane).text}) "
            lane.add(f"{guard}b{s.operand}[{offset}] = {value};")
        self.close(lane, scope)
        scope.add(*after)

    # --- reductions ----------------------------------------------------------------------------------------------------
    def accumulator(self, stage: Reduction) -> tuple[str, str]:
        """(C++ type, neutral value)"""
        dtype = DType.F32 if stage.value.dtype in SMALL else stage.value.dtype
        t = register(dtype)
        if stage.fn.startswith("arg"):
            return f"Place<{t}>", f"Place<{t}>{{({t})0, -1}}"
        return t, literal(neutral(stage.fn, dtype), dtype)

    def combine(self, stage: Reduction, acc: str, scope: Scope) -> str:
        """The statement that takes one more element."""
        t, _ = self.accumulator(stage)
        x = self.w.value(stage.value, scope).text
        if stage.value.dtype in SMALL:
            x = f"to_float({x})"
        if stage.fn.startswith("arg"):
            x = f"{t}{{{x}, (i64)({self.linear(scope)})}}"
        else:
            x = f"({t}){x}"
        return f"{acc} = {FUNCTORS[stage.fn]}::of({acc}, {x});"

    def linear(self, scope: Scope) -> str:
        """The number of an element among those reduced."""
        n, text = len(self.k.axes), "(i64)0"
        for j, size in enumerate(self.k.reduce_axes):
            text = f"({text} * {self.params.name(size)} + {scope.names[n + j]})"
        return text

    def result(self, stage: Reduction, acc: str) -> str:
        """The value of a finished accumulator, as Reduced reads it."""
        if stage.fn.startswith("arg"):
            return f"{acc}.at"
        return f"to_{stage.value.dtype.value}({acc})" if stage.value.dtype in SMALL else acc

    def result_type(self, stage: Reduction) -> str:
        return "i64" if stage.fn.startswith("arg") else register(stage.value.dtype)


def neutral(fn: str, dtype: DType) -> float | int | bool:
    """What combining starts from."""
    match fn:
        case "sum" | "or":
            return 0
        case "prod" | "and":
            return 1
        case "max" | "min":
            if dtype.is_float:
                return float("-inf") if fn == "max" else float("inf")
            if dtype is DType.BOOL:
                return fn == "min"
            bits = dtype.itemsize * 8
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.is_signed else (0, 2**bits - 1)
            return low if fn == "max" else high
    return 0


class _Points(_Loop):
    def __init__(self, kernel: LoopKernel, plan: PointSchedule, aligned: Sequence[int]) -> None:
        super().__init__(kernel, plan.pack, plan.axis, aligned)
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
        return render("points.cu.j2", PointsParameters(
            "map" if not k.reduce_axes else "reduction", PLACEHOLDER, self.plan.threads, self.pack, index, items,
            self.signature(), self.params.prologue(), [*self.root.lines, *unravel], point.lines))  # fmt: skip

    def _reduce_scope(self, point: Scope) -> Scope:
        n = len(self.k.axes)
        return Scope(point, {n + j: self.axis_name(n + j) for j in range(len(self.k.reduce_axes))})

    def _nest(self, inner: Scope, point: Scope) -> None:
        """Wrap a scope's statements into loops over the reduce axes."""
        n, depth = len(self.k.axes), len(self.k.reduce_axes)
        for j, size in enumerate(self.k.reduce_axes):
            t, i = self.index_type(size), self.axis_name(n + j)
            if j == depth - 1 and not self.read_back:
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


class _Rows(_Loop):
    def __init__(self, kernel: LoopKernel, plan: RowSchedule, aligned: Sequence[int]) -> None:
        super().__init__(kernel, plan.pack, len(kernel.axes) + len(kernel.reduce_axes) - 1, aligned)
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
        return render("rows.cu.j2", RowsParameters(
            "row", PLACEHOLDER, self.plan.threads, self.plan.group, index, items,
            self.signature(), self.params.prologue(), [*self.root.lines, *unravel], row.lines))  # fmt: skip

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
