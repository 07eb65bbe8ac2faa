"""What a model's author wrote beside it stays with the module."""

import json

import mlc
import onnx
import pytest
from mlc.errors import ArtifactError
from mlc.runtime.manifest import parse

PLAIN = """<ir_version: 9, opset_import: ["" : 19], metadata_props: ["names": "{0: 'cat', 1: 'dog'}", "é": ""]>
g (float[n,4] x) => (float[n,4] y) { y = Relu (x) }"""
TEXTS = """<ir_version: 9, opset_import: ["" : 20], metadata_props: ["k": "v"]>
g (string[n] x) => (string[n] y) { y = StringConcat (x, x) }"""
PROGRAMS = """<ir_version: 9, opset_import: ["" : 19], metadata_props: ["k": "v"]>
g (float[a,b] x, float[c,b] u) => (float[d,b] y) { y = Add (x, u) }"""


@pytest.mark.parametrize(
    ("text", "want"),
    [(PLAIN, {"names": "{0: 'cat', 1: 'dog'}", "é": ""}), (TEXTS, {"k": "v"}), (PROGRAMS, {"k": "v"})],
    ids=["plain", "prologue", "programs"],
)
def test_metadata_stays(text: str, want: dict[str, str]) -> None:
    m = mlc.compile(onnx.parser.parse_model(text))
    assert dict(m.metadata) == want
    assert dict(mlc.load(m.to_bytes()).metadata) == want


def test_none_is_written_where_there_is_none() -> None:
    m = mlc.compile(onnx.parser.parse_model(PLAIN.replace(PLAIN[PLAIN.index(", metadata") : PLAIN.index("]>") + 1], "")))
    assert m.metadata == {} and "metadata" not in m.manifest.raw


@pytest.mark.parametrize("bad", [{"k": 1}, ["k"], "k", {"k": None}])
def test_metadata_that_is_none(bad: object) -> None:
    m = mlc.compile(onnx.parser.parse_model(PLAIN))
    raw = json.loads(json.dumps(m.manifest.raw))
    assert parse(raw, 1, len(m.parts.weights)).metadata == m.metadata
    raw["metadata"] = bad
    with pytest.raises(ArtifactError, match=r"expected a text|malformed"):
        parse(raw, 1, len(m.parts.weights))
