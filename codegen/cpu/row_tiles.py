"""Cutting rows into register tiles of two neighbouring heights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .build import Builder


def cut_rows(b: Builder, heights: Sequence[int], rows: Any, call: Callable[[int, Any, Any], None]) -> None:
    """call(height, from, to) so that rows = h·heights[0] + l·heights[1] with as few tiles as possible.

    A remainder (fewer rows than those heights make up) is met by clamping in the tile. A third height serves single rows.
    """
    i = b.ir
    zero = b.i64(0)
    if len(heights) == 1:
        call(heights[0], zero, rows)
        return
    high, low = heights[0], heights[1]
    count = i.udiv(i.add(rows, b.i64(high - 1)), b.i64(high))
    spare = i.sub(i.mul(count, b.i64(high)), rows)
    tall = b.smax(i.sub(count, spare), zero)
    border = i.mul(tall, b.i64(high))
    if len(heights) == 3:  # decoding and other single rows
        with i.if_else(i.icmp_signed("==", rows, b.i64(1))) as (then, other):
            with then:
                call(heights[2], zero, rows)
            with other:
                call(high, zero, border)
                call(low, border, rows)
        return
    call(high, zero, border)
    call(low, border, rows)
