"""ai.onnx.ml models and encoders, each compared with onnxruntime."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.errors import InputError
from onnx import TensorProto, helper

R = np.random.default_rng(21)
KINDS = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.float64): 11, np.dtype(object): 8, np.dtype(np.int32): 6}


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


def strings(*items):
    return np.asarray(items, object)


def build(op, arrays, outs, rows="N", **attributes):
    names = [f"x{i}" for i in range(len(arrays))]
    node = helper.make_node(op, names, list(outs), domain="ai.onnx.ml", **attributes)
    inputs = [
        helper.make_tensor_value_info(n, KINDS[a.dtype], [rows, *a.shape[1:]] if a.ndim else []) for n, a in zip(names, arrays, strict=True)
    ]
    results = [helper.make_tensor_value_info(o, k, None) for o, k in outs.items()]
    graph = helper.make_graph([node], "one", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)


def compare(op, arrays, outs=None, tolerance=1e-5, **attributes):
    model = build(op, arrays, outs or {"y": TensorProto.FLOAT}, **attributes)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    session = ort.InferenceSession(model.SerializeToString())
    got = mlc.compile(model, threads=1).run(feeds)
    for o, want in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        have = got[o.name]
        assert have.shape == want.shape, o.name
        if want.dtype.kind == "f":
            assert have.dtype == want.dtype
            np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance, err_msg=o.name)
        else:
            assert have.tolist() == want.tolist(), o.name


LABEL, TEXT, FLOAT = TensorProto.INT64, TensorProto.STRING, TensorProto.FLOAT


@pytest.mark.parametrize("targets,intercepts", [(1, [0.5]), (3, [0.1, 0.2, 0.3]), (2, None)])
def test_linear_regressor(targets, intercepts):
    given = {"intercepts": intercepts} if intercepts else {}
    compare("LinearRegressor", [f(9, 4)], coefficients=f(targets * 4).tolist(), targets=targets, **given)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("text", [False, True])
def test_linear_classifier(transform, classes, text):
    names = max(classes, 2)
    labels = {"classlabels_strings": list("abc")[:names]} if text else {"classlabels_ints": [5, 7, 9][:names]}
    compare("LinearClassifier", [f(9, 4)], {"label": TEXT if text else LABEL, "y": FLOAT}, coefficients=f(classes * 4).tolist(),
            intercepts=f(classes).tolist(), post_transform=transform, **labels)  # fmt: skip


@pytest.mark.parametrize(
    "kernel,params", [("LINEAR", [0, 0, 0]), ("RBF", [0.3, 0, 0]), ("POLY", [0.5, 1.0, 3]), ("SIGMOID", [0.5, 0.1, 0])]
)
def test_svm_regressor(kernel, params):
    compare("SVMRegressor", [f(9, 4)], kernel_type=kernel, kernel_params=[float(p) for p in params], n_supports=5,
            support_vectors=f(20).tolist(), coefficients=f(5).tolist(), rho=[0.3], tolerance=1e-4)  # fmt: skip
    compare(
        "SVMRegressor",
        [f(9, 4)],
        kernel_type="LINEAR",
        kernel_params=[0.0, 0.0, 3.0],
        coefficients=f(4).tolist(),
        rho=[0.3],
        tolerance=1e-4,
    )


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("likely", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_svm_classifier(classes, likely, transform):
    pairs, supports = classes * (classes - 1) // 2, [2, 3, 1, 2][:classes]
    given = {"prob_a": (-np.abs(f(pairs))).tolist(), "prob_b": (f(pairs) * 0.1).tolist()} if likely else {}
    compare("SVMClassifier", [f(19, 4)], {"label": LABEL, "y": FLOAT}, kernel_type="RBF", kernel_params=[0.3, 0.0, 3.0],
            support_vectors=f(sum(supports) * 4).tolist(), coefficients=f(sum(supports) * (classes - 1)).tolist(), rho=f(pairs).tolist(),
            vectors_per_class=supports, classlabels_ints=list(range(10, 10 + classes)), post_transform=transform, tolerance=1e-4, **given)  # fmt: skip


def test_linear_svm_classifier():
    compare("SVMClassifier", [f(9, 4)], {"label": TEXT, "y": FLOAT}, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 3.0], coefficients=f(12).tolist(), rho=[0.2],
            classlabels_strings=["a", "b", "c"], tolerance=1e-4)  # fmt: skip


@pytest.mark.parametrize("x", [f(5, 3), (f(5, 3) * 4).astype(np.int64)])
def test_scaler(x):
    compare("Scaler", [x], offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, 3.0])
    compare("Scaler", [x], offset=[1.0], scale=[0.5])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm):
    x = f(5, 3)
    x[2] = 0
    compare("Normalizer", [x], norm=norm)


def test_imputer():
    x = f(5, 3)
    x[1, 1], x[2, 0] = np.nan, np.nan
    compare("Imputer", [x], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    compare("Imputer", [x], imputed_value_floats=[1.0], replaced_value_float=float("nan"))
    n = R.integers(0, 3, (5, 3)).astype(np.int64)
    compare("Imputer", [n], {"y": LABEL}, imputed_value_int64s=[7, 8, 9], replaced_value_int64=1)


def test_binarizer():
    compare("Binarizer", [f(5, 3)], threshold=0.2)


def test_feature_vectorizer_and_extractor():
    compare("FeatureVectorizer", [f(4, 3), f(4, 2)], inputdimensions=[3, 2])
    x, index = f(4, 5), np.asarray([[3, 0, 0]], np.int64)
    model = build("ArrayFeatureExtractor", [x, index], {"y": FLOAT})
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x0": x, "x1": index})[0]
    np.testing.assert_array_equal(mlc.compile(model).run({"x0": x, "x1": index})["y"], want)


def test_one_hot_encoder():
    compare("OneHotEncoder", [R.integers(0, 5, (4, 2)).astype(np.int64)], cats_int64s=[0, 2, 4])
    compare("OneHotEncoder", [R.integers(0, 5, (4, 2)).astype(np.float32)], cats_int64s=[0, 2, 4])
    compare("OneHotEncoder", [strings("a", "b", "z")], cats_strings=["b", "a"])


@pytest.mark.parametrize(
    "good,bad,categories",
    [
        (strings("a", "b", "b"), strings("a", "z"), {"cats_strings": ["b", "a"]}),
        (np.array([[0, 4], [2, 2]]), np.array([[0, 3]]), {"cats_int64s": [0, 2, 4]}),
    ],
)
def test_one_hot_encoder_of_known_categories_only(good, bad, categories):
    compare("OneHotEncoder", [good], zeros=0, **categories)
    module = mlc.compile(build("OneHotEncoder", [good], {"y": FLOAT}, zeros=0, **categories), threads=1)
    with pytest.raises(InputError, match="index"):
        module.run({"x0": bad})


@pytest.mark.parametrize("keys,values,out", [
    ({"keys_int64s": [1, 3, 5]}, {"values_floats": [0.1, 0.3, 0.5], "default_float": -2.0}, FLOAT),
    ({"keys_int64s": [1, 3, 5]}, {"values_strings": ["a", "c", "e"], "default_string": "?"}, TEXT),
    ({"keys_int64s": [1, 3, 5]}, {"values_int64s": [9, 8, 7]}, LABEL),
    ({"keys_floats": [1.0, float("nan"), 5.0]}, {"values_int64s": [9, 8, 7]}, LABEL),
    ({"keys_strings": ["a", "b"]}, {"values_int64s": [4, 6], "default_int64": 11}, LABEL),
    ({"keys_strings": ["a", "b"]}, {"values_strings": ["x", "y"]}, TEXT),
])  # fmt: skip
def test_label_encoder(keys, values, out):
    (kind,) = keys
    x = {"keys_int64s": np.arange(6).astype(np.int64), "keys_floats": np.asarray([1, np.nan, 2, 5], np.float32),
         "keys_strings": strings("b", "q", "a")}[kind]  # fmt: skip
    compare("LabelEncoder", [x], {"y": out}, **keys, **values)


def test_category_mapper():
    compare("CategoryMapper", [strings("b", "q", "a")], {"y": LABEL}, cats_strings=["a", "b"], cats_int64s=[3, 4])
    compare("CategoryMapper", [np.asarray([3, 9], np.int64)], {"y": TEXT}, cats_strings=["a", "b"], cats_int64s=[3, 4])


@pytest.mark.parametrize("labels", [[3], [3, 5], ["a", "b"], ["c", "a", "b"], [4, 3, 2, 1]])
def test_zip_map(labels):
    text = isinstance(labels[0], str)
    node = helper.make_node(
        "ZipMap", ["x"], ["z"], domain="ai.onnx.ml", **{"classlabels_strings" if text else "classlabels_int64s": labels}
    )
    entry = helper.make_map_type_proto(TEXT if text else LABEL, helper.make_tensor_type_proto(FLOAT, []))
    out = helper.make_value_info("z", helper.make_sequence_type_proto(entry))
    graph = helper.make_graph([node], "maps", [helper.make_tensor_value_info("x", FLOAT, ["N", len(labels)])], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)
    x = f(3, len(labels))
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    got = mlc.compile(model).run({"x": x})["z"]
    assert [sorted(m) for m in got] == [sorted(m) for m in want]
    np.testing.assert_allclose([[m[k] for k in labels] for m in got], [[m[k] for k in labels] for m in want], rtol=1e-6)


def zipped(more, outs, labels=(7, 8)):
    """A ZipMap of x[N, K], with more nodes behind it."""
    node = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=labels)
    graph = helper.make_graph([node, *more], "maps", [helper.make_tensor_value_info("x", FLOAT, ["N", "K"])], outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)


ENTRY = helper.make_map_type_proto(LABEL, helper.make_tensor_type_proto(FLOAT, []))
MAPS = helper.make_value_info("z", helper.make_sequence_type_proto(ENTRY))


def test_maps_that_are_outputs_stop_no_program():
    module = mlc.compile(zipped([helper.make_node("Abs", ["x"], ["y"])], [helper.make_tensor_value_info("y", FLOAT, None), MAPS, MAPS]))
    assert not module.manifest.handlers and module.outputs[1].labels == (7, 8)
    x = f(3, 2)
    got = mlc.load(module.to_bytes()).run({"x": x})
    assert got["z"] == [{7: a, 8: b} for a, b in x.tolist()] and got["y"].tolist() == np.abs(x).tolist()
    assert module.run({"x": x[:0]})["z"] == []
    with pytest.raises(mlc.errors.InputError, match="3 scores"):
        module.run({"x": f(2, 3)})


def test_maps_that_are_read_inside_of_the_model():
    index = helper.make_node("Constant", [], ["i"], value_int=1)
    more = [index, helper.make_node("SequenceAt", ["z", "i"], ["one"])]
    module = mlc.compile(zipped(more, [MAPS, helper.make_value_info("one", ENTRY)]))
    x = f(3, 2)
    got = module.run({"x": x})
    assert got["one"] == got["z"][1] == dict(zip((7, 8), x[1].tolist(), strict=True))


def test_strings_are_checked_in_every_run():
    module = mlc.compile(build("LabelEncoder", [strings("a", "b")], {"y": LABEL}, keys_strings=["b", "a"], values_int64s=[1, 2]))
    assert module(strings("a", "b", "c")).tolist() == [2, 1, -1]
    assert module(strings("a", b"b", "a")).tolist() == [2, 1, 2]
    with pytest.raises(mlc.errors.InputError, match="int"):
        module(strings("a", 3, "b"))


def test_what_lacks_is_named():
    with pytest.raises(mlc.errors.OnnxImportError, match="LabelEncoder"):
        mlc.compile(build("LabelEncoder", [np.zeros(3, np.int64)], {"y": LABEL}, keys_int64s=[1, 2], values_int64s=[1]))
    with pytest.raises(mlc.errors.OnnxImportError, match="class labels"):
        mlc.compile(build("LinearClassifier", [f(3, 2)], {"l": LABEL, "y": FLOAT}, coefficients=[1.0, 2.0]))


@pytest.mark.parametrize("form,size", [("DENSE", 1), ("SPARSE", 5)])
@pytest.mark.parametrize("to,kind", [("TO_FLOAT", TensorProto.FLOAT), ("TO_INT64", TensorProto.INT64), ("TO_STRING", TensorProto.STRING)])
def test_maps_to_tensors(form, size, to, kind):
    node = helper.make_node("CastMap", ["x"], ["y"], domain="ai.onnx.ml", map_form=form, max_map=size, cast_to=to)
    entries = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    values = [helper.make_value_info("x", entries)], [helper.make_tensor_value_info("y", kind, None)]
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph([node], "one", *values), opset_imports=opsets, ir_version=8)
    module, session = mlc.compile(model, threads=1), ort.InferenceSession(model.SerializeToString())
    for x in ({3: 1.5, 0: 2.25, 1: -4.0}, {4: 7.0}):
        want, got = session.run(None, {"x": x})[0], module.run({"x": x})["y"]
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)
    if form == "SPARSE":
        with pytest.raises(mlc.errors.InputError, match="keys"):
            module.run({"x": {5: 1.0}})


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_regressors_of_one_target_have_no_transforms(transform):
    """In onnxruntime, but for PROBIT; and those by support vectors have none at all."""
    compare("LinearRegressor", [f(9, 4)], coefficients=f(4).tolist(), targets=1, post_transform=transform)
    given = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0], "n_supports": 0, "rho": [0.1]}
    for one_class in (0, 1):
        compare("SVMRegressor", [f(9, 4)], coefficients=f(4).tolist(), post_transform=transform, one_class=one_class, **given)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("offset", [0.2, -0.6])
def test_linear_svm_of_two_classes(positive, offset):
    coefficients = np.abs(f(8)) if positive else f(8)
    compare("SVMClassifier", [f(19, 4)], {"label": LABEL, "y": FLOAT}, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 3.0],
            coefficients=coefficients.tolist(), rho=[offset], classlabels_ints=[3, 5])  # fmt: skip
