"""Yields that native code goes on from by itself: the same sizes as the handlers find, and the handlers where it cannot."""

import mlc
import numpy as np
import pytest
from mlc.errors import InputError
from mlc.runtime.resume import Run
from mlc.runtime.shortcuts import KEPT, Shortcuts
from onnx import TensorProto, helper, numpy_helper, parser

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, info = helper.make_node, helper.make_tensor_value_info


def loop(nodes, trips=60, rank=2):
    """A model whose state s becomes t in each of `trips` iterations."""
    ins = [info("i", I, []), info("c", B, []), info("s", F, [None] * rank)]
    body = helper.make_graph([*nodes, node("Identity", ["c"], ["d"])], "b", ins, [info("d", B, []), info("t", F, [None] * rank)])
    consts = {"n": trips, "one": [1], "two": [2], "end": [10**6], "zero": [0]}
    graph = helper.make_graph(
        [node("Loop", ["n", "", "x"], ["y"], body=body)],
        "g",
        [info("x", F, [None, 4])],
        [info("y", F, [None] * rank)],
        [numpy_helper.from_array(np.array(v), k) for k, v in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


GROW = [node("Tanh", ["x"], ["u"]), node("Concat", ["s", "u"], ["t"], axis=0)]
SHRINK = [node("Slice", ["s", "one", "end", "zero"], ["v"]), node("Neg", ["v"], ["t"])]
# every other row, and one more: a size by division
HALVE = [node("Slice", ["s", "zero", "end", "zero", "two"], ["h"]), node("Concat", ["h", "x"], ["t"], axis=0)]


@pytest.mark.parametrize("nodes", [GROW, SHRINK, HALVE], ids=["grow", "shrink", "halve"])
def test_the_same_with_and_without(nodes, monkeypatch):
    model = loop(nodes)
    module = mlc.compile(model, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(Shortcuts, "_handler", lambda self, k: -1)
        slow = mlc.compile(model, threads=1)
        inputs = [np.random.default_rng(n).standard_normal((n, 4)).astype("f") for n in (3, 100, 0, 1, 61, 3)]
        want = [slow.run({"x": x})["y"] for x in inputs]
    for x, y in zip(inputs, want, strict=True):
        np.testing.assert_array_equal(module.run({"x": x})["y"], y)


def test_handlers_run_only_where_memory_is_wanted(monkeypatch):
    module = mlc.compile(loop(GROW, 400), threads=1)
    calls = []
    handle = Run.handle
    monkeypatch.setattr(Run, "handle", lambda self, k: (calls.append(k), handle(self, k)))
    x = np.ones((1, 4), "f")
    y = module.run({"x": x})["y"]
    assert y.shape == (401, 4) and (y[1:] == np.tanh(x)).all()
    assert len(calls) < 100  # of 800 yields


def test_branches_whose_results_differ_in_size_hand_them_on(monkeypatch):
    """Results that own no memory, since their sizes are known, are copied by native code too; so are those of no bytes."""
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[2] x, int64 n) => (float[?] y) {
        e = SequenceEmpty() s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[2]) a) => (bool d, seq(float[2]) t) {
            d = Identity(c) two = Constant<value = int64 {2}>() m = Mod(i, two) h = Cast<to = 9>(m)
            t = If (h) <then_branch = p () => (seq(float[2]) q) { q = SequenceInsert(a, x) },
                        else_branch = r () => (seq(float[2]) w) { w = Identity(a) }> }> y = ConcatFromSequence<axis = 0>(s) }"""
    module = mlc.compile(parser.parse_model(text), threads=1)
    calls, handle, x = [], Run.handle, np.ones(2, "f")
    for n, most in ((3, 100), (201, 12), (2, 12), (0, 12)):  # the first run finds memory
        with monkeypatch.context() as patch:
            patch.setattr(Run, "handle", lambda self, k: (calls.append(k), handle(self, k)))
            np.testing.assert_array_equal(module.run({"x": x, "n": np.array(n)})["y"], np.ones(2 * (n // 2)))
        assert len(calls) <= most, (n, calls)
        calls.clear()


def compress():
    """y [found, 4]: rows of x where m is true, twice themselves."""
    nodes = [node("Compress", ["x", "m"], ["z"], axis=0), node("Add", ["z", "z"], ["y"])]
    graph = helper.make_graph(nodes, "g", [info("x", F, [None, 4]), info("m", B, [None])], [info("y", F, [None, 4])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def test_small_results_need_no_handlers_once_there_is_memory(monkeypatch):
    module = mlc.compile(compress(), threads=1)
    rng = np.random.default_rng(0)
    calls, earlier = [], []
    handle = Run.handle
    monkeypatch.setattr(Run, "handle", lambda self, k: (calls.append(k), handle(self, k)))
    for rows in (9, 9, 0, 5, 9, KEPT // 8, 9, 1):
        for share in (0.5, 0.0, 1.0, 0.2):
            x, m = rng.standard_normal((rows, 4)).astype("f"), rng.random(rows) < share
            earlier.append((module.run({"x": x, "m": m})["y"], 2 * x[m]))
        if rows == KEPT // 8:
            assert calls  # larger than what is kept
            calls.clear()
    for got, want in earlier:  # no run wrote to results of another
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape
    module.run({"x": x, "m": m})
    calls.clear()
    module.run({"x": x, "m": ~m})
    assert not calls


def test_memory_of_large_results_is_given_back():
    module = mlc.compile(compress(), threads=1)
    x, m = np.ones((KEPT // 8, 4), "f"), np.ones(KEPT // 8, bool)
    module.run({"x": x, "m": m})
    (execution,) = module._last.idle
    assert all(a.nbytes <= KEPT for owners in execution.memory.values() for a in owners)
    np.testing.assert_array_equal(module.run({"x": x, "m": m})["y"], 2 * x)


def test_a_run_that_is_broken_off_leaves_no_memory(monkeypatch):
    module = mlc.compile(compress(), threads=1)
    x, m = np.ones((KEPT // 8, 4), "f"), np.ones(KEPT // 8, bool)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_settle", lambda self: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            module.run({"x": x, "m": m})
        (execution,) = module._last.idle
        assert not execution.memory
    for _ in range(2):
        np.testing.assert_array_equal(module.run({"x": x, "m": m})["y"], 2 * x)


@pytest.mark.parametrize("after", [[], [node("Neg", ["y"], ["z"]), node("MatMul", ["z", "w"], ["o"])]], ids=["output", "between"])
def test_limits_of_sizes_hold_without_the_handlers(after):
    """A reflection of more rows than there are would read what lies outside of x."""
    graph = helper.make_graph(
        [node("Pad", ["x", "p"], ["y"], mode="reflect"), *after],
        "g",
        [info("x", F, [3, 4]), info("p", I, [4])],
        [info("o" if after else "y", F, None)],
        [numpy_helper.from_array(np.ones((4, 2), "f"), "w")] if after else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    module = mlc.compile(model, threads=1)
    x = np.arange(12, dtype="f").reshape(3, 4)
    for rows in (2, 3, 1, 4, 2):
        feeds = {"x": x, "p": np.array([rows, 0, 0, 0])}
        if rows > 2:
            with pytest.raises(InputError, match=f"= {rows} .*expected .* to 2"):
                module.run(feeds)
        else:
            (got,) = module.run(feeds).values()
            want = np.pad(x, ((rows, 0), (0, 0)), mode="reflect")
            np.testing.assert_allclose(got, -want @ np.ones((4, 2), "f") if after else want)
