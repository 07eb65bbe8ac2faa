"""What the importer makes of shapes, functions and constants; results agree with onnxruntime."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from against_onnxruntime import agree, parsed
from imported import check, f32, ops_of, text
from mlc.compiler.importer import import_model
from mlc.compiler.importer.handlers.retired import RETIRED_HANDLERS
from mlc.compiler.importer.handlers.table import HANDLERS
from mlc.ir import DType, sym
from mlc.ir.ops import DimTensor
from onnx import TensorProto, helper, parser

F = TensorProto.FLOAT


# --- inputs and shapes ------------------------------------------------------------------------------------------------


def test_symbols():
    graph = import_model(text("g (float[batch, seq, 4] x, float[batch, seq, 1] z) => (float[?, ?, 4] y) { y = Add(x, z) }"))
    assert graph.input_names == ("x", "z") and graph.output_names == ("y",)
    assert graph.outputs[0].shape == (sym("batch"), sym("seq"), 4)
    assert graph.equal == ()


def test_unknown_dims_are_all_different():
    model = text("g (float[?, ?] x, float[?, ?] z) => (float[?, ?] y) { y = Add(x, z) }")
    graph = import_model(model)
    names = {str(d) for v in graph.inputs for d in v.shape}
    assert len(names) == 4
    assert len(graph.equal) == 2  # what the addition needs is checked when sizes are bound


def test_symbol_names_become_identifiers():
    x = helper.make_tensor_value_info("x", F, ["a b", "a_b", "2n", "?", "min", "x_3"])
    node = helper.make_node("Relu", ["x"], ["y"])
    m = helper.make_model(helper.make_graph([node], "g", [x], [helper.make_tensor_value_info("y", F, None)]),
                          opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    shape = [str(d) for d in import_model(m).inputs[0].shape]
    assert len(set(shape)) == 6 and all(s.isidentifier() for s in shape)


def test_shapes_bind_symbols_everywhere():
    model = text("g (float[n, m] x, float[n] z) => (float[n, m] y) { a = Unsqueeze<axes=[1]>(z) y = Add(x, a) }", opset=11)
    graph = import_model(model, {"x": (2, -1)})
    assert [v.shape for v in graph.inputs] == [(2, sym("m")), (2,)]


def test_initializers_listed_as_inputs_are_constants():
    model = text("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }")
    graph = check(model, f32(2))
    assert graph.input_names == ("x",)


def test_path_bytes_and_proto_are_the_same(tmp_path):
    model = text("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for given in (path, str(path), path.read_bytes(), model):
        assert ops_of(import_model(given)) == ["relu"]


def test_loc_is_the_node_name_or_type_and_output():
    graph = import_model(text("g (float[2] x) => (float[2] y) { [first] a = Relu(x) y = Neg(a) }"))
    assert [n.loc for n in graph.nodes][1:] == [("first",), ("Neg:y",)]


# --- shape arithmetic -------------------------------------------------------------------------------------------------


def test_reshape_by_computed_shape_costs_nothing():
    graph = check(
        text("""g (float[b, s, 12] x) => (float[?, ?, ?, ?] y) <int64 zero = {0}, int64 one = {1}, int64[1] ax = {0},
                int64[1] three = {3}, int64[1] four = {4}> {
            sh = Shape(x)
            b0 = Gather(sh, zero)
            s0 = Gather(sh, one)
            b1 = Unsqueeze(b0, ax)
            s1 = Unsqueeze(s0, ax)
            shape = Concat<axis=0>(b1, s1, three, four)
            y = Reshape(x, shape)
        }"""),
        f32(2, 5, 12),
    )
    assert ops_of(graph) == ["reshape"]
    assert graph.outputs[0].shape == (sym("b"), sym("s"), 3, 4)


def test_arithmetic_through_floats():
    """Exporters halve sizes by Cast, Div or Mul, Floor, Cast."""
    graph = check(
        text("""g (float[1, 2, h] x) => (float[?, ?, ?] y) <int64[1] two = {2}, float[1] half = {0.5}, int64[2] lead = {1, 2}> {
            h = Shape<start=2>(x)
            f = Cast<to=1>(h)
            g1 = Mul(f, half)
            g2 = Floor(g1)
            g3 = Cast<to=7>(g2)
            even = Mul(g3, two)
            begin = Sub(h, even)
            y = Slice(x, begin, h, two)
        }"""),
        f32(1, 2, 7),
    )
    assert ops_of(graph) == ["slice"]


def test_expand_where_minus_one():
    """torch.expand exports Where(Equal(shape, -1), ones, shape)."""
    graph = check(
        text("""g (float[b, 1] x, float[s] z) => (float[?, ?] y) <int64[1] m = {-1}> {
            b0 = Shape<start=0, end=1>(x)
            s0 = Shape(z)
            shape = Concat<axis=0>(b0, s0)
            n = Shape(shape)
            ones = ConstantOfShape<value=int64[1] {1}>(n)
            minus = Mul(ones, m)
            eq = Equal(shape, minus)
            target = Where(eq, ones, shape)
            y = Expand(x, target)
        }"""),
        f32(3, 1),
        f32(4),
    )
    assert ops_of(graph) == ["expand"]


def test_range_and_size():
    check(
        text("""g (float[a, b] x) => (int64[?] y, int64 n) <int64 zero = {0}, int64 one = {1}, int64 three = {3}> {
            n = Size(x)
            y = Range(three, n, three)
        }"""),
        f32(3, 4),
    )


def test_reduce_prod_of_a_shape():
    graph = check(
        text("""g (float[a, b, 3] x) => (float[?, ?] y) <int64[1] last = {3}> {
            s = Shape<end=2>(x)
            p = ReduceProd<keepdims=1>(s)
            shape = Concat<axis=0>(p, last)
            y = Reshape(x, shape)
        }"""),
        f32(2, 4, 3),
    )
    assert graph.outputs[0].shape == (sym("a") * sym("b"), 3)


def test_undecided_comparison_becomes_a_dim():
    """min(n, 4) written as Where(n < 4, n, 4), and the comparison as an output."""
    model = text("""g (float[n] x) => (float[?] y, bool[1] small) <int64[1] four = {4}, int64[1] zero = {0}> {
        n = Shape(x)
        small = Less(n, four)
        m = Where(small, n, four)
        y = Slice(x, zero, m)
    }""")
    for size in (2, 4, 7):
        check(model, f32(size))


def test_a_dim_used_as_data():
    graph = check(
        text("""g (float[n, 2] x) => (float[?, ?] y) {
            s = Shape<end=1>(x)
            f = Cast<to=1>(s)
            y = Div(x, f)
        }"""),
        f32(5, 2),
    )
    assert any(isinstance(n.op, DimTensor) for n in graph.nodes)


@pytest.mark.parametrize("start,end,step", [(-3, 2**63 - 1, 1), (0, -2, 1), (-1, -(2**63), -1), (5, 1, -2), (1, 100, 3), (-100, 3, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_slices_of_symbolic_dims_are_clamped(start, end, step, size):
    model = text(
        f"""g (float[n] x) => (float[?] y) <int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] a = {{0}},
            int64[1] t = {{{step}}}> {{ y = Slice(x, s, e, a, t) }}"""
    )
    check(model, f32(size))


# --- functions --------------------------------------------------------------------------------------------------------


def test_local_functions_with_attributes():
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18, "my" : 1]>
        g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
            y = my.scaled<alpha = 2.0>(x)
            z = my.twice(y)
        }
        <domain: "my", opset_import: ["" : 18, "my" : 1]>
        twice (a) => (b) { c = my.scaled<alpha = 0.5>(a) b = my.scaled<alpha = 3.0>(c) }
        <domain: "my", opset_import: ["" : 18]>
        scaled <alpha> (a) => (b) { k = Constant<value_float: float = @alpha>() b = Mul(a, k) }
    """)
    graph = check(model, f32(2, 3))
    assert all(n.loc[0].startswith(("scaled:y", "twice:z", "input")) for n in graph.nodes if n.op.name == "mul")


