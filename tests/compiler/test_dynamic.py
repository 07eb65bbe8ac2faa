"""Sizes that data decide, inside larger graphs: against onnxruntime, with static and symbolic inputs, nothing found included."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mlc
import numpy as np
import onnx
import pytest
from against_onnxruntime import agree, parsed
from mlc.compiler.importer import import_model
from mlc.errors import InputError
from mlc.ir.ops import Positions

RNG = np.random.default_rng(3)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rows", ["4", "B"])
def test_nonzero_gathernd_arithmetic(rows):
    proto = parsed(f"(float[{rows},6] x) => (float[M] y, int64[2,M] at, int64 n)", """
        zero = Constant<value = float {0.0}>()
        positive = Greater(x, zero)
        at = NonZero(positive)
        index = Transpose(at)
        picked = GatherND(x, index)
        twice = Add(picked, picked)
        s = Shape(picked)
        n = ReduceProd<keepdims = 0>(s)
        y = Mul(twice, picked)
    """)  # fmt: skip
    agree(proto, {"x": f32(4, 6)}, {"x": -np.ones((4, 6), np.float32)}, {"x": np.ones((4, 6), np.float32)})


@pytest.mark.parametrize("rows", ["4", "B"])
@pytest.mark.parametrize("number", ["0", "1"])
def test_places_of_a_dim(rows, number):
    """As exporters write strided views: no size is found by a run that the shape of x says already."""
    proto = parsed(f"(float[{rows},6] x) => (float[M,6] y, int64[1,M] at)", f"""
        dims = Shape<start = 0, end = 1>(x)
        same = ConstantOfShape<value = int64[1] {{{number}}}>(dims)
        at = NonZero(same)
        zero = Constant<value = int64[1] {{0}}>()
        places = Squeeze(at, zero)
        y = Gather(x, places)
    """)  # fmt: skip
    agree(proto, {"x": f32(4, 6)})
    if rows == "4" or number == "1":
        graph = import_model(proto)
        assert not graph.sizes and not any(isinstance(n.op, Positions) for n in graph.nodes)


def test_compress_by_constants():
    proto = parsed("(float[4,6] x) => (float[M,6] y)", """
        kept = Constant<value = int64[4] {1, 0, 0, 1}>()
        mask = Cast<to = 9>(kept)
        y = Compress<axis = 0>(x, mask)
    """)  # fmt: skip
    agree(proto, {"x": f32(4, 6)})
    assert not import_model(proto).sizes


def test_detection_post_processing():
    proto = parsed("(float[1,N,4] boxes, float[1,C,N] scores, int64[1] most) => (float[K,4] kept, float[K] best, int64[D,3] picked)", """
        overlap = Constant<value = float {0.4}>()
        least = Constant<value = float {0.2}>()
        picked = NonMaxSuppression(boxes, scores, most, overlap, least)
        one = Constant<value = int64[1] {1}>()
        two = Constant<value = int64[1] {2}>()
        big = Constant<value = int64[1] {100}>()
        zero = Constant<value = int64[1] {0}>()
        index3 = Slice(picked, two, big, one)
        index = Squeeze(index3, one)
        flat = Squeeze(boxes, zero)
        chosen = Gather(flat, index, axis=0)
        score = GatherND(scores, picked)
        dims = Shape(score)
        five = Constant<value = int64[1] {5}>()
        k = Min(dims, five)
        best, order = TopK(score, k)
        kept = Gather(chosen, order)
    """.replace("Gather(flat, index, axis=0)", "Gather<axis = 0>(flat, index)"))  # fmt: skip

    def feed(n: int, scale: float) -> dict[str, np.ndarray]:
        corners = RNG.uniform(0, 10, (1, n, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + RNG.uniform(0.5, 3, (1, n, 2)).astype(np.float32)], 2)
        scores = (RNG.permutation(3 * n).reshape(1, 3, n) / (3 * n)).astype(np.float32) * np.float32(scale)
        return {"boxes": boxes, "scores": scores, "most": np.array([7])}

    agree(proto, feed(40, 1.0), feed(200, 1.0), feed(40, 0.1), {**feed(40, 1.0), "most": np.array([0])})


def test_sizes_computed_from_data():
    proto = parsed("(int64[1] n, float[A,3] x) => (float[B,3] grown, int64[R] counted, float[T,3] tiled, float[P,3] padded, float[Q] flat)", """
        one = Constant<value = int64[1] {1}>()
        zero = Constant<value = int64[1] {0}>()
        three = Constant<value = int64[1] {3}>()
        m = Add(n, one)
        shape = Concat<axis = 0>(m, three)
        base = ConstantOfShape<value = float[1] {0.5}>(shape)
        grown = Concat<axis = 0>(x, base)
        start = Constant<value = int64 {0}>()
        step = Constant<value = int64 {2}>()
        scalar = Squeeze(m, zero)
        counted = Range(start, scalar, step)
        reps = Concat<axis = 0>(n, one)
        tiled = Tile(x, reps)
        pads = Concat<axis = 0>(n, zero, one, zero)
        padded = Pad(x, pads)
        minus = Constant<value = int64[1] {-1}>()
        head = Slice(grown, zero, n)
        flat = Reshape(head, minus)
    """)  # fmt: skip
    agree(proto, *({"n": np.array([n]), "x": f32(a, 3)} for n, a in ((2, 4), (0, 1), (5, 3), (1, 0))))


def test_unique_inside_a_graph():
    proto = parsed("(int64[N] x) => (int64[U] y, float[U] share)", """
        values, first, inverse, counts = Unique<sorted = 1>(x)
        total = Cast<to = 1>(counts)
        sum = ReduceSum<keepdims = 0>(total)
        share = Div(total, sum)
        two = Constant<value = int64 {2}>()
        y = Mul(values, two)
    """)  # fmt: skip
    agree(proto, *({"x": RNG.integers(-3, 4, n)} for n in (1, 20, 300)))


def test_if_and_loop_around_sizes():
    proto = parsed("(float[N] x, bool go) => (float y)", """
        y = If (go) <
            then_branch = positives () => (float a) {
                zero = Constant<value = float {0.0}>()
                mask = Greater(x, zero)
                some = Compress<axis = 0>(x, mask)
                a = ReduceSum<keepdims = 0>(some)
            },
            else_branch = all () => (float b) { b = ReduceSum<keepdims = 0>(x) }
        >
    """)  # fmt: skip
    agree(proto, *({"x": f32(n), "go": np.array(go)} for n in (1, 30) for go in (True, False)))
    proto = parsed("(float[N] x, int64 trips) => (float total)", """
        start = Constant<value = float {0.0}>()
        yes = Constant<value = bool {1}>()
        total = Loop (trips, yes, start) <body = body (int64 i, bool c, float sum) => (bool c2, float next) {
            c2 = Identity(c)
            limit = Cast<to = 1>(i)
            mask = Greater(x, limit)
            some = Compress<axis = 0>(x, mask)
            part = ReduceSum<keepdims = 0>(some)
            next = Add(sum, part)
        }>
    """)  # fmt: skip
    agree(proto, *({"x": 3 * f32(n), "trips": np.array(t)} for n, t in ((50, 4), (3, 0), (7, 2))))


def test_wrong_sizes_are_input_errors():
    proto = parsed(
        "(int64[2] shape, float[A] x) => (float[M,N] y, float[A] z)", "y = Expand(one, shape)\n z = Add(x, x)"
    ).SerializeToString()
    proto = onnx.load_from_string(proto)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "one"))
    module = mlc.compile(proto)
    x = np.ones(3, np.float32)
    assert module.run({"shape": np.array([2, 0]), "x": x})["y"].shape == (2, 0)
    for bad in ([-1, 2], [2**40, 2**40], [2**30, 2**30]):
        with pytest.raises(InputError):
            module.run({"shape": np.array(bad), "x": x})
    assert module.run({"shape": np.array([2, 3]), "x": x})["y"].shape == (2, 3)


def test_threads_share_a_module_and_files_keep_it(tmp_path):
    proto = parsed("(float[N] x) => (float[M] y)", "mask = Cast<to = 9>(x)\n y = Compress<axis = 0>(x, mask)")
    mlc.compile(proto).save(tmp_path / "m.mlc")
    module = mlc.load(tmp_path / "m.mlc")

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.integers(0, 3, rng.integers(1, 500)).astype(np.float32)
            np.testing.assert_array_equal(module(x), x[x != 0])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
