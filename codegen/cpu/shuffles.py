"""Rearrangements of elements between vectors in registers, as shuffles of two vectors each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import llvm_ir as ir
from .build import I32, Builder, vec
from .target import host


def shuffle(b: Builder, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    """Lane j is element lanes[j] of x followed by y."""
    return b.ir.shuffle_vector(x, y, ir.Constant(vec(I32, len(lanes)), list(lanes)))


def low(b: Builder, x: Any, lanes: int) -> Any:
    """The first lanes of x, which are registers of their own: no instruction."""
    return x if x.type.count == lanes else shuffle(b, x, x, range(lanes))


def held(b: Builder, x: Any) -> Any:
    """x in one register, as an instruction that LLVM cannot see through made it: `low` of copies of a number is then no shuffle."""
    if not host().is_x86:  # LLVM reads constraints for processors of this machine's kind
        return x
    return b.ir.call(ir.InlineAsm(ir.FunctionType(x.type, [x.type]), "", "=v,0", moves=True), [x])


def concatenated(b: Builder, parts: Sequence[Any]) -> Any:
    """A power of two of equal vectors as one."""
    parts = list(parts)
    while len(parts) > 1:
        n = 2 * parts[0].type.count
        parts = [shuffle(b, x, y, range(n)) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def turned(b: Builder, rows: Sequence[Any]) -> list[Any]:
    """The columns of a matrix of `rows` of d elements, d a power of two that divides the number of rows: d vectors.

    Squares of d by d elements stand side by side; in each, row i is interleaved with row i + d/2, log₂ d times.
    """
    d, n = rows[0].type.count, len(rows)
    columns = [concatenated(b, rows[j::d]) for j in range(d)]
    squares = range(0, n, d)
    low, high = ([x for s in squares for i in range(d // 2) for x in (s + start + i, n + s + start + i)] for start in (0, d // 2))
    for _ in range(d.bit_length() - 1):
        columns = [shuffle(b, columns[i], columns[i + d // 2], half) for i in range(d // 2) for half in (low, high)]
    return columns


def woven(b: Builder, vectors: Sequence[Any]) -> list[Any]:
    """Element 0 of every vector, then element 1 of every vector …: as many vectors again."""
    k, n = len(vectors), vectors[0].type.count
    if k == 1:
        return list(vectors)
    if k % 2 == 0:
        low, high = ([x for i in range(start, start + n // 2) for x in (i, n + i)] for start in (0, n // 2))
        pairs = zip(woven(b, vectors[::2]), woven(b, vectors[1::2]), strict=True)
        return [shuffle(b, x, y, half) for x, y in pairs for half in (low, high)]
    out = []
    for j in range(k):
        acc = vectors[0]
        for c in range(1, k):
            # lanes of earlier vectors stay, but at first, where they are still in the order of the source
            at = [divmod(j * n + lane, k) for lane in range(n)]
            acc = shuffle(b, acc, vectors[c], [n + e if v == c else e if c == 1 and v == 0 else lane for lane, (e, v) in enumerate(at)])
        out.append(acc)
    return out


def repeated(b: Builder, elements: Sequence[Any], n: int) -> list[Any]:
    """`elements`, vectors of one lane each and at most n, one after another and again, n times: as many vectors of n."""
    k = len(elements)
    row = ir.Constant(vec(elements[0].type.element, n), ir.Undefined)
    for i, x in enumerate(elements):
        row = b.ir.insert_element(row, b.ir.extract_element(x, ir.Constant(I32, 0)), ir.Constant(I32, i))
    return [shuffle(b, row, row, [(j * n + lane) % k for lane in range(n)]) for j in range(k)]


def unwoven(b: Builder, vectors: Sequence[Any]) -> list[Any]:
    """The inverse of `woven`: every k-th element of the line that k vectors are, from each of the first k on."""
    k = len(vectors)
    if k == 1:
        return list(vectors)
    n = vectors[0].type.count
    if k % 2:
        return [every(b, vectors, range(-first, n * k - first, n), k) for first in range(k)]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = (unwoven(b, [shuffle(b, x, y, range(start, 2 * n, 2)) for x, y in pairs]) for start in (0, 1))
    return [x for pair in zip(even, odd, strict=True) for x in pair]


def every(b: Builder, pieces: Sequence[Any], starts: Sequence[int], step: int) -> Any:
    """Elements 0, step, 2·step … of a line of which `pieces` are vectors, from the elements `starts` on, maybe before 0; one vector."""
    n = pieces[0].type.count
    acc, done = pieces[0], [False] * n
    for number, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        inside = [not done[lane] and start <= lane * step < start + n for lane in range(n)]
        if number == 0:
            acc = shuffle(b, piece, piece, [lane * step - start if inside[lane] else lane for lane in range(n)])
        else:
            acc = shuffle(b, acc, piece, [n + lane * step - start if inside[lane] else lane for lane in range(n)])
        done = [d or i for d, i in zip(done, inside, strict=True)]
    return acc


def picked(b: Builder, pieces: Sequence[Any], starts: Sequence[int], places: Sequence[int | None]) -> Any:
    """Lane j is element places[j] of a line of which `pieces` are vectors, from the elements `starts` on; any for None. From as few
    pieces as there are elements in."""
    n = pieces[0].type.count
    left = {lane: p for lane, p in enumerate(places) if p is not None}
    used: list[tuple[Any, dict[int, int]]] = []
    while left:
        found = [{lane: p - start for lane, p in left.items() if 0 <= p - start < n} for start in starts]
        best = max(range(len(pieces)), key=lambda i: len(found[i]))
        assert found[best]
        used.append((pieces[best], found[best]))
        left = {lane: p for lane, p in left.items() if lane not in found[best]}
    if not used:
        return pieces[0]
    (x, first), *others = used
    if not others:
        lanes = [first.get(lane, lane) for lane in range(len(places))]
        return x if lanes == list(range(n)) else shuffle(b, x, x, lanes)
    acc, taken = x, first
    for y, more in others:
        acc = shuffle(b, acc, y, [n + more[lane] if lane in more else taken.get(lane, lane) for lane in range(len(places))])
        taken = {}
    return acc
