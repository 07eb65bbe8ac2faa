"""Tree ensembles against onnxruntime: every comparison, NaN, several targets, aggregates, classes and their labels."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

FEATURES = 6
COMPARISONS = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_NEQ")


def grow(rng, depth, mode):
    """Nodes (number, feature, value, mode, true, false) of a random tree, in depth-first order; a `depth` of (leaves,): a chain."""
    nodes = []
    if isinstance(depth, tuple):
        for here in range(depth[0] - 1):  # the chain turns to either side
            sides = (2 * here + 1, 2 * here + 2)[:: 1 if rng.random() < 0.5 else -1]
            nodes.append((2 * here, int(rng.integers(FEATURES)), float(np.round(rng.standard_normal(), 1)), mode, *sides))
            nodes.append((2 * here + 1, 0, 0.0, "LEAF", 0, 0))
        return [*nodes, (len(nodes), 0, 0.0, "LEAF", 0, 0)]

    def node(depth):
        here = len(nodes)
        nodes.append(None)
        if depth == 0 or rng.random() < 0.15:
            nodes[here] = (here, 0, 0.0, "LEAF", 0, 0)
            return here
        kind = mode if isinstance(mode, str) else mode[rng.integers(len(mode))]
        feature, value = int(rng.integers(FEATURES)), float(np.round(rng.standard_normal(), 1))
        yes = node(depth - 1)
        nodes[here] = (here, feature, value, kind, yes, node(depth - 1))
        return here

    node(depth)
    return nodes


def ensemble(op="TreeEnsembleRegressor", trees=7, depth=5, mode="BRANCH_LEQ", targets=1, ids=None, nan=False, positive=False,
             labels=None, seed=0, rows="N", **attributes):  # fmt: skip
    """A model of one ensemble. `ids`: targets that every leaf has weights of; one a tree in turn if None."""
    rng = np.random.default_rng(seed)
    side = "target" if op.endswith("Regressor") else "class"
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")
    table, leaves = {n: [] for n in names}, {n: [] for n in ("treeids", "nodeids", "ids", "weights")}
    for t in range(trees):
        for here, feature, value, kind, yes, no in grow(rng, depth[t % len(depth)] if isinstance(depth, list) else depth, mode):
            entry = (t, here, feature, value, kind, yes, no, int(nan and rng.random() < 0.5))
            for n, v in zip(names, entry, strict=True):
                table[n].append(v)
            for target in (ids if ids is not None else [t % targets]) if kind == "LEAF" else ():
                weight = float(rng.standard_normal())
                for n, v in zip(leaves, (t, here, target, abs(weight) / trees if positive else weight), strict=True):
                    leaves[n].append(v)
    fields = {f"nodes_{n}": v for n, v in table.items()} | {f"{side}_{n}": v for n, v in leaves.items()} | attributes
    score = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    if side == "target":
        outs, fields["n_targets"] = [score], targets
    else:
        labels = list(range(targets)) if labels is None else labels
        text = isinstance(labels[0], str)
        fields["classlabels_strings" if text else "classlabels_int64s"] = labels
        outs = [helper.make_tensor_value_info("label", TensorProto.STRING if text else TensorProto.INT64, None), score]
    node = helper.make_node(op, ["x"], [o.name for o in outs], domain="ai.onnx.ml", **fields)
    graph = helper.make_graph([node], "trees", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, FEATURES])], outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)


def rows(count=37, nan=False):
    x = np.round(np.random.default_rng(1).standard_normal((count, FEATURES)), 1).astype(np.float32)
    if nan:
        x[::3, 2] = np.nan
    return x


def agree(model, x):
    module = mlc.compile(model, threads=1)
    session = ort.InferenceSession(model.SerializeToString())
    for part in (x, x[:1], x[:0]):
        want = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": part}), strict=True)) if len(part) else None
        got = module.run({"x": part})
        for name, value in got.items():
            if want is None:
                assert len(value) == 0
                continue
            assert value.shape == want[name].shape
            if value.dtype.kind == "f":
                np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-5)
            else:
                assert value.tolist() == want[name].tolist()


@pytest.mark.parametrize("mode", [*COMPARISONS, COMPARISONS], ids=[*COMPARISONS, "all"])
@pytest.mark.parametrize("nan", [False, True])
def test_comparisons(mode, nan):
    agree(ensemble(mode=mode, nan=nan), rows(nan=nan))


def test_targets_of_a_tree_each_and_of_every_leaf():
    agree(ensemble(targets=3), rows())
    agree(ensemble(targets=3, ids=range(3)), rows())


@pytest.mark.parametrize(
    "kind, targets", [("SUM", 1), ("AVERAGE", 1), ("MIN", 1), ("MAX", 1), ("SUM", 2), ("AVERAGE", 2), ("MIN", 2), ("MAX", 3)]
)
def test_several_weights_of_a_leaf_for_one_target(kind, targets):
    """onnxruntime takes the first where there is one target; skl2onnx writes the number of a leaf once for each class."""
    agree(ensemble(targets=targets, ids=[0, 0, targets - 1], aggregate_function=kind), rows())


@pytest.mark.parametrize("ids", [[1, 1], [0, 0], [0, 1, 1]])
def test_several_weights_of_a_leaf_for_one_class(ids):
    agree(ensemble("TreeEnsembleClassifier", targets=2, ids=ids), rows())
    agree(ensemble("TreeEnsembleClassifier", targets=3, ids=[*ids, 2]), rows())


@pytest.mark.parametrize("ids", [[0, 2], [1], [1, 3]])
def test_classes_without_weights_are_never_the_best(ids):
    agree(ensemble("TreeEnsembleClassifier", targets=4, ids=ids, labels=["a", "b", "c", "d"]), rows())


@pytest.mark.parametrize("kind", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_aggregates(kind):
    agree(ensemble(aggregate_function=kind, base_values=[0.5]), rows())


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_transforms(transform):
    agree(ensemble(targets=3, post_transform=transform), rows())
    agree(ensemble(targets=1, post_transform=transform), rows())


@pytest.mark.parametrize("labels", [[4, 5, 9], ["a", "b", "c"]])
def test_classes(labels):
    agree(ensemble("TreeEnsembleClassifier", targets=3, labels=labels), rows())
    agree(ensemble("TreeEnsembleClassifier", targets=3, labels=labels, ids=range(3), base_values=[0.1, 0.2, 0.3]), rows())


@pytest.mark.parametrize("ids", [[0], [1], [0, 1]])
@pytest.mark.parametrize("base", [0, 1, 2])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_two_classes(ids, base, positive, transform):
    given = {"base_values": [0.3, 0.4][:base]} if base else {}
    agree(ensemble("TreeEnsembleClassifier", depth=3, ids=ids, labels=[3, 7], positive=positive, post_transform=transform, **given), rows())


def test_trees_of_many_depths_and_known_numbers_of_rows():
    agree(ensemble(trees=40, depth=11), rows())
    for count in (3, 64):
        model, x = ensemble(trees=9, rows=count), rows(count)
        want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        np.testing.assert_allclose(mlc.compile(model).run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("leaves", [[1], [2], [3, 31, 32], [33, 2], [63, 64], [65, 64, 12]], ids=str)
@pytest.mark.parametrize("ids", [None, [0, 2]], ids=["one target", "two"])
def test_trees_by_their_leaves(leaves, ids):
    """Trees of up to 64 leaves are not walked: their nodes are all asked."""
    model = ensemble(trees=18, depth=[(n,) for n in leaves], targets=3, ids=ids, nan=True)
    x = rows(nan=True)
    x[5], x[6] = np.inf, -np.inf
    agree(model, x)
    for count in (3, 9):
        fixed = mlc.compile(ensemble(trees=18, depth=[(n,) for n in leaves], targets=3, ids=ids, nan=True, rows=count), threads=1)
        np.testing.assert_allclose(fixed(x[:count]), mlc.compile(model, threads=1)(x[:count]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["MIN", "MAX", "SUM", "AVERAGE"])
@pytest.mark.parametrize("depth", [3, 8])
def test_targets_without_weights_are_zero(kind, depth):
    agree(ensemble(targets=3, ids=[1], depth=depth, aggregate_function=kind), rows())


def test_few_trees_of_a_depth_are_walked_with_deeper_ones():
    model = ensemble(trees=24, depth=[9, 9, 9, 9, 9, 12, 15, 4])
    agree(model, rows())
    agree(ensemble(trees=24, depth=[9, 10, 15, 4], targets=2, ids=[0, 1]), rows())


@pytest.mark.parametrize("depth", [(13,), (49,), (70,), (333,)])
@pytest.mark.parametrize("count", [1, 5, 40, "N"])
def test_deep_trees(depth, count):
    """Rows end far above the deepest leaf, or not at all: both ways of walking, and chains longer than Python's stack."""
    x = rows(40, nan=True)
    x[1], x[2] = np.inf, -np.inf
    for targets, ids in ((1, None), (2, [0, 1])):
        model = ensemble(trees=3, depth=[depth, 14], mode="BRANCH_LT", targets=targets, ids=ids, rows=count, seed=5)
        module, session = mlc.compile(model, threads=1), ort.InferenceSession(model.SerializeToString())
        for n in (count,) if count != "N" else (1, 7, 8, 40):
            np.testing.assert_allclose(module(x[:n]), session.run(None, {"x": x[:n]})[0], rtol=1e-5, atol=1e-5)
        if count == "N":
            assert module(x[:0]).shape == (0, targets)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("trees", [20, 30])
