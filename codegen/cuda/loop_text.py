"""What loop kernels share on CUDA, however they are spread over threads: names, packs, stores and accumulators."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Dim, DType, ceildiv, upper
from ..expr import E, Load, children, postorder
from ..kernel import Reduction, Store
from .loop_schedule import loads, packable, reads_own_result
from .parts import Part
from .ranges import fits
from .scalars import SMALL, literal, register, storage
from .writer import Params, Scope, Writer, pointer_parameters

FUNCTORS = {"sum": "Sum", "prod": "Prod", "max": "Max", "min": "Min", "and": "And", "or": "Or", "argmax": "ArgMax", "argmin": "ArgMin"}


class LoopText:
    """The text of a loop kernel as it grows. `blocks` and `shared` say how it is launched."""

    blocks: Dim = 1

    def source(self) -> str:
        raise NotImplementedError

    def __init__(self, part: Part, pack: int, pack_axis: int, aligned: Sequence[int]) -> None:
        kernel, self.atomics = part.kernel, part.atomics
        self.k, self.pack, self.pack_axis, self.aligned = kernel, pack, pack_axis, aligned
        self.params = Params()
        self.sizes = (*kernel.axes, *kernel.reduce_axes)
        written = frozenset(i for i, o in enumerate(kernel.operands) if o.written)
        self.read_back = written if reads_own_result(kernel) else frozenset()
        self.dtypes = [o.dtype for o in kernel.operands]
        used = {id(c) for e in postorder(kernel.roots) for c in children(e)}
        summed = frozenset(id(s.value) for s in kernel.stages if s.fn == "sum" and s.value.dtype in (DType.F32, DType.F64)) - used
        self.w = Writer(kernel.roots, self.sizes, self.dtypes, self.params, self.read_back, summed)
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
            plain = s.guard is None and s.operand not in self.atomics
            packed = plain and self.pack > 1 and packable(self.k, s.operand, s.offset, self.pack_axis, self.pack, self.aligned)
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
            combine = self.atomics.get(s.operand)
            to = f"b{s.operand}[{offset}]"
            lane.add(f"{guard}{to} = {value};" if combine is None else f"{guard}{combine}(&{to}, {value});")
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
