"""Memory of outputs serves later runs when nobody holds it, and only then."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mlc.runtime import recycled
from mlc.runtime.recycled import Recycled

F32 = np.dtype(np.float32)
N = 1 << 16  # elements: larger than what stays with the allocator


def new(pool, n=N):
    return pool.array((n,), F32, 4 * n)


def at(a):
    return a.__array_interface__["data"][0]


def test_what_was_dropped_is_used_again():
    pool = Recycled()
    a = new(pool)
    where = at(a)
    assert where % 64 == 0 and a.shape == (N,) and a.dtype == F32
    del a
    assert at(new(pool)) == where


@pytest.mark.parametrize(
    "hold", [lambda a: a, lambda a: a[5:9], lambda a: a.reshape(4, -1).T, memoryview], ids=["array", "slice", "view", "buffer"]
)
def test_what_somebody_holds_is_left_alone(hold):
    pool = Recycled()
    a = new(pool)
    a[:] = 1
    held = hold(a)
    del a
    for _ in range(5):
        new(pool)[:] = 2
    assert np.all(np.asarray(held) == 1)


def test_two_sets_serve_a_state_that_is_handed_on():
    pool, seen = Recycled(), set()
    state = [new(pool) for _ in range(7)]
    for _ in range(10):
        state = [new(pool) for _ in state]
        seen |= {at(a) for a in state}
    assert len(seen) <= 14 + recycled._LOOKS


def test_a_state_that_grows_finds_memory():
    pool, seen = Recycled(), set()
    state = new(pool)
    for i in range(64):
        state = new(pool, N + 64 * i)
        seen.add(at(state))
    assert len(seen) < 8


def test_no_more_is_kept_than_the_limit(monkeypatch):
    monkeypatch.setattr(recycled, "LIMIT", 20 * N)
    pool = Recycled()
    held = [new(pool, n) for n in (N, N, 2 * N, 4 * N, 4 * N, N, 3 * N) for _ in range(3)]
    assert pool._kept == sum(room * len(blocks) for room, blocks in pool._of.items()) <= 20 * N
    assert len({at(a) for a in held}) == len(held)
    assert new(pool, 6 * N).shape == (6 * N,) and pool._kept <= 20 * N


def test_no_memory_is_handed_out_twice_to_several_threads():
    pool = Recycled()

    def work(value):
        for _ in range(300):
            arrays = [new(pool) for _ in range(3)]
            for a in arrays:
                a[:64] = value
            assert all(np.all(a[:64] == value) for a in arrays)

    with ThreadPoolExecutor(4) as team:
        list(team.map(work, range(4)))


def test_a_module_s_outputs(builder):
    """Outputs that are fed back stay what they are; dropped ones are written to again."""
    module = builder(N)
    x = np.arange(N, dtype=np.float32)
    first = module.run({"x": x})["y"]
    second = module.run({"x": first})["y"]
    assert np.array_equal(first, x + 1) and np.array_equal(second, x + 2)
    where = at(second)
    del second
    assert at(module.run({"x": x})["y"]) == where
    assert np.array_equal(first, x + 1)


@pytest.fixture
def builder():
    import mlc
    from onnx import TensorProto, helper, numpy_helper

    def build(n):
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [n]) for name in "xy")
        one = numpy_helper.from_array(np.ones(1, np.float32), "one")
        graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", [x], [y], [one])
        return mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), threads=1)

    return build
