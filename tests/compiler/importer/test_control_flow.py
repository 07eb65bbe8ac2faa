"""Loops and branches whose values change size, sequences and strings included: against onnxruntime."""

from __future__ import annotations

import mlc
import numpy as np
import onnx
import onnx.parser
import pytest
from against_onnxruntime import agree, parsed, same
from mlc.errors import InputError, OnnxImportError
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(5)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


GROW = """
    yes = Constant<value = bool {1}>()
    one = Constant<value = int64[1] {1}>()
    all, count = Loop (trips, yes, x, one) <body = body (int64 i, bool c, float[a,3] have, int64[1] n) => (bool c2, float[b,3] more, int64[1] n2) {
        c2 = Identity(c)
        zero = Constant<value = int64[1] {0}>()
        step = Constant<value = int64[1] {1}>()
        head = Slice(have, zero, n)
        more = Concat<axis = 0>(have, head)
        n2 = Add(n, step)
    }>
    y = Add(all, all)
"""  # fmt: skip


def test_loop_with_growing_state():
    proto = parsed("(float[N,3] x, int64 trips) => (float[M,3] y, int64[1] count)", GROW)
    agree(proto, *({"x": f32(n, 3), "trips": np.array(t)} for n, t in ((2, 3), (5, 0), (1, 6), (4, 1))))


def test_loops_in_loops_and_captures():
    proto = parsed("(float[N] x, int64 outer, int64 inner) => (float[M] y)", """
        yes = Constant<value = bool {1}>()
        y = Loop (outer, yes, x) <body = outer_body (int64 i, bool c, float[a] have) => (bool c2, float[b] more) {
            c2 = Identity(c)
            longer = Loop (inner, c, have) <body = inner_body (int64 j, bool d, float[p] part) => (bool d2, float[q] next) {
                d2 = Identity(d)
                k = Cast<to = 1>(i)
                added = Add(part, k)
                next = Concat<axis = 0>(added, x)
            }>
            zero = Constant<value = float {0.0}>()
            mask = Greater(longer, zero)
            more = Compress<axis = 0>(longer, mask)
        }>
    """)  # fmt: skip
    agree(proto, *({"x": f32(n), "outer": np.array(a), "inner": np.array(b)} for n, a, b in ((4, 3, 2), (1, 0, 5), (3, 2, 0))))


def test_while_loop_with_scan_outputs():
    proto = parsed("(float[2] x) => (float[2] last, float[T,2] steps, int64[T] counts)", """
        last, steps, counts = Loop (, , x) <body = body (int64 i, bool c, float[2] v) => (bool go, float[2] w, float[2] s, int64 n) {
            w = Add(v, v)
            top = ReduceMax<keepdims = 0>(w)
            limit = Constant<value = float {100.0}>()
            go = Less(top, limit)
            s = Identity(v)
            n = Identity(i)
        }>
    """)  # fmt: skip
    agree(proto, *({"x": np.array(v, np.float32)} for v in ((1, 2), (99, 3), (500, 1), (0.01, 0.02))))


def test_scan_output_with_a_trip_count_from_data():
    proto = parsed("(int64 trips, float[3] x, bool go) => (float[3] last, float[T,3] steps)", """
        last, steps = Loop (trips, go, x) <body = body (int64 i, bool c, float[3] v) => (bool c2, float[3] w, float[3] s) {
            c2 = Identity(c)
            w = Add(v, x)
            s = Mul(w, v)
        }>
    """)  # fmt: skip
    agree(proto, *({"trips": np.array(t), "x": f32(3), "go": np.array(g)} for t, g in ((4, True), (0, True), (3, False), (50, True))))


def test_if_with_branches_of_different_shapes():
    proto = parsed("(float[N,4] x, bool go) => (float[M,4] y, float[K] z)", """
        r = If (go) <
            then_branch = a () => (float[P,4] r1) { r1 = Concat<axis = 0>(x, x) },
            else_branch = b () => (float[Q,4] r2) {
                s = Constant<value = int64[1] {0}>()
                e = Constant<value = int64[1] {1}>()
                r2 = Slice(x, s, e)
            }
        >
        y = Relu(r)
        z = ReduceSum<keepdims = 0>(r, axes)
    """)  # fmt: skip
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    agree(proto, *({"x": f32(n, 4), "go": np.array(go)} for n in (1, 7) for go in (True, False)))


