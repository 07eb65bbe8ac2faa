"""Whole matches of regular expressions as RE2, and so onnxruntime, has them; in linear time."""

from __future__ import annotations

import random
import re

import mlc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlc.runtime.host import prepared
from mlc.runtime.host.re2_syntax import parse
from mlc.runtime.texts import Texts
from onnx import TensorProto, helper

NESTED = [
    "(a*)*b", "((ab|a)(bc|c)?)*", "(a{2,3}){1,2}", "(a|aa)+", r"a+(-b+)*", r"([0-9]+\.)*[0-9]+", "a*a*a*a*b", "(a*?)*?b",
    "^(a+)+$", "((?:a?){3})*[^a]", "(?i)(A*|b)*c", "x{0,3}(y*|)*", "([a-c]+[^b]?.)*", "(1+[ .]?)*", "(a*|b*)*", "(cat|dog)s?", "", "a|", "()",
]  # fmt: skip
UNLIKE_PYTHON = [
    r"\w+", r"\d", r"\s", r"\S+", r"[\w]+", r"\W", r"[^\w]+", r"\D", r"\bab\b", r"a\Bb", r"é\B.*", r".\b.", r"\Aa\z", r"\pL+", r"\p{Lu}", r"\PN+",
    r"\p{^L}", r"[\pN]+", "[[:alpha:]]+", "[[:^alpha:]]", r"[[:word:]-]+", r"\Qa.b\E*", r"\Qa b", r"\x{1F600}", r"\x61\141\.", r"\C\C", "(?U)a+", "(?i)k+",
    "(?i:é)K", "(?i)[^k]", r"(?-s).", "(?s).+", "(?m)a$\n^b", "(?m:^$)", "a$|b^", "(?P<n>a)(?<m>b)", "a{,2}", "{", "a{2}{", "]", "[]a]+", "[^]a]", "[a-]+",
    "[é-ü日]+", "[^a]", "a[&&b]", r"[a\-c]",
]  # fmt: skip
TEXTS = ["", "a", "ab", "a.b", "a.bbb", "a b", "é", "é1", "É", "ÉK", "éK", "٣", "1", "-", " ", "\u00a0", "\n", "a\n", "a\nb", "b", "K", "k", "K", "kkK", "😀", "aa.", "日本", "日",
         "a_1-b", "]", "{", "aa{", "a{,2}", "[a", "a&b", "ü", "ſ"]  # fmt: skip


def matches(pattern, texts):
    return prepared("regex_full_match", {"pattern": pattern})(Texts([*texts], (len(texts),))).tolist()


def model(pattern):
    node = helper.make_node("RegexFullMatch", ["s"], ["y"], pattern=pattern)
    ends = [helper.make_tensor_value_info(n, t, ["N"]) for n, t in (("s", TensorProto.STRING), ("y", TensorProto.BOOL))]
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("pattern", NESTED)
def test_as_python_matches_ascii(pattern):
    want = re.compile(pattern)
    rng = random.Random(pattern)
    texts = ["".join(rng.choice("abcAxy-.1 \n") for _ in range(rng.randrange(9))) for _ in range(500)]
    assert matches(pattern, texts) == [want.fullmatch(t) is not None for t in texts]


@pytest.mark.parametrize("pattern", UNLIKE_PYTHON)
def test_as_onnxruntime_matches(pattern):
    want = ort.InferenceSession(model(pattern).SerializeToString()).run(None, {"s": np.array(TEXTS, object)})[0]
    assert matches(pattern, TEXTS) == want.tolist()


def test_in_a_model():
    x = np.array([["a1", "é1"], ["", "b"]], object)
    y = onnx.helper.make_tensor_value_info("y", TensorProto.BOOL, ["N", 2])
    m = model(r"\w\d?")
    m.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 2
    m.graph.output[0].CopyFrom(y)
    assert mlc.compile(m, threads=1).run({"s": x})["y"].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    "pattern", ["a**", "*a", "a{2}{3}", "(a", "a)", "[a", "[b-a]", r"\1", r"\y", r"\x{110000}", "(?z)", "a{1001}", "[[:no:]]", r"\p{Greek}", "a\\", "(" * 999]
)  # fmt: skip
def test_what_is_no_pattern(pattern):
    with pytest.raises(ValueError, match=r"position|no general category"):
        parse(pattern)


IN_EACH_OTHER = [
    "(a{100}){10}",
    "(a{100}){11}",
    "((a{10})*b){101}",
    "(a{100}|(b{2,9}c){112}){1}",
    "(a+){1000}",
    "((a{500}){3}){0}",
    "((a{1000}){1000}){1000}",
]


@pytest.mark.parametrize("pattern", IN_EACH_OTHER)
def test_repetitions_in_each_other(pattern):
    """RE2 takes a thousand; written out, more would be states without end."""
    try:
        ort.InferenceSession(model(pattern).SerializeToString())
    except Exception:
        with pytest.raises(ValueError, match="in each other"):
            parse(pattern)
    else:
        parse(pattern)


@pytest.mark.parametrize("pattern", ["(a*)*b", "^(a|a)+$", r"(\w+\s?)*!", "a*a*a*a*a*a*b", "(a?){30}a{30}b"])
def test_long_texts_that_nearly_match(pattern):
    texts = ["a" * 3000, "a" * 60 + "b", "a a !", ""]
    want = ort.InferenceSession(model(pattern).SerializeToString()).run(None, {"s": np.array(texts, object)})[0]
    assert matches(pattern, texts) == want.tolist()


def test_more_states_than_are_kept():
    rng = random.Random(5)
    texts = ["".join(rng.choice("ab") for _ in range(6000)) for _ in range(2)]
    assert matches("[ab]*a[ab]{14}", texts * 2) == [t[-15] == "a" for t in texts] * 2
