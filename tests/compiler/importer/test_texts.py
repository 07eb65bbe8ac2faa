"""Texts to numbers against onnxruntime: chains of StringNormalizer, Tokenizer and TfIdfVectorizer, joined or read in between."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

WORDS = ["the", "cat", "Dog", "runs", "A", "b", "x1", "dog"]
POOL = ["cat", "dog", "runs", "#", "the", "cat", "dog", "runs", "runs", "#", "the"]  # five words and three pairs


def model(shape, stop=(), case="LOWER", split=False, mark=0, least=1, flat=(1, -1), shown=False, **counting):
    given = {"stopwords": stop} if stop else {}
    cut = {"separators": [" "]} if split else {"tokenexp": "[a-zA-Z0-9]+"}
    weights = {"ngram_counts": [0, 5], "ngram_indexes": [0, 1, 2, 3, 4, 7, 6, 5], "weights": [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["n"], case_change_action=case, is_case_sensitive=1, locale="C", **given),
        helper.make_node("Tokenizer", ["n"], ["t"], domain="com.microsoft", mark=mark, mincharnum=least, pad_value="#", **cut),
        helper.make_node("Reshape", ["t", "s"], ["f"]),
        helper.make_node("TfIdfVectorizer", ["f"], ["y"], pool_strings=POOL, **weights, **counting),
    ]
    outs = [helper.make_tensor_value_info("y", 1, None)] + [helper.make_tensor_value_info("t", 8, None)] * shown
    sizes = helper.make_tensor("s", 7, [len(flat)], flat)
    graph = helper.make_graph(nodes, "texts", [helper.make_tensor_value_info("x", 8, shape)], outs, [sizes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)


def agree(m, rank, opt_level=3, calls=None):
    session, module = ort.InferenceSession(m.SerializeToString()), mlc.compile(m, threads=1, opt_level=opt_level)
    if calls is not None:
        prologue = module.manifest.prologue
        assert [h.call for h in module.manifest.handlers] == calls if prologue is None else [c.call for c in prologue.calls] == calls
    rng = np.random.default_rng(3)
    for count in (1, 2, 25):
        x = np.array([" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(count)], object)
        x = x if rank == 1 else x[None]
        got = module.run({"x": x})
        for o, want in zip(session.get_outputs(), session.run(None, {"x": x}), strict=True):
            assert got[o.name].shape == want.shape and got[o.name].dtype == want.dtype
            assert got[o.name].tolist() == want.tolist()


COUNTS = [(1, 1, 0, "TF"), (1, 2, 0, "TFIDF"), (2, 2, 1, "IDF"), (1, 2, 1, "TF")]


@pytest.mark.parametrize("least,most,skip,mode", COUNTS)
@pytest.mark.parametrize("split,mark,shortest", [(False, 0, 1), (True, 1, 2)])
def test_one_call_from_text_to_counts(least, most, skip, mode, split, mark, shortest):
    counting = {"min_gram_length": least, "max_gram_length": most, "max_skip_count": skip, "mode": mode}
    for level in (0, 3):
        agree(model(["N"], split=split, mark=mark, least=shortest, flat=(0, -1), **counting), 1, level, ["chain"])
    agree(model([1, "N"], split=split, mark=mark, least=shortest, **counting), 2)


def test_what_others_read_is_there():
    counting = {"min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, "mode": "TF"}
    agree(model(["N"], shown=True, **counting), 1)
    agree(model(["N"], stop=["cat", "A"], **counting), 1)  # one row of all tokens
    agree(model(["N"], stop=["cat"], case="UPPER", flat=(0, -1), **counting), 1)


def test_no_texts():
    m = model(["N"], flat=(0, -1), min_gram_length=1, max_gram_length=1, max_skip_count=0, mode="TF")
    assert mlc.compile(m)(np.empty(0, object)).shape == (0, 8)


def test_a_column_of_texts_without_a_case():
    """Tokens [N, 1, T] are counted as rows [N, T]: what scikit-learn's vectorizers export that keep the case."""
    m = model(["N", 1], flat=(0, -1), min_gram_length=1, max_gram_length=2, max_skip_count=0, mode="TF")
    del m.graph.node[0]
    m.graph.node[0].input[0] = "x"
    module = mlc.compile(m, threads=1)
    x = np.array([["cat dog runs"], ["the"], ["runs cat dog"]], object)
    assert module.run({"x": x})["y"].tolist() == ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0].tolist()
    assert [c.call for c in module.manifest.prologue.calls] == ["chain"]
