"""`--dump DIR`: every stage as text, numbered, and the seconds each took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..codegen.plan import steps_of
from ..errors import InputError
from ..ir import Graph
from ..ir.printer import print_graph

if TYPE_CHECKING:
    from .stages import Compilation


class Dump:
    """Writes into a folder, which is made if missing. Every method raises InputError when that cannot be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)

    def graph(self, name: str, graph: Graph) -> None:
        """`NN_name.ir`: the graph after a pass."""
        with self._writing():
            (self.folder / f"{self._count:02d}_{name}.ir").write_text(print_graph(graph))
        self._count += 1

    def kernels(self, result: Compilation) -> None:
        """`kernels/SYMBOL.{ll,o}` or `{cu,cubin,ptx}`, `plan.txt` and `times.json`."""
        with self._writing():
            self._kernels(result)

    def _kernels(self, result: Compilation) -> None:
        folder = self.folder / "kernels"
        folder.mkdir(exist_ok=True)
        result.backend.dump(folder, result.texts, result.objects)
        lines = [f"buffer {i}: {b.kind} {b.dtype.value}{list(b.shape)}" for i, b in enumerate(result.plan.buffers)]
        for step in steps_of(result.plan.steps):
            for call in result.backend.describe(result.emitted[id(step)]):
                lines.append(f"{call} {step.buffers} ; {' + '.join(step.loc)}")
        (self.folder / "plan.txt").write_text("\n".join(map(str, lines)) + "\n")
        (self.folder / "times.json").write_text(json.dumps(result.seconds, indent=2) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise InputError(f"cannot be written: {e.strerror or e}", loc=f"--dump {self.folder}", remedy="Name another folder.") from e
