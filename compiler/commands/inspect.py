"""`mlc inspect`: what a model needs, and what the compiler made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click
import onnx
from rich.markup import escape
from rich.table import Table

from ...runtime.arguments import shape_text
from ...runtime.handlers import AppendHandler, BindHandler, CarryHandler, HostHandler
from ...runtime.manifest import Manifest
from ...runtime.memory import Range, live_bytes
from ..inputs import specs_of_module, symbols_of_module, workable_shapes
from ..options import Options
from .common import bytes_text, compile_options, count_text, find, opened, progress, write_json
from .console import out
from .output_file import REPORT_FILE


@click.command("inspect")
@click.argument("model")
@click.option("--json", "json_path", type=REPORT_FILE, metavar="FILE", help="Write the figures as JSON (- for standard output).")
@click.option("--all", "everything", is_flag=True, help="List every kernel call, not only the heaviest.")
@click.option("--capability", "only_capability", is_flag=True, help="Compile nothing: tell which operators are supported, and how.")
@compile_options
def command(
    model: str,
    json_path: str | None,
    everything: bool,
    only_capability: bool,
    shapes: tuple[str, ...],
    knobs: Options,
) -> None:
    """Show inputs, outputs, operators, kernels, memory plan, flops and bytes of MODEL (ONNX or .mlc)."""
    if only_capability:
        show_capability(model, shapes, json_path)
        return
    from ...runtime import artifact
    from ...runtime.loading import open_parts
    from ..api import compile_with

    found = find(model, shapes)
    operators: dict[str, int] = {}
    if found.is_module:
        module = open_parts(artifact.load(found.path))
    else:
        with progress() as tell:
            module = compile_with(found.path, knobs, tell)
        with opened(found.path) as f:
            operators = histogram(onnx.load_from_string(f.read()))
    report = describe(module, found.shapes)
    report = {"model": model, "operators": operators, **report}
    if json_path:
        write_json(json_path, report)
    if json_path != "-":
        show(report, everything)


def show_capability(model: str, shapes: tuple[str, ...], json_path: str | None) -> None:
    """The operators of an ONNX file by how they would be compiled; exit code 1 when the importer refuses some."""
    from ..capability import capability

    found = find(model, shapes)
    found.require_onnx()
    told = capability(found.path, found.shapes)
    if json_path:
        uses = [{"domain": u.domain, "operator": u.operator, "opset": u.opset, "count": u.count, "kind": u.kind} for u in told.uses]
        write_json(json_path, {"model": model, "operators": uses, "refused": told.refused})
    if json_path != "-":
        table = Table("operator", "domain", "opset", "nodes", "how", title=escape(model))
        for u in told.uses:
            table.add_row(u.operator, u.domain, str(u.opset), str(u.count), u.kind)
        console = out()
        console.print(table)
        console.print(escape(told.refused) if told.refused else "every node can be compiled")
    if not told.complete:
        raise SystemExit(1)


def histogram(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, subgraphs included, the most frequent first."""
    found = Counter(f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type for n in _nodes(model.graph))
    return dict(found.most_common())


