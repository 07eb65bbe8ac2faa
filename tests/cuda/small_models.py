"""Small ONNX models with seeded weights: text of the graph, and the shapes of what is not computed there."""

from __future__ import annotations

import numpy as np
import onnx
from mlc.ir import DType
from onnx import numpy_helper, parser

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
NEWER = '<ir_version: 10, opset_import: ["" : 23]>\n'


def model(
    text: str, head: str = HEAD, dtype: DType = DType.F32, rounded: DType = DType.F32, **weights: tuple[int, ...] | np.ndarray
) -> bytes:
    """`dtype` is that of weights given by their shape, whose values `rounded` has too."""
    rng = np.random.default_rng(11)
    m = parser.parse_model(head + text)
    for name, w in weights.items():
        array = w if isinstance(w, np.ndarray) else (rng.standard_normal(w) / np.sqrt(max(1, w[0]))).astype(rounded.np).astype(dtype.np)
        m.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(m)
    return m.SerializeToString()


def mlp() -> bytes:
    return model("""mlp (float[N, 16] x) => (float[N, 10] y) {
        a = MatMul(x, w1)  b = Add(a, b1)  c = Relu(b)  d = MatMul(c, w2)  e = Tanh(d)  y = Softmax<axis = 1>(e) }""",
        w1=(16, 40), b1=(40,), w2=(40, 10))  # fmt: skip


def wide() -> bytes:
    return model("wide (float[N, 64] x) => (float[N, 96] y) { a = MatMul(x, w)  b = Add(a, c)  y = Relu(b) }", w=(64, 96), c=(96,))


def cnn() -> bytes:
    return model("""cnn (float[N, 3, 17, 15] x) => (float[N, 5] y, int64[N] best) {
        a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)  b = Relu(a)
        c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8>(b, w2)  d = Sigmoid(c)  e = Mul(c, d)
        f = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)  g = GlobalAveragePool(f)  h = Flatten(g)
        y = Gemm(h, w3, b3)  best = ArgMax<axis = 1, keepdims = 0>(y) }""",
        w1=(8, 3, 3, 3), b1=(8,), w2=(8, 1, 3, 3), w3=(8, 5), b3=(5,))  # fmt: skip


def stem() -> bytes:
    """As vision models begin: few channels, strides, then more of both."""
    return model("""stem (float[2, 3, 30, 31] x) => (float[2, 24, 8, 8] y) {
        a = Conv<pads = [3, 3, 3, 3], strides = [2, 2]>(x, w1, b1)  b = Relu(a)
        c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(b, w2, b2)  y = Relu(c) }""",
        w1=(32, 3, 7, 7), b1=(32,), w2=(24, 32, 3, 3), b2=(24,))  # fmt: skip


def unet() -> bytes:
    """Two levels. Convolutions of equal sizes, large enough for tensor cores, write whole tensors and parts of wider ones."""
    return model("""unet (float[N, 8, 16, 16] x) => (float[N, 2, 16, 16] y) {
        a0 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)  a = Relu(a0)  p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
        q0 = Conv<pads = [1, 1, 1, 1]>(p, w2, b2)  q = Relu(q0)
        c0 = Conv<pads = [1, 1, 1, 1]>(q, w3, b2)  c = Relu(c0)  d0 = Conv<pads = [1, 1, 1, 1]>(c, w3, b2)  d = Relu(d0)
        e = Concat<axis = 1>(c, d)  u = ConvTranspose<strides = [2, 2]>(e, w4, b1)  j = Concat<axis = 1>(u, a)
        f0 = Conv<pads = [1, 1, 1, 1]>(j, w5, b1)  f = Relu(f0)  y = Conv(f, w6) }""",
        w1=(32, 8, 3, 3), b1=(32,), w2=(32, 32, 3, 3), b2=(32,), w3=(32, 32, 3, 3), w4=(64, 32, 2, 2), w5=(32, 64, 3, 3), w6=(2, 32, 1, 1))  # fmt: skip