def test_equal_votes_of_trees_of_different_depths(classes, trees):
    """Leaves vote for one class; a sum of as many votes is to round as in onnxruntime, which goes from tree to tree."""
    model = ensemble("TreeEnsembleClassifier", trees, 9, ids=range(classes) if classes > 2 else [0], targets=classes)
    (weights,) = (a for a in model.graph.node[0].attribute if a.name == "class_weights")
    votes = np.array(weights.floats).reshape(-1, classes if classes > 2 else 1)
    won = votes > 0 if classes == 2 else votes == votes.max(1, keepdims=True)
    weights.floats[:] = (won / trees).ravel().tolist()
    x, one = rows(2000), ort.SessionOptions()
    one.intra_op_num_threads = 1  # more would add up parts
    want = ort.InferenceSession(model.SerializeToString(), one).run(None, {"x": x})
    got = mlc.compile(model, threads=1).run({"x": x})
    assert np.unique(np.sort(want[1], 1)[:, -2:], axis=0).shape[0] > 3 and (np.ptp(np.sort(want[1], 1)[:, -2:], axis=1) < 1e-6).any()
    np.testing.assert_array_equal(got["label"], want[0])
    np.testing.assert_allclose(got["y"], want[1], rtol=0 if classes == 2 else 1e-5)


