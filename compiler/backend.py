"""What a backend is: it emits and compiles what a plan needs, and makes a module of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..codegen.lower import LowerOptions
from ..codegen.plan import Plan
from ..ir import Dim, DType, Node
from ..passes.base import Pass
from ..runtime.artifact import Parts
from .assemble import Overriding
from .constants import Packed

Done = Callable[[str], None]
Equal = Sequence[tuple[Dim, Dim]]


class Backend(Protocol):
    """Used as a context; `emitted` are by id() of a step of the plan."""

    target: Any

    @property
    def runs_here(self) -> bool:
        """Whether modules may be timed on this machine."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def prepare(self, nodes: int) -> None:
        """Begin what takes time, for a graph of so many nodes."""

    def options(self, opt_level: int, exact: bool) -> LowerOptions: ...

    def stays(self, layer: Node, precision: str, costs: LowerOptions) -> bool:
        """Whether float32 is expected to take a layer less time than `precision` does."""

    def attention(self, precision: str) -> DType | None:
        """The type that attention of float32, and what weights of few bits are multiplied by, are rounded to where layers are lowered
        to `precision`; None: they are not."""

    def passes(self, opt_level: int) -> tuple[Pass, ...]:
        """What graphs go through for this target, behind all other passes."""

    def emit(self, plan: Plan) -> dict[int, Any]: ...

    def texts(self, emitted: Mapping[int, Any], known: Mapping[str, Any]) -> dict[str, str]:
        """Source text by symbol, of what is not compiled already, which is `known`."""

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, Any]:
        """Machine code by symbol."""

    def parts(
        self, plan: Plan, emitted: Mapping[int, Any], compiled: Mapping[str, Any], equal: Equal, packed: Packed,
        before: Parts | None = None, overriding: Overriding | None = None,
    ) -> Parts: ...  # fmt: skip

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, Any]) -> None:
        """Sources and code into files."""

    def describe(self, emitted: Any) -> list[str]:
        """A line on each function of a step."""
