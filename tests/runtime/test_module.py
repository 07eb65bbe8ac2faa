"""Running modules: results, sizes, and every way to give wrong inputs."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mlc.errors import InputError, TargetError
from mlc.ir import sym
from mlc.runtime import artifact, binding_cache
from mlc.runtime.loading import load
from mlc.runtime.module import Module
from mlc.runtime.native import check_target, host_features


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_static(static):
    x = data(4, 8)
    expected = (x + 2) * np.arange(32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(static(x), expected)
    assert list(static.run({"x": x})) == ["y"]
    np.testing.assert_array_equal(static.run({"x": x})["y"], expected)
    assert static.inputs[0].shape == (4, 8) and static.inputs[0].dtype == np.float32


def test_inputs_that_are_not_contiguous_arrays(static):
    x = data(8, 4)
    expected = (x.T + 2) * np.arange(32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(static(x.T), expected)
    wide = data(4, 16)
    np.testing.assert_array_equal(static(wide[:, ::2]), static(wide[:, ::2].copy()))
    np.testing.assert_array_equal(static(x.T.view(np.matrix)), expected)


def test_dtypes_that_are_equal_take_the_short_way(static, monkeypatch):
    x = pickle.loads(pickle.dumps(data(4, 8)))
    assert x.dtype is not np.dtype(np.float32)
    expected = static(data(4, 8))
    monkeypatch.setattr(static, "_fit", None)
    np.testing.assert_array_equal(static(x), expected)


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_dynamic(dynamic, n):
    x = data(n, 4)
    out = dynamic.run({"u": x, "x": x})
    assert list(out) == ["y", "z"]
    np.testing.assert_array_equal(out["y"], x + x * x)
    np.testing.assert_array_equal(out["z"], (x * x).reshape(2 * n, 2))
    assert dynamic.outputs[1].shape == ("2*N", 2)


def test_thread_count_does_not_change_results(dynamic_parts):
    x = data(3001, 4)
    results = [Module(dynamic_parts, threads=t)(x, x) for t in (1, 2, 5)]
    for r in results[1:]:
        assert r[0].tobytes() == results[0][0].tobytes()


@pytest.mark.parametrize("x, trips", [(1, 0), (1, 3), (4, 3), (5, 100), (-1, 2), (2000, 9)])
def test_control_flow(control_parts, x, trips):
    s, n = float(x), 0
    while n < trips and s <= 1000:
        s, n = s * 2, n + 1
    expected = s + 1 if x > 3 else s * 10
    y = Module(control_parts)(np.array(x, np.float32), np.array(trips, np.int64))
    assert y.shape == () and float(y) == expected


@pytest.mark.parametrize(
    "feeds, words",
    [
        ({}, "missing input x"),
        ({"x": data(4, 8), "q": data(1)}, "unknown input q"),
        ({"q": data(4, 8)}, "missing input x and unknown input q"),
        ({"x": data(4, 8).astype(np.float64)}, "float64.*float32"),
        ({"x": data(4, 9)}, "size 9; expected 8"),
        ({"x": data(32)}, r"\[32\]; expected \[4, 8\]"),
        ({"x": "text"}, "dtype"),
        ({"x": [[1.0], [1.0, 2.0]]}, "no array"),
        ({"x": data(4, 8).astype(">f4")}, "dtype"),
        (5, "a dict"),
        (None, "a dict"),
    ],
)
def test_bad_inputs(static, feeds, words):
    with pytest.raises(InputError, match=words):
        static.run(feeds)


def test_bad_symbolic_inputs(dynamic):
    with pytest.raises(InputError, match="symbolic dim N is 3; expected 2 as in input x"):
        dynamic(data(2, 4), data(3, 4))
    with pytest.raises(InputError, match="expected 0 to 100000"):
        dynamic(np.empty((100_001, 4), np.float32), np.empty((100_001, 4), np.float32))
    with pytest.raises(InputError, match="1 arrays"):
        dynamic(data(2, 4))


def test_bad_thread_count(static_parts):
    for threads in (0, -1, 1.5, "2"):
        with pytest.raises(InputError):
            Module(static_parts, threads=threads)


def test_many_callers(dynamic, static):
    def work(k):
        x = data(k % 7 * 900, 4) * k
        for _ in range(20):
            y, z = dynamic(x, x)
            np.testing.assert_array_equal(y, x + x * x)
            np.testing.assert_array_equal(z, (x * x).reshape(-1, 2))
            static(data(4, 8))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(48)))


def test_memory_returns_after_a_peak(dynamic, monkeypatch):
    big, small = data(100_000, 4), data(3, 4)
    many = [data(n, 4) for n in range(100)]
    dynamic.prepare()
    kept = dynamic._bindings._kept
    kept.clear()
    monkeypatch.setattr(binding_cache, "_SPARE_BYTES", 1 << 10)
    dynamic(big, big)
    dynamic(small, small)
    assert [len(b.idle) for b in kept.values()] == [0, 1]
    dynamic(big, big)
    dynamic(small, small)
    assert [len(b.idle) for b in kept.values()] == [0, 1]
    for x in many:
        np.testing.assert_array_equal(dynamic(x, x)[0], x + x * x)
    assert len(kept) <= 32


def test_growing_sizes_hand_the_arena_on(dynamic):
    arenas = set()
    for n in range(2000, 2040):
        x = data(n, 4)
        np.testing.assert_array_equal(dynamic(x, x)[0], x + x * x)
        arenas |= {e.arena.ctypes.data for b in dynamic._bindings._kept.values() for e in b.idle}
    assert len(arenas) < 20


def test_targets(static_parts):
    here = static_parts.manifest.raw["target"]
    check_target(here)
    with pytest.raises(TargetError, match="sparc"):
        check_target({**here, "triple": "sparc-sun-solaris"})
    with pytest.raises(TargetError, match="warp9"):
        check_target({**here, "features": [*here["features"], "warp9"]})
    assert {"sse2"} <= host_features() or {"neon"} <= host_features()


def test_more_than_the_memory(builder):
    b, n = builder, sym("N")
    x, y = b.io("input", "x", (n, 0)), b.io("output", "y", (n, 0))
    far = b.arena((n * 2**40,))
    module = Module(b.parts(b.step("%z = fadd float %x, %y", x, x, far, 0)))
    assert module(np.empty((0, 0), np.float32)).shape == (0, 0)
    for n in (2**10, 2**19, 2**30):
        with pytest.raises(InputError, match=r"bytes of memory|tensors of less"):
            module(np.empty((n, 0), np.float32))
    assert y != far


def test_profile(dynamic):
    x = data(5000, 4)
    seconds = dynamic.profile({"x": x, "u": x}, runs=2)
    assert len(seconds) == 3 and all(0 < s < 1 for s in seconds.values())


def test_loading_does_not_import_the_compiler(static_parts, tmp_path):
    artifact.save(static_parts, tmp_path / "m.mlc")
    script = (
        "import sys, mlc, numpy as np\n"
        f"m = mlc.load({str(tmp_path / 'm.mlc')!r}, threads=1)\n"
        "assert m(np.ones((4, 8), np.float32))[0, 1] == 3\n"
        "bad = [n for n in sys.modules if n.startswith(('mlc.ir', 'mlc.codegen', 'mlc.compiler', 'mlc.passes', 'onnx'))]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_load_and_save(static_parts, static, tmp_path):
    x = data(4, 8)
    static.save(tmp_path / "m.mlc")
    raw = (tmp_path / "m.mlc").read_bytes()
    assert raw == static.to_bytes()
    for source in (tmp_path / "m.mlc", str(tmp_path / "m.mlc"), raw):
        m = load(source, threads=1)
        np.testing.assert_array_equal(m(x), static(x))
        assert m.to_bytes() == raw


def test_inputs_by_name(dynamic):
    x, u = data(3, 4), data(3, 4) + 1
    first, second = (t.name for t in dynamic.inputs)
    expected = dynamic.run({first: x, second: u})
    for got in (dynamic(x, u), dynamic(**{first: x, second: u}), dynamic(x, **{second: u}), dynamic(**{second: u, first: x})):
        for a, b in zip(got, expected.values(), strict=True):
            np.testing.assert_array_equal(a, b)
    for args, named, words in (
        ((x, u), {second: u}, f"{second} by position and by name"),
        ((x,), {"q": u}, f"missing input {second} and unknown input q"),
        ((x, u), {"q": u}, "unknown input q"),
        ((), {first: x}, f"missing input {second}"),
        ((x, u, x), {"q": x}, "unknown input q"),
    ):
        with pytest.raises(InputError, match=words):
            dynamic(*args, **named)


def test_a_closed_module_gives_everything_back(static_parts):
    x = data(4, 8)
    gc.collect()
    gc.disable()  # nothing waits for a search for cycles
    try:
        with Module(static_parts) as m:
            y = m(x)
            expected = y.copy()
            program, binding = weakref.ref(m._bindings.program), weakref.ref(m._last)
            assert "closed" not in repr(m)
        assert program() is None and binding() is None
    finally:
        gc.enable()
    np.testing.assert_array_equal(y, expected)
    assert m.inputs[0].name == "x" and repr(m).endswith("closed>")
    for use in (lambda: m(x), lambda: m.run({"x": x}), m.to_bytes, m.prepare, lambda: pickle.dumps(m), lambda: m.profile({"x": x})):
        with pytest.raises(InputError, match="closed"):
            use()
    m.close()


def test_runs_end_while_the_module_is_closed(dynamic_parts):
    x = data(5000, 4)

    def work(m, expected):
        with pytest.raises(InputError, match="closed"):
            while True:
                for a, b in zip(m(x, x), expected, strict=True):
                    assert a.tobytes() == b.tobytes()

    for _ in range(10):
        m = Module(dynamic_parts, threads=2)
        expected = m(x, x)
        with ThreadPoolExecutor(3) as pool:
            ends = [pool.submit(work, m, expected) for _ in range(3)]
            m.close()
            for end in ends:
                end.result()
        assert m._bindings is None and m._last is None
