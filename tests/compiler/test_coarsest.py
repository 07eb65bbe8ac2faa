"""Results are held to the limit of the coarsest type that they are computed in, not of the one they end in."""

import numpy as np
import onnx
import pytest
from mlc.compiler import oracle
from mlc.compiler.coarsest import coarsest_types
from mlc.ir import DType

TEXT = """<ir_version: 9, opset_import: ["" : 19]> g (float[4,4] x, float16[4,4] h) => (float[4,4] y) <float16[4,4] w = {{{0}}}>
{{ {1} }}"""
ONES = ", ".join(["15360"] * 16)  # bits of halves


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(ONES, body))


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("y = MatMul (x, x)", DType.F32),
        ("a = Cast <to = 10> (x)\n b = Mul (a, h)\n y = Cast <to = 1> (b)", DType.F16),
        ("a = Cast <to = 16> (x)\n b = Cast <to = 10> (a)\n y = Cast <to = 1> (b)", DType.BF16),
        ("a = Add (w, w)\n b = Cast <to = 1> (a)\n y = MatMul (x, b)", DType.F32),  # halves that are constants
        ("a = Transpose (h)\n b = Cast <to = 1> (a)\n y = MatMul (x, b)", DType.F32),  # and those that are only moved
        ("c = Cast <to = 9> (x)\n d = ReduceMax <keepdims = 0> (x)\n e = Cast <to = 9> (d)\n y = If (e) <"
         "then_branch = t () => (float[4,4] p) { q = Sqrt (h)\n p = Cast <to = 1> (q) },"
         "else_branch = f () => (float[4,4] r) { r = Neg (x) }>", DType.F16),
    ],
)  # fmt: skip
def test_the_coarsest_type(body: str, want: DType) -> None:
    assert coarsest_types(model(body)) == {"y": want}


def test_limits_follow_from_types() -> None:
    feeds = {"x": np.random.default_rng(0).random((4, 4), np.float32), "h": np.ones((4, 4), np.float16)}
    halves = model("a = Cast <to = 10> (x)\n b = Mul (a, h)\n y = Cast <to = 1> (b)").SerializeToString()
    singles = model("a = Cast <to = 1> (h)\n y = Mul (x, a)").SerializeToString()

    def off(source: bytes, by: float) -> oracle.Report:
        return oracle.check(lambda f: {"y": oracle.Oracle(source).run(f)["y"] * np.float32(1 + by)}, source, feeds, threads=1)

    near, far = off(halves, 1e-3).outputs[0], off(halves, 1e-2).outputs[0]
    assert near.agrees and not near.why and near.limit == 5e-3
    assert not far.agrees and "5e-03" in far.why
    assert not off(singles, 1e-3).agrees and off(singles, 1e-3).outputs[0].limit == 1e-4
