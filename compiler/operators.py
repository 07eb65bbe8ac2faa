"""Which operators there are and how each is compiled, from the handler tables: `python -m mlc.compiler.operators`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from .importer.handlers.sequence import SEQUENCE_HANDLERS
from .importer.handlers.strings import STRING_HANDLERS
from .importer.handlers.table import HANDLERS, find_handler
from .importer.load import REVIEWED_OPSET

KINDS = {
    "native": "compiled to machine code, by a handler of its own",
    "expanded": "compiled to machine code, through the function body that ONNX defines it by",
    "host": "run by Python in the runtime, unless the importer can do without (sequences whose elements the model spells out, or "
    "are alike and only appended to)",
    "missing": "refused, with an error that names the node",
}
_OTHERS = ("ImageDecoder", "com.microsoft::DynamicTimeWarping", "com.microsoft::Tokenizer")
_HOST = frozenset((*(name for name, _ in (*SEQUENCE_HANDLERS, *STRING_HANDLERS)), *_OTHERS))


@dataclass(frozen=True)
class Support:
    """One version of an operator, or several in a row that are treated alike."""

    domain: str
    operator: str
    versions: tuple[int, ...]
    kind: str


def kind_of(domain: str, operator: str, opset: int) -> str:
    """One of KINDS. `opset` is that of the domain; a domain without schemas (com.microsoft) takes any."""
    domain = "" if domain == "ai.onnx" else domain
    if find_handler(domain, operator, opset) is not None:
        return "host" if (f"{domain}::{operator}" if domain else operator) in _HOST else "native"
    try:
        schema: Any = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return "missing"
    has_body = schema.has_function or schema.has_context_dependent_function
    return "expanded" if has_body and (domain or schema.since_version <= REVIEWED_OPSET) else "missing"


def support() -> list[Support]:
    """Every operator of the installed onnx, and those of other domains that have handlers; by domain and name."""
    versions: dict[tuple[str, str], set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        versions.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    for name, since in HANDLERS:
        domain, _, operator = name.rpartition("::")
        if (domain, operator) not in versions or domain == "com.microsoft":
            versions.setdefault((domain, operator), set()).add(since)
    return [row for key in sorted(versions) for row in _runs(*key, sorted(versions[key]))]


def _runs(domain: str, operator: str, versions: list[int]) -> Iterator[Support]:
    """Neighbouring versions of one kind as one row."""
    run: list[int] = []
    kind = ""
    for version in versions:
        now = kind_of(domain, operator, version)
        if run and now != kind:
            yield Support(domain, operator, tuple(run), kind)
            run = []
        kind = now
        run.append(version)
    yield Support(domain, operator, tuple(run), kind)


def markdown() -> str:
    """The text of docs/operators.md."""
    rows = support()
    newest: dict[tuple[str, str], str] = {(r.domain, r.operator): r.kind for r in rows}
    lines = [
        "# Operators",
        "",
        f"Of onnx {onnx.__version__} (opset {onnx.defs.onnx_opset_version()}), and of other domains where mlc has them. Written by",
        "`python -m mlc.compiler.operators > docs/operators.md` from the handler tables; a test compares. What one model needs, before",
        "compiling it: `mlc inspect --capability model.onnx`.",
        "",
        *(f"- **{kind}**: {meaning}" for kind, meaning in KINDS.items()),
        "",
        "Versions are the opsets at which an operator changed. A handler may still refuse a variant (an unknown mode, a rank that depends",
        "on data); it then says so.",
        "",
    ]
    for domain in sorted({r.domain for r in rows}):
        count = Counter(kind for (d, _), kind in newest.items() if d == domain)
        lines += [
            f"## {domain or 'ai.onnx'}",
            "",
            "Newest versions: " + ", ".join(f"{count[kind]} {kind}" for kind in KINDS if count[kind]) + ".",
            "",
            "| operator | versions | |",
            "|---|---|---|",
            *(f"| {r.operator} | {', '.join(map(str, r.versions))} | {r.kind} |" for r in rows if r.domain == domain),
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