def test_sequences_of_changing_tensors():
    proto = parsed("(float[N] x, int64 trips) => (float[M] y, int64 n, seq(float[K]) parts)", """
        none = SequenceEmpty()
        yes = Constant<value = bool {1}>()
        parts = Loop (trips, yes, none) <body = body (int64 i, bool c, seq(float[a]) have) => (bool c2, seq(float[b]) more) {
            c2 = Identity(c)
            one = Constant<value = int64[1] {1}>()
            zero = Constant<value = int64[1] {0}>()
            shape = Constant<value = int64[1] {1}>()
            i1 = Reshape(i, shape)
            end = Add(i1, one)
            part = Slice(x, zero, end)
            more = SequenceInsert(have, part)
        }>
        n = SequenceLength(parts)
        y = ConcatFromSequence<axis = 0>(parts)
    """)  # fmt: skip
    agree(proto, *({"x": f32(n), "trips": np.array(t)} for n, t in ((5, 3), (2, 1), (9, 9))))


def test_sequences_as_inputs_and_through_branches():
    proto = parsed("(seq(float[a,2]) given, bool go, int64 at) => (float[M,2] y, seq(float[b,2]) out)", """
        out = If (go) <
            then_branch = a () => (seq(float[p,2]) r1) { r1 = SequenceErase(given, at) },
            else_branch = b () => (seq(float[q,2]) r2) {
                first = SequenceAt(given, at)
                twice = Add(first, first)
                r2 = SequenceInsert(given, twice, at)
            }
        >
        one = SequenceAt(out, at)
        y = Neg(one)
    """)  # fmt: skip
    given = [f32(3, 2), f32(1, 2), f32(5, 2)]
    agree(proto, *({"given": given, "go": np.array(go), "at": np.array(at)} for go in (True, False) for at in (0, 1, -1)))
    module = mlc.compile(proto)
    with pytest.raises(InputError, match="position 7"):
        module.run({"given": given, "go": np.array(True), "at": np.array(7)})
    with pytest.raises(InputError):
        module.run({"given": [np.ones(3)] * 3, "go": np.array(True), "at": np.array(0)})
    with pytest.raises(InputError):
        module.run({"given": np.float32(3), "go": np.array(True), "at": np.array(0)})


def test_known_sequences_leave_no_host_functions():
    proto = parsed("(float[6,4] x) => (float[6,4] y, int64 n)", """
        two = Constant<value = int64 {2}>()
        parts = SplitToSequence<axis = 0>(x, two)
        more = SequenceInsert(parts, x, two)
        less = SequenceErase(more, two)
        n = SequenceLength(less)
        one = Constant<value = int64 {1}>()
        b = SequenceAt(less, one)
        sum = Add(b, b)
        back = SequenceInsert(less, sum)
        y1 = ConcatFromSequence<axis = 0>(less)
        y = Add(y1, y1)
    """)  # fmt: skip
    agree(proto, {"x": f32(6, 4)})
    assert not mlc.compile(proto).manifest.handlers


def test_strings_move_natively_and_compare():
    proto = parsed("(string[N] a, string[M] b, int64[2] at) => (string[2] y, bool[N,M] same, string[N] chosen, int64[N] size)", """
        axis0 = Constant<value = int64[1] {0}>()
        axis1 = Constant<value = int64[1] {1}>()
        column = Unsqueeze(a, axis1)
        row = Unsqueeze(b, axis0)
        same = Equal(column, row)
        both = Concat<axis = 0>(a, b)
        suffix = Constant<value = string {"!"}>()
        loud = StringConcat(both, suffix)
        y = Gather(loud, at)
        known = Constant<value = string[1] {"b"}>()
        isb = Equal(a, known)
        other = Constant<value = string[1] {"B"}>()
        chosen = Where(isb, other, a)
        parts, size = StringSplit<delimiter = ",">(a)
    """, 20)  # fmt: skip
    a, b = np.array(["b", "x,y", "", "ü,,"], object), np.array(["", "b"], object)
    agree(proto, {"a": a, "b": b, "at": np.array([0, 5])}, {"a": a[:1], "b": b, "at": np.array([0, -1])})


def test_strings_and_numbers():
    proto = parsed("(float[N] x, string[N] t) => (string[N] s, int64[N] n, string[K] u, int64[K] c, float[4] f)", """
        s = Cast<to = 8>(x)
        n = Cast<to = 7>(t)
        u, first, back, c = Unique<sorted = 1>(t)
        f = TfIdfVectorizer<mode = "TF", min_gram_length = 1, max_gram_length = 2, max_skip_count = 1, ngram_counts = [0, 2],
            ngram_indexes = [0, 1, 2], pool_int64s = [1, 2, 1, 2]>(n)
    """.replace("float[4] f", "float[3] f"))  # fmt: skip
    proto.graph.output[4].type.tensor_type.shape.dim[0].dim_value = 3
    x = np.array([1.5, -0.25, 1e10, 3], np.float32)
    agree(proto, {"x": x, "t": np.array(["1", "2", "1", "7"], object)})
    module = mlc.compile(proto)
    with pytest.raises(InputError, match="invalid literal"):
        module.run({"x": x[:1], "t": np.array(["no"], object)})
    with pytest.raises(InputError, match="strings"):
        module.run({"x": x[:1], "t": np.array([3], object)})


