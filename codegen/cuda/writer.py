"""Statements of a kernel: expressions become named values in the outermost scope that knows their loop variables."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import CodegenError
from ...ir import Dim, DType, lower, upper
from ..expr import Acc, Axis, Bits, Call, Cast, DimParam, E, Load, Num, Reduced, Ticks, children, postorder
from ..kernel import Operand
from .ranges import UNKNOWN, Interval, fits, intervals
from .scalars import CudaScalars, Term, literal, register, storage

_OPS = CudaScalars()
_INDEX = {"add": "+", "sub": "-", "mul": "*"}
STAGES = -1  # pseudo axis that results of reductions depend on


class Scope:
    """A block of the program: statements, the loop variables introduced here, and the values computed here.

    `lane`, if set, is the variable that runs over the elements of a pack; `packs` are loads that were read as packs here.
    """

    def __init__(self, parent: Scope | None = None, axes: dict[int, str] | None = None) -> None:
        self.parent = parent
        self.lines: list[str] = []
        self.own = dict(axes or {})
        self.names: dict[int, str] = {**(parent.names if parent else {}), **self.own}
        self.memo: dict[int, Term] = {}
        self.lane: str | None = None
        self.packs: dict[int, str] = {}

    def add(self, *lines: str) -> None:
        self.lines += lines

    def pack(self, e: E) -> str | None:
        """The name of the pack that holds a load, if this scope is inside one's lanes."""
        at: Scope | None = self if self.lane is not None else None
        while at is not None:
            if id(e) in at.packs:
                return at.packs[id(e)]
            at = at.parent
        return None


class Params:
    """Sizes passed to the kernel: `d0`, `d1`, …, as 32-bit numbers where they fit."""

    def __init__(self) -> None:
        self.dims: list[Dim] = []
        self._names: dict[Dim, str] = {}

    def name(self, d: Dim) -> str:
        """A literal, or the name of a parameter."""
        if isinstance(d, int):
            return str(d) if fits((d, d)) else f"{d}LL"
        if d not in self._names:
            self._names[d] = f"d{len(self.dims)}"
            self.dims.append(d)
        return self._names[d]

    def prologue(self) -> list[str]:
        return [f"const {'int' if fits((lower(d), upper(d))) else 'i64'} d{i} = ({'int' if fits((lower(d), upper(d))) else 'i64'})s{i};"
                for i, d in enumerate(self.dims)]  # fmt: skip

    def signature(self) -> list[str]:
        return [f"i64 s{i}" for i in range(len(self.dims))]


