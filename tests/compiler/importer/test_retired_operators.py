"""Operators that ONNX dropped and onnxruntime still runs, compared with it."""

import mlc
import numpy as np
import pytest
from against_onnxruntime import session
from mlc.errors import MlcError
from onnx import helper, numpy_helper

R = np.random.default_rng(3)


def model_of(op, operands, opset=9, symbolic=True, fixed=(), **attributes):
    """A model of one node; operands numbered in `fixed` are initializers."""
    names = [f"x{i}" for i in range(len(operands))]
    kinds = {"f": 1, "i": 7}
    inputs = [
        helper.make_tensor_value_info(n, kinds[x.dtype.kind], [f"{n}_{k}" if symbolic and i == 0 else d for k, d in enumerate(x.shape)])
        for i, (n, x) in enumerate(zip(names, operands, strict=True))
        if i not in fixed
    ]
    outs = [helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="old", **attributes)],
        "g",
        inputs,
        outs,
        [numpy_helper.from_array(operands[i], names[i]) for i in fixed],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agrees(op, operands, tolerance=1e-5, **attributes):
    model = model_of(op, operands, **attributes)
    feeds = {f"x{i}": x for i, x in enumerate(operands) if i not in attributes.get("fixed", ())}
    (want,) = session(model).run(None, feeds)
    got = mlc.compile(model, threads=1).run(feeds)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op,attributes", [
    ("Affine", {"alpha": 2.5, "beta": -1.0}), ("Affine", {}), ("Scale", {"scale": 3.0}), ("ScaledTanh", {"alpha": 2.0, "beta": 0.5}),
    ("ParametricSoftplus", {"alpha": 2.0, "beta": 0.5}), ("ThresholdedRelu", {"alpha": 0.3}), ("ThresholdedRelu", {}),
    ("ImageScaler", {"scale": 2.0, "bias": [1.0, 2.0, 3.0]}),
    ("Crop", {"border": [1, 0, 2, 1]}), ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 2]}),
])  # fmt: skip
def test_agrees_with_onnxruntime(op, attributes):
    agrees(op, [f(2, 3, 6, 7)], **attributes)


@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize("variance", [0, 1])
def test_mean_variance_normalization_before_opset_9(across, variance):
    agrees("MeanVarianceNormalization", [f(2, 3, 6, 7)], opset=8, across_channels=across, normalize_variance=variance)


@pytest.mark.parametrize("opset", [8, 9])
def test_dynamic_slice(opset):
    starts, ends, axes = (np.asarray(v, np.int64) for v in ([1, -3], [100, -1], [0, 2]))
    agrees("DynamicSlice", [f(4, 3, 6), starts, ends, axes], fixed=(3,), opset=opset)
    agrees("DynamicSlice", [f(4, 3, 6), starts, ends], fixed=(1, 2), opset=opset)


def test_crop_beyond_the_image_is_an_error():
    with pytest.raises(MlcError):
        mlc.compile(model_of("Crop", [f(1, 1, 4, 4)], symbolic=False, border=[3, 0, 3, 0]))
    compiled = mlc.compile(model_of("Crop", [f(1, 1, 4, 4)], border=[3, 0, 3, 0]), threads=1)
    with pytest.raises(MlcError):
        compiled.run({"x0": f(1, 1, 4, 4)})
