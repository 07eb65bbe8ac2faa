"""Loops whose states change size: memory is handed on and used again, and nothing that is still read gets overwritten."""

import mlc
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, info = helper.make_node, helper.make_tensor_value_info


def agree(body, states, trips, feeds, nodes=(), more=()):
    """`states`: (initial value, outputs' rank) of the loop around `body`; all final states are outputs, and those in `more`."""
    outs = [f"final{j}" for j in range(len(states))]
    loop = node("Loop", ["trips", "", *(name for name, _ in states)], outs, body=body)
    outputs = [info(o, F, [None] * rank) for o, (_, rank) in zip(outs, states, strict=True)] + [info(n, F, [None] * r) for n, r in more]
    inputs = [info(n, F, [None] * a.ndim) for n, a in feeds.items() if n != "trips"] + [info("trips", I, [])]
    graph = helper.make_graph([*nodes, loop], "g", inputs, outputs, [numpy_helper.from_array(np.array([0]), "zero")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    session, module = onnxruntime.InferenceSession(model), mlc.compile(model)
    for count in (trips, 0, 1, trips + 7):
        feeds["trips"] = np.array(count)
        before = {n: a.copy() for n, a in feeds.items()}
        for want, (name, got) in zip(session.run(None, feeds), module.run(feeds).items(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)
        assert all((before[n] == feeds[n]).all() for n in feeds)


def state_body(nodes, ranks):
    """A body over states s0, s1 … that become t0, t1 …"""
    ins = [info("i", I, []), info("c", B, []), *(info(f"s{j}", F, [None] * r) for j, r in enumerate(ranks))]
    outs = [info("c", B, []), *(info(f"t{j}", F, [None] * r) for j, r in enumerate(ranks))]
    return helper.make_graph([*nodes, node("Identity", ["c"], ["d"])], "b", ins, [info("d", B, []), *outs[1:]])


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_state_that_grows():
    body = state_body([node("Tanh", ["x"], ["y"]), node("Concat", ["s0", "y"], ["t0"], axis=0)], [2])
    agree(body, [("x", 2)], 30, {"x": X})


def test_two_states_that_change_places():
    """Each iteration writes where the other one's older value was."""
    body = state_body([node("Concat", ["s1", "x"], ["t0"], axis=0), node("Mul", ["s0", "s0"], ["t1"])], [2, 2])
    agree(body, [("x", 2), ("x", 2)], 8, {"x": X / 10})


def test_a_state_that_shrinks():
    one = node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1])))
    end = node("Constant", [], ["end"], value=numpy_helper.from_array(np.array([1000])))
    body = state_body([one, end, node("Neg", ["s0"], ["n"]), node("Slice", ["n", "one", "end", "zero"], ["t0"])], [2])
    agree(body, [("x", 2)], 25, {"x": np.arange(160, dtype=np.float32).reshape(40, 4)})


@pytest.mark.parametrize("position", [0, 1])
def test_a_state_from_a_sequence_is_not_written(position):
    at = node("Constant", [], ["at"], value=numpy_helper.from_array(np.array(position)))
    nodes = [at, node("SequenceConstruct", ["x", "z"], ["q"]), node("SequenceAt", ["q", "at"], ["first"])]
    last = [node("SequenceAt", ["q", "at"], ["again"])]
    body = state_body([node("Concat", ["s0", "x"], ["n"], axis=0), node("Neg", ["n"], ["t0"])], [2])
    agree(body, [("first", 2)], 9, {"x": X, "z": X + 5}, [*nodes, *last], [("again", 2)])


def test_a_state_that_grows_by_what_is_computed_from_all_of_it():
    """Appended in place, while the iteration reads what was there before; memory moves as it grows."""
    sums = node("ReduceSum", ["s0", "zero"], ["r"], keepdims=1)
    body = state_body([sums, node("Tanh", ["r"], ["y"]), node("Concat", ["s0", "y", "x"], ["t0"], axis=0)], [2])
    agree(body, [("x", 2)], 300, {"x": X})


def test_a_state_of_nothing_that_grows_behind_axes_of_one():
    wide = node("Reshape", ["x", "shape"], ["w"])
    body = state_body([node("Concat", ["s0", "w"], ["t0"], axis=1)], [3])
    start = node("Constant", [], ["none"], value=numpy_helper.from_array(np.zeros((1, 0, 3), np.float32)))
    shape = node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1, 3])))
    agree(body, [("none", 3)], 40, {"x": X}, [start, shape, wide])


def test_a_state_that_grows_is_read_elsewhere_too():
    """Two states of one name each: one grows, the other one is what the first was."""
    body = state_body([node("Concat", ["s0", "x"], ["t0"], axis=0), node("Identity", ["s0"], ["t1"])], [2, 2])
    agree(body, [("x", 2), ("x", 2)], 60, {"x": X})


def test_a_state_that_grows_in_a_loop_inside_of_one():
    inner = helper.make_graph(
        [node("Concat", ["u", "s0"], ["v"], axis=0), node("Identity", ["k"], ["l"])], "inner",
        [info("j", I, []), info("k", B, []), info("u", F, [None] * 2)], [info("l", B, []), info("v", F, [None] * 2)],
    )  # fmt: skip
    three = node("Constant", [], ["three"], value=numpy_helper.from_array(np.array(3)))
    first = node("Slice", ["u1", "zero", "two"], ["t0"])
    two = node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([5])))
    body = state_body([three, two, node("Loop", ["three", "", "x"], ["u1"], body=inner), first], [2])
    agree(body, [("x", 2)], 9, {"x": X})
