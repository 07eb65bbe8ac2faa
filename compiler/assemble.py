"""The last stage: a plan and its compiled kernels become the parts of a module (manifest, code, weights)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .. import __version__
from ..codegen.plan import Buffer, Plan, Prologue
from ..errors import CodegenError
from ..ir import Dim, DType, TensorType, prod, symbols_of
from ..ir.dims import Expr, Sym
from ..runtime import artifact, memory
from ..runtime.artifact import Parts
from ..runtime.dimexpr import DimExpr
from ..runtime.fields import LIMIT
from ..runtime.manifest import FORMAT
from .constants import Packed, also, behind, pack_constants
from .program import Code, Linker
from .slots import Slots, dim_expr


@dataclass(frozen=True)
class Overriding:
    """What says that a program runs where initializers are overridden: their values, for the first one of those."""

    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)


class Block(Protocol):
    """How functions, by symbol, lie in one block of code: `runtime/objects.py`, or `runtime/cuda/images.py`."""

    def join(self, functions: Sequence[tuple[str, Any]], /) -> bytes: ...

    def split(self, code: bytes, /) -> Sequence[tuple[str, Any]]: ...


def assemble(
    plan: Plan,
    steps: Mapping[int, Code],
    functions: Mapping[str, Any],
    block: Block,
    target: Mapping[str, Any],
    equal: Sequence[tuple[Dim, Dim]] = (),
    packed: Packed | None = None,
    before: Parts | None = None,
    overriding: Overriding | None = None,
) -> Parts:
    """Parts of the module that runs `plan`.

    Args:
        steps: code of each step, by id() of the step (branches and loops included).
        functions: their machine code, and that of what they call, by symbol; also those of `before`.
        block: how they lie in the module.
        target: what the manifest says of the machine.
        packed: what `pack_constants(plan)` gave, if it ran already.
        equal: pairs of dims that the model needs to be equal; checked when sizes are bound.
        before: the module to which this program is added, for sizes that those before it do not serve,
        overriding: or for runs that override initializers.

    Raises CodegenError when the plan contradicts itself.
    """
    roots = [_root(plan.buffers, i) for i in range(len(plan.buffers))]
    known = [] if before is None else [symbol for symbol, _ in block.split(before.code)]
    code = Linker(plan, steps, roots, Slots(), {symbol: i for i, symbol in enumerate(known)})
    code.emit(plan.steps)
    packed = packed or pack_constants(plan)
    if before is not None:
        every = [*before.manifest.programs, *(before.manifest.overridden.programs if before.manifest.overridden else ())]
        taken = [(b.place, b.size) for m in every for b in m.buffers if b.kind == "const"]
        packed = behind(before.weights, taken, packed if overriding is None else also(packed, overriding.defaults))
    manifest = {"format": FORMAT, "mlc": __version__, "target": dict(target), **_program(code, packed, equal)}
    if before is not None and overriding is not None:
        raw = before.manifest.raw
        if overriding.defaults:
            manifest["defaults"] = {name: [*packed.more[name], [*a.shape]] for name, a in overriding.defaults.items()}
        manifest = {**raw, "overridden": _among_others(raw["overridden"], manifest) if "overridden" in raw else manifest}
    elif before is not None:
        manifest = _among_others(before.manifest.raw, manifest)
    elif plan.metadata:
        manifest["metadata"] = dict(plan.metadata)
    symbols = dict.fromkeys([*code.functions, *(part for c in steps.values() for part in c.parts)])
    return artifact.make(manifest, block.join([(symbol, functions[symbol]) for symbol in symbols]), packed.block)


def with_listed(parts: Parts, names: Sequence[str]) -> Parts:
    """The module, that knows which initializers could be overridden, had they been asked for."""
    return artifact.amend(parts, {"listed": [*names]})


def _program(code: Linker, packed: Packed, equal: Sequence[tuple[Dim, Dim]]) -> dict[str, Any]:
    """What the manifest says of a program: its words, and all that they work on."""
    plan, dims = code.plan, code.dims
    shapes = [d for b in plan.buffers for d in b.shape]
    known = symbols_of(d for b in plan.buffers if b.kind == "input" for d in b.shape) | code.bound
    buffers = _buffers(code, packed.spans)
    always = {
        "sizes": sorted({dims.slot(d) for d in shapes if isinstance(d, Expr)}),
        "inputs": _tensors(plan.buffers, "input", plan.input_names, _kinds(plan.input_dtypes, plan.input_strings), dim_expr),
        "outputs": _tensors(plan.buffers, "output", plan.output_names, _kinds(plan.output_dtypes), dims.expr, plan.output_labels),
        "buffers": buffers,
        "program": code.words,
        "steps": code.steps,
        "equal": [[dims.slot(a), dims.slot(b)] for a, b in equal if symbols_of((a, b)) <= known],
        "dims": dims.exprs,  # slots that are met below are added to it
    }
    limits = [[*map(dims.slot, m.dims), m.loc] for m in plan.limits if symbols_of(m.dims) <= known]
    every = dims.symbols(shapes)
    symbols = [_symbol(s) for s in every if s.name not in code.bound]
    bounds = {s.name: (max(-LIMIT, s.lo), min(LIMIT, s.hi)) for s in every}
    where_needed = {
        "limits": limits,
        "expected": [" + ".join(loc) for loc in code.expected],
        "streamed": packed.streamed,
        "strings": list(plan.strings),
        "handlers": [code.handler(h, bounds) for h in code.handlers],
        "prologue": plan.prologue and _prologue(plan.prologue),
        "layout": None if symbols else _layout(buffers, dims),
    }
    return {**always, "symbols": symbols, **{key: value for key, value in where_needed.items() if value}}


def _among_others(first: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """A module's manifest with one more program."""
    for a, b in zip(first["inputs"], manifest["inputs"], strict=True):
        if a["dtype"] != b["dtype"]:  # strings that one of them does less with
            a["dtype"] = b["dtype"] = DType.STRING.value
    return {**first, "others": [*first.get("others", ()), manifest]}


