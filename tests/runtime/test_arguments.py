"""Memory that callers give for outputs; modules as values: copied, pickled, shown, run from other threads and processes."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from mlc.errors import InputError

DOUBLE = np.arange(32, dtype=np.float32).reshape(4, 8)


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_outputs_are_written_where_the_caller_says(static, dynamic):
    x, y = data(4, 8), np.full((4, 8), np.nan, np.float32)
    assert static.run({"x": x}, out={"y": y})["y"] is y
    np.testing.assert_array_equal(y, (x + 2) * DOUBLE)
    for n in (1, 7, 5000):  # each of the outputs, at several sizes
        x, z = data(n, 4), np.full((2 * n, 2), np.nan, np.float32)
        got = dynamic.run({"u": x, "x": x}, {"z": z})
        assert got["z"] is z and list(got) == ["y", "z"]
        np.testing.assert_array_equal(z, (x * x).reshape(2 * n, 2))
        np.testing.assert_array_equal(got["y"], x + x * x)


@pytest.mark.parametrize(
    "out, words",
    [
        ({"q": data(4, 8)}, "unknown output q; expected y"),
        ({"y": data(8, 4)}, r"float32\[8, 4\]; expected float32\[4, 8\]"),
        ({"y": np.empty((4, 8))}, r"float64\[4, 8\]; expected float32\[4, 8\]"),
        ({"y": data(4, 8).astype(">f4")}, "expected float32"),
        ({"y": data(4, 16)[:, ::2]}, "not contiguous"),
        ({"y": np.broadcast_to(np.float32(1), (4, 8))}, "not contiguous"),
        ({"y": np.frombuffer(bytes(128), np.float32).reshape(4, 8)}, "not writable"),
        ({"y": np.zeros(129, np.uint8)[1:].view(np.float32).reshape(4, 8)}, "not aligned"),
        ({"y": [[0.0] * 8] * 4}, "a list; expected a NumPy array"),
        ([data(4, 8)], "out is a list; expected a dict"),
    ],
)
def test_arrays_that_cannot_take_an_output(static, out, words):
    with pytest.raises(InputError, match=words):
        static.run({"x": data(4, 8)}, out=out)


def test_outputs_share_memory_with_nothing(static, dynamic):
    x = data(4, 8)
    with pytest.raises(InputError, match="memory that an input lies in"):
        static.run({"x": x}, out={"y": x})
    x, both = data(4, 4), np.empty(32, np.float32)
    with pytest.raises(InputError, match="outputs y and z share memory"):
        dynamic.run({"u": x, "x": x}, out={"y": both[:16].reshape(4, 4), "z": both[8:24].reshape(8, 2)})


def test_an_input_whose_copy_is_larger_than_memory(dynamic):
    x = np.broadcast_to(np.float32(1), (1 << 44, 4))
    with pytest.raises(InputError, match=r"input [ux]: shape.*fits into memory"):
        dynamic.run({"u": x, "x": x})


def test_copies_and_pickles_run_alike(static, dynamic):
    x = data(4, 8)
    for twin in (copy.copy(static), copy.deepcopy(static), pickle.loads(pickle.dumps(static))):
        np.testing.assert_array_equal(twin(x), static(x))
        assert twin.threads == static.threads and twin.to_bytes() == static.to_bytes()
    u = data(9, 4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dynamic))(u, u)[0], dynamic(u, u)[0])


def test_a_module_shows_what_it_takes_and_gives(static, dynamic):
    assert repr(static) == "<Module (x: float32[4, 8]) -> (y: float32[4, 8])>"
    assert "y: float32[N, 4], z: float32[2*N, 2]" in repr(dynamic)


def test_asyncio(static):
    """Native code runs without the GIL: a thread each is all that asyncio needs."""

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(static, data(4, 8) * k) for k in range(8)))

    for k, y in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(y, (data(4, 8) * k + 2) * DOUBLE)


def test_spawned_processes_take_modules_as_arguments(static):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(static, (data(4, 8),)).get(120), static(data(4, 8)))