class Writer:
    """Evaluates expressions of one kernel.

    Args:
        roots: all expressions, for their intervals and dependences.
        axes: sizes of the loop variables.
        dtypes: element types of the operands; operand i is the pointer `b{i}`.
        mutable: operands that are read after they are written: their loads keep their place.
        summed: nodes whose values are only added up: products among them may be multiply-adds.
    """

    def __init__(self, roots: Sequence[E], axes: Sequence[Dim], dtypes: Sequence[DType], params: Params,
                 mutable: frozenset[int] = frozenset(), summed: frozenset[int] = frozenset()) -> None:  # fmt: skip
        self.params, self.dtypes, self.mutable, self.summed = params, dtypes, mutable, summed
        self.ranges = intervals(roots, axes)
        self.depends: dict[int, frozenset[int]] = {}
        self._volatile: set[int] = set()
        for e in postorder(roots):
            own = frozenset({e.index}) if isinstance(e, Axis) else frozenset({STAGES}) if isinstance(e, (Reduced, Acc)) else frozenset()
            self.depends[id(e)] = own.union(*(self.depends[id(c)] for c in children(e)))
            if (isinstance(e, Load) and e.operand in mutable) or any(id(c) in self._volatile for c in children(e)):
                self._volatile.add(id(e))
        self.reduced: dict[int, str] = {}
        self.acc = ""
        self._count = 0

    def fresh(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def index_type(self, e: E) -> str:
        return "int" if fits(self.ranges.get(id(e), UNKNOWN)) else "i64"

    # --- evaluation ------------------------------------------------------------------------------------------------
    def value(self, root: E, scope: Scope) -> Term:
        """The value of root, as a name or literal that is visible in `scope`."""
        stack: list[tuple[E, bool]] = [(root, False)]
        while stack:
            e, ready = stack.pop()
            home = self.home(e, scope)
            if id(e) in home.memo:
                continue
            if ready:
                home.memo[id(e)] = self._evaluate(e, home)
            else:
                stack.append((e, True))
                if home.pack(e) is None:
                    stack.extend((c, False) for c in children(e))
        return self.home(root, scope).memo[id(root)]

    def home(self, e: E, scope: Scope) -> Scope:
        if id(e) in self._volatile:
            return scope
        needs = self.depends[id(e)]
        at = scope
        while at.parent is not None and not (needs & at.own.keys()):
            at = at.parent
        return at

    def _known(self, e: E, scope: Scope) -> Term:
        return self.home(e, scope).memo[id(e)]

    def _evaluate(self, e: E, scope: Scope) -> Term:
        match e:
            case Num(value=v):
                return Term(self.params.name(int(v)), e.dtype) if e.dtype is DType.I64 and abs(v) < 2**62 else _OPS.const(v, e.dtype)
            case DimParam(dim=d):
                return Term(self.params.name(d), e.dtype)
            case Axis(index=i):
                return Term(scope.names[i], e.dtype)
            case Reduced(stage=i):
                return Term(self.reduced[i], e.dtype)
            case Acc():
                return Term(self.acc, e.dtype)
            case Ticks():
                return self._name("ticks()", e, "i64", scope)
            case Load(operand=o):
                return self._load(e, o, scope)
            case Bits(arg=a, source=source):
                return self._name(_OPS.bits(self._known(a, scope), source, e.dtype).text, e, register(e.dtype), scope)
            case Cast(arg=a) if e.dtype is DType.I64 and not a.dtype.is_float:
                t = self.index_type(e)
                return self._name(f"({t}){self._known(a, scope).text}", e, t, scope)
            case Cast(arg=a):
                x = self._known(a, scope)
                return self._name(_OPS.cast(x, e.dtype).text, e, register(e.dtype), scope)
            case Call(fn=fn, args=args):
                got = [self._known(a, scope) for a in args]
                if e.dtype is DType.I64:
                    return self._index(e, fn, args, got, scope)
                if fn == "mul" and id(e) in self.summed:
                    return self._name(f"{got[0].text} * {got[1].text}", e, register(e.dtype), scope)
                return self._name(_OPS.call(fn, *got).text, e, register(e.dtype), scope)
        raise CodegenError(f"{type(e).__name__} in a CUDA kernel")

    def _name(self, text: str, e: E, ctype: str, scope: Scope) -> Term:
        name = self.fresh()
        scope.add(f"const {ctype} {name} = {text};")
        return Term(name, e.dtype)

    def _load(self, e: Load, operand: int, scope: Scope) -> Term:
        dtype = self.dtypes[operand]
        pack = scope.pack(e)
        if pack is not None:
            raw = f"{pack}.v[{scope.lane}]"
        else:
            raw = f"b{operand}[{self._known(e.offset, scope).text}]"
        return self._name(f"{raw} != 0" if dtype is DType.BOOL else raw, e, register(dtype), scope)

    def _index(self, e: Call, fn: str, args: Sequence[E], x: list[Term], scope: Scope) -> Term:
        """Integer arithmetic, in 32 bits where the result and all operands fit."""
        r: list[Interval] = [self.ranges.get(id(a), UNKNOWN) for a in args]
        out = self.ranges.get(id(e), UNKNOWN)
        t = "int" if fits(out) else "i64"
        numbers = [i for i, a in enumerate(args) if a.dtype is DType.I64]
        if out == UNKNOWN or any(r[i] == UNKNOWN for i in numbers):  # values, not indices: they may be anything
            wide = [Term(f"((i64){a.text})", a.dtype) if i in numbers else a for i, a in enumerate(x)]
            return self._name(_OPS.call(fn, *wide).text, e, "i64", scope)
        inside = "int" if all(fits(r[i]) for i in numbers) and t == "int" else "i64"
        y = [f"({inside}){a.text}" if inside == "i64" and i in numbers else a.text for i, a in enumerate(x)]
        if fn in _INDEX:
            text = f"{y[0]} {_INDEX[fn]} {y[1]}"
        elif fn in ("min", "max"):
            text = f"{x[0].text} {'<' if fn == 'min' else '>'} {x[1].text} ? {y[0]} : {y[1]}"
        elif fn == "select":
            text = f"{y[0]} ? {y[1]} : {y[2]}"
        elif fn in ("div", "mod") and r[1][0] > 0:
            if r[0][0] >= 0:
                u = "u32" if inside == "int" else "u64"
                text = f"({t})(({u}){x[0].text} {'/' if fn == 'div' else '%'} ({u}){x[1].text})"
            elif fn == "div":
                text = f"{y[0]} / {y[1]}"
            else:
                text = f"int_mod<{inside}>({y[0]}, {y[1]})"
        else:
            wide = [Term(f"((i64){a.text})", a.dtype) if i in numbers else a for i, a in enumerate(x)]
            text = _OPS.call(fn, *wide).text
        return self._name(text if inside == t else f"({t})({text})", e, t, scope)

    # --- memory ----------------------------------------------------------------------------------------------------
    def to_storage(self, x: Term) -> str:
        return f"(u8)({x.text})" if x.dtype is DType.BOOL else x.text


def pointer_parameters(dtypes: Sequence[DType], written: Sequence[bool], read: frozenset[int]) -> list[str]:
    """`const T* __restrict__ b0, …`. An operand that is written and read has neither qualifier."""
    out = []
    for i, (d, w) in enumerate(zip(dtypes, written, strict=True)):
        qualifier = "" if w and i in read else " __restrict__"
        out.append(f"{'' if w else 'const '}{storage(d)}*{qualifier} b{i}")
    return out


def operand_pointers(operands: Sequence[Operand]) -> list[str]:
    """Those of operands that are not read again once they are written."""
    return pointer_parameters([o.dtype for o in operands], [o.written for o in operands], frozenset())


__all__ = ["STAGES", "Params", "Scope", "Writer", "literal", "operand_pointers", "pointer_parameters"]
