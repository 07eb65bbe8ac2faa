"""The table of times: ratios to the best peer, scaling, geometric means, peers and models that are missing."""

import pytest
from mlc.models import performance
from mlc.models.tables import Row


def timings(*figures: tuple[str, int, float]) -> dict:
    return {"timings": [{"engine": e, "threads": n, "median_ms": ms} for e, n, ms in figures], "refused": {}}


ROWS = [
    Row(
        "suite:mlp",
        {},
        timings(("mlc", 1, 2.0), ("onnxruntime", 1, 3.0), ("openvino", 1, 5.0), ("mlc", 2, 1.25), ("onnxruntime", 2, 1.0)),
        "",
        0,
    ),
    Row("other.onnx", {}, {**timings(("mlc", 1, 4.0), ("onnxruntime", 1, 24.0)), "refused": {"openvino": "no such operator"}}, "", 0),
    Row("suite:gpt2", {}, None, "it | broke", 2),
]


def test_results() -> None:
    one, two, other = performance.results(ROWS)
    assert (one.best_peer, one.scaling, one.ratio("openvino")) == (1.5, None, 2.5)
    assert (two.best_peer, two.scaling, two.ratio("openvino")) == (0.8, 1.6, None)
    assert (other.model, other.best_peer) == ("other.onnx", 6.0)


def test_summary() -> None:
    one, two = performance.summary(performance.results(ROWS))
    assert one["best_peer"] == pytest.approx(3.0) and one["openvino"] == pytest.approx(2.5)
    assert one["behind"] == [] and one["scaling"] is None and one["models"] == 2
    assert two["behind"] == ["suite:mlp"] and two["scaling"] == pytest.approx(1.6)
    assert performance.geometric_mean([None]) is None


def test_table() -> None:
    lines = performance.table(ROWS, performance.results(ROWS)).splitlines()
    title = performance.title("suite:mlp")
    assert lines[2] == f"| {title} | 1 | 2.00 | 3.00 | 5.00 | 1.50 | 2.50 | 1.50 |  |"
    assert lines[3] == f"| {title} | 2 | 1.25 | 1.00 | cannot run it | 0.80 |  | 0.80 | 1.60 |"
    assert "it / broke" in lines[5]
    width = lines[0].count("|")
    assert all(line.count("|") == width for line in lines[:6])
    assert f"| 2 | 1 | 0.80 |  | 0.80 | 1.60 | {title} |" in lines
    assert lines[-1] == "openvino does not run other.onnx: no such operator"


def test_json() -> None:
    found = performance.as_json(ROWS, performance.results(ROWS))
    assert found["errors"] == {"suite:gpt2": "it | broke"} and len(found["reports"]) == 2
    assert found["results"][0]["ms"]["openvino"] == 5.0
