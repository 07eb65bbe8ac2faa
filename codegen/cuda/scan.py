"""Running sums and products: a block for each row, whose threads share it piece by piece.

What a loop kernel says is y[j] = fn(y[j − 1], x[j]), one after the other; fn being associative, each piece of a row is combined
by shuffles, and what is before it comes from the piece before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Dim, lower, prod, upper
from ..affine import stride_along
from ..expr import E
from ..kernel import LoopKernel, Store
from ..running import running
from .emitted import PLACEHOLDER
from .loop_text import LoopText, neutral
from .parts import Part
from .render import render
from .scalars import Term, literal, register
from .writer import STAGES, Scope

_FUNCTORS = {"add": "Sum", "mul": "Prod"}
_REDUCTIONS = {"add": "sum", "mul": "prod"}
SHORT = 32  # elements that one thread runs through
MANY_COLUMNS = 4096  # rows next to each other that keep the device busy, a thread each
_THREADS = (64, 128, 256, 512, 1024)
_THREADS_OF_ANY = 256  # for rows of unknown length


@dataclass(frozen=True, slots=True)
class ScanSchedule:
    """`threads` for each row. `fn` combines; `element` is what joins at each place of the row."""

    threads: int
    fn: str
    element: E


def schedule_scan(kernel: LoopKernel, aligned: Sequence[int]) -> ScanSchedule | None:
    """None for other kernels, for short rows, and where many rows lie next to each other."""
    found = running(kernel)
    if found is None or upper(kernel.reduce_axes[0]) <= SHORT:
        return None
    n, length = len(kernel.axes), kernel.reduce_axes[0]
    if stride_along(kernel.stores[0].offset, n) not in (1, -1) and lower(prod(kernel.axes)) >= MANY_COLUMNS:
        return None
    threads = _THREADS_OF_ANY
    if isinstance(length, int):
        threads = next((t for t in _THREADS if t >= length), _THREADS[-1])
    return ScanSchedule(threads, found.fn, found.element)


@dataclass(frozen=True)
class ScanParameters:
    """scan.cu.j2"""

    name: str
    threads: int
    functor: str
    type: str
    start: str
    index: str
    place: str
    size: str
    position: str
    parameters: list[str]
    prologue: list[str]
    unravel: list[str]
    element: list[str]
    value: str
    store: list[str]


class Scans(LoopText):
    def __init__(self, part: Part, plan: ScanSchedule, aligned: Sequence[int]) -> None:
        k = part.kernel
        (store,) = k.stores
        plain = LoopKernel(k.axes, k.reduce_axes, k.operands, (), (Store(store.operand, store.offset, plan.element, True),))
        super().__init__(Part(plain), 1, len(k.axes), aligned)
        self.plan = plan
        self.items = prod(k.axes)
        self.blocks: Dim = self.items
        self.shared = 8 * (plan.threads // 32)

    def source(self) -> str:
        k, n, plan = self.k, len(self.k.axes), self.plan
        (store,), size = k.stores, k.reduce_axes[0]
        dtype = plan.element.dtype
        index, place = self.index_type(self.items), self.index_type(size, 2 * plan.threads)
        unravel = self.unravel(range(n), "item", self.items)
        row = Scope(self.root, {**{a: self.axis_name(a) for a in range(n)}, STAGES: ""})
        read, write = (Scope(row, {n: self.axis_name(n)}) for _ in range(2))
        value = self.w.value(store.value, read).text
        write.add(f"b{store.operand}[{self.w.value(store.offset, write).text}] = {self.w.to_storage(Term('x', dtype))};")
        return render(
            "scan.cu.j2",
            ScanParameters(
                name=PLACEHOLDER,
                threads=plan.threads,
                functor=_FUNCTORS[plan.fn],
                type=register(dtype),
                start=literal(neutral(_REDUCTIONS[plan.fn], dtype), dtype),
                index=index,
                place=place,
                size=self.params.name(size),
                position=self.axis_name(n),
                parameters=self.signature(),
                prologue=self.params.prologue(),
                unravel=[*self.root.lines, *unravel, *row.lines],
                element=read.lines,
                value=value,
                store=write.lines,
            ),
        )
