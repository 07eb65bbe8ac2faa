"""Models whose sizes depend on data, and operators that Python runs, on the emulated device, against onnxruntime."""

from __future__ import annotations

import mlc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_models
from emulated import needs_gxx
from mlc.codegen.cuda.emulate.device import EmulatedArray
from mlc.compiler.emulated import emulate
from mlc.errors import InputError
from mlc.runtime.cuda.module import CudaModule
from onnx import TensorProto, helper

pytestmark = needs_gxx
rng = np.random.default_rng(8)

CHOSEN = """chosen (float[N] x) => (int64[1, K] at, float[J] kept, float[J] sums) {
    at = NonZero(x)  big = Greater(x, half)  kept = Compress(x, big)  both = Add(kept, kept)  n = Softmax<axis = 0>(both)
    sums = CumSum(n, zero) }"""
FIRST = """first (float[2, N] x, int64[1] k) => (float[2, K] v, int64[2, K] i) { v, i = TopK(x, k) }"""
GROWING = """growing (float[2] x, int64 n) => (float[M] y, float[n, 2] all) {
    y, all = Loop(n, go, x) <body = step (int64 i, bool on, float[M] a) => (bool on2, float[M2] b, float[2] s) {
        on2 = Identity(on)  c = Add(a, one)  b = Concat<axis = 0>(a, c)  s = Slice(b, start, end) }> }"""


APPENDED = """appended (float[2] x, int64 n) => (float[M] y, float[K, 2] all) {
    e = SequenceEmpty()  y, s = Loop(n, go, x, e) <body = step (int64 i, bool on, float[M] a, seq(float[2]) q) => (bool on2, float[M2] b, seq(float[2]) r) {
        on2 = Identity(on)  t = ReduceSum<keepdims = 1>(a)  b = Concat<axis = 0>(a, t)  f = Cast<to = 1>(i)  u = Mul(x, f)
        r = SequenceInsert(q, u) }>  all = ConcatFromSequence<axis = 0, new_axis = 1>(s) }"""


def chosen() -> bytes:
    return small_models.model(CHOSEN, half=np.array(0.5, np.float32), zero=np.array(0))


def growing() -> bytes:
    return small_models.model(GROWING, go=np.array(True), one=np.array(1, np.float32), start=np.array([0]), end=np.array([2]))


def agree(module: CudaModule, blob: bytes, feeds: dict[str, np.ndarray]) -> None:
    got = module.run(feeds)
    want = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    for (name, a), b in zip(got.items(), want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def selecting() -> CudaModule:
    return emulate(chosen())


def test_sizes_that_depend_on_data(selecting: CudaModule) -> None:
    for n in (0, 1, 30, 31, 5000):
        x = np.where(rng.random(n) < 0.5, 0, rng.standard_normal(n)).astype(np.float32)
        agree(selecting, chosen(), {"x": x})
    agree(selecting, chosen(), {"x": np.zeros(7, np.float32)})


def test_a_k_that_is_an_input() -> None:
    blob = small_models.model(FIRST)
    module = emulate(blob)
    for n, k in ((5, 5), (40, 1), (3000, 7), (3000, 200)):
        agree(module, blob, {"x": rng.standard_normal((2, n)).astype(np.float32), "k": np.array([k])})


def test_tensors_that_grow_in_a_loop() -> None:
    blob = growing()
    module = emulate(blob)
    for n in (1, 4, 2):
        agree(module, blob, {"x": np.array([1, 2], np.float32), "n": np.array(n)})


def test_tensors_and_sequences_that_are_appended_to() -> None:
    blob = small_models.model(APPENDED, go=np.array(True))
    module = emulate(blob)
    for n in (1, 300, 2):
        x = np.array([1, 2] if n < 9 else [0, 0], np.float32)  # sums of all double in every iteration
        agree(module, blob, {"x": x, "n": np.array(n)})


def test_outputs_of_such_sizes_stay_on_the_device(selecting: CudaModule) -> None:
    x = rng.standard_normal(50).astype(np.float32)
    want = selecting.run({"x": x})
    for options in ({}, {"stream": 5, "wait": False}):
        got = selecting.run({"x": x}, on_device=True, **options)
        for name, y in got.items():
            assert isinstance(y, EmulatedArray)
            np.testing.assert_array_equal(y.numpy(), want[name])
    assert {k: v.shape for k, v in want.items()} == {"at": (1, 50), "kept": (int((x > 0.5).sum()),), "sums": (int((x > 0.5).sum()),)}


def test_loops_over_tensors_of_one_size_do_not_read_their_counter_back() -> None:
    module = emulate(small_models.loop())
    feeds = {"x": np.ones(4, np.float32), "n": np.array(5)}
    module.run(feeds)
    read: list[int] = []
    device = module.device
    device.download, download = lambda target, *a: (read.append(target.nbytes), download(target, *a)), device.download
    module.run(feeds)
    # the number of trips once, whether to go on before each and after the last, the branch, the result
    assert len(read) <= 1 + 6 + 1 + 1


def strings_and_sequences() -> onnx.ModelProto:
    nodes = [
        helper.make_node("StringConcat", ["s", "s"], ["t"]),
        helper.make_node("Add", ["x", "x"], ["x2"]),
        helper.make_node("SequenceConstruct", ["x", "x2"], ["q"]),
        helper.make_node("SequenceInsert", ["q", "x2"], ["q2"]),
        helper.make_node("ConcatFromSequence", ["q2"], ["c"], axis=0),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("s", TensorProto.STRING, ["N"]), helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("t", TensorProto.STRING, ["N"]), helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 3]),
               helper.make_tensor_sequence_value_info("q2", TensorProto.FLOAT, None)]  # fmt: skip
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_what_python_runs() -> None:
    """Strings and sequences lie on the host, tensors of sequences come from and go to the device."""
    module = emulate(strings_and_sequences())
    feeds = {"s": np.array(["ab", "", "ü"], object), "x": rng.standard_normal((2, 3)).astype(np.float32)}
    want = mlc.compile(strings_and_sequences(), threads=1).run(feeds)
    for _ in range(2):
        got = module.run(feeds)
        assert got["t"].tolist() == ["abab", "", "üü"]
        np.testing.assert_array_equal(got["y"], want["y"])
        for a, b in zip(got["q2"], want["q2"], strict=True):
            np.testing.assert_array_equal(a, b)
    mixed = module.run({"s": feeds["s"], "x": feeds["x"]}, on_device=True)
    assert mixed["t"].tolist() == ["abab", "", "üü"] and isinstance(mixed["y"], EmulatedArray)
    with pytest.raises(InputError, match="host values"):
        memory = module.device.allocate(24)
        module.run({"s": EmulatedArray(memory, (3,), np.dtype(np.int64)), "x": feeds["x"]})


def test_memory_of_a_run_comes_back() -> None:
    import gc
    import weakref

    module = emulate(growing())
    blocks: list[weakref.ref] = []
    allocate = module.device.allocate

    def counted(nbytes: int, stream: object = None):
        block = allocate(nbytes, stream)
        blocks.append(weakref.ref(block))
        return block

    module.device.allocate = counted
    for n in (6, 6, 1, 1):
        module.run({"x": np.zeros(2, np.float32), "n": np.array(n)})
    gc.collect()
    alive = [b() for b in blocks if b() is not None]
    assert sum(b.nbytes for b in alive) < 4096
