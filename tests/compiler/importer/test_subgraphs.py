"""What the importer makes of If, Loop and Scan: decided, unrolled or kept; results agree with onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from imported import check, f32, ops_of, text
from mlc.compiler.importer import import_model
from mlc.errors import OnnxImportError
from mlc.ir import sym
from mlc.ir.ops import If, Loop
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT


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


PLACEHOLDERS = """g (float[n, 3] x) => (float[?, ?] last, float[n, 3] y, float[3, 4] v, float[?, ?, ?] scan)
    <bool c = {1}, float none = {0}, float[3, 4] w> {
        one = Constant<value = int64 {1}>()
        rows = Shape<end = 1>(x)
        row = Squeeze(rows)
        trips = Add(row, one)
        last, y, v, scan = Loop(trips, c, none, x, w) <
            body = body (int64 i, bool cin, float p, float[n, 3] s, float[3, 4] u)
                => (bool cout, float[?, ?] q, float[n, 3] t, float[3, 4] u1, float[?, ?] r) {
                q = MatMul(s, u)
                k = CastLike(i, s)
                t = Add(s, k)
                r = Identity(t)
                u1 = Identity(u)
                cout = Identity(cin)
            }
        >
    }"""


def test_a_state_that_starts_as_a_placeholder_of_another_rank():
    """Paddle's decoders do: one iteration stands before the loop. A state that the body passes on is none."""
    model = text(PLACEHOLDERS)
    model.graph.initializer.append(numpy_helper.from_array(f32(3, 4, seed=1), "w"))
    for n in (0, 1, 2, 5):
        graph = check(model, f32(n, 3))
    (node,) = [n for n in graph.nodes if isinstance(n.op, Loop)]
    assert node.op.n_state <= 3 and not any(v.shape == (3, 4) for v in node.op.body.inputs)


def test_a_placeholder_that_no_iteration_may_replace():
    model = text(PLACEHOLDERS.replace("Add(row, one)", "Identity(row)"))
    model.graph.initializer.append(numpy_helper.from_array(f32(3, 4, seed=1), "w"))
    with pytest.raises(OnnxImportError, match="turns a state of f32"):
        import_model(model)


def test_branches_that_give_one_element_in_different_ranks():
    source = """g (float[n] x, bool c) => (float[n] y) <float[1] one = {1}, int64[0] none> {
        k = If(c) <then_branch = t () => (float a) { a = Constant<value = float {3}>() },
                   else_branch = e () => (float[1] b) { b = Add(one, one) }>
        y = Mul(x, k)
    }"""
    for c in (True, False):
        check(text(source), f32(4), np.array(c))


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
