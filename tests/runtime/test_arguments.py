"""Memory that callers give for outputs; modules as values: copied, pickled, shown, run from other threads and processes."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle

import ml_dtypes
import numpy as np
import pytest
from mlc.errors import InputError
from mlc.runtime.arguments import as_array
from mlc.runtime.module import Module
from mlc.runtime.records import TensorInfo

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
    "sizes, words",
    [({"M": 3}, "unknown size M; expected N"), ({"N": 3.5}, "N=3.5"), ({"N": "a"}, "N='a'"), ({"N": True}, "N=True"), ({"N": -1}, "N=-1")],
)
def test_sizes_that_are_none(dynamic, sizes, words):
    with pytest.raises(InputError, match=words):
        dynamic.binding(**sizes)
    assert dynamic.binding(N=np.int64(3)).symbols == {"N": 3}


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


def test_numbers_of_python_take_the_model_s_type(static):
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    for given in (x.tolist(), x.astype(int).tolist(), tuple(map(tuple, x.tolist()))):
        np.testing.assert_array_equal(static(given), static(x))
    for wrong in ((x > 3).tolist(), x.astype(complex).tolist(), [["1"] * 8] * 4, [[2**24 + 1] * 8] * 4):
        with pytest.raises(InputError, match="dtype"):
            static(wrong)


@pytest.mark.parametrize(
    "given, dtype, kept",
    [
        ([1, -1], "int8", True), ([1, 300], "int8", False), ([-1], "uint64", False), ([2**63], "int64", False), ([2**63], "uint64", True),
        ([1.0], "int64", False), ([0.5], "bfloat16", True), ([1.5], "int4", False), ([7], "int4", True), ([9], "int4", False),
        ([True], "bool", True), ([1], "bool", False), ([], "int64", True), (3, "int32", True), (3, "float16", True),
    ],
)  # fmt: skip
def test_which_numbers_of_python_fit(given, dtype, kept):
    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    info = TensorInfo("x", wanted, tuple(np.shape(given)))
    if kept:
        found = as_array(given, info)
        assert found.dtype == wanted and np.array_equal(found.astype(np.float64), np.asarray(given, np.float64))
    else:
        with pytest.raises(InputError, match=dtype):
            as_array(given, info)


def test_arrays_known_by_dlpack_alone(static):
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **how):
            return self.array.__dlpack__(**how)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    class Elsewhere(Foreign):
        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, **how):
            raise RuntimeError("on a GPU")

    x = data(4, 8)
    np.testing.assert_array_equal(static(Foreign(x)), static(x))
    with pytest.raises(InputError, match="Elsewhere that is no array"):
        static(Elsewhere(x))


@pytest.mark.parametrize(
    "given, words",
    [
        (
            data(4, 8).astype(np.float64),
            r"input x: dtype float64; expected float32\. Convert it, if its values allow: x\.astype\(float32\)\.",
        ),
        (data(4, 8).astype(">f4"), r"dtype >f4; expected float32\. Convert it"),
        (None, "input x: a NoneType, of dtype object; expected float32$"),
        ("text", "dtype <U4; expected float32$"),
        (np.zeros((4, 8), bool).tolist(), "dtype bool; expected float32$"),
    ],
)
def test_what_to_do_about_another_element_type(static, given, words):
    with pytest.raises(InputError, match=words):
        static(given)


def test_a_call_with_names_points_to_run(static):
    with pytest.raises(InputError, match="`run` takes arrays by name"):
        static({"x": data(4, 8)})


def test_threads_are_asked_for_or_left_to_the_machine(static_parts, monkeypatch):
    assert Module(static_parts, threads=np.int64(3)).threads == 3
    with pytest.raises(AttributeError):
        Module(static_parts).threads = 1
    default, asked = pickle.dumps(Module(static_parts)), pickle.dumps(Module(static_parts, threads=3))
    monkeypatch.setattr("mlc.runtime.module.default_threads", lambda: 7)
    assert pickle.loads(default).threads == 7 and pickle.loads(asked).threads == 3


@pytest.mark.parametrize("runs", [0, 1.5, "2", True, None])
def test_a_profile_of_no_number_of_runs(static, runs):
    with pytest.raises(InputError, match=r"runs=.*; expected a whole number from 1"):
        static.profile({"x": data(4, 8)}, runs=runs)