def test_schema_functions_are_expanded():
    """Operators without a handler of their own, one with a body that depends on types."""
    check(text("g (float[3, 5] x, int64[3] t) => (float y) { y = SoftmaxCrossEntropyLoss<reduction=\"mean\">(x, t) }"),
          f32(3, 5), np.array([1, 0, 4]))  # fmt: skip


def test_recursive_function_is_an_error():
    from mlc.errors import OnnxImportError

    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18, "my" : 1]>
        g (float[2] x) => (float[2] y) { y = my.f(x) }
        <domain: "my", opset_import: ["my" : 1]>
        f (a) => (b) { b = my.f(a) }
    """)
    with pytest.raises(OnnxImportError):
        import_model(model)


# --- tables and models ------------------------------------------------------------------------------------------------


def test_handler_tables_name_real_versions():
    """A handler for a version that no operator has would silently apply to the next one."""
    known = {(s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    extensions = {"LayerNormalization", "SimplifiedLayerNormalization"}  # onnxruntime writes them to the default domain
    wrong = [k for k in HANDLERS if "::" not in k[0] and k not in known and k[0] not in extensions and k not in RETIRED_HANDLERS]
    assert wrong == []


LIGHT = sorted(
    name for name in os.listdir(os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")) if name.endswith(".onnx")
)


@pytest.mark.parametrize("name", LIGHT)
def test_sample_models_import(name):
    graph = import_model(os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light", name))
    assert graph.outputs[0].dtype is DType.F32
    assert len(graph.input_names) == 1


def test_many_nodes_import_in_linear_time_and_without_recursion():
    nodes = [helper.make_node("Relu" if i % 2 else "Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(20_000)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("v0", F, [2])], [info("v20000", F, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert len(import_model(model).nodes) == 20_001


@pytest.mark.parametrize("kind, dtype", [("int32", np.int32), ("int64", np.int64)])
@pytest.mark.parametrize("exponent", ["int32 e = {2}", "int64 e = {3}", "float e = {3.0}", "int64[1] e = {2}"])
def test_squares_and_cubes_of_integers_wrap(kind, dtype, exponent):
    """As onnxruntime multiplies them, where other powers go through float64."""
    model = parsed(f"({kind}[N, 6] x) => ({kind}[a, b] y) <{exponent}>", "y = Pow(x, e)")
    agree(model, {"x": np.array([[0, 3, -7, 100_000, -100_001, 2**30]], dtype)})
