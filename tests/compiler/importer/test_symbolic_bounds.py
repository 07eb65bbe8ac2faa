"""Starts, ends and indices that are sizes: they count from the end where they turn out negative."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.ir import dim_min, evaluate, floordiv, sym
from onnx import parser

SIZES = """sx = Shape(x) sy = Shape(y) zero = Constant<value_ints = [0]>() s = Gather(sx, zero) n = Gather(sy, zero)
           two = Constant<value_ints = [2]>() far = Constant<value_ints = [9223372036854775807]>() minus = Neg(n) less = Sub(n, two)"""


def agree(body, sizes):
    text = f"""<ir_version: 9, opset_import: ["": 18]> g (float[s,4] x, float[n] y) => (float[m,4] z) {{ {SIZES} {body} }}"""
    proto = parser.parse_model(text)
    module = mlc.compile(proto, threads=1)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for s, n in sizes:
        feed = {"x": np.arange(4 * s, dtype=np.float32).reshape(s, 4), "y": np.zeros(n, np.float32)}
        (want,) = session.run(None, feed)
        np.testing.assert_array_equal(module.run(feed)["z"], want, err_msg=f"{s} rows, n = {n}")


ALL = [(5, 0), (5, 1), (5, 2), (5, 3), (5, 5), (5, 9), (1, 1), (1, 0), (0, 1), (0, 0), (2, 4)]


@pytest.mark.parametrize(
    "body",
    [
        "z = Slice(x, zero, minus, zero)",  # x[:-n]: nothing when n is 0
        "z = Slice(x, minus, far, zero)",  # x[-n:]: everything when n is 0
        "z = Slice(x, zero, less, zero)",
        "z = Slice(x, less, far, zero)",
        "z = Slice(x, minus, less, zero)",
        "gap = Sub(s, n) z = Slice(x, gap, far, zero)",
        "back = Constant<value_ints = [-1]>() low = Neg(far) z = Slice(x, less, low, zero, back)",
        "back = Constant<value_ints = [-1]>() low = Neg(far) z = Slice(x, minus, low, zero, back)",
    ],
)
def test_slices(body):
    agree(body, ALL)


def test_gathered_rows():
    agree("at = Squeeze(less) row = Gather(x, at) z = Unsqueeze(row, zero)", [(5, 0), (5, 1), (5, 2), (5, 6), (1, 1), (3, 4)])


def test_last_row():
    body = "one = Constant<value_ints = [1]>() last = Sub(s, one) at = Squeeze(last) row = Gather(x, at) z = Unsqueeze(row, zero)"
    agree(body, [(5, 0), (1, 3)])


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ("gap = Sub(s, n) q = Div(gap, four)", 1),  # which truncates: −3 / 4 is 0
        ("gap = Sub(s, n) minus4 = Neg(four) q = Div(gap, minus4)", 1),
        ("under = Sub(s, two) f = Cast<to = 1>(under) by = Cast<to = 1>(four) r = Div(f, by) q = Cast<to = 7>(r)", 1),
        ("gap = Sub(s, n) q = Mod(gap, four)", 1),
        ("gap = Sub(s, n) q = Mod<fmod = 1>(gap, four)", 1),
    ],
)
def test_quotients_of_sizes_that_may_be_negative(size, steps):
    """They stay sizes: the module does not stop to read them."""
    text = f"""<ir_version: 9, opset_import: ["": 18]> g (float[s,4] x, float[n] y) => (float[m] z) {{ {SIZES}
               four = Constant<value_ints = [4]>() {size} many = Constant<value_ints = [9]>() rows = Add(q, many) one = Constant<value_float = 1.0>()
               ones = Expand(one, rows) z = Add(ones, one) }}"""
    proto = parser.parse_model(text)
    module = mlc.compile(proto, threads=1)
    assert len(module.manifest.steps) <= steps and not module.manifest.handlers
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for s, n in [(0, 1), (0, 0), (3, 0), (4, 0), (9, 2), (2, 9), (1, 5), (0, 4), (0, 5), (0, 8)]:
        feed = {"x": np.zeros((s, 4), np.float32), "y": np.zeros(n, np.float32)}
        np.testing.assert_array_equal(module.run(feed)["z"], session.run(None, feed)[0], err_msg=f"{s} rows, n = {n}")


def test_products_of_sums_divide():
    s, n = sym("s"), sym("n")
    for a, b in ((s - 1, s - 1), (s + n, s - n), (2 * s + 3, n - 1), (s * n - 1, s + 4), (floordiv(s, 2) - 1, n + 7)):
        assert floordiv(a * b, b) == a and floordiv(a * b, a) == b
        assert floordiv(a * b * a, a * b) == a
    assert floordiv((s - 1) * n + 1, s - 1) != n


def test_ranges_over_sizes_of_convolutions():
    """Of too few samples a convolution makes none, which is an error: no size is cut at 0 once more."""
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[b,1,s] x) => (float[b,n,n] z) <float[1,1,4] w = {1, 2, 3, 4}, int64 none = {0},
               int64 one = {1}, int64[1] at = {2}, int64[1] mid = {1}> {
               y = Conv(x, w) sy = Shape(y) t = Gather(sy, at) size = Squeeze(t) i = Range(none, size, one) r = Unsqueeze(i, mid)
               gap = Sub(i, r) away = Abs(gap) bias = Cast<to = 1>(away) turned = Transpose<perm = [0, 2, 1]>(y) p = Mul(y, turned) z = Add(p, bias) }"""
    proto = parser.parse_model(text)
    module = mlc.compile(proto, threads=1)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert all("max" not in str(d) for d in module.manifest.dims)
    for b, s in ((1, 9), (2, 4), (3, 20)):
        feed = {"x": np.random.default_rng(0).standard_normal((b, 1, s)).astype(np.float32)}
        np.testing.assert_allclose(module.run(feed)["z"], session.run(None, feed)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(mlc.errors.InputError):
        module.run({"x": np.zeros((1, 1, 2), np.float32)})


def test_quotients_of_shifted_quotients():
    """A convolution's size, and the exporter's formula for it, are one."""
    s = sym("s")
    twice = floordiv(floordiv(s + 1, 2) + 1, 2)
    assert twice == floordiv(s - 1, 4) + 1 == floordiv(s + 3, 4)
    assert floordiv(dim_min(s, 3), 4) == 0
    assert floordiv(0, s) == 0
    for n in range(9):
        assert evaluate(twice, {"s": n}) == ((n + 1) // 2 + 1) // 2


def test_starts_before_the_front_of_backward_slices():
    """ONNX takes them for 0, where NumPy selects nothing; known, or read when it runs."""
    back = "back = Constant<value_ints = [-1]>() low = Neg(far)"
    agree(f"{back} at = Constant<value_ints = [-3]>() z = Slice(x, at, low, zero, back)", [(5, 0), (2, 0), (1, 0), (0, 0)])
    agree(f"{back} one = Neg(back) three = Add(two, one) t = ReduceSum(y) i = Cast<to = 7>(t) at = Sub(i, three) "
          "z = Slice(x, at, low, zero, back)", [(5, 1), (2, 1), (1, 1), (0, 1)])  # fmt: skip


def test_more_of_topk_than_there_are():
    proto = parser.parse_model('<ir_version: 9, opset_import: ["": 18]> g (float[s] x, int64[1] k) => (float[m] v) { v, i = TopK(x, k) }')
    module = mlc.compile(proto, threads=1)
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(module.run({"x": x, "k": np.array([5])})["v"], x[::-1])
    with pytest.raises(mlc.errors.InputError, match="6 differs from"):
        module.run({"x": x, "k": np.array([6])})
