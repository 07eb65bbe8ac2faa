"""Dims of one name: one symbol where the model relates their sizes, else symbols of their own, as onnxruntime binds no names."""

import mlc
import numpy as np
import pytest
from against_onnxruntime import agree, parsed
from mlc.compiler.importer import import_model
from mlc.errors import InputError, OnnxImportError


def f32(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def feeds(*shapes):
    return {name: f32(*shape) for name, shape in zip("ab", shapes, strict=False)}


def shapes(proto, **kwargs):
    return [[str(d) for d in v.shape] for v in import_model(proto, **kwargs).inputs]


UNRELATED = {
    "concatenated": ("(float[n,4] a, float[n,4] b) => (float[m,4] y)", "y = Concat<axis = 0>(a, b)", ((2, 4), (3, 4))),
    "towers": ("(float[n,4] a, float[n,4] b) => (float[n,n] y)", "t = Transpose(b) r = Relu(a) y = MatMul(r, t)", ((2, 4), (5, 4))),
    "one input": ("(float[None,3,None,None] a) => (float[None,3,1,1] y)", "y = GlobalAveragePool(a)", ((2, 3, 5, 7),)),
}


@pytest.mark.parametrize("name", UNRELATED)
def test_any_sizes_run_where_nothing_relates_them(name):
    signature, body, sizes = UNRELATED[name]
    proto = parsed(signature, body)
    agree(proto, feeds(*sizes), feeds(*(sizes[:1] * len(sizes))))
    fixed = dict(zip("ab", sizes, strict=False))
    module = mlc.compile(proto, shapes=fixed)
    assert all(isinstance(d, int) for i in module.inputs for d in i.shape)
    module.run(feeds(*sizes))


RELATED = {
    "added": ("(float[n,4] a, float[n,4] b) => (float[n,4] y)", "y = Add(a, b)"),
    "through a third": ("(float[n,4] a, float[n,4] b) => (float[m,4] y)", "c = Concat<axis = 0>(a, a) d = Concat<axis = 0>(b, b) y = Add(c, d)"),
    "contracted": ("(float[4,n] a, float[n,4] b) => (float[4,4] y)", "y = MatMul(a, b)"),
    "in turn": ("(float[n,4] a, float[n,4] b, bool c) => (float[m,4] y)", """y = If(c) <
        then_branch = t () => (float[m,4] u) { u = Relu(a) }, else_branch = e () => (float[m,4] v) { v = Neg(b) }>"""),
    "added in a branch": ("(float[n,4] a, float[n,4] b, bool c) => (float[m,4] y)", """y = If(c) <
        then_branch = t () => (float[m,4] u) { u = Add(a, b) }, else_branch = e () => (float[m,4] v) { v = Neg(a) }>"""),
}  # fmt: skip


@pytest.mark.parametrize("name", RELATED)
def test_one_symbol_where_something_relates_them(name):
    proto = parsed(*RELATED[name])
    assert [d for s in shapes(proto) for d in s if d != "4"] == ["n", "n"]
    with pytest.raises(InputError, match="symbolic dim n is 3; expected 2 as in input a"):
        condition = {"c": np.array(True)} if "bool c" in RELATED[name][0] else {}
        mlc.compile(proto, threads=1).run({**feeds((4, 2) if name == "contracted" else (2, 4), (3, 4)), **condition})


def test_a_size_given_for_one_is_that_of_others_without():
    proto = parsed(*UNRELATED["concatenated"][:2])
    assert shapes(proto) == [["n", "4"], ["n_b_0", "4"]]
    assert shapes(proto, shapes={"a": (2, 4)}) == [["2", "4"], ["2", "4"]]
    assert shapes(proto, shapes={"a": (2, 4), "b": (3, -1)}) == [["2", "4"], ["3", "4"]]


def test_several_sizes_given_for_related_dims():
    with pytest.raises(OnnxImportError, match="2 and 3"):
        import_model(parsed(*RELATED["added"]), {"a": (2, 4), "b": (3, 4)})
