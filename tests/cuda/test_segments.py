"""Which stretches of a program become CUDA graphs."""

from __future__ import annotations

from mlc.runtime.cuda.segments import Segment, segments
from mlc.runtime.instructions import CALL, JUMP, JUMP_IF_FALSE, YIELD


def call(function: int, *buffers: int, blocks: int = 0, dims: tuple[int, ...] = ()) -> list[int]:
    return [CALL, function, len(buffers), len(dims), blocks, 0, *buffers, *dims]


def test_calls_behind_each_other() -> None:
    program = [*call(0, 1, 2), *call(1, 2, 3, blocks=4, dims=(5,)), YIELD, 0, *call(2, 3), YIELD, 1, *call(0, 7, 8), *call(0, 8, 9)]
    middle = 8 + 9 + 2 + 7 + 2
    assert segments(program, ()) == {0: Segment(0, 17, (1, 2, 3), (0, 4, 5)), middle: Segment(middle, len(program), (7, 8, 9), (0,))}


def test_skipped_calls_are_no_launches() -> None:
    program = [*call(0, 1), *call(1, 1), *call(2, 3)]
    assert segments(program, {7}) == {0: Segment(0, 21, (1, 3), (0,))}
    assert segments(program, {0, 7}) == {} and segments([], ()) == {}


def test_nothing_jumps_into_a_segment() -> None:
    one = call(0, 1)
    program = [*one, *one, *one, JUMP_IF_FALSE, 1, 7, *one, *one, JUMP, 21]
    assert {(s.start, s.end) for s in segments(program, ()).values()} == {(7, 21), (24, 38)}
