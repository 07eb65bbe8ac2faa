"""Whole matches in linear time: what `re` says, of patterns that it needs exponential time for."""

from __future__ import annotations

import random
import re

import mlc
import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from mlc.runtime.host import regular

NESTED = [
    "(a*)*b", "((ab|a)(bc|c)?)*", "(a{2,3}){1,2}", "(a|aa)+", r"\w+(-\w+)*", r"([0-9]+\.)*[0-9]+", "a*a*a*a*b", "(a*?)*?b",
    "^(a+)+$", "((?:a?){3})*[^a]", "(?i)(A*|b)*c", "x{0,3}(y*|)*", "([a-c]+[^b]?.)*", r"(\d+\s?)*", "(a*|b*)*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", NESTED)
def test_as_python_matches(pattern):
    matches, want = regular.full_match(pattern), re.compile(pattern)
    assert matches != want.fullmatch  # an automaton
    rng = random.Random(pattern)
    for _ in range(500):
        text = "".join(rng.choice("abcAxy-.1 \n") for _ in range(rng.randrange(9)))
        assert bool(matches(text)) == bool(want.fullmatch(text)), text


@pytest.mark.parametrize(
    "pattern", ["a*b", r"[\w.]+@[\w.]+\.\w+", "(cat|dog)s?", "(a{3}){2}", "", r"(a*)*\b", "(a*)*(?=b)b", "(a{999})*" * 30]
)
def test_others_are_left_to_python(pattern):
    assert regular.full_match(pattern) == re.compile(pattern).fullmatch


@pytest.mark.parametrize("pattern", ["(a*)*b", "^(a|a)+$", r"(\w+\s?)*!", "a*a*a*a*a*a*b", "(a?){30}a{30}b"])
def test_long_texts_that_nearly_match(pattern):
    """As onnxruntime, which has RE2."""
    text = f'<ir_version: 10, opset_import: ["": 20]> g (string[N] s) => (bool[N] y) {{ y = RegexFullMatch<pattern = "{pattern}">(s) }}'
    model = onnx.parser.parse_model(text.replace("\\", "\\\\"))
    given = {"s": np.array(["a" * 3000, "a" * 60 + "b", "a a !", ""], object)}
    want = ort.InferenceSession(model.SerializeToString()).run(None, given)[0]
    np.testing.assert_array_equal(mlc.compile(model, threads=1).run(given)["y"], want)
