"""onnxruntime's 4-bit floats, 16-bit products, hashes, tokens, paths, windows and boxes, compared with it."""

from math import gcd

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.importer import import_model
from mlc.ir.ops import GroupedMatMul
from ms_nodes import R, build, compare, f, i32, run, typed
from onnx import helper


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("n,k,block", [(7, 48, 16), (8, 64, 64), (5, 20, 32), (6, 96, 64), (5, 40, 64)])
def test_4_bit_floats(kind, n, k, block):
    codes = R.integers(0, 256, (n * k + 1) // 2).astype(np.uint8)
    given = {"N": n, "K": k, "block_size": block, "quant_type": kind}
    compare("MatMulBnb4", [f(3, k), codes, np.abs(f(-(-n * k // block)))], constants=(1, 2), **given)
    if gcd(k, block) % 8 == 0:
        graph = import_model(typed(build("MatMulBnb4", [f(3, k), codes, f(-(-n * k // block))], ["y"], constants=(1, 2), **given), "float"))
        assert [len(n.op.values) for n in graph.nodes if isinstance(n.op, GroupedMatMul)] == [16], "weights stay 4 bits"
    compare("MatMulBnb4", [f(2, 3, k), codes, np.abs(f(-(-n * k // block)))], constants=(1, 2), symbolic=True, **given)


def test_unfold():
    for axis, size, step in ((1, 3, 1), (-1, 2, 2), (0, 4, 3)):
        compare("UnfoldTensor", [f(10, 7, 5)], dim=axis, size=size, step=step)
        compare("UnfoldTensor", [f(10, 7, 5)], symbolic=True, dim=axis, size=size, step=step)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (7, 1)])
def test_crops(mode, size):
    boxes = np.array([[0.1, 0.2, 0.8, 0.9], [0.9, 0.7, 0.3, 0.2], [-0.2, 0.1, 1.2, 1.3], [0, 0, 1, 1]], np.float32)
    operands = [f(2, 3, 8, 9), boxes, i32([0, 1, 1, 0]), i32(size)]
    compare("CropAndResize", operands, constants=(3,), mode=mode, extrapolation_value=0.5)
    compare("CropAndResize", operands, mode=mode)


def test_fast_gelu_of_a_product():
    x, w, bias = f(3, 4), f(4, 5), f(5)
    y = x @ w + bias
    want = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    np.testing.assert_allclose(run("GemmFastGelu", [x, w, bias]), want, rtol=1e-4, atol=1e-5)


def model(op, kind, shape, out, **attributes):
    node = helper.make_node(op, ["x"], ["y"], domain="com.microsoft", **attributes)
    values = [[helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", out, None)]]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "g", *values), opset_imports=opsets, ir_version=8)


def same(proto, *arrays):
    module, session = mlc.compile(proto, threads=1), ort.InferenceSession(proto.SerializeToString())
    for x in arrays:
        want, got = session.run(None, {"x": x})[0], module.run({"x": x})["y"]
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("kind,dtype", [(6, np.int32), (12, np.uint32), (7, np.int64), (13, np.uint64), (1, np.float32), (11, np.float64)])
def test_hashes_of_numbers(kind, dtype, positive):
    x = (R.standard_normal((3, 5)) * 1000).astype(np.float64 if dtype == np.float64 else np.int64).astype(dtype)
    same(model("MurmurHash3", kind, ["a", 5], 12 if positive else 6, seed=42, positive=positive), x, x[:0])


def test_hashes_of_texts():
    texts = np.array(["", "a", "ab", "abc", "abcd", "häßlich", "a longer text than a few words"], object)
    many = np.array([text * k for k in range(6) for text in texts], object)  # those are hashed together
    same(model("MurmurHash3", 8, ["n"], 12, seed=7), texts, many)
    same(model("MurmurHash3", 8, ["n"], 6, seed=2**31 + 1, positive=0), many[::-1].copy())


TEXTS = np.array([["a b,c", "", "one two  three"], ["x", "ab, cd ef", "é ü"]], object)


@pytest.mark.parametrize("mark", [0, 1])
@pytest.mark.parametrize("given", [{"separators": [" "]}, {"separators": [" ", ","]}, {"separators": [""]}, {"tokenexp": "[a-z]+"}])
@pytest.mark.parametrize("least", [1, 2])
def test_tokens(given, mark, least):
    if least == 2 and given.get("separators") == [""]:
        pytest.skip("onnxruntime allows no least length of single characters")
    same(model("Tokenizer", 8, ["n", 3], 8, mark=mark, mincharnum=least, pad_value="#", **given), TEXTS, TEXTS[1:])


UNLIKE_PYTHON = [
    {"tokenexp": e} for e in ("a|ab", r"\w+", r"\b\w\w+\b", r"\S+", r"\d+(\.\d+)?", r"\pL+", ".", ".b", "a*", "a$|^é", "(?i)B+")
] + [{"separators": s} for s in ([r"\s"], ["a|ab"], ["a*"], [" ", r"\d"], [r"\W+"], ["$"], ["^a"], ["."], ["b", "a"], [r"\b"])]  # fmt: skip


@pytest.mark.parametrize("given", UNLIKE_PYTHON)
def test_tokens_by_the_longest_match_of_re2(given):
    texts = np.array(["ab cd_1 B-b", "é a\nbé", "aab aabb", "1.5 2,é", "a\u00a0b", "٣ 4", "", "abab ab\n", "\nb"], object)
    same(model("Tokenizer", 8, ["n"], 8, mark=0, mincharnum=1, pad_value="#", **given), texts, texts[::-1].copy())


def test_time_warping():
    proto = model("DynamicTimeWarping", 1, ["m", "n"], 6)
    same(proto, np.abs(f(6, 9)), np.abs(f(9, 4)), np.abs(f(1, 5)))


def test_products_of_16_bits():
    x, y = R.integers(-3000, 3000, (3, 4)).astype(np.int16), R.integers(-3000, 3000, (4, 5)).astype(np.int16)
    node = helper.make_node("MatMulInteger16", ["x", "w"], ["y"], domain="com.microsoft")
    values = [helper.make_tensor_value_info(n, 5, v.shape) for n, v in (("x", x), ("w", y))]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", 6, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    got = mlc.compile(helper.make_model(graph, opset_imports=opsets, ir_version=8)).run({"x": x, "w": y})["y"]
    np.testing.assert_array_equal(got, x.astype(np.int32) @ y.astype(np.int32))
