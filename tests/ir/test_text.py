"""The text form: what is printed reads back as the same graph; bad text is named by its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlc.errors import VerifyError
from mlc.ir import DType, Graph, Input, Node, RunTimeSize, TensorType, const, dim_max, dim_min, dim_stretch, floordiv, sym
from mlc.ir.ops import Add, Cast, Expand, If, LeakyRelu, Mul, Pad, Reshape, Resize, TopK, Transpose
from mlc.ir.parser import parse
from mlc.ir.printer import constants_of, print_graph
from mlc.ir.verify import verify


def placeholder(dtype: DType, *shape) -> object:
    return Node.make(Input(TensorType(dtype, shape))).out


def apply(op, *ins, loc=()):
    return Node.make(op, ins, loc).out


def graph(inputs, outputs, **names) -> Graph:
    return Graph(tuple(inputs), tuple(outputs), tuple(f"x{i}" for i in range(len(inputs))),
                 tuple(f"y{i}" for i in range(len(outputs))), **names)  # fmt: skip


def round_trip(g: Graph) -> Graph:
    text = print_graph(g)
    again = parse(text, constants_of(g))
    assert print_graph(again) == text
    assert [n.op for n in again.nodes if not isinstance(n.op, If)] == [n.op for n in g.nodes if not isinstance(n.op, If)]
    assert [n.types for n in again.nodes] == [n.types for n in g.nodes]
    assert [n.loc for n in again.nodes] == [n.loc for n in g.nodes]
    return verify(again)


def test_every_kind_of_attribute():
    b = sym("B", 1, 64)
    x = placeholder(DType.F32, b, 4)
    y = apply(LeakyRelu(0.01), x, loc=("/a/Relu", 'quote " ; +'))
    y = apply(Reshape((b * 4,)), y)
    z = apply(Cast(DType.BF16), y)
    p = apply(Pad((1, 2), (b, 0), "edge"), x, const(np.float32(0)))
    r = apply(Resize((b, 8), (None, 2.0), "linear"), x)
    round_trip(graph([x], [z, p, r]))


def test_several_results():
    x = placeholder(DType.F32, 3, 5)
    top = Node.make(TopK(axis=1, k=2, largest=True, sorted=True), (x,))
    text = print_graph(round_trip(graph([x], [top.outputs[1], top.outputs[0]])))
    assert "%0:2 = topk" in text and "return y0 = %0#1" in text


@pytest.mark.parametrize(
    "data",
    [np.float32([0.1, -0.0, 1e-30]), np.float64([np.pi]), np.float16([0.333]), np.array([True, False]), np.int64([[1, -2]]),
     np.float32([np.nan, np.inf]), np.arange(100, dtype=np.uint8), np.zeros((0, 3), np.float32), np.array("s", object),
     np.float32(7)],
)  # fmt: skip
def test_constants(data):
    back = round_trip(graph([], [const(data)])).outputs[0].node.op.data
    assert (back.dtype == data.dtype and back.shape == data.shape and back.tobytes() == data.tobytes()) or data.dtype == object


def test_strange_names():
    x = placeholder(DType.F32, sym("batch size", 2, 9), sym("min"), sym("inf"))
    g = Graph((x,), (x,), ("input:0 %",), ("out put",), 'my "graph"')
    text = print_graph(g)
    assert '$"batch size" in 2..9' in text
    again = parse(text)
    assert again.inputs[0].type == x.type and again.input_names == g.input_names and again.name == g.name


def test_subgraphs():
    c, x = placeholder(DType.BOOL), placeholder(DType.F32, 2)
    a, b = placeholder(DType.F32, 2), placeholder(DType.F32, 2)
    then = Graph((a,), (apply(Add(), a, const(np.float32(1))),), ("a",), ("o",), "then")
    orelse = Graph((b,), (apply(Mul(), b, const(np.arange(20, dtype=np.float32)[:2])),), ("b",), ("o",), "else")
    g = graph([c, x], [apply(If(then, orelse), c, x)])
    assert "graph then(%a: f32[2])" in print_graph(round_trip(g))


dims = st.recursive(
    st.one_of(st.integers(1, 9), st.sampled_from([sym("A", 1, 8), sym("B"), sym("C", 2, 99)])),
    lambda d: st.one_of(
        st.builds(lambda a, b: a + b, d, d), st.builds(lambda a, b: a * b, d, d), st.builds(lambda a, b: a - b, d, d),
        st.builds(lambda a, k: floordiv(a, k), d, st.integers(1, 5)), st.builds(dim_min, d, d), st.builds(dim_max, d, d),
        st.builds(dim_stretch, d, d),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(dims, min_size=1, max_size=3))
def test_dims(shape):
    assume(not any(isinstance(d, int) and d < 0 for d in shape))
    x = placeholder(DType.F32)
    g = graph([x], [apply(Expand(tuple(shape)), x)])
    assert parse(print_graph(g)).outputs[0].type == g.outputs[0].type


def test_deep_graphs_need_no_recursion():
    x = v = placeholder(DType.F32, 2, 2)
    for _ in range(5000):
        v = apply(Transpose((1, 0)), v)
    round_trip(graph([x], [v]))


@pytest.mark.parametrize(
    ("text", "found", "line"),
    [
        ("graph g(%x: f32[2]) {\n  %0 = nope %x\n  return y = %0\n}", "unknown op", 2),
        ("graph g(%x: f32[2]) {\n  %0 = add %x, %z\n}", "not defined", 2),
        ("graph g(%x: f32[2]) {\n  %0 = relu %x : f32[3]\n  return y = %0\n}", "said to give", 2),
        ("graph g(%x: f32[2], %z: f32[3]) {\n  %0 = add %x, %z\n  return y = %0\n}", "broadcast", 2),
        ("graph g(%x: f32[2]) {\n  %0 = const : f32[9] #0123456789ab\n}", "not at hand", 2),
        ("graph g(%x: f32[2]) {\n  %0 = leakyrelu %x {beta=1.0}\n}", "no attribute", 2),
        ("graph g(%x: f99[2]) {\n}", "f99", 1),
        ("graph g(%x: f32[2]) {\n  return y = %x", "ends early", 2),
        ("graph g(%x: f32[2]) {\n  return y = %x\n}\n~", "unexpected character", 4),
        ("", "ends early", 1),
    ],
)
def test_bad_text(text, found, line):
    with pytest.raises(VerifyError, match=found) as error:
        parse(text)
    assert error.value.loc == f"line {line}"


def test_verifier_finds_what_is_wrong():
    x, stray = placeholder(DType.F32, 2), placeholder(DType.F32, 2)
    y = apply(Add(), x, stray, loc=("/n",))
    with pytest.raises(VerifyError, match="outside"):
        verify(graph([x], [y]))
    with pytest.raises(VerifyError, match="named 'a'"):
        verify(Graph((x, stray), (y,), ("a", "a"), ("y",)))
    with pytest.raises(VerifyError, match="names"):
        verify(Graph((x, stray), (y,), ("a",), ("y",)))
    wrong = Node(Add(), (x, stray), (TensorType(DType.F32, (3,)),), ("/n",)).out
    with pytest.raises(VerifyError, match="carries the types") as error:
        verify(graph([x, stray], [wrong]))
    assert error.value.loc == "/n"
    with pytest.raises(VerifyError, match="expected an Input"):
        verify(Graph((y,), (y,), ("a",), ("y",)))
    a = placeholder(DType.F32, 2)
    inner = Graph((a,), (apply(Add(), a, stray),), ("a",), ("o",))
    c = placeholder(DType.BOOL)
    with pytest.raises(VerifyError, match="outside"):
        verify(graph([c, x], [apply(If(inner, inner), c, x)]))


def test_wanted_sizes():
    """They keep alive what computes them."""
    x, c = placeholder(DType.F32, 3), placeholder(DType.BOOL)
    count = apply(Cast(DType.I64), c)
    again = round_trip(graph([x, c], [x], sizes=(RunTimeSize("n.0", count, wanted=True), RunTimeSize("n.1", apply(Cast(DType.I32), c)))))
    assert [s.symbol for s in again.sizes] == ["n.0"] and [n.op for n in again.nodes if not isinstance(n.op, Input)] == [Cast(DType.I64)]
