"""Tensors of many sizes that only a run knows: kernels compute their elements instead of having each as a parameter."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.api import compile_stages
from mlc.compiler.options import Options
from onnx import parser

RELATIVE = """zero = Constant<value_ints = [0]>() s = Shape(x) n = Gather(s, zero) first = Squeeze(n) step = Constant<value_int = 1>()
              last = Constant<value_int = 40>() none = Constant<value_int = 0>() steps = Range(none, last, step) back = Sub(first, step)"""
POSITIONS = {  # the relative positions of attention: n − 1 − i, of which negative ones count from the end
    "rows": "down = Sub(back, steps) at = Mod(down, first)",
    "table": """down = Sub(back, steps) one = Constant<value_ints = [1]>() column = Unsqueeze(down, one)
                to = Constant<value_ints = [40, 64]>() wide = Expand(column, to) at = Mod(wide, first)""",
    "halves": "down = Sub(back, steps) two = Constant<value_int = 2>() all = Concat<axis = 0>(down, steps) half = Div(all, two) at = Mod(half, first)",
    "ratios": """f = Cast<to = 1>(back) g = Cast<to = 1>(steps) d = Sub(f, g) third = Constant<value_float = 3.0>() q = Div(d, third)
                 p = Floor(q) i = Cast<to = 7>(p) at = Mod(i, first)""",
}


def model(body, rank):
    at = ",".join("pq"[:rank])
    return parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> g (float[n,3] x) => (float[{at},3] z, int64[{at}] at) {{ {RELATIVE} {body} z = Gather(x, at) }}'
    )


@pytest.mark.parametrize("name", POSITIONS)
def test_positions(name):
    proto = model(POSITIONS[name], 2 if name == "table" else 1)
    module = mlc.compile(proto, threads=1)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 39, 40, 41, 100):
        x = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
        z, at = session.run(None, {"x": x})
        got = module.run({"x": x})
        np.testing.assert_array_equal(got["at"], at, err_msg=f"n = {n}")
        np.testing.assert_array_equal(got["z"], z, err_msg=f"n = {n}")


def test_no_kernel_gets_thousands_of_sizes():
    texts = compile_stages(model(POSITIONS["table"], 2), Options(threads=1)).texts
    assert sum(map(len, texts.values())) < 200_000
