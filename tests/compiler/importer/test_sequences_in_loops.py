"""Sequences in loops: those of alike elements are tensors, which native code appends to; all against onnxruntime."""

import mlc
import numpy as np
import pytest
from against_onnxruntime import agree, parsed
from mlc.errors import InputError
from mlc.runtime.handlers import HostHandler

X = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)


def agrees(model, *feeds, host=()):
    """Results as onnxruntime's; the program calls the functions `host` of the runtime, and no others."""
    module = agree(model, *feeds, levels=(3,), threads=1)
    calls = {h.call for h in module.manifest.handlers if isinstance(h, HostHandler)}
    assert calls == set(host)


def trips(n, **more):
    return {"n": np.array(n), **more}


APPEND = """
    e = SequenceEmpty()
    s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
        d = Identity(c) f = Cast<to = 1>(i) y = Mul(x, f) t = SequenceInsert(a, y) }>
"""


@pytest.mark.parametrize("stack,axis", [(1, 0), (1, 1), (1, -1), (0, 0)])
def test_appended_and_joined(stack, axis):
    model = parsed("(int64 n, float[3] x) => (float[?, ?] y)" if stack else "(int64 n, float[3] x) => (float[?] y)",
                   APPEND + f"y = ConcatFromSequence<axis = {axis}, new_axis = {stack}>(s)")  # fmt: skip
    agrees(model, *(trips(n, x=X[0]) for n in (5, 1, 200)))


def test_appended_and_given_as_a_sequence():
    model = parsed("(int64 n, float[3] x) => (seq(float[3]) s, int64 k)", APPEND + "k = SequenceLength(s)")
    agrees(model, *(trips(n, x=X[0]) for n in (0, 3)), host=["split_to_sequence"])


def test_read_by_a_loop_that_appends():
    """What was appended last is read in the next iteration."""
    model = parsed("(int64 n, float[N, 3] x, float[3] z) => (float[?, 3] y)", """
        q = SplitToSequence<axis = 0, keepdims = 0>(x)
        s0 = SequenceConstruct(z)
        s = Loop (n, , s0) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
            d = Identity(c) k = SequenceLength(a) one = Constant<value = int64 {1}>() last = Sub(k, one)
            old = SequenceAt(a, last) new = SequenceAt(q, i) y = Add(old, new) t = SequenceInsert(a, y) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""")  # fmt: skip
    agrees(model, trips(7, x=X, z=X[0]), trips(2, x=X[:3], z=X[1]))
    with pytest.raises(InputError):  # the eighth of seven
        mlc.compile(model, threads=1).run(trips(8, x=X, z=X[0]))


def test_two_elements_an_iteration_and_kept_axes():
    model = parsed("(int64 n, float[N, 3] x) => (float[?, 3] y)", """
        q = SplitToSequence<axis = 0>(x) e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[1, 3]) a) => (bool d, seq(float[1, 3]) t) {
            d = Identity(c) r = SequenceAt(q, i) u = SequenceInsert(a, r) y = Neg(r) t = SequenceInsert(u, y) }>
        y = ConcatFromSequence<axis = 0>(s)""")  # fmt: skip
    agrees(model, trips(7, x=X), trips(1, x=X))


def test_a_sequence_of_symbolic_elements_in_nested_loops():
    model = parsed("(int64 n, float[B, C] x) => (float[?, ?, ?] y)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <outer = b (int64 i, bool c, seq(float[B, C]) a) => (bool d, seq(float[B, C]) t) {
            d = Identity(c)
            t = Loop (n, , a) <body = b (int64 j, bool k, seq(float[B, C]) u) => (bool l, seq(float[B, C]) v) {
                l = Identity(k) ij = Add(i, j) f = Cast<to = 1>(ij) y = Add(x, f) v = SequenceInsert(u, y) }> }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""".replace("<outer =", "<body ="))  # fmt: skip
    agrees(model, trips(4, x=X), trips(1, x=X[:2, :1]))


def test_elements_of_other_sizes_stay_a_list():
    model = parsed("(int64 n, float[N, 3] x) => (float[?, 3] y)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[?, 3]) a) => (bool d, seq(float[?, 3]) t) {
            d = Identity(c) axis = Constant<value = int64[1] {0}>() one = Constant<value = int64[1] {1}>()
            end = Add(i, one) r = Slice(x, axis, end, axis) t = SequenceInsert(a, r) }>
        y = ConcatFromSequence<axis = 0>(s)""")  # fmt: skip
    agrees(model, trips(6, x=X), host=["sequence_construct", "sequence_insert", "concat_from_sequence"])


