"""Quantizing what is not finite, in steps so wide that the ends of the range are not either."""

import numpy as np
import pytest
from mlc.compiler.stages import compile_graph
from mlc.ir import DType, Graph, Input, Node, TensorType, const
from mlc.ir.ops import Quantize
from mlc.passes.base import apply


@pytest.mark.parametrize("step", [0.01, 5.2e33])
@pytest.mark.parametrize("zero", [0, 30000, 65535])
def test_infinities_are_the_ends_of_the_range(step, zero):
    x = Node.make(Input(TensorType(DType.F32, (32,))), ()).out
    y = apply(Quantize(DType.U16), x, const(step, DType.F32), const(zero, DType.U16))
    g = Graph((x,), (y,), ("x",), ("y",))
    data = np.linspace(-3, 3, 32).astype(np.float32)
    data[:4] = -np.inf, np.inf, -3.4e38, 3.4e38
    got = compile_graph(g).run({"x": data})["y"]
    assert np.array_equal(got, g.evaluate(data)[0])
    assert got[0] == 0 and got[1] == 65535
