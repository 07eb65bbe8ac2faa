"""What every CPU emitter returns: LLVM text of one function over a slice of parallel work units."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # processes that only compile do without NumPy, which this imports
    from ...ir import Dim

PLACEHOLDER = "mlc_kernel"  # name of the function before it is known by the hash of its text
# First lines of texts. REPEATS: loops repeat what is worth moving out of them. WALKED: they step pointers, so that there are no
# products of indices to get rid of; TIDY: neither.
TIDY, REPEATS, WALKED = "; tidy\n", "; repeats\n", "; walked\n"


@dataclass(frozen=True, slots=True)
class Emitted:
    """`void symbol(ptr* bufs, i64* dims, i64 begin, i64 end)` runs units [begin, end) of `units`.

    `dims` are the values (static or symbolic) the function reads from its table, in order. Equal text has an equal symbol.
    `unit_cost` is the approximate number of scalar operations of one unit; `flops` and `bytes` are of the whole kernel.
    With `rounds`, it is `void symbol(ptr* bufs, i64* dims, i64 part, i64 parts, void (*barrier)(i64 parts))`, run by a team of
    threads at once: in each of that many rounds, between barriers, a part does its share of `units`.
    With `takes`, it is `void symbol(ptr* bufs, i64* dims, i64 (*take)(ptr share, i64* chunk), ptr share)`, called once on each of
    some threads, and takes chunks of units until `take` returns 0; else it has written the first unit and the one behind the last.
    `shared`: neighbouring units share work, which every call does again: few calls are better than even ones. `least`: units of
    a call, where fewer would be slow. `parts`: (text, symbol) of what it calls that other kernels call, too, and is compiled by itself.
    """

    ir_text: str
    symbol: str
    dims: tuple[Dim, ...]
    units: Dim
    unit_cost: Dim
    flops: Dim
    bytes: Dim
    rounds: Dim | None = None
    shared: bool = False
    takes: bool = False
    least: Dim = 1
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def texts(self) -> dict[str, str]:
        """All that it needs, by symbol."""
        return {self.symbol: self.ir_text, **{symbol: text for text, symbol in self.parts}}


def named(ir_text: str, first: str = TIDY) -> tuple[str, str]:
    """(text, symbol) with the placeholder name replaced by one derived from the content. `first`: its first line."""
    ir_text = first + ir_text
    symbol = "mlc_" + hashlib.sha256(ir_text.encode()).hexdigest()[:24]
    return ir_text.replace(PLACEHOLDER, symbol), symbol