def test_rows_repeated_by_counts_of_the_data():
    """torch.repeat_interleave(x, counts, dim=0), as the TorchScript exporter writes it: parts of one row, by a vector of ones."""
    model = parsed("(float[N, 3] x, int64[N] counts) => (float[?, 3] y)", """
        size = Shape(counts) n = Squeeze(size) ones = ConstantOfShape<value = int64[1] {1}>(size)
        p = SplitToSequence<axis = 0>(counts, ones) q = SplitToSequence<axis = 0>(x, ones) e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[?, 3]) a) => (bool d, seq(float[?, 3]) t) {
            d = Identity(c) count = SequenceAt(p, i) row = SequenceAt(q, i)
            one = Constant<value = int64[1] {1}>() three = Constant<value = int64[1] {3}>()
            wide = Unsqueeze(row, one) shape = Concat<axis = 0>(one, count, three)
            rows = Expand(wide, shape) flat = Constant<value = int64[2] {-1, 3}>() r = Reshape(rows, flat)
            t = SequenceInsert(a, r) }>
        y = ConcatFromSequence<axis = 0>(s)""")  # fmt: skip
    feeds = ({"x": X[: len(c)], "counts": np.array(c)} for c in ([2, 1, 5], [1], [3, 4, 1, 1, 2, 9, 1]))
    agrees(model, *feeds, host=["sequence_construct", "sequence_insert", "concat_from_sequence"])


def test_elements_inserted_in_front_stay_a_list():
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
            d = Identity(c) f = Cast<to = 1>(i) y = Mul(x, f) zero = Constant<value = int64 {0}>() t = SequenceInsert(a, y, zero) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""")  # fmt: skip
    agrees(model, trips(6, x=X[0]), host=["sequence_construct", "sequence_insert", "concat_from_sequence"])


def test_a_list_of_two_kinds():
    """One sequence can be a tensor, the other one cannot."""
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y, int64 k)", """
        e = SequenceEmpty() g = SequenceEmpty()
        s, w = Loop (n, , e, g) <body = b (int64 i, bool c, seq(float[3]) a, seq(float[?]) p) => (bool d, seq(float[3]) t, seq(float[?]) q) {
            d = Identity(c) one = Constant<value = int64[1] {1}>() t = SequenceInsert(a, x)
            m = Add(i, one) z = ConstantOfShape(m) q = SequenceInsert(p, z) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s) k = SequenceLength(w)""")  # fmt: skip
    agrees(model, trips(6, x=X[0]), host=["sequence_construct", "sequence_insert", "sequence_length"])


def test_results_whose_number_a_condition_decides():
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y, float[?] z)", """
        yes = Constant<value = int64 {1}>() go = Cast<to = 9>(yes)
        y, z = Loop (, go) <body = b (int64 i, bool c) => (bool d, float[3] u, float v) {
            d = Less(i, n) f = Cast<to = 1>(i) u = Mul(x, f) v = ReduceSum<keepdims = 0>(u) }>""")  # fmt: skip
    agrees(model, *(trips(n, x=X[0]) for n in (0, 3, 150)))


def test_results_of_no_iteration():
    model = parsed(
        "(bool go, float[3] x) => (float[?, 3] y)",
        """
        y = Loop (, go) <body = b (int64 i, bool c) => (bool d, float[3] u) { no = Constant<value = int64 {0}>() d = Less(i, no) u = Neg(x) }>""",
    )
    agrees(model, {"go": np.array(False), "x": X[0]}, {"go": np.array(True), "x": X[0]})


CONDITION = """
        two = Constant<value = int64 {2}>() m = Mod(i, two) h = Cast<to = 9>(m)"""


def test_appended_by_one_branch():
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y, int64 k)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
            d = Identity(c) f = Cast<to = 1>(i) v = Mul(x, f)""" + CONDITION + """
            t = If (h) <then_branch = p () => (seq(float[3]) q) { q = SequenceInsert(a, v) },
                        else_branch = r () => (seq(float[3]) w) { w = Identity(a) }> }>
        k = SequenceLength(s) y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""")  # fmt: skip
    agrees(model, *(trips(n, x=X[0]) for n in (2, 9, 150)))


def test_appended_by_both_branches_unlike_often():
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
            d = Identity(c) f = Cast<to = 1>(i) v = Mul(x, f)""" + CONDITION + """
            g = If (h) <then_branch = p () => (seq(float[3]) q) { u = SequenceInsert(a, v) z = Neg(v) q = SequenceInsert(u, z) },
                        else_branch = r () => (seq(float[3]) w) { o = Exp(v) w = SequenceInsert(a, o) }>
            t = SequenceInsert(g, x) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""")  # fmt: skip
    agrees(model, *(trips(n, x=X[0] / 9) for n in (1, 2, 9)))


def test_a_branch_that_begins_anew():
    """What the branches give has nothing in common: it stays a list."""
    model = parsed("(int64 n, float[3] x) => (float[?, 3] y)", """
        e = SequenceEmpty()
        s = Loop (n, , e) <body = b (int64 i, bool c, seq(float[3]) a) => (bool d, seq(float[3]) t) {
            d = Identity(c) f = Cast<to = 1>(i) v = Mul(x, f)""" + CONDITION + """
            t = If (h) <then_branch = p () => (seq(float[3]) q) { q = SequenceInsert(a, v) },
                        else_branch = r () => (seq(float[3]) w) { w = SequenceConstruct(v) }> }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)""")  # fmt: skip
    agrees(model, *(trips(n, x=X[0]) for n in (1, 2, 9)), host=["sequence_construct", "sequence_insert", "concat_from_sequence"])
