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
