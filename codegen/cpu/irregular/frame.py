"""What the kinds of irregular kernels share: buffers, stack words, loops that do not just count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ....ir import Dim
from ...kernel import IrregularKernel
from .. import llvm_ir as ir
from ..build import I64, Params, kernel_function


class Frame:
    """A function over rows; `cells` are stack words by name, each with how many there are."""

    def __init__(self, kernel: IrregularKernel, cells: dict[str, int]) -> None:
        self.kernel = kernel
        self.params = Params()
        self.module = ir.Module()
        b = self.b = kernel_function(self.module)
        bufs, self._dims, self.begin, self.end = b.fn.args
        self.n, self.inner, self.columns = (self._size(d) for d in (kernel.size, kernel.inner, kernel.columns))
        self.buffers = b.operands(bufs, len(kernel.operands))
        self._cells: dict[str, Any] = {name: b.alloca(I64, b.i64(count), 8) for name, count in cells.items()}

    def _size(self, dim: Dim) -> Any:
        return self.b.param(self._dims, self.params.add(dim))

    def cell(self, name: str) -> Any:
        """The address of the first of its words."""
        return self._cells[name]

    def get(self, cell: str) -> Any:
        return self.b.load(I64, self._cells[cell], 8)

    def set(self, cell: str, value: Any) -> None:
        self.b.ir.store(value, self._cells[cell], align=8)

    def element(self, base: Any, index: Any, t: Any = I64) -> Any:
        return self.b.load(t, self.b.at(base, index, t))

    def put(self, base: Any, index: Any, value: Any) -> None:
        self.b.ir.store(value, self.b.at(base, index, value.type), align=1)

    def each(self, start: Any, stop: Any, body: Callable[[Any], None], step: Any = None) -> None:
        def inside(i: Any, _: list[Any]) -> list[Any]:
            body(i)
            return []

        self.b.loop(start, stop, self.b.i64(1) if step is None else step, [], inside)

    @contextmanager
    def unless_any(self, stop: Any, condition: Callable[[Any], Any], step: int = 1) -> Iterator[None]:
        """What is inside runs if no multiple of `step` below `stop` meets the condition; the first that does ends the search.

        A branch, so that the next ones are looked at before a condition is known: most are not met.
        """
        b, i = self.b, self.b.ir
        before = i.block
        head, look, following, inside, after = (i.append_basic_block(n) for n in ("head", "look", "next", "none", "after"))
        i.branch(head)
        i.position_at_end(head)
        at = i.phi(I64)
        at.add_incoming(b.i64(0), before)
        i.cbranch(i.icmp_signed("<", at, stop), look, inside)
        i.position_at_end(look)
        i.cbranch(condition(at), after, following)
        i.position_at_end(following)
        at.add_incoming(i.add(at, b.i64(step)), following)
        i.branch(head)
        i.position_at_end(inside)
        yield
        i.branch(after)
        i.position_at_end(after)

    def during(self, condition: Callable[[], Any], body: Callable[[], None]) -> None:
        i = self.b.ir
        head, inside, after = (i.append_basic_block(n) for n in ("while", "do", "done"))
        i.branch(head)
        i.position_at_end(head)
        i.cbranch(condition(), inside, after)
        i.position_at_end(inside)
        body()
        i.branch(head)
        i.position_at_end(after)
