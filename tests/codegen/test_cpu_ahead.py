"""Loops over results that caches do not hold ask for their lines."""

import pytest
from mlc.codegen.cpu.loops.ahead import ahead
from mlc.codegen.cpu.loops.emit import emit_loop
from mlc.codegen.cpu.target import parse
from mlc.codegen.expr import Axis, Call, Load, Num
from mlc.codegen.kernel import LoopKernel, Operand, Store
from mlc.ir import DType

F = DType.F32


def rows(count, size, pitch):
    """`count` rows of `size` elements, stored `pitch` apart."""

    def at(step):
        return Call("add", (Call("mul", (Axis(0), Num(step))), Axis(1)))

    operands = (Operand(F, count * size), Operand(F, count * pitch, written=True))
    return LoopKernel((count, size), (), operands, (), (Store(1, at(pitch), Call("neg", (Load(0, at(size), dtype=F),), dtype=F)),))


@pytest.mark.parametrize(
    ("count", "size", "pitch", "want"),
    [
        (1000, 500, 500, {1: 256}),  # 1 KiB further along rows that follow each other,
        (1000, 2000, 2003, {1: 256}),  # or are long
        (1000, 500, 700, {1: 700}),  # the next row
        (1000, 100, 300, {1: 900}),  # three rows of 400 bytes further on
        (10000, 40, 60, {}),  # hardly more than a vector
        (100, 100, 300, {}),  # in the cache
    ],
)
def test_lines_of_results(count, size, pitch, want):
    kernel = rows(count, size, pitch)
    assert ahead(kernel, 1, (0,)) == want
    streams = parse("cpu:znver4")
    assert ("llvm.prefetch" in emit_loop(kernel, parse("cpu:sapphirerapids")).ir_text) == bool(want)
    assert ("llvm.prefetch" in emit_loop(kernel, streams).ir_text) == bool(ahead(kernel, 1, (0,), True))
    assert bool(ahead(kernel, 1, (0,), True)) == (bool(want) and want != {1: 256})  # stretches without gaps are left to the hardware


@pytest.mark.parametrize("step", [1, -1])
def test_lines_of_results_that_go_on_from_each_other(step):
    """The next row along the reduce axis is stored next, wherever the other parallel axes lead."""
    count, size = 5000, 100
    row = Axis(2) if step == 1 else Call("sub", (Num(count - 1), Axis(2)))
    at = Call("add", (Call("add", (Call("mul", (Axis(0), Num(count * size))), Call("mul", (row, Num(size))))), Axis(1)))
    operand = Operand(F, 3 * count * size, written=True)
    kernel = LoopKernel((3, size), (count,), (operand,), (), (Store(0, at, Num(0.0, dtype=F), per_element=True),))
    assert ahead(kernel, 1, (0, 2)) == {0: 256 if step == 1 else -300}
