"""What the importer makes of shapes, subgraphs, functions and constants; results agree with onnxruntime."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlc.compiler.importer import import_model
from mlc.compiler.importer.handlers import HANDLERS
from mlc.ir import Const, DType, Graph, Input, bind, sizes_of, sym
from mlc.ir.ops import DimTensor, If, Loop
from onnx import TensorProto, helper, numpy_helper, parser

ort.set_default_logger_severity(4)
F = TensorProto.FLOAT


def text(source, opset=18, **imports):
    """A model from ONNX's text form; the header is added."""
    opsets = ", ".join([f'"" : {opset}', *(f'"{d}" : {v}' for d, v in imports.items())])
    return parser.parse_model(f"<ir_version: 9, opset_import: [{opsets}]>\n{source}")


def evaluate(graph: Graph, *arrays):
    return bind(graph, sizes_of(graph, [a.shape for a in arrays])).evaluate(*arrays)


def check(model, *arrays, rtol=1e-5) -> Graph:
    """Import with dims as declared and with `shapes`; both agree with onnxruntime. Returns the first graph."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = import_model(model)
    want = session.run(None, dict(zip(graph.input_names, arrays, strict=True)))
    fixed = import_model(model, {n: a.shape for n, a in zip(graph.input_names, arrays, strict=True)})
    for g in (graph, fixed):
        for got, w in zip(evaluate(g, *arrays), want, strict=True):
            assert got.dtype == w.dtype and got.shape == w.shape
            np.testing.assert_allclose(got, w, rtol=rtol, atol=1e-6)
    return graph


def ops_of(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if not isinstance(n.op, (Input, Const))]


def f32(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


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


# --- subgraphs --------------------------------------------------------------------------------------------------------

BRANCHES = """
    y = If(c) <
        then_branch = then () => (float[?] t) { t = Add(x, w) },
        else_branch = other () => (float[?] o) { k = Neg(x) o = Mul(k, w) }
    >"""


def test_if_on_data():
    model = text(f"g (float[n] x, bool c) => (float[?] y) <float[1] w = {{3}}> {{ {BRANCHES} }}")
    for c in (True, False):
        graph = check(model, f32(4), np.array(c))
    (node,) = [n for n in graph.nodes if isinstance(n.op, If)]
    assert len(node.inputs) == 2  # the condition and x; the constant is not an operand


def test_if_known_at_compile_time_leaves_one_branch():
    model = text(f"g (float[n] x) => (float[?] y) <float[1] w = {{3}}, bool c = {{1}}> {{ {BRANCHES} }}")
    assert ops_of(check(model, f32(4))) == ["add"]


def test_if_on_a_rank_is_decided():
    model = text(f"""g (float[n] x) => (float[?] y) <float[1] w = {{3}}, int64 one = {{1}}> {{
        s = Shape(x) r = Size(s) c = Equal(r, one) {BRANCHES} }}""")
    assert ops_of(check(model, f32(4))) == ["add"]


SQUEEZE_IF_ONE = """g (float[n, d] x) => (float[?] y) <int64 one = {1}, int64[1] ax = {1}, float[1] w = {2}> {
    s = Shape(x)
    k = Gather(s, one)
    c = Equal(k, one)
    q = If(c) <
        then_branch = then () => (float[?] t) { t = Squeeze(x, ax) },
        else_branch = other () => (float[?, ?] o) { o = Identity(x) }
    >
    BODY
}"""


def test_branches_of_different_rank_choose_what_fits():
    graph = check(text(SQUEEZE_IF_ONE.replace("BODY", "y = Mul(q, w)")), f32(3, 1))
    assert graph.outputs[0].type.rank == 1
    assert (sym("d"), 1) in graph.equal


def test_the_other_branch_is_tried_when_the_first_does_not_fit():
    source = SQUEEZE_IF_ONE.replace("BODY", "y = Transpose<perm=[1, 0]>(q)").replace("(float[?] y)", "(float[?, ?] y)")
    graph = check(text(source), f32(3, 4))
    assert graph.outputs[0].shape == (sym("d"), sym("n"))
    (pair,) = graph.equal  # 0 = "d is 1"
    assert pair[1] == 0


def test_nested_if_captures_through_both_levels():
    model = text("""g (float[n] x, bool c, bool d) => (float[?] y) {
        a = Relu(x)
        y = If(c) <
            then_branch = then () => (float[?] t) {
                t = If(d) <
                    then_branch = tt () => (float[?] u) { u = Add(a, x) },
                    else_branch = te () => (float[?] v) { v = Sub(a, x) }
                >
            },
            else_branch = other () => (float[?] o) { o = Neg(a) }
        >
    }""")
    for c in (True, False):
        for d in (True, False):
            check(model, f32(4), np.array(c), np.array(d))


LOOP = """g (float[3] x, int64 m, bool c) => (float[3] y, float[?, 3] ys) {
    y, ys = Loop(m, c, x) <
        body = body (int64 i, bool cin, float[3] s) => (bool cout, float[3] out, float[3] scan) {
            cout = Identity(cin)
            f = Cast<to=1>(i)
            k = Add(s, f)
            out = Mul(k, x)
            scan = Identity(out)
        }
    >
}"""


def fix(model, **values):
    """Inputs turned into initializers."""
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    kept = [i for i in model.graph.input if i.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def test_short_loop_is_unrolled():
    graph = check(fix(text(LOOP), m=np.int64(3), c=True), f32(3))
    assert not any(isinstance(n.op, Loop) for n in graph.nodes)


def test_long_loop():
    graph = check(fix(text(LOOP), m=np.int64(100), c=True), f32(3) * 0.1)
    (node,) = [n for n in graph.nodes if isinstance(n.op, Loop)]
    assert node.op.trips == 100 and graph.outputs[1].shape == (100, 3)


def test_loop_of_unknown_length_without_scans():
    source = """g (float[3] x, int64 m) => (float[3] y) <bool c = {1}, float limit = {50}> {
        y = Loop(m, c, x) <
            body = body (int64 i, bool cin, float[3] s) => (bool cout, float[3] out) {
                out = Add(s, x)
                total = ReduceSum<keepdims=0>(out)
                cout = Less(total, limit)
            }
        >
    }"""
    for m in (0, 3, 1000):
        check(text(source), np.abs(f32(3)) + 1, np.array(m, np.int64))


def test_loop_whose_state_grows_is_unrolled():
    source = """g (float[1] x) => (float[?] y) <bool c = {1}, int64 m = {100}> {
        y = Loop(m, c, x) <
            body = body (int64 i, bool cin, float[?] s) => (bool cout, float[?] out) {
                cout = Identity(cin)
                out = Concat<axis=0>(s, x)
            }
        >
    }"""
    assert check(text(source), f32(1)).outputs[0].shape == (101,)


def test_loop_over_a_symbolic_length():
    source = """g (float[n, 2] x) => (float[?, 2] y, float[2] last) <bool c = {1}, float[2] zero = {0, 0}, int64 ax = {0}> {
        s = Shape<end=1>(x)
        shape = Identity(s)
        m = Squeeze(shape)
        last, y = Loop(m, c, zero) <
            body = body (int64 i, bool cin, float[2] acc) => (bool cout, float[2] out, float[2] scan) {
                cout = Identity(cin)
                row = Gather(x, i)
                out = Add(acc, row)
                scan = Identity(out)
            }
        >
    }"""
    graph = check(text(source), f32(6, 2))
    assert graph.outputs[0].shape == (sym("n"), 2)


def test_scan_both_directions():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["so"]), helper.make_node("Mul", ["so", "w"], ["z"])],
        "body",
        [helper.make_tensor_value_info("s", F, [2]), helper.make_tensor_value_info("e", F, [2])],
        [helper.make_tensor_value_info("so", F, [2]), helper.make_tensor_value_info("z", F, [2])],
    )
    for direction in (0, 1):
        node = helper.make_node(
            "Scan", ["h", "x"], ["hn", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
            scan_input_directions=[direction], scan_output_directions=[1 - direction],
        )  # fmt: skip
        infos = [helper.make_tensor_value_info("h", F, [2]), helper.make_tensor_value_info("x", F, [2, "n"])]
        outs = [helper.make_tensor_value_info("hn", F, [2]), helper.make_tensor_value_info("y", F, [2, "n"])]
        graph = helper.make_graph([node], "g", infos, outs, [numpy_helper.from_array(f32(2), "w")])
        check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), f32(2), f32(2, 5))


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
    wrong = [k for k in HANDLERS if "::" not in k[0] and k not in known and k[0] not in extensions]
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
