"""Writes NAME.h and NAME.c (what the program and its memory look like), libNAME.a (its kernels, the thread pool and the
interpreter of programs) and NAME.weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import jinja2
import numpy as np

from ... import __version__
from ...codegen.cpu.compile import compile_ir
from ...codegen.cpu.target import CpuTarget
from ...errors import ArtifactError, InputError
from ...runtime import objects
from ...runtime.artifact import Parts
from ...runtime.binding import Binding, Sizes
from ...runtime.files import write_whole
from ...runtime.manifest import Manifest
from ...runtime.native import source
from ...runtime.records import TensorInfo
from .archive import archive

_C_TYPES = {
    "float32": "float", "float64": "double", "bool": "uint8_t", "float16": "uint16_t", "bfloat16": "uint16_t",
    "complex64": "float", "complex128": "double",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_RESERVED = frozenset(
    """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool class delete
    new operator private public protected template this throw try catch namespace using virtual
    """.split()  # noqa: SIM905 (more readable than a list)
)  # words of C and C++
# Names that compilers know (`__builtin_cpu_supports`) of features that code may need; the others come with these.
_CHECKED = ("sse4.2", "avx", "avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16")
_INPUT, _OUTPUT, _ARENA, _WEIGHTS = range(4)


@dataclass(frozen=True)
class Tensor:
    """An input or output as C sees it. `shape` as text."""

    field: str
    name: str
    type: str
    dtype: str
    shape: str
    elements: int


@dataclass(frozen=True)
class CLibrary:
    """The files' contents."""

    name: str
    header: str
    program: str
    library: bytes
    weights: np.ndarray

    def write(self, folder: Path) -> list[Path]:
        """Writes the files, each whole or not at all. Raises ArtifactError."""
        contents: dict[str, Any] = {
            f"{self.name}.h": self.header.encode(),
            f"{self.name}.c": self.program.encode(),
            f"lib{self.name}.a": self.library,
            f"{self.name}.weights": self.weights.data,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ArtifactError(f"cannot be made: {e.strerror}", expected="a folder", loc=str(folder)) from None
        for name, data in contents.items():
            write_whole(folder / name, partial(_put, data))
        return [folder / name for name in contents]


def _put(data: Any, f: IO[bytes]) -> None:
    f.write(data)


def write_c_library(parts: Parts, folder: Path, name: str) -> list[Path]:
    """`c_library`, as files in a folder. Raises InputError, ArtifactError."""
    return c_library(parts, name).write(folder)


def c_library(parts: Parts, name: str) -> CLibrary:
    """A module of fixed sizes for CPUs as C. Raises InputError for another, or a name that is no identifier of C."""
    m = parts.manifest
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in _RESERVED:
        raise InputError(f"name {name[:60]!r}", expected="an identifier of C", loc="--name")
    _check(m)
    target = _target(m)
    pairs = objects.split(parts.code)
    values = {
        "name": name,
        "version": __version__,
        "target": f"{target.cpu} ({target.triple})",
        "inputs": _tensors(m.inputs),
        "outputs": _tensors(m.outputs),
        "functions": [symbol for symbol, _ in pairs],
        "weights": parts.weights.nbytes,
        "features": [f for f in _CHECKED if f in target.features],
        "tiles": "amx-tile" in target.features,
        "program": m.program,
        "scratch": max(1, m.scratch),
        "messages": [_quoted(loc) for loc in m.expected],
        **_memory(m),
    }
    header, program = (_environment().get_template(f"library.{kind}.j2").render(values) for kind in ("h", "c"))
    runtime = compile_ir(source(target.arch), target)
    entries = ("mlc_run", "mlc_parallel", "mlc_team", "mlc_forget", "mlc_workers", "mlc_checksum")
    members: list[tuple[bytes, Sequence[str]]] = [(runtime, entries), *((blob, (symbol,)) for symbol, blob in pairs)]
    return CLibrary(name, header, program, archive(members), parts.weights)


def _check(m: Manifest) -> None:
    target = m.raw.get("target")
    if not isinstance(target, dict) or "triple" not in target:
        raise InputError("a module for GPUs", expected="one for CPUs", remedy="Compile with --target=cpu.")
    if m.symbols:
        sizes = ", ".join(s.name for s in m.symbols)
        raise InputError(f"a module of symbolic sizes ({sizes})", expected="fixed sizes", remedy="Compile with --shape INPUT=SIZES.")
    ends = m if m.prologue is None else m.prologue
    held = [t.name for t in (*ends.inputs, *ends.outputs) if t.kind != "tensor"]
    if held:
        raise InputError(f"{', '.join(held)}: strings or objects", expected="inputs and outputs that are tensors")
    if m.handlers or m.prologue is not None:
        raise InputError("a module that needs Python while it runs: sizes that data decide, or operators on the host",
                         expected="one whose sizes are known", remedy="`mlc inspect` says what it stops for.")  # fmt: skip


def _target(m: Manifest) -> CpuTarget:
    t = m.raw["target"]
    return CpuTarget(t["triple"], t["cpu"], frozenset(t["features"]), 128)


def _memory(m: Manifest) -> dict[str, Any]:
    """Where every buffer lies: (kind, position of an input or output, offset in bytes)."""
    sizes = Sizes(m)
    binding = Binding(sizes, {})
    kinds = [_ARENA if inside else _WEIGHTS for inside in sizes.in_arena]
    places = [(kind, 0, offset) for kind, offset in zip(kinds, binding.places.tolist(), strict=True)]
    for kind, patches in ((_INPUT, binding.in_patches), (_OUTPUT, binding.out_patches)):
        for i, position, shift in patches:
            places[i] = (kind, position, shift)
    return {"places": places, "arena": binding.layout.total, "dims": binding.dims.tolist() or [0]}


def _tensors(infos: Sequence[TensorInfo]) -> list[Tensor]:
    taken: set[str] = set()
    found = []
    for info in infos:
        field = re.sub(r"\W", "_", info.name, flags=re.ASCII) or "_"
        field = f"_{field}" if field[0].isdigit() else field
        while field in taken or field in _RESERVED:
            field += "_"
        taken.add(field)
        dtype = str(info.dtype)
        elements = math.prod(int(d) for d in info.shape) * (2 if dtype.startswith("complex") else 1)
        shape = f"[{', '.join(map(str, info.shape))}]"
        found.append(Tensor(field, _quoted(info.name), _C_TYPES.get(dtype, "uint8_t"), dtype, shape, elements))
    return found


def _quoted(text: str) -> str:
    """For a string or comment of C: printable ASCII without what would end either."""
    return re.sub(r'[^ -~]|["\\*?]', "_", text)[:200]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
