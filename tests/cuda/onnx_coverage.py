"""What of the ONNX backend suite the CUDA target compiles, and what the emulation makes of it, against the suite's own results.

`python tests/cuda/onnx_coverage.py [SET …] [--run]` prints the table of docs/cuda.md: cases by set, those compiled, those that also agree
when run by the emulation (--run, some minutes), and what was refused, by reason.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from cases import SETS, assert_same, cases, data_of, missing, model_of
from excluded import EXCLUDED
from mlc.codegen.cuda.emulate.compiler import Library, build
from mlc.codegen.cuda.emulate.device import EmulatedDevice
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend
from mlc.compiler.options import Options
from mlc.compiler.stages import Compilation
from mlc.errors import MlcError, OnnxImportError
from mlc.runtime.cuda.module import CudaModule

TARGET = "cuda:sm_90a"
LIBRARY = 150  # kernels that g++ gets at once


@dataclass
class Coverage:
    """Names of cases by outcome; `refused` and `wrong` say why."""

    compiled: dict[str, Compilation] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    agreed: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)


def present(kind: str) -> list[str]:
    """Cases of a set whose data are here and whose results are not drawn at random."""
    return [n for n in sorted(cases(kind)) if not missing(kind, n) and n not in EXCLUDED]


def compile_cases(kind: str, names: Iterable[str]) -> Coverage:
    """Each case as the CUDA target compiles it, up to source text."""
    found = Coverage()
    for name in names:
        try:
            found.compiled[name] = compile_stages(model_of(kind, name), Options(TARGET), backend=EmulatedBackend(parse(TARGET)))
        except MlcError as e:
            found.refused[name] = reason(e)
    return found


def reason(error: MlcError) -> str:
    """What kind of thing was refused."""
    if isinstance(error, OnnxImportError):
        return "by the importer, for every target"
    return f"{type(error).__name__}: " + re.sub(r"[:(].*", "", str(error.found)).strip()


class _Libraries:
    """Many libraries as one."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        items = sorted(sources.items())
        parts = [dict(items[i : i + LIBRARY]) for i in range(0, len(items), LIBRARY)]
        with ThreadPoolExecutor(2) as pool:
            built = list(pool.map(build, parts))
        self.at: dict[str, Library] = {s: lib for part, lib in zip(parts, built, strict=True) for s in part}

    def run(self, symbol: str, *args: object) -> None:
        self.at[symbol].run(symbol, *args)  # type: ignore[arg-type]


def run_cases(kind: str, found: Coverage, seed: int = 3) -> None:
    """Run what was compiled, in one order of blocks and threads, and compare with the suite's results."""
    device = EmulatedDevice(_Libraries({s: t for r in found.compiled.values() for s, t in r.texts.items()}), seed=seed)  # type: ignore[arg-type]
    for name, r in found.compiled.items():
        try:
            module = CudaModule(r.backend.parts(r.plan, r.emitted, r.objects, r.graph.equal, r.packed.result()), device=device)
            model = model_of(kind, name)
            for data in data_of(kind, name, model):
                got = module.run(data.feeds)
                for output, want in zip(model.graph.output, data.expected, strict=True):
                    assert_same(got[output.name], want, cases(kind)[name], output.name)
            found.agreed.append(name)
        except (MlcError, AssertionError) as e:
            found.wrong[name] = f"{type(e).__name__}: {str(e).strip()[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=[s for s in SETS if s != "real"])
    parser.add_argument("--run", action="store_true", help="run them by the emulation too")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| set | cases | compiled | agree, run by the emulation | refused |\n|---|---|---|---|---|")
    for kind in args.sets:
        found = compile_cases(kind, present(kind))
        if args.run:
            run_cases(kind, found)
        why = "; ".join(f"{n} {r}" for r, n in Counter(found.refused.values()).most_common()) or "–"
        agreed = str(len(found.agreed)) if args.run else "not run"
        print(f"| {kind} | {len(found.compiled) + len(found.refused)} | {len(found.compiled)} | {agreed} | {why} |")
        for name, what in found.wrong.items():
            print(f"wrong: {name}: {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