def _symbol(s: Sym) -> dict[str, Any]:
    return {"name": s.name, "lo": max(0, s.lo), "hi": min(LIMIT, s.hi)}


def _prologue(p: Prologue) -> dict[str, Any]:
    return {
        "inputs": [{"name": n, **_type(t)} for n, t in zip(p.input_names, p.inputs, strict=True)],
        "symbols": [_symbol(s) for s in Slots().symbols(d for t in p.inputs for d in t.shape)],
        "constants": [
            {"dtype": "str" if a.dtype.kind == "O" else DType.from_numpy(a.dtype).value, "shape": list(a.shape),
             "items": [str(s) for s in a.ravel()] if a.dtype.kind == "O" else a.ravel().tolist()}
            for a in p.constants
        ],
        "calls": [
            {"call": c.call, "attributes": dict(c.attributes), "reads": list(c.reads), "writes": list(map(_type, c.results)),
             "loc": list(c.loc)}
            for c in p.calls
        ],
        "feeds": list(p.feeds),
        "outputs": [list(pair) for pair in zip(p.output_names, p.outputs, strict=True)],
    }  # fmt: skip


def _type(t: TensorType) -> dict[str, Any]:
    return {"dtype": t.dtype.value, "shape": [d if isinstance(d, int) else str(d) for d in t.shape]}


def _buffers(code: Linker, spans: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """The buffers in the manifest: where each is, or how long it holds a value and how large it is."""
    dims, live = code.dims, code.live
    records: list[dict[str, Any]] = []
    for i, b in enumerate(code.plan.buffers):
        size = dims.slot(prod(b.shape) * b.dtype.itemsize)
        root, shift = code.roots[i]
        match b.kind:
            case "const":
                records.append({"kind": "const", "offset": spans[i][0], "size": spans[i][1]})
            case "alias":
                records.append({"kind": "alias", "bytes": size, "of": root, "shift": dims.slot(shift * b.dtype.itemsize)})
            case "arena" if b.kept:
                records.append({"kind": "arena", "bytes": size, "first": 0, "last": len(code.words), "kept": True})
            case "arena" if i not in live:  # storage nobody touches takes no room
                records.append({"kind": "arena", "bytes": dims.slot(0), "first": 0, "last": 0})
            case "arena" | "given":
                first, last = live.get(i, (0, 0))
                records.append({"kind": b.kind, "bytes": size, "first": first, "last": last})
            case _:
                records.append({"kind": b.kind, "bytes": size, "index": b.index})
    return records


def _root(buffers: Sequence[Buffer], i: int) -> tuple[int, Dim]:
    """(buffer that owns the memory, shift in elements) of a possibly repeated alias."""
    shift: Dim = 0
    seen = 0
    dtype = buffers[i].dtype
    while buffers[i].kind == "alias":
        shift = shift + buffers[i].shift
        i, seen = buffers[i].of, seen + 1
        if not 0 <= i < len(buffers) or seen > len(buffers) or buffers[i].dtype.itemsize != dtype.itemsize:
            raise CodegenError(f"buffer {i} is aliased in a circle, with another element size, or does not exist")
    return i, shift


def _tensors(
    buffers: Sequence[Buffer],
    kind: str,
    names: tuple[str, ...],
    kinds: Sequence[str],
    expr: Callable[[Dim], DimExpr],
    labels: Mapping[int, Sequence[str | int]] | None = None,
) -> list[dict[str, Any]]:
    by_index = {b.index: b for b in buffers if b.kind == kind}
    if sorted(by_index) != list(range(len(names))):
        raise CodegenError(f"{kind} buffers {sorted(by_index)}", expected=f"one for each of {len(names)} names")
    shown = kinds or [by_index[i].dtype.value for i in range(len(names))]
    return [
        {"name": n, "dtype": d, "shape": [expr(x) for x in by_index[i].shape]}
        | ({"labels": list(labels[i])} if labels and i in labels else {})
        for i, (n, d) in enumerate(zip(names, shown, strict=True))
    ]


def _kinds(dtypes: Sequence[DType], strings: Sequence[str] = ()) -> list[str]:
    """Names of element types, and for what strings are made handles."""
    return [uses or d.value for d, uses in zip(dtypes, strings or [""] * len(dtypes), strict=True)]


def _layout(buffers: list[dict[str, Any]], dims: Slots) -> dict[str, Any]:
    arena = [i for i, b in enumerate(buffers) if b["kind"] == "arena" and isinstance(dims.exprs[b["bytes"]], int)]
    ranges = [memory.Range(_static(dims.exprs[buffers[i]["bytes"]]), buffers[i]["first"], buffers[i]["last"]) for i in arena]
    layout = memory.plan(ranges, effort=20_000)
    offsets = [0] * len(buffers)
    for i, at in zip(arena, layout.offsets, strict=True):
        offsets[i] = at
    return {"offsets": offsets, "total": layout.total}


def _static(expr: DimExpr) -> int:
    assert isinstance(expr, int)
    return expr
