"""Programs that yield: memory returns to what it was, and made-up handlers are refused, never followed."""

from __future__ import annotations

import copy

import mlc
import numpy as np
import onnx.parser
import pytest
from mlc.errors import ArtifactError, InputError, MlcError
from mlc.runtime.artifact import Parts
from mlc.runtime.manifest import parse
from mlc.runtime.module import Module

MODEL = """<ir_version: 9, opset_import: ["" : 20]>
agraph (float[N] x, string[K] s) => (float[M] y, string[K] t) {
    mask = Cast<to = 9>(x)
    some = Compress<axis = 0>(x, mask)
    y = Add(some, some)
    bang = Constant<value = string {"!"}>()
    t = StringConcat(s, bang)
}"""


@pytest.fixture(scope="module")
def parts() -> Parts:
    return mlc.compile(onnx.parser.parse_model(MODEL), opt_level=0).parts  # without a prologue


def changed(parts: Parts, **handler: object) -> Parts:
    """The first handler of a kind, changed."""
    raw = copy.deepcopy(parts.manifest.raw)
    next(h for h in raw["handlers"] if h["kind"] == handler["kind"]).update(handler)
    return Parts(parse(raw, 10_000, parts.weights.nbytes), parts.code, parts.weights)


FEEDS = {"x": np.array([0, 1, 2], np.float32), "s": np.array(["a", "b"], object)}


def test_runs_share_nothing(parts):
    module = Module(parts)
    for n in (3, 0, 1000, 3):
        x = np.arange(n, dtype=np.float32) % 3
        got = module.run({**FEEDS, "x": x})
        np.testing.assert_array_equal(got["y"], 2 * x[x != 0])
        assert got["t"].tolist() == ["a!", "b!"]
    assert not module.run({**FEEDS, "x": np.zeros(4, np.float32)})["y"].size


def test_an_error_leaves_the_module_usable(parts):
    module = Module(parts)
    for _ in range(3):
        with pytest.raises(InputError):
            module.run({**FEEDS, "s": np.array([1, 2], object)})
        assert module.run(FEEDS)["y"].tolist() == [2, 4]


@pytest.mark.parametrize(
    "handler",
    [
        {"kind": "bind", "sizes": [["n.0", 10**6, 0, 0, 9]]},
        {"kind": "bind", "sizes": [["n.0", 0, -1, 0, 9]]},
        {"kind": "bind", "sizes": [["n.0", 0, 0, 9, 0]]},
        {"kind": "bind", "sizes": [["N", 0, 0, 0, 9]]},
        {"kind": "bind", "sizes": []},
        {"kind": "bind", "sizes": "n.0"},
        {"kind": "host", "call": "no such", "attributes": {}},
        {"kind": "host", "attributes": None},
        {"kind": "host", "reads": [[0, "f32", [10**6], -1]]},
        {"kind": "host", "reads": [[10**6, "f32", [], -1]]},
        {"kind": "host", "reads": [[0, "nothing", [], -1]]},
        {"kind": "host", "writes": [[0, "f32", [], -1]]},
        {"kind": "host", "reads": [[10**6, "object", [], -1]]},
        {"kind": "host", "writes": [[0, "object", [], -1]]},
    ],
)
def test_made_up_handlers(parts, handler):
    with pytest.raises(ArtifactError):
        changed(parts, **handler)


@pytest.mark.parametrize("handler", [{"call": "absent"}, {"attributes": {"odd": 1}}, {"call": "sequence_at"}])
def test_host_functions_that_do_not_fit(parts, handler):
    module = Module(changed(parts, kind="host", **handler))
    with pytest.raises(MlcError):
        module.run(FEEDS)