def describe(module: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Everything as JSON. Symbolic dims get the sizes in `shapes`, or default ones (under "sizes")."""
    manifest = module.manifest
    given = symbols_of_module(module, workable_shapes(module, specs_of_module(module), shapes))
    sizes = {s.name: given.get(s.name, max(1, s.lo)) for s in manifest.symbols}
    binding = module.binding(**sizes)
    calls = [
        {
            "kernel": s.symbol,
            "nodes": list(dict.fromkeys(s.loc)),
            "flops": int(binding.dims[s.flops]),
            "bytes": int(binding.dims[s.bytes]),
        }
        for s in manifest.steps
    ]
    arena = [Range(int(binding.dims[b.size]), b.first, b.last) for b in manifest.buffers if b.kind == "arena" and b.last >= b.first]
    return {
        "target": manifest.raw.get("target"),
        "inputs": [{"name": i.name, "dtype": str(i.dtype), "shape": list(i.shape)} for i in module.inputs],
        "outputs": [{"name": o.name, "dtype": str(o.dtype), "shape": list(o.shape)} for o in module.outputs],
        "metadata": dict(module.metadata),
        "sizes": sizes,
        "calls": calls,
        "yields": _yields(manifest),
        "flops": sum(c["flops"] for c in calls),
        "bytes": sum(c["bytes"] for c in calls),
        "memory": {
            "weights": sum(b.size for b in manifest.buffers if b.kind == "const"),
            "code": module.code_bytes,
            "arena": binding.layout.total,
            "arena_lower_bound": live_bytes(arena),
            "arena_without_reuse": sum(r.size for r in arena),
            "inputs": _total(binding.in_shapes, manifest.inputs),
            "outputs": _total(binding.out_shapes, manifest.outputs),
            "buffers": dict(Counter(b.kind for b in manifest.buffers)),
        },
    }


def target_text(target: dict[str, Any]) -> str:
    """The machine that a module is for."""
    if target.get("kind") == "cuda":
        return f"CUDA {', '.join(map(str, target.get('archs', ())))} (and from {target.get('ptx')} on by PTX)"
    return f"{target.get('triple')} {target.get('cpu')}"


def show(report: dict[str, Any], everything: bool) -> None:
    """The report as tables."""
    console = out()
    target = report["target"] or {}
    console.print(f"[bold]{escape(report['model'])}[/bold]  target {escape(target_text(target))}")
    table = Table("", "name", "dtype", "shape")
    for kind in ("input", "output"):
        for t in report[kind + "s"]:
            table.add_row(kind, escape(t["name"]), t["dtype"], escape(shape_text(t["shape"])))
    console.print(table)
    for key, value in report["metadata"].items():
        console.print(escape(f"{key}: {value if len(value) < 150 else value[:149] + '…'}"), highlight=False)
    if report["operators"]:
        total = sum(report["operators"].values())
        console.print(f"[bold]{total} operators[/bold]: " + ", ".join(f"{escape(k)} {v}" for k, v in report["operators"].items()))
    if report["sizes"]:
        console.print("figures at " + escape(", ".join(f"{k}={v}" for k, v in report["sizes"].items())))
    calls = sorted(report["calls"], key=lambda c: -c["flops"]) if not everything else report["calls"]
    kernels = len({c["kernel"] for c in report["calls"]})
    table = Table("kernel", "flops", "bytes", "from", title=f"{len(calls)} calls of {kernels} kernels")
    for c in calls if everything else calls[:15]:
        nodes = " + ".join(c["nodes"])
        table.add_row(
            c["kernel"][-16:],
            count_text(c["flops"]),
            bytes_text(c["bytes"]),
            escape(nodes if len(nodes) < 90 else nodes[:87] + "…"),
        )
    console.print(table)
    if not everything and len(calls) > 15:
        console.print(f"… and {len(calls) - 15} more (--all lists them in order)")
    m = report["memory"]
    table = Table("memory", "size")
    for label, key in (
        ("weights", "weights"),
        ("code", "code"),
        ("arena", "arena"),
        ("  most alive at once", "arena_lower_bound"),
        ("  without reuse", "arena_without_reuse"),
        ("inputs", "inputs"),
        ("outputs", "outputs"),
    ):
        table.add_row(label, bytes_text(m[key]))
    console.print(table)
    if report["yields"]:
        shown = ", ".join(f"{escape(k)} {v}" for k, v in report["yields"].items())
        console.print(f"the program stops for: {shown} (figures leave out sizes that data decide)")
    console.print(
        f"{count_text(report['flops'])} flop and {bytes_text(report['bytes'])} moved in a run",
        highlight=False,
    )


def _yields(manifest: Manifest) -> dict[str, int]:
    """What the program stops for, and how often in its text: sizes from data, tensors handed on, host functions by name."""
    names = {BindHandler: "sizes", CarryHandler: "tensors of changing size", AppendHandler: "tensors that grow in place"}
    before = Counter(c.call for c in manifest.prologue.calls) if manifest.prologue is not None else Counter()
    return dict(before + Counter(h.call if isinstance(h, HostHandler) else names[type(h)] for h in manifest.handlers))


def _total(shapes: Sequence[tuple[int, ...] | None], infos: Sequence[Any]) -> int:
    """Bytes of tensors, but for those whose sizes the run decides."""
    return sum(math.prod(shape) * info.dtype.itemsize for shape, info in zip(shapes, infos, strict=True) if shape is not None)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    stack = [graph]
    while stack:
        for node in stack.pop().node:
            yield node
            for a in node.attribute:
                stack.extend([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)
