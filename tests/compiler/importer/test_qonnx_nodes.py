"""QONNX's operators against what its documentation says, in NumPy."""

import mlc
import numpy as np
import pytest
from mlc.errors import OnnxImportError
from onnx import TensorProto, helper, numpy_helper

X = np.concatenate([np.linspace(-9, 9, 145), np.random.default_rng(0).standard_normal(47) * 4]).astype(np.float32).reshape(-1, 4)
SCALES = np.array([0.5, 0.25, 1.0, 2.0], np.float32)
MODES = {
    "ROUND": np.round, "half_even": np.round, "CEIL": np.ceil, "FLOOR": np.floor, "DOWN": np.fix,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}  # fmt: skip


def computed(op, *constants, domain="qonnx.custom_op.general", version=1, **attributes):
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], domain=domain, **attributes)
    io = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(c, np.float32), n) for c, n in zip(constants, names, strict=True)]
    opsets = [helper.make_opsetid("", 16), helper.make_opsetid(domain, version)]
    graph = helper.make_graph([node], "g", io[:1], io[1:], held)
    return mlc.compile(helper.make_model(graph, opset_imports=opsets, ir_version=9), threads=1)(X)


@pytest.mark.parametrize("signed, narrow, low, high", [(1, 0, -4, 3), (1, 1, -3, 3), (0, 0, 0, 7), (0, 1, 0, 6)])
@pytest.mark.parametrize("mode", MODES)
def test_quant(signed, narrow, low, high, mode):
    want = (MODES[mode](np.clip(X / SCALES + 1, low, high)) - 1) * SCALES
    np.testing.assert_array_equal(computed("Quant", SCALES, 1, 3, signed=signed, narrow=narrow, rounding_mode=mode), want)


@pytest.mark.parametrize("domain", ["onnx.brevitas", "finn.custom_op.general", "qonnx.custom_op.general"])
def test_names_of_one_operator(domain):
    want = np.round(np.clip(X / 0.5, -8, 7)) * 0.5
    for op in ("Quant", "IntQuant"):
        np.testing.assert_array_equal(computed(op, 0.5, 0, 4, signed=1, narrow=0, domain=domain), want)


def test_one_bit():
    signs = np.where(X >= 0, 1, -1)
    np.testing.assert_array_equal(computed("BipolarQuant", SCALES), signs * SCALES)
    np.testing.assert_array_equal(computed("Quant", SCALES, 0, 1, signed=1, narrow=1), signs * SCALES)


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND"])
def test_trunc(mode):
    level = np.round(X / 0.25 + 2)
    np.testing.assert_array_equal(computed("Trunc", 0.25, 2, 8, 6, rounding_mode=mode), (MODES[mode](level / 4) - 2) * 0.25)
    want = (MODES[mode](np.clip(level / 4, -8, 7)) - 0.5) * 1.0
    np.testing.assert_array_equal(computed("Trunc", 0.25, 2, 8, 1.0, 0, 4, version=2, rounding_mode=mode, signed=1, narrow=0), want)


@pytest.mark.parametrize(
    "constants, attributes, words",
    [
        ((1, 0, 0), {}, "bit width"),
        ((1, 0, np.nan), {}, "bit width"),
        ((1, 0, 8), {"rounding_mode": "odd"}, "rounding_mode 'odd'"),
        ((1, 0), {}, "lacks a required input"),
    ],
)
def test_what_is_refused(constants, attributes, words):
    with pytest.raises(OnnxImportError, match=words):
        computed("Quant", *constants, signed=1, narrow=0, **attributes)
