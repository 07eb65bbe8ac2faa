"""The references of elementwise ops agree with onnxruntime, for every dtype that it implements."""

from __future__ import annotations

import numpy as np
import pytest
from mlc.errors import VerifyError
from mlc.ir import NUMPY, DType, S, TensorType, ops
from mlc.ir.scalar import NumpyScalars

RNG = np.random.default_rng(3)
FLOATS = np.concatenate([RNG.standard_normal(40) * 3, [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e-8]]).astype(np.float32)
UNIT = np.linspace(-0.99, 0.99, 48, dtype=np.float32)
POSITIVE = np.abs(FLOATS) + np.float32(0.1)
INTS = RNG.integers(-50, 50, 48).astype(np.int64)
NONZERO = np.where(INTS == 0, 3, INTS)
BOOLS = RNG.random(48) < 0.5
ODD = np.array([np.nan, np.inf, -np.inf, 0, 1, -1, 3e38, -3e38], np.float32)


UNARY = [
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Tanh", "Cosh", "HardSwish", "Mish", "Gelu", "Elu", "Selu", "Celu", "LeakyRelu",
    "ThresholdedRelu", "HardSigmoid", "Atan", "Asinh", "IsNaN", "IsInf", "Shrink",
]  # fmt: skip
INTEGER = ["Add", "Sub", "Mul", "Div", "Min", "Max", "Mod", "Equal", "Less", "Greater"]
CASES = [
    *[(op, [FLOATS], {}) for op in UNARY],
    *[(op, [UNIT], {}) for op in ("Acos", "Asin", "Atanh", "Tan")],
    *[(op, [POSITIVE], {}) for op in ("Log", "Sqrt")],
    ("Acosh", [POSITIVE + 1], {}),
    ("Gelu", [FLOATS], {"approximate": "tanh"}),
    ("LeakyRelu", [FLOATS], {"alpha": 0.3}),
    ("Celu", [FLOATS], {"alpha": 2.0}),
    ("IsInf", [ODD], {"detect_negative": 0}),
    ("IsInf", [ODD], {"detect_positive": 0}),
    ("Relu", [ODD[1:]], {}), ("Sign", [ODD[1:]], {}), ("Sigmoid", [ODD], {}), ("Softplus", [ODD[1:3]], {}), ("Exp", [ODD], {}),
    *[(op, [FLOATS, FLOATS[::-1].copy()], {}) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu", "Equal", "Less",
                                                         "LessOrEqual", "Greater", "GreaterOrEqual")],
    *[(op, [INTS, NONZERO[::-1].copy()], {}) for op in INTEGER],
    ("Mod", [INTS, NONZERO[::-1].copy()], {"fmod": 1}),
    ("Mod", [FLOATS, POSITIVE], {"fmod": 1}),
    ("Pow", [POSITIVE, FLOATS[::-1].copy()], {}),
    ("Pow", [INTS, np.int64(2)], {}),
    ("Pow", [FLOATS, np.int64(3)], {}),
    *[(op, [BOOLS, BOOLS[::-1].copy()], {}) for op in ("And", "Or", "Xor", "Equal")],
    ("Not", [BOOLS], {}),
    *[(op, [INTS, INTS[::-1].copy()], {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")],
    ("BitwiseNot", [INTS], {}),
    ("BitShift", [np.arange(8, dtype=np.uint8) * 31, np.arange(8, dtype=np.uint8)], {"direction": "LEFT"}),
    ("BitShift", [np.arange(8, dtype=np.uint8) * 31, np.arange(8, dtype=np.uint8)], {"direction": "RIGHT"}),
    ("Where", [BOOLS, FLOATS, INTS.astype(np.float32)], {}),
    ("Where", [BOOLS[:4, None], FLOATS[:5], np.float32(3)], {}),
    ("Sum", [FLOATS, UNIT, POSITIVE], {}), ("Mean", [FLOATS, UNIT, POSITIVE], {}), ("Max", [FLOATS, UNIT, POSITIVE], {}),
    ("Add", [np.ones((3, 1, 4), np.float32), np.arange(5, dtype=np.float32)[:, None]], {}),
    ("Clip", [FLOATS, np.float32(-1), np.float32(2)], {}),
    ("Clip", [INTS, np.int64(-4), np.int64(9)], {}),
]  # fmt: skip


@pytest.mark.parametrize("op,inputs,attrs", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_agrees_with_onnxruntime(run_both, op, inputs, attrs):
    ((got, want),) = run_both(op, inputs, **attrs)
    assert got.dtype == want.dtype and got.shape == want.shape
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("to", [DType.F64, DType.F16, DType.BF16, DType.I64, DType.I32, DType.I8, DType.U8, DType.BOOL])
@pytest.mark.parametrize("x", [FLOATS, INTS, BOOLS], ids=["f32", "i64", "bool"])
def test_cast(x, to):
    if to is DType.U8 and x.dtype == np.float32:
        x = np.abs(x)  # a negative float has no defined u8
    (got,) = ops.Cast(to).reference(x)
    assert got.dtype == to.np
    want = x.astype(to.np) if to is not DType.BOOL else x != 0
    np.testing.assert_array_equal(got.astype(np.float64), np.asarray(want).astype(np.float64))


def test_cast_of_large_floats_to_narrow_integers_wraps_the_same_everywhere():
    (got,) = ops.Cast(DType.I8).reference(np.array([300.7, -200.2], np.float32))
    np.testing.assert_array_equal(got, np.array([300, -200], np.int64).astype(np.int8))


def test_shifts_beyond_the_width():
    (got,) = ops.ShiftRight().reference(np.array([-5, 5], np.int32), np.array([40, 40], np.int32))
    np.testing.assert_array_equal(got, [-1, 0])
    (got,) = ops.ShiftLeft().reference(np.array([255], np.uint8), np.array([8], np.uint8))
    np.testing.assert_array_equal(got, [0])


def test_operands_of_two_dtypes_are_refused():
    with pytest.raises(VerifyError, match="f32, i64"):
        ops.Add().infer([TensorType(DType.F32, (2,)), TensorType(DType.I64, (2,))])


def test_shapes_that_do_not_broadcast_are_refused():
    with pytest.raises(VerifyError, match="2 and 3"):
        ops.Add().infer([TensorType(DType.F32, (2,)), TensorType(DType.F32, (3,))])


def test_powers_of_integers_are_whole_where_pow_is_not_exact() -> None:
    """CUDA's may be 2 units in the last place off (programming guide, "Mathematical Functions"): 3 ** 5 is not 242."""

    class Less(NumpyScalars):
        def call(self, fn: str, *args: np.ndarray) -> np.ndarray:
            out = super().call(fn, *args)
            return np.nextafter(out, 0) if fn == "pow" else out

    x, y = np.array([3, -3, 2, -2, 10, 1, 0]), np.array([5, 3, -1, -1, 9, -4, 0])
    np.testing.assert_array_equal(ops.Pow().body(S(Less()), x, y), [243, -27, 0, 0, 10**9, 1, 1])
    assert ops.Pow().body(NUMPY, np.array([3]), np.array([1.5])) == 5  # 5.196…, truncated
