"""Dim expressions in JSON: the same values as the IR's dims, and no harm from bad ones."""

from __future__ import annotations

import json

import mlc
import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlc.compiler.slots import Slots, dim_expr
from mlc.errors import ArtifactError, VerifyError
from mlc.ir import ceildiv, dim_max, dim_min, evaluate, floordiv, prod, sym
from mlc.runtime.dimexpr import DimTable, show
from mlc.runtime.native import native

LEAF = st.one_of(st.integers(-50, 50), st.sampled_from([sym("A"), sym("B", 1, 64)]))
DIMS = st.recursive(
    LEAF,
    lambda d: st.one_of(
        st.tuples(d, d).map(lambda t: t[0] + t[1]),
        st.tuples(d, d).map(lambda t: t[0] * t[1]),
        st.tuples(d, d).map(lambda t: dim_min(*t)),
        st.tuples(d, d).map(lambda t: dim_max(*t)),
        st.tuples(d, st.integers(1, 9)).map(lambda t: floordiv(*t)),
        st.tuples(d, st.integers(1, 9)).map(lambda t: ceildiv(*t)),
    ),
    max_leaves=6,
)


def values(exprs: list, bindings: dict[str, int]) -> list[int] | None:
    """As native code computes them; None for one beyond 2⁶²."""
    table = DimTable.build(exprs, list(bindings))
    known = np.array([*table.constants, *bindings.values()], np.int64)
    held = np.concatenate([known, np.zeros(table.n_values - len(known), np.int64)])
    words = np.array([w for fn, a, b, out in table.code[0] for w in (fn, out, a, b)] + [0] * 4, np.int64)
    if native().evaluate(held.ctypes.data, words.ctypes.data) >= 0:
        return None
    return [int(held[s]) for s in table.slots]


@given(st.lists(DIMS, max_size=6), st.integers(0, 100), st.integers(1, 64))
def test_values(dims, a, b):
    exprs = json.loads(json.dumps([dim_expr(d) for d in dims]))
    bindings = {"A": a, "B": b}
    assert values(exprs, bindings) == [evaluate(d, bindings) for d in dims]
    for e in exprs:
        assert isinstance(show(e), (int, str))


def test_division_by_zero_is_no_crash():
    assert values([["floordiv", 7, ["sym", "A"]]], {"A": 0}) == [0]


def test_dims_made_of_dims_do_not_double():
    dim = sym("A")
    for i in range(6):
        dim = dim_max(floordiv(dim + 1, 2), dim_min(dim, 50 + i)) + dim % 7
    table = Slots()
    slot = table.slot(dim)
    exprs = json.loads(json.dumps(table.exprs))
    assert len(json.dumps(exprs)) < 4_000
    assert values(exprs, {"A": 37})[slot] == evaluate(dim, {"A": 37})
    assert len(show(exprs[slot], exprs)) < 2_000
    with pytest.raises(ArtifactError):
        DimTable.build([7, ["slot", 1]], ["A"])


def test_text():
    assert show(dim_expr(2 * sym("N") + 1)) == "2*N + 1"
    assert show(3) == 3


NESTED: list = ["sym", "A"]
for _ in range(5000):
    NESTED = ["add", NESTED, 1]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        True,
        1.5,
        "A",
        [],
        ["sym"],
        ["sym", "Z"],
        ["sym", 3],
        ["pow", 2, 2],
        ["add", 1],
        ["add", 1, None],
        ["slot", 0],
        ["slot", -1],
        ["slot", "A"],
        2**63,
        NESTED,
        {},
    ],
)
def test_bad_expressions(bad):
    with pytest.raises(ArtifactError):
        DimTable.build([bad], ["A"])


def test_overflow():
    e = ["mul", ["sym", "A"], ["sym", "A"]]
    assert values([e], {"A": 2**30}) == [2**60]
    assert values([e], {"A": 2**40}) is None
    assert values([["add", ["sym", "A"], ["sym", "A"]]], {"A": 2**61 + 1}) is None


def test_long_sums_and_products():
    """However many terms: JSON and the checks of a manifest bound how deep lists lie in each other."""
    names = [f"s{i}" for i in range(2000)]
    total = sum(map(sym, names), start=0)
    product = prod(map(sym, names[:500]))
    exprs = json.loads(json.dumps([dim_expr(total), dim_expr(product)]))
    table = DimTable.build(exprs, names)
    assert len(table.slots) == 2 and len(table.code[0]) == 1999 + 499


def test_products_of_sums_are_bounded():
    """2ⁿ terms of n factors: a typed error at once; the importer leaves such elements to the program."""
    factors = [sym(f"a{i}") + sym(f"b{i}") for i in range(40)]
    with pytest.raises(VerifyError, match="a product of sums"):
        prod(factors)
    power = sym("n")
    with pytest.raises(VerifyError, match="factors"):
        for _ in range(40):
            power = power * power
    squares = " ".join(f"q{i + 1} = Mul(q{i}, q{i})" for i in range(40))
    body = f"s = Shape(x) q0 = ReduceProd<keepdims = 1>(s) {squares} y = ConstantOfShape(q40)"
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[a, b] x) => (float[n] y) {{ {body} }}'
    module = mlc.compile(onnx.parser.parse_model(text), threads=1)
    assert module(np.zeros((1, 1), np.float32)).shape == (1,)
