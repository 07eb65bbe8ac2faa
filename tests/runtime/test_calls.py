"""Native code around a run against what it stands for."""

import pickle
import threading

import mlc
import numpy as np
import pytest
from mlc.errors import InputError
from mlc.runtime import calls
from mlc.runtime.address import address

F4 = np.dtype(np.float32)
X = np.zeros((2, 3), F4)
WIDE = np.zeros((4, 6), F4)
ARRAYS = [
    X, X.T, X[0], X[:1], WIDE[:2, ::2], WIDE[:2, 3:], WIDE[1:2].reshape(2, 3), X.reshape(2, 3, 1), np.zeros((3, 3), F4), np.zeros((0, 3), F4),
    X.astype(np.float16), X.astype(np.int32), X.astype(">f4"), X.view(np.recarray), np.ma.array(X), X.astype(object), X.astype("U3"),
    pickle.loads(pickle.dumps(X)), np.float32(1), 1.0, None, [[0.0] * 3] * 2, "abc",
]  # fmt: skip


@pytest.mark.parametrize("dtype, shape", [(F4, (2, 3)), (F4, (0, 3)), (F4, ()), (np.dtype(object), (2, 3)), (np.dtype(np.int32), (2, 3))])
def test_what_fits(dtype, shape):
    check = (0, dtype, shape)
    fits = calls.fitting([check])
    assert not hasattr(fits, "args"), "native code is not in use"
    found = [fits([a]) for a in (*ARRAYS, np.zeros((), F4))]
    assert found == [calls._fits([check], [a]) for a in (*ARRAYS, np.zeros((), F4))] and True in found
    both = calls.fitting([(0, F4, (2, 3)), (1, dtype, shape)])
    assert [both([X, a]) for a in ARRAYS] == found[:-1] and not any(both([WIDE, a]) for a in ARRAYS)


def test_inputs_and_outputs_are_handed_over():
    ins, outs = [(2, 1, 8), (0, 0, 0)], [(1, 2, 4)]
    tables = [np.full(4, -1, np.int64) for _ in range(2)]
    context = (calls.ctypes.c_int64 * 12)()  # of a program without words
    inputs, outputs = [X, WIDE], [None, None, X]
    at = calls.ctypes.addressof(context)
    assert calls.starting(at, address(tables[0]), ins, outs)(inputs, outputs) == 0
    assert calls._start(at, tables[1], ins, outs, inputs, outputs) == 0
    assert tables[0].tolist() == tables[1].tolist() == [address(X), address(X) + 4, address(WIDE) + 8, -1]


@pytest.mark.parametrize("native", [True, False])
def test_modules_run_without_native_calls(monkeypatch, model, native):
    """Where fields of objects lie elsewhere, Python does the same."""
    if not native:
        monkeypatch.setattr(calls, "_calls", lambda: None)
    module = mlc.load(model)
    x = np.arange(6, dtype=F4)
    for given in (x, x + 1, pickle.loads(pickle.dumps(x)), x.tolist(), np.arange(12, dtype=F4)[::2], np.arange(9, dtype=F4)):
        np.testing.assert_array_equal(module(given), np.asarray(given, F4) * 2)
        out = np.empty(len(given), F4)
        assert module.run({"x": given}, {"y": out})["y"] is out
        np.testing.assert_array_equal(out, np.asarray(given, F4) * 2)
    for wrong in (x.astype(np.float64), x.reshape(2, 3)):
        with pytest.raises(InputError):
            module(wrong)


def test_other_threads_run_meanwhile(model):
    """A native run gives the interpreter lock away."""
    module, x = mlc.load(model, threads=1), np.ones(1 << 22, F4)
    module(x)
    execution, outputs = module._last.acquire(), [np.empty_like(x)]
    beats, done = [0], threading.Event()

    def beat():
        while not done.is_set():
            beats[0] += 1

    thread = threading.Thread(target=beat)
    thread.start()
    found = False
    for _ in range(40):
        before = beats[0]
        execution.start([x], outputs)
        found = found or beats[0] > before + 1
    done.set()
    thread.join()
    assert found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("calls") / "m.mlc"
    mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).save(path)
    return path
