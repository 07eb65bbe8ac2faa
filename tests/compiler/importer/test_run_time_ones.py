"""Symbolic dims that meet in a broadcast: one compilation serves sizes that are equal, and sizes of which one is 1."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.importer import import_variants
from mlc.runtime import binding_cache
from mlc.runtime.binding import Binding
from onnx import numpy_helper, parser

R = np.random.default_rng(3)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


def model(text):
    return parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')


def check(text, *feeds, shapes=None):
    """One module agrees with onnxruntime on all feeds; so does its copy in a file."""
    proto = model(text)
    module = mlc.compile(proto, threads=2, shapes=shapes)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    for runs in (module, mlc.load(module.to_bytes(), threads=1)):
        for feed in feeds:
            for name, want in zip(names, session.run(None, feed), strict=True):
                got = runs.run(feed)[name]
                assert got.shape == want.shape, {k: v.shape for k, v in feed.items()}
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    return module


ADD = "g (float[a,b,4] x, float[c,d,4] y) => (float[m,n,4] z) { z = Add(x, y) }"


def test_elementwise():
    shapes = [((3, 5), (3, 5)), ((1, 5), (3, 5)), ((3, 1), (1, 5)), ((3, 5), (1, 1)), ((0, 5), (1, 5)), ((1, 1), (0, 1))]
    check(ADD, *({"x": f(*p, 4), "y": f(*q, 4)} for p, q in shapes))


def test_other_sizes_are_refused_in_the_words_of_the_model():
    module = mlc.compile(model(ADD), threads=1)
    for p, q in (((3, 5), (2, 5)), ((2, 5), (3, 1)), ((0, 5), (3, 5))):
        with pytest.raises(mlc.errors.InputError, match=r"(c = \d differs from a|a = \d differs from c)"):
            module.run({"x": f(*p, 4), "y": f(*q, 4)})


def test_last_axis():
    """Vectors run along it, so that a size of 1 there is another kernel."""
    text = "g (float[a,b] x, float[c] y) => (float[a] z) <int64[1] one = {1}> { u = Mul(x, y) v = Relu(u) z = ReduceSum<keepdims = 0>(v, one) }"
    check(text, *({"x": f(*p), "y": f(q)} for p, q in (((3, 40), 40), ((3, 40), 1), ((3, 1), 33), ((2, 1), 1))))


def test_masked_attention():
    text = """g (float[b,h,q,k] s, float[c,1,r,l] m, float[b,h,k,8] v) => (float[x,y,z,w] o)
              { a = Add(s, m) p = Softmax<axis = -1>(a) o = MatMul(p, v) }"""
    masks = [(2, 1, 5, 7), (1, 1, 5, 7), (2, 1, 1, 7), (1, 1, 1, 7), (2, 1, 5, 1), (1, 1, 1, 1)]
    check(text, *({"s": f(2, 3, 5, 7), "m": f(*m), "v": f(2, 3, 7, 8)} for m in masks))


def test_matmul_batches():
    text = "g (float[a,c,m,k] x, float[b,k,n] y) => (float[p,q,m,n] z) { z = MatMul(x, y) }"
    check(text, *({"x": f(2, p, 5, 6), "y": f(q, 6, 7)} for p, q in ((3, 3), (1, 3), (3, 1), (1, 1), (0, 1))))


def test_where():
    text = "g (bool[a,b] c, float[d,e] x, float[f,g] y) => (float[p,q] z) { z = Where(c, x, y) }"
    shapes = [((3, 4), (3, 4), (3, 4)), ((1, 4), (3, 1), (1, 1)), ((3, 1), (1, 1), (1, 70)), ((1, 1), (33, 1), (33, 70))]
    check(text, *({"c": R.integers(0, 2, c).astype(bool), "x": f(*x), "y": f(*y)} for c, x, y in shapes))


def test_expand_to_what_data_say():
    text = "g (float[a,b] x, int64[2] s) => (float[p,q] z) { z = Expand(x, s) }"
    shapes = [((3, 4), (3, 4)), ((3, 1), (1, 4)), ((1, 4), (5, 1)), ((3, 4), (1, 1)), ((1, 1), (2, 3))]
    check(text, *({"x": f(*x), "s": np.array(s)} for x, s in shapes))


def test_sizes_that_data_decide():
    text = """g (float[a] x, float[c] y) => (float[m] z) <int64[1] ax = {0}>
              { i = NonZero(x) s = Squeeze(i, ax) t = Cast<to = 1>(s) z = Add(t, y) }"""
    xs = [([1, 0, 1], 2), ([1, 0, 1], 1), ([0, 0, 1], 3), ([0, 0, 1], 1)]
    module = check(text, *({"x": np.array(x, np.float32), "y": f(k)} for x, k in xs))
    with pytest.raises(mlc.errors.InputError, match="differs"):
        module.run({"x": np.ones(3, np.float32), "y": f(2)})


def test_what_follows_a_broadcast():
    """Shapes computed from the result, moves, a concatenation and a product."""
    text = """g (float[a,b,6] x, float[c,d,6] y, float[6,5] w) => (float[m,n] z) <int64[2] s = {-1, 6}, int64[2] t = {-1, 5}>
              { u = Mul(x, y) r = Reshape(u, s) p = Transpose<perm = [1, 0]>(r) q = Transpose<perm = [1, 0]>(p)
                v = Concat<axis = 0>(q, r) o = MatMul(v, w) z = Relu(o) }"""
    shapes = [((3, 5), (3, 5)), ((1, 5), (3, 5)), ((3, 1), (1, 5)), ((1, 1), (1, 1))]
    check(text, *({"x": f(*p, 6), "y": f(*q, 6), "w": f(6, 5)} for p, q in shapes))


def test_a_fixed_size_on_the_other_side():
    text = "g (float[a,b] x, float[3,4] y) => (float[m,n] z) { z = Sub(x, y) }"
    check(text, *({"x": f(*x), "y": f(3, 4)} for x in ((3, 4), (1, 4), (3, 1), (1, 1))))


def test_sizes_of_any_program_before_a_run():
    """They are asked for without loading code, which may be for another machine."""
    proto = model("g (float[a,4] x, float[b,4] y) => (float[c,4] z) { z = Add(x, y) }")
    for target in ("cpu", "cpu:aarch64"):
        module = mlc.compile(proto, target=target)
        for a, b in ((3, 3), (3, 1), (1, 3), (1, 1)):
            assert module.binding(a=a, b=b).symbols == {"a": a, "b": b}


@pytest.mark.parametrize("text", [
    "g (float[a,b] x, float[a,b] y) => (float[m,n] z) { z = Add(x, y) }",
    "g (float[a,b] x, float[1,b] y) => (float[m,n] z) { z = Add(x, y) }",
    "g (float[a,4] x, float[c,4] y) => (float[m,4] z, float[n,8] v) { z = Add(x, y) v = Concat<axis = 1>(x, y) }",
    "g (float[3,4] x, float[1,4] y) => (float[m,n] z) { z = Add(x, y) }",
])  # fmt: skip
def test_one_program_where_sizes_are_known_to_agree(text):
    assert len(import_variants(model(text)).graphs) == 1


def test_squeeze_of_whatever_is_one():
    """The rank of the result depends on the batch."""
    text = "g (float[n,1,4] x) => (float[?] y, float[?] z) { y = Squeeze(x) z = ReduceSum<keepdims = 0>(y) }"
    module = check(text, *({"x": f(n, 1, 4)} for n in (3, 1, 2, 1, 0)))
    assert [len(t.shape) for t in module.outputs] == [2, 0]


def test_squeeze_of_a_size_that_has_to_be_one():
    """A state of one sequence leaves the batch no choice."""
    text = """g (float[t,b,4] x, float[1,1,3] h) => (float[?] y)
              { ys, last = GRU<hidden_size = 3>(x, w, r, , , h) y = Squeeze(last) }"""
    proto = model(text)
    proto.graph.initializer.extend([numpy_helper.from_array(f(1, 9, n), name) for n, name in ((4, "w"), (3, "r"))])
    graph, *others = import_variants(proto).graphs
    assert graph.outputs[0].shape == (3,) and not others


def test_squeeze_of_an_input_size_in_a_branch():
    """The rank of what a branch computes depends on a size, as outside of branches."""
    text = """g (float[n,1,4] x, bool c) => (float[?] z) {
        z = If (c) <then_branch = t () => (float[?] a) { y = Squeeze(x) a = ReduceSum<keepdims = 0>(y, axis) },
                    else_branch = e () => (float[?] b) { y = Squeeze(x) v = ReduceMax<keepdims = 0>(y, axis) b = Neg(v) }> }"""
    text = text.replace("{\n        z = If", "<int64[1] axis = {-1}> {\n        z = If")
    feeds = [{"x": f(n, 1, 4), "c": np.array(c)} for n in (3, 1, 2) for c in (True, False)]
    wide, single = feeds[:2] + feeds[4:], feeds[2:4]
    module, session = mlc.compile(model(text), threads=1), ort.InferenceSession(model(text).SerializeToString())
    for feed in wide + single:
        np.testing.assert_allclose(module.run(feed)["z"], session.run(None, feed)[0], rtol=1e-5)
        assert module.run(feed)["z"].shape == session.run(None, feed)[0].shape


def test_squeeze_of_a_size_that_data_decide_in_a_loop():
    """A size of 1 makes another rank."""
    text = """g (float[n,4] x, int64 trips) => (float[?] z) <float[1] zero = {0}> {
        z = Loop (trips, , zero) <body = b (int64 i, bool c, float[1] s) => (bool d, float[1] t) {
            d = Identity(c) p = NonZero(x) q = Transpose<perm = [1, 0]>(p) r = GatherND(x, q) y = Squeeze(r)
            e = ReduceSum<keepdims = 1>(y) t = Add(s, e) }> }"""
    module, session = mlc.compile(model(text), threads=1), ort.InferenceSession(model(text).SerializeToString())
    one = np.zeros((2, 4), np.float32)
    one[1, 2] = 3
    for x, trips in ((f(3, 4), 2), (one, 0), (one, 1), (one, 3)):
        feed = {"x": x, "trips": np.array(trips)}
        np.testing.assert_allclose(module.run(feed)["z"], session.run(None, feed)[0], rtol=1e-5)


def test_squeezed_axis_that_is_none_in_a_loop_is_an_error():
    text = """g (float[n,4] x, int64 trips) => (float[?] z) <int64[1] first = {0}, float[4] zero = {0,0,0,0}> {
        z = Loop (trips, , zero) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
            d = Identity(c) k = Unsqueeze(i, first) m = Unsqueeze(trips, first) r = Slice(x, k, m) y = Squeeze(r, first) t = Add(s, y) }> }"""
    module = mlc.compile(model(text), threads=1)
    x = f(3, 4)
    np.testing.assert_allclose(module.run({"x": x, "trips": np.array(1)})["z"], x[0], rtol=1e-5)
    with pytest.raises(mlc.errors.InputError):
        module.run({"x": x, "trips": np.array(2)})


def test_sizes_that_are_one_if_not_zero():
    """bias[:, -n:] of one row, as ALiBi is cut: it goes to every row, and no other program is needed for that."""
    text = f"""g (float[n,n] x) => (float[a,b] z) <float[1,16] bias = {{{", ".join(map(str, range(16)))}}},
                int64[1] far = {{9223372036854775807}}, int64[1] zero = {{0}}, int64[1] one = {{1}}> {{
               rows_of = Shape<start = 0, end = 1>(x) from = Neg(rows_of) rows = Slice(bias, from, far, zero)
               part = Slice(rows, from, far, one) z = Add(x, part) }}"""
    module = check(text, *({"x": f(n, n)} for n in (5, 1, 16)))
    module.run({"x": f(7, 7)})
    assert module._last.program.manifest is module.manifest  # not the general program


def test_first_rows_expanded():
    """x[:1] goes to all rows of a shape, as torch exports index_add."""
    text = """g (float[n,4] x, int64[r] at) => (float[n,4] z)
              <int64[1] zero = {0}, int64[1] one = {1}, int64[1] four = {4}> {
              first = Slice(x, zero, one, zero) rows = Shape(at) shape = Concat<axis = 0>(rows, four) y = Expand(first, shape)
              index = Unsqueeze(at, one) every = Expand(index, shape) z = ScatterElements<axis = 0, reduction = "add">(x, every, y) }"""
    feeds = [{"x": f(n, 4), "at": R.integers(0, n, r)} for n, r in ((5, 3), (1, 1), (2, 9), (6, 0))]
    module = check(text, *feeds)
    module.run(feeds[0])
    assert module._last.program.manifest is module.manifest


def test_a_profile_names_the_steps_of_either_program():
    module = mlc.compile(model("g (float[a,4] x, float[b,4] y) => (float[m,4] z) { s = Add(x, y) z = Softmax(s) }"), threads=1)
    loc = {s.word: s.loc for s in module.steps}
    first, second = ({loc[word] for word in module.profile({"x": f(3, 4), "y": f(n, 4)})} for n in (3, 1))
    assert (
        first
        and second
        and any("Softmax" in node for locs in second for node in locs) == any("Softmax" in n for locs in first for n in locs)
    )
    assert {s.word for s in module.manifest.steps} == module.profile({"x": f(3, 4), "y": f(3, 4)}).keys()
    assert not {s.word for s in module.manifest.steps} & module.profile({"x": f(3, 4), "y": f(1, 4)}).keys()


def test_a_profile_of_sizes_that_data_decide():
    text = "g (float[n] x, float[m] y) => (float[k] z) { a = NonZero(x) r = Squeeze(a) g = Gather(y, r) z = Add(g, x) }"
    module = mlc.compile(model(text), threads=1)
    words = {s.word for s in module.steps}
    for x in (np.ones(5, np.float32), np.eye(5, dtype=np.float32)[0]):
        seconds = module.profile({"x": x, "y": f(5)})
        assert seconds and seconds.keys() <= words


def test_squeeze_where_some_sizes_are_one():
    """Each of them may be, or not."""
    text = "g (float[n,m,k] x) => (float[?] y) { s = Squeeze(x) y = Neg(s) }"
    shapes = [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (3, 1, 1), (1, 4, 1), (1, 1, 1), (0, 1, 2)]
    check(text, *({"x": f(*s)} for s in shapes))


def test_squeeze_of_a_stretched_size():
    text = "g (float[a,4] x, float[b,4] y) => (float[?] z) { s = Add(x, y) z = Squeeze(s) }"
    check(text, *({"x": f(p, 4), "y": f(q, 4)} for p, q in ((3, 3), (1, 3), (3, 1), (1, 1))))


def test_squeeze_that_what_follows_needs():
    """Only a batch of one fits the product, which is what the first graph is for."""
    text = "g (float[n,3,4] x, float[4,5] w) => (float[3,5] z) { s = Squeeze(x) z = Gemm(s, w) }"
    check(text, {"x": f(1, 3, 4), "w": f(4, 5)})


BRANCHES = """<then_branch = t () => (float[?] a) {{ s = Squeeze(x, axis) a = Neg(s) }},
              else_branch = e () => (float[?] b) {{ b = Abs(x) }}>"""


def test_branches_of_unlike_rank_by_size():
    """As PyTorch exports x.squeeze(1)."""
    text = f"""g (float[n,m,4] x) => (float[?] z, int64[r] shape) <int64[1] axis = {{1}}, int64[1] one = {{1}}> {{
               sizes = Shape(x) m = Gather(sizes, axis) c = Equal(m, one) y = If (c) {BRANCHES.format()} z = Exp(y) shape = Shape(z) }}"""
    check(text, *({"x": f(*s)} for s in ((3, 1, 4), (3, 5, 4), (1, 1, 4), (1, 2, 4))))


@pytest.mark.parametrize("nested", [False, True])
def test_branches_of_unlike_rank_by_data(nested):
    """The rank of the result is that of the branch that runs; so are ranks of what follows."""
    inner = f"y = If (c) {BRANCHES.format()}"
    if nested:
        inner = f"y = If (d) <then_branch = p () => (float[?] q) {{ q = If (c) {BRANCHES.format()} }}, else_branch = o () => (float[?] r) {{ r = Exp(x) }}>"
    text = f"""g (float[n,1,4] x, bool c, bool d) => (float[?] z, int64[r] shape) <int64[1] axis = {{1}}> {{
               {inner} z = Softmax<axis = 0>(y) shape = Shape(z) }}"""
    check(text, *({"x": f(n, 1, 4), "c": np.array(c), "d": np.array(d)} for n in (3, 1) for c in (True, False) for d in (True, False)))


def test_a_branch_that_does_not_run_requires_nothing():
    """Each of two branches fits sizes of its own, as of two sampling rates."""

    def branch(step):
        ranks = "<then_branch = t () => (float[?] u) { u = Squeeze(s, zero) }, else_branch = o () => (float[?] v) { v = Identity(s) }>"
        return f"""{{ s = Slice(x, zero, end, zero, step{step}) sizes = Shape(s) m = Gather(sizes, zero) single = Equal(m, one)
                      q = If (single) {ranks} both = Concat<axis = 0>(q, q) y = Mul(both, w) }}"""

    text = f"""g (float[n,3] x, float[6] w, bool c) => (float[6] z)
               <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] end = {{1000}}, int64[1] step2 = {{2}}, int64[1] step4 = {{4}}>
               {{ z = If (c) <then_branch = a () => (float[6] y) {branch(2)}, else_branch = b () => (float[6] y) {branch(4)}> }}"""
    w = f(6)
    check(text, {"x": f(2, 3), "w": w, "c": np.array(True)}, {"x": f(4, 3), "w": w, "c": np.array(False)})


HALVES = """<then_branch = a () => (float[?] s) {{ r = Reshape(x, {0}) s = ReduceSum<keepdims = 0>(r, axis) }},
             else_branch = b () => (float[?] s) {{ r = Reshape(x, {1}) s = ReduceSum<keepdims = 0>(r, axis) }}>"""


@pytest.mark.parametrize("shapes", [("{2, -1}", "{3, -1}"), ("{2, 2}", "{3, 3}")])
def test_what_a_branch_needs_of_sizes_is_needed_where_it_runs(shapes):
    text = f"""g (float[n] x, bool c) => (float[m] z) <int64[2] p = {shapes[0]}, int64[2] q = {shapes[1]}, int64[1] axis = {{0}}> {{
               y = If (c) {HALVES.format("p", "q")} z = Exp(y) }}"""
    module = check(text, {"x": f(4), "c": np.array(True)}, {"x": f(9), "c": np.array(False)})
    for n, c in ((9, True), (4, False)):
        with pytest.raises(mlc.errors.InputError, match=f"Reshape.*n = {n}; expected"):
            module.run({"x": f(n), "c": np.array(c)})
    check(text, {"x": f(4), "c": np.array(True)}, {"x": f(9), "c": np.array(False)})  # a run that failed leaves nothing behind


@pytest.mark.parametrize("inner", [
    "r = Reshape(s, two) y = ReduceSum<keepdims = 0>(r, zero)",
    """sizes = Shape(s) m = Gather(sizes, zero) single = Equal(m, one)
       q = If (single) <then_branch = t () => (float[?] u) { u = Identity(s) }, else_branch = o () => (float[?] v) { v = Unsqueeze(s, zero) }>
       r, h = RNN<hidden_size = 3>(q, w, w) y = Squeeze(h)""",
])  # fmt: skip
def test_sizes_that_the_caller_fixes_and_a_branch_does_not_fit(inner):
    """It is for other sizes, as of another sampling rate; the branch that fits runs as if there was no other."""

    def branch(step):
        return f"{{ s = Slice(x, zero, end, zero, step{step}) {inner} }}"

    text = f"""g (float[n,1,3] x, float[1,3,3] w, bool c) => (float[?] z)
               <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] end = {{1000}}, int64[1] step2 = {{2}}, int64[1] step4 = {{4}}, int64[2] two = {{1, 3}}>
               {{ z = If (c) <then_branch = a () => (float[?] y) {branch(2)}, else_branch = b () => (float[?] y) {branch(4)}> }}"""
    feeds = {"x": f(4, 1, 3), "w": f(1, 3, 3), "c": np.array(False)}
    module = check(text, feeds, shapes={"x": (4, 1, 3)})
    with pytest.raises(mlc.errors.InputError):
        module.run({**feeds, "c": np.array(True)})


def test_what_a_loop_needs_of_sizes_is_needed_where_it_runs():
    """Nothing of a body is computed before its first iteration, either."""
    text = """g (float[n] x, float[4,4] w, int64 trips, bool go) => (float[2,4] z) <int64[2] p = {2, 4}, float[2,4] start = {0, 0, 0, 0, 0, 0, 0, 0}> {
              z = Loop (trips, go, start) <body = b (int64 i, bool k, float[2,4] s) => (bool l, float[2,4] t) {
                  l = Identity(k) r = Reshape(x, p) m = MatMul(r, w) t = Add(s, m) }> }"""
    w, go = f(4, 4), np.array(True)
    module = check(text, {"x": f(8), "w": w, "trips": np.array(3), "go": go}, {"x": f(5), "w": w, "trips": np.array(0), "go": go})
    with pytest.raises(mlc.errors.InputError, match="n = 5; expected 8"):
        module.run({"x": f(5), "w": w, "trips": np.array(1), "go": go})


def test_a_choice_of_sizes_in_a_branch_is_compared_where_it_runs():
    """Each branch gives ranks that only one answer to its own question fits, or two; the program that fits is found."""
    ranks = "<then_branch = t () => (float[?] u) { u = Squeeze(x, one) }, else_branch = o () => (float[?] v) { v = Identity(x) }>"
    text = f"""g (float[n,m,3] x, bool c) => (float[?] z, int64[r] shape) <int64[1] one = {{1}}> {{
               y = If (c) <then_branch = a () => (float[?] p) {{ sizes = Shape(x) k = Gather(sizes, one) single = Equal(k, one)
                               q = If (single) {ranks} p = Neg(q) }},
                           else_branch = b () => (float[?] e) {{ g = Squeeze(x, one) e = Exp(g) }}>
               z = Abs(y) shape = Shape(z) }}"""
    module = check(
        text, *({"x": f(n, 1, 3), "c": np.array(c)} for n in (1, 4) for c in (True, False)), {"x": f(4, 2, 3), "c": np.array(True)}
    )
    with pytest.raises(mlc.errors.InputError):
        module.run({"x": f(4, 2, 3), "c": np.array(False)})


@pytest.mark.parametrize("misfit", ["o = Concat<axis = 1>(x, u)", "v = Exp(u) o = Concat<axis = 1>(x, v)", "o = MatMul(x, u)",
                                    "o = Gather<axis = 0>(x, five)"])  # fmt: skip
def test_sizes_that_a_branch_could_not_address_are_no_matter_where_it_does_not_run(misfit):
    text = f"""g (float[n,3] x, float[m,5] u, bool c) => (float[?,?] y) <int64[1] five = {{5}}> {{
               y = If (c) <then_branch = a () => (float[?,?] o) {{ {misfit} }}, else_branch = b () => (float[?,?] r) {{ r = Identity(x) }}> }}"""
    module = check(text, {"x": f(2, 3), "u": f(4, 5), "c": np.array(False)})
    with pytest.raises(mlc.errors.InputError):
        module.run({"x": f(2, 3), "u": f(4, 5), "c": np.array(True)})


def test_sizes_that_data_decide_are_bound_once(monkeypatch):
    text = """g (float[a] x, float[c] y) => (float[m] z) <int64[1] ax = {0}>
              { i = NonZero(x) s = Squeeze(i, ax) t = Cast<to = 1>(s) z = Add(t, y) }"""
    module = mlc.compile(model(text))
    bound = []
    monkeypatch.setattr(binding_cache, "Binding", lambda *args: bound.append(args) or Binding(*args))
    for x, k in [([1, 0, 1], 2), ([0, 0, 1], 3), ([0, 0, 1], 4)] * 3:
        want = np.flatnonzero(x) + np.zeros(k, np.float32)
        np.testing.assert_array_equal(module.run({"x": np.array(x, np.float32), "y": np.zeros(k, np.float32)})["z"], want)
    assert len(bound) == 3 + 2  # of three sizes, and of two for another program