def heads() -> bytes:
    """Two heads of 8 of queries, keys and values that are three products of one input."""
    return model("""heads (float[1, L, 16] x) => (float[1, L, 16] y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)  q1 = Add(q0, bq)  k1 = Add(k0, bk)  v1 = Add(v0, bv)
        q2 = Reshape(q1, parts)  k2 = Reshape(k1, parts)  v2 = Reshape(v1, parts)  q = Transpose<perm = [0, 2, 1, 3]>(q2)
        k = Transpose<perm = [0, 2, 3, 1]>(k2)  v = Transpose<perm = [0, 2, 1, 3]>(v2)  s0 = MatMul(q, k)  s1 = Mul(s0, scale)
        p = Softmax<axis = -1>(s1)  a0 = MatMul(p, v)  a1 = Transpose<perm = [0, 2, 1, 3]>(a0)  a2 = Reshape(a1, rows)  y = MatMul(a2, wo) }""",
        wq=(16, 16), wk=(16, 16), wv=(16, 16), wo=(16, 16), bq=(16,), bk=(16,), bv=(16,), scale=np.array(8**-0.5, np.float32),
        parts=np.array([1, -1, 2, 8]), rows=np.array([1, -1, 16]))  # fmt: skip


def transformer() -> bytes:
    """One block of two heads of 8, with a residual, layer norms and a gated feed-forward network."""
    return model("""transformer (float[1, L, 16] x) => (float[1, L, 16] y) {
        n = LayerNormalization(x, g1, z1)  qkv = MatMul(n, wqkv)  q0, k0, v0 = Split<axis = -1>(qkv, parts)
        q1 = Reshape(q0, heads)  k1 = Reshape(k0, heads)  v1 = Reshape(v0, heads)
        q = Transpose<perm = [0, 2, 1, 3]>(q1)  k = Transpose<perm = [0, 2, 3, 1]>(k1)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
        s = MatMul(q, k)  t = Mul(s, scale)  p = Softmax<axis = -1>(t)  o = MatMul(p, v)
        o1 = Transpose<perm = [0, 2, 1, 3]>(o)  o2 = Reshape(o1, merged)  r = MatMul(o2, wo)  x1 = Add(x, r)
        m = LayerNormalization(x1, g1, z1)  f = MatMul(m, w1)  h = Erf(f)  u = Mul(f, h)  w = MatMul(u, w2)  y = Add(x1, w) }""",
        g1=np.ones(16, np.float32), z1=(16,), wqkv=(16, 48), parts=np.array([16, 16, 16]), heads=np.array([0, 0, 2, 8]),
        merged=np.array([0, 0, 16]), scale=np.array(0.35, np.float32), wo=(16, 16), w1=(16, 64), w2=(64, 16))  # fmt: skip


def shifted() -> bytes:
    """Windows of 3 × 3 of an image that is rolled by 1 and 2, a product, and back: a block of Swin without its attention."""
    end = np.array([2**62])
    return model("""shifted (float[N, 6, 9, 16] x) => (float[N, 6, 9, 16] y) {
        a1 = Slice(x, one, end, one)  a2 = Slice(x, none, one, one)  a = Concat<axis = 1>(a1, a2)
        b1 = Slice(a, two, end, two)  b2 = Slice(a, none, two, two)  b = Concat<axis = 2>(b1, b2)
        c = Reshape(b, split)  d = Transpose<perm = [0, 1, 3, 2, 4, 5]>(c)  e = Reshape(d, windows)  f = MatMul(e, w)  g = Relu(f)
        h = Reshape(g, parted)  i = Transpose<perm = [0, 1, 3, 2, 4, 5]>(h)  j = Reshape(i, image)
        k1 = Slice(j, last, end, one)  k2 = Slice(j, none, last, one)  k = Concat<axis = 1>(k1, k2)
        l1 = Slice(k, last2, end, two)  l2 = Slice(k, none, last2, two)  l = Concat<axis = 2>(l1, l2)  y = Add(x, l) }""",
        w=(16, 16), none=np.array([0]), one=np.array([1]), two=np.array([2]), last=np.array([5]), last2=np.array([7]), end=end,
        split=np.array([-1, 2, 3, 3, 3, 16]), windows=np.array([-1, 9, 16]), parted=np.array([-1, 2, 3, 3, 3, 16]),
        image=np.array([-1, 6, 9, 16]))  # fmt: skip