def test_optionals():
    proto = parsed("(optional(float[3]) o) => (float[3] y)", """
        has = OptionalHasElement(o)
        y = If (has) <
            then_branch = a () => (float[3] r1) { r1 = OptionalGetElement(o) },
            else_branch = b () => (float[3] r2) { r2 = Constant<value = float[3] {1.0, 2.0, 3.0}>() }
        >
    """)  # fmt: skip
    module = mlc.compile(proto)
    x = f32(3)
    same(module.run({"o": x})["y"], x)
    same(module.run({"o": None})["y"], np.array([1, 2, 3], np.float32))
    empty = mlc.compile(parsed("(optional(float[3]) o) => (float[3] y)", "y = OptionalGetElement(o)"))
    with pytest.raises(InputError, match="empty"):
        empty.run({"o": None})


def test_a_saved_module_keeps_strings_and_sequences(tmp_path):
    proto = parsed("(seq(string[K]) given) => (string[M] y)", """
        all = ConcatFromSequence<axis = 0>(given)
        dash = Constant<value = string {"-"}>()
        y = StringConcat(all, dash)
    """, 20)  # fmt: skip
    mlc.compile(proto).save(tmp_path / "m.mlc")
    module = mlc.load(tmp_path / "m.mlc")
    given = [np.array(["a", "b"], object), np.array(["c"], object)]
    assert module.run({"given": given})["y"].tolist() == ["a-", "b-", "c-"]


def test_what_cannot_be_typed_is_refused():
    proto = parsed("(seq(float) given, int64 at) => (float y)", "x = SequenceAt(given, at)\n y = ReduceSum<keepdims = 0>(x)")
    with pytest.raises(OnnxImportError, match="unknown rank"):
        mlc.compile(proto)


@pytest.mark.parametrize("lengths", [None, [3, 1], [0, 2]])
def test_scan_over_batches(lengths):
    proto = parsed(
        "(float[2,2] initial, float[2,3,2] x, float[2] w) => (float[2,2] y, float[2,3,2] z)",
        """y, z = Scan <num_scan_inputs = 1, directions = [1], body = body (float[2] sum, float[2] next) => (float[2] more, float[2] out) {
            scaled = Mul(next, w)
            more = Add(sum, scaled)
            out = Sub(more, next)
        }> (LENGTHS, initial, x)""".replace("LENGTHS", "lens" if lengths else '""'),
        8,
    )
    if lengths:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(lengths), "lens"))
    initial, x, w = f32(2, 2), f32(2, 3, 2), f32(2)
    y, z = initial.copy(), np.zeros_like(x)
    for b in range(2):
        n = lengths[b] if lengths else 3
        for t in range(n):
            y[b] += x[b, 2 - t] * w
            z[b, t] = y[b] - x[b, 2 - t]
    got = mlc.compile(proto).run({"initial": initial, "x": x, "w": w})
    same(got["y"], y)
    same(got["z"], z)


def test_sizes_that_nest_ever_deeper_end_unrolling():
    """Every iteration takes a row away, so that sizes are maxima of maxima, twice as long each time: that took minutes."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node("Slice", ["s", "one", "end", "zero"], ["t"]),
        ],
        "b",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [None, 4]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("t", TensorProto.FLOAT, [None, 4])],
    )
    consts = {"n": 40, "one": [1], "end": [10**6], "zero": [0]}
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v), k) for k, v in consts.items()],
    )
    module = mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())
    for n in (50, 3):
        x = np.arange(4.0 * n, dtype="f").reshape(n, 4)
        np.testing.assert_array_equal(module.run({"x": x})["y"], x[40:])


def test_scan_state_whose_size_only_a_run_knows():
    """The sizes of a state stay; symbols that nothing relates are compared when the model runs."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Reshape", ["t", "shape"], ["s1"])], "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("s", "x")],
        [helper.make_tensor_value_info("s1", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [helper.make_node("Shape", ["y"], ["shape"]), helper.make_node("Scan", ["s0", "xs"], ["end"], body=body, num_scan_inputs=1)]
    shapes = {"s0": ["a"], "xs": [3, 1], "y": ["b"]}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("end", TensorProto.FLOAT, None)])
    model = mlc.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), threads=1)
    feeds = {"s0": np.ones(4, np.float32), "xs": np.ones((3, 1), np.float32), "y": np.zeros(4, np.float32)}
    np.testing.assert_array_equal(model.run(feeds)["end"], np.full(4, 4, np.float32))
    with pytest.raises(InputError):
        model.run(feeds | {"y": np.zeros(2, np.float32)})
