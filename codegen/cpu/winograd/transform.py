"""Minimal filtering on vectors in registers: the transforms of one tile, along one axis and along several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....ir import DType
from ...winograd import Filtering
from .. import llvm_ir as ir
from ..build import Builder, storage

Transform = Callable[[Sequence[Any]], list[Any]]


class Steps:
    """Multiply-adds with constants; products may fuse with the sums around them."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def add(self, x: Any, y: Any) -> Any:
        return self.b.ir.fadd(x, y, flags=("contract",))

    def sub(self, x: Any, y: Any) -> Any:
        return self.b.ir.fsub(x, y, flags=("contract",))

    def scaled(self, c: float, x: Any) -> Any:
        return x if c == 1 else self.b.ir.fmul(x, ir.Constant(x.type, c), flags=("contract",))

    def sum(self, terms: Sequence[tuple[float, Any]]) -> Any:
        """Σ c·x, starting at a term without a product; terms of 0 do not count."""
        live = sorted(((c, x) for c, x in terms if c != 0), key=lambda t: t[0] != 1)
        out = self.scaled(*live[0])
        for c, x in live[1:]:
            out = self.sub(out, x) if c == -1 else self.add(out, self.scaled(c, x))
        return out


def input_transform(b: Builder, f: Filtering) -> Transform:
    """x [n] -> Bᵀ x [n]. Rows of a pair ±p are E + O and E − O: E the even, O the odd terms, O = p·(…)."""
    parts = input_parts(b, f, 1)

    def run(x: Sequence[Any]) -> list[Any]:
        return [value for part in parts for value in part(x)]

    return run


def input_parts(b: Builder, f: Filtering, count: int) -> list[Transform]:
    """The same as `count` transforms that share no work, each of neighbouring rows of the result."""
    if f.n == 1:
        return [list]
    steps, pairs = Steps(b), len(f.pairs)

    def part(first: int, last: int) -> Transform:
        def run(x: Sequence[Any]) -> list[Any]:
            out: list[Any] = [steps.sum(list(zip(f.b[0], x, strict=True)))] if first == 0 else []
            for at in range(first, last):
                p, row = f.pairs[at], f.b[2 * at + 1]
                even = steps.sum([(float(c), v) for c, v in zip(row[::2], x[::2], strict=True)])
                odd = steps.scaled(p, steps.sum([(float(c) / p, v) for c, v in zip(row[1::2], x[1::2], strict=True)]))
                out += [steps.add(even, odd), steps.sub(even, odd)]
            return [*out, steps.sum(list(zip(f.b[-1], x, strict=True)))] if last == pairs else out

        return run

    count = min(count, pairs)
    return [part(n * pairs // count, (n + 1) * pairs // count) for n in range(count)]


def output_transform(b: Builder, f: Filtering) -> Transform:
    """x [n] -> Aᵀ x [m]. Of a pair ±p, even rows need the sum, odd ones the difference."""
    steps = Steps(b)

    def run(x: Sequence[Any]) -> list[Any]:
        if f.n == 1:
            return list(x)
        pairs = range(1, f.n - 1, 2)
        folded = [[steps.add(x[j], x[j + 1]) for j in pairs], [steps.sub(x[j], x[j + 1]) for j in pairs] if f.m > 1 else []]
        out = []
        for i, row in enumerate(np.asarray(f.a)):
            terms = [(float(row[j]), v) for j, v in zip(pairs, folded[i % 2], strict=True)]
            out.append(steps.sum([(float(row[0]), x[0]), *terms, (float(row[-1]), x[-1])]))
        return out

    return run


def both_axes(rows: Transform, columns: Transform, x: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """x[i][j] transformed along i by `rows`, then along j by `columns`."""
    lines = [rows([line[j] for line in x]) for j in range(len(x[0]))]
    return [columns([line[i] for line in lines]) for i in range(len(lines[0]))]


def third_axis(b: Builder, deep: Transform, planes: int, flat: int, apart: int, at: Any, vector: Any) -> None:
    """The vectors `apart` floats from one position to the next, `planes` of `flat` positions, transformed across the planes: the
    results take the place of the first of them."""
    f32 = storage(DType.F32)

    def position(q: Any, _: list[Any]) -> Sequence[Any]:
        here = b.at(at, b.ir.mul(q, b.i64(apart)), f32)
        places = [b.at(here, b.i64(z * flat * apart), f32) for z in range(planes)]
        done = deep([b.load(vector, place, 4) for place in places])
        for value, place in zip(done, places, strict=False):
            b.ir.store(value, place, align=4)
        return ()

    b.loop(b.i64(0), b.i64(flat), b.i64(1), [], position)


def repeat(b: Builder, times: int, body: Callable[[Any], None]) -> None:
    """body(0) … body(times − 1), as a loop where there is more than one."""
    if times == 1:
        body(b.i64(0))
        return

    def once(at: Any, _: list[Any]) -> Sequence[Any]:
        body(at)
        return ()

    b.loop(b.i64(0), b.i64(times), b.i64(1), [], once)