def test_ensemble_of_version_5():
    """Thresholds and weights as tensors, leaves apart from nodes, and a node that asks for membership of a set."""
    members = np.asarray([1.0, 3.0, np.nan, 2.0], np.float32)
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, aggregate_function=1, post_transform=0, tree_roots=[0, 2],
        nodes_modes=helper.make_tensor("m", TensorProto.UINT8, [3], bytes([6, 0, 6]), raw=True), nodes_featureids=[0, 1, 2],
        nodes_splits=helper.make_tensor("s", TensorProto.FLOAT, [3], [0.0, 0.5, 0.0]), nodes_truenodeids=[1, 0, 2],
        nodes_falsenodeids=[2, 1, 3], nodes_trueleafs=[0, 1, 1], nodes_falseleafs=[1, 1, 1], leaf_targetids=[0, 1, 0, 1],
        leaf_weights=helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 4.0, 8.0]),
        membership_values=helper.make_tensor("v", TensorProto.FLOAT, [4], members.tolist()),
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, ["N", 3])], [helper.make_tensor_value_info("y", 1, ["N", 2])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 5), helper.make_opsetid("", 17)], ir_version=9)
    x = np.asarray([[1, 0, 2], [1, 1, 0], [2, 0, 2], [3, 0.5, np.nan]], np.float32)
    want = [[1, 8 * 0 + 0], [0, 0], [0, 0], [0, 0]]
    for i, (a, b, c) in enumerate(x.tolist()):
        total = [0.0, 0.0]
        for target, weight in ([(0, 1.0) if b <= 0.5 else (1, 2.0)] if a in (1, 3) else [(0, 4.0)]) + [(0, 4.0) if c == 2 else (1, 8.0)]:
            total[target] += weight
        want[i] = total
    np.testing.assert_allclose(mlc.compile(model).run({"x": x})["y"], want)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for a in model.graph.node[0].attribute:
        if a.name in ("nodes_splits", "leaf_weights", "membership_values"):
            a.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(a.t).astype(np.float16), a.t.name))
    got = mlc.compile(model).run({"x": x.astype(np.float16)})["y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want)


def test_malformed_trees_are_refused():
    model = ensemble(trees=1, depth=3)
    for a in model.graph.node[0].attribute:
        if a.name == "nodes_truenodeids":
            a.ints[0] = 0
    with pytest.raises(mlc.errors.OnnxImportError, match=r"lead back|missing"):
        mlc.compile(model)
    model = ensemble(trees=1, depth=3)
    for a in model.graph.node[0].attribute:
        if a.name == "nodes_featureids":
            a.ints[0] = 99
    with pytest.raises(mlc.errors.OnnxImportError, match="feature 99"):
        mlc.compile(model)
