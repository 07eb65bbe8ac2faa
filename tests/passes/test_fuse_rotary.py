"""The rotary position embedding as decoders spell it, and what only looks like it; its kernel against the op's reference."""

from __future__ import annotations

import mlc
import numpy as np
import onnx
import onnx.parser
import pytest
from mlc.ir import DType, Graph, Input, TensorType
from mlc.ir.ops import Add, Concat, Mul, Neg, Rotary, Slice
from mlc.ir.verify import verify
from mlc.passes import PassContext, run_passes
from mlc.passes.base import apply
from mlc.passes.fuse_rotary import FuseRotary


def source(*shape):
    return apply(Input(TensorType(DType.F32, shape)))


def part(x, start, size):
    lead = (0,) * (len(x.shape) - 1)
    return apply(Slice((*lead, start), (*x.shape[:-1], size), (1,) * len(x.shape)), x)


def rotated(x, cos, sin, case):
    half = x.shape[-1] // 2
    low, high = part(x, 0, half), part(x, half, half)
    match case:
        case "low negated":
            turned = apply(Concat(3), high, apply(Neg(), low))
        case "halves in place":
            turned = apply(Concat(3), apply(Neg(), low), high)
        case "uneven":
            turned = apply(Concat(3), apply(Neg(), part(x, 2, x.shape[-1] - 2)), part(x, 0, 2))
        case _:
            turned = apply(Concat(3), apply(Neg(), high), low)
    a, b = apply(Mul(), x, cos), apply(Mul(), turned, sin)
    return apply(Add(), b, a) if case == "swapped" else apply(Add(), a, b)


@pytest.mark.parametrize("case", ["", "swapped", "low negated", "halves in place", "uneven"])
@pytest.mark.parametrize("table", [(1, 1, 5, 8), (2, 3, 5, 8), (5, 8), (1, 1, 5, 1)])
def test_rotary(numbers, case, table):
    xs = source(2, 3, 5, 8), source(*table), source(*table)
    g = verify(Graph(xs, (rotated(*xs, case),), ("x", "c", "s"), ("y",)))
    new = verify(run_passes(g, (FuseRotary(),), PassContext(verify=True)))
    found = [n.op.name for n in new.nodes if n.op.name != "input"]
    assert (found == ["rotary"]) == (case in ("", "swapped") and table[-1] == 8)
    numbers(g, new)


@pytest.mark.parametrize("size, columns", [(64, 64), (64, 32), (6, 3), (2, 2), (40, 20)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_kernel(size, columns, symbolic):
    """Rows of heads side by side, a part of each head turned, by a symbolic number of tokens."""
    tokens = "s" if symbolic else 5
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 23]>
        g (float[1,{tokens},3,{size + 4}] x, float[{tokens},{columns}] c, float[{tokens},{columns}] s) => (float[1,3,{tokens},{size + 4}] y) {{
            t = Transpose<perm=[0,2,1,3]>(x)
            cut = Constant<value = int64[2] {{{size}, 4}}>()
            r, rest = Split<axis=3>(t, cut)
            low, high = Split<axis=3, num_outputs=2>(r)
            minus = Neg(high)
            turned = Concat<axis=3>(minus, low)
            {"c2 = Identity(c) s2 = Identity(s)" if columns == size else "c2 = Concat<axis=1>(c, c) s2 = Concat<axis=1>(s, s)"}
            a = Mul(r, c2)
            b = Mul(turned, s2)
            z = Add(a, b)
            y = Concat<axis=3>(z, rest)
        }}""")
    module = mlc.compile(model.SerializeToString(), threads=1)
    rng = np.random.default_rng(0)
    for n in (5, 1, 17) if symbolic else (5,):
        x, c, s = (rng.standard_normal(shape, dtype=np.float32) for shape in ((1, n, 3, size + 4), (n, columns), (n, columns)))
        t = x.transpose(0, 2, 1, 3)
        (want,) = Rotary().reference(t[..., :size], c, s)
        np.testing.assert_allclose(
            module.run({"x": x, "c": c, "s": s})["y"], np.concatenate((want, t[..., size:]), 3), rtol=1e-5, atol=1e-6
        )
    assert sum("Neg" in "".join(step.loc) or "minus" in "".join(step.loc) for step in module.manifest.steps) <= 1