def loop() -> bytes:
    """y = x·2^n by a Loop, then a branch on the sign of its sum."""
    return model("""control (float[4] x, int64 n) => (float[4] y) {
        z = Loop(n, go, x) <body = step (int64 i, bool on, float[4] a) => (bool on2, float[4] b) {
            on2 = Identity(on)  b = Add(a, a) }>
        s = ReduceSum<keepdims = 0>(z, axes)  c = Greater(s, zero)
        y = If(c) <then_branch = yes () => (float[4] p) { p = Relu(z) }, else_branch = no () => (float[4] q) { q = Neg(z) }> }""",
        go=np.array(True), zero=np.array(0, np.float32), axes=np.array([0]))  # fmt: skip


def lstm() -> bytes:
    return model("""lstm (float[T, 2, 6] x) => (float[T, 1, 2, 12] y) { y = LSTM<hidden_size = 12>(x, w, r) }""",
                 w=(1, 48, 6), r=(1, 48, 12))  # fmt: skip


def topk() -> bytes:
    return model("topk (float[N, 30] x) => (float[N, 4] v, int64[N, 4] i) { v, i = TopK(x, k) }", k=np.array([4]))


ONNX_NAMES = {DType.F32: "float", DType.F16: "float16", DType.BF16: "bfloat16"}
# Models of 16-bit floats as they come, of operators that the others lack: text with T for the type of floats, and weights.
FAMILIES: dict[str, tuple[str, dict[str, tuple[int, ...] | np.ndarray]]] = {
    # A step of a decoder: grouped heads, whose keys and values grow by one.
    "decoder": ("""(T[1, 1, 32] x, T[1, 2, P, 8] past_k, T[1, 2, P, 8] past_v) => (T[1, 1, 32] y, T[1, 2, S, 8] k, T[1, 2, S, 8] v) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        a, k, v = Attention<q_num_heads = 4, kv_num_heads = 2>(q0, k0, v0, , past_k, past_v)  r = MatMul(a, wo)  y = Add(x, r) }""",
        {"wq": (32, 32), "wk": (32, 16), "wv": (32, 16), "wo": (32, 32)}),
    "recurrent": ("""(T[L, 2, 6] x) => (T[L, 2, 2, 12] y, T[2, 2, 12] h, T[L, 1, 2, 5] z) {
        y, h = GRU<hidden_size = 12, direction = "bidirectional">(x, w1, r1)  z = LSTM<hidden_size = 5>(x, w2, r2) }""",
        {"w1": (2, 36, 6), "r1": (2, 36, 12), "w2": (1, 20, 6), "r2": (1, 20, 5)}),
    "windows": ("""(T[N, 8, 13, 11] x) => (T[N, 8, 6, 5] y, T[N, 8, 26, 22] u) {
        a = Conv<group = 8, pads = [1, 1, 1, 1]>(x, w1)  m = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(a)
        p = AveragePool<kernel_shape = [3, 2], strides = [2, 2]>(x)  s = Add(m, p)  y = Conv(s, w2)
        u = Resize<mode = "linear">(x, , scales) }""",
        {"w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)}),
    "irregular": ("""(T[N, 30] x, int64[N, 4] at) => (T[N, 4] v, int64[N, 4] i, int64[2, K] z, T[N, 30] s, T[N, 30] c, int64[N] best) {
        v, i = TopK(x, four)  r = Relu(x)  z = NonZero(r)  s = ScatterElements<axis = 1>(x, at, v)  c = CumSum(x, one)
        best = ArgMax<axis = 1, keepdims = 0>(x) }""",
        {"four": np.array([4]), "one": np.array(1)}),
}  # fmt: skip


def family(name: str, dtype: DType, rounded: DType) -> bytes:
    text, weights = FAMILIES[name]
    return model(name + text.replace("T[", f"{ONNX_NAMES[dtype]}["), NEWER, dtype, rounded, **weights)
