"""The arena planner: values that live together never overlap, and little is wasted."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from mlc.runtime.memory import Layout, Planner, Range, align, live_bytes, plan

RANGES = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 12)).map(lambda t: Range(t[0], t[1], t[1] + t[2])),
    max_size=40,
)


def check(ranges: list[Range], layout: Layout) -> None:
    for i, r in enumerate(ranges):
        at = layout.offsets[i]
        assert at % 64 == 0 and at >= 0 and at + r.size <= layout.total
        for j in range(i):
            other, o = layout.offsets[j], ranges[j]
            together = r.first <= o.last and o.first <= r.last
            assert not (together and r.size and o.size) or at + r.size <= other or other + o.size <= at
    assert live_bytes(ranges) <= layout.total <= sum(align(r.size) for r in ranges)


@given(RANGES)
def test_no_overlap(ranges):
    check(ranges, plan(ranges))


def test_nothing_to_place():
    assert plan([]) == Layout((), 0)
    assert plan([Range(0, 0, 3)]).total == 0


def test_a_chain_needs_two_buffers():
    ranges = [Range(1024, i, i + 1) for i in range(500)]
    layout = plan(ranges)
    check(ranges, layout)
    assert layout.total == 2048


def test_close_to_the_lower_bound_on_networks():
    rng = random.Random(0)
    for _ in range(20):
        ranges = []
        for i in range(120):  # a net with shrinking maps and skip connections
            size = 1 << (20 - i // 15)
            ranges.append(Range(size + rng.randrange(3) * 64, i, i + rng.choice([1, 1, 1, 2, 4])))
        layout = plan(ranges)
        check(ranges, layout)
        assert layout.total <= 1.15 * live_bytes(ranges)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=12), st.data())
def test_plans_shared_between_sizes(spans, data):
    spans = [(a, a + b) for a, b in spans]
    planner = Planner(spans)
    for _ in range(8):
        sizes = data.draw(st.lists(st.integers(0, 1 << 22), min_size=len(spans), max_size=len(spans)))
        ranges = [Range(s, *span) for s, span in zip(sizes, spans, strict=True)]
        layout = planner.plan(sizes)
        for i, r in enumerate(ranges):
            for j in range(i):
                o, at, other = ranges[j], layout.offsets[i], layout.offsets[j]
                together = r.first <= o.last and o.first <= r.last and r.size and o.size
                assert not together or at + r.size <= other or other + o.size <= at
            assert layout.offsets[i] + r.size <= layout.total
        assert layout.total <= sum(align(s + s // 8) for s in sizes) * 5 // 4 + (1 << 20)


def test_growing_sizes_share_plans():
    planner = Planner([(i, i + 1) for i in range(50)])
    layouts = [planner.plan([1024 * n] * 50) for n in range(64, 128)]
    assert len(set(map(id, layouts))) < 16


def test_sizes_that_grow_by_little_share_a_plan():
    planner = Planner([(i, i + 1) for i in range(50)])
    layouts = [planner.plan([n, 2 * n, 16 * n, 4, 64 * n] * 10) for n in range(1, 129)]
    assert len(set(map(id, layouts))) <= 10  # three exact ones, then one for each doubling
    assert layouts[-1].total <= layouts[0].total + 5 * 128 * 86
