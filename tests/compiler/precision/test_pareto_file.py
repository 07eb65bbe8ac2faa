"""The file from which an interrupted `mlc pareto` goes on: what was measured, or an error that names it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlc.compiler.precision.pareto import Point, _read, _write
from mlc.errors import InputError

POINT = Point("half", {"bf16": 2}, 1.5, 1.2, 4096, {"relative-l2": 0.01}, {"layer": "bf16"})


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    assert _read(tmp_path / "absent", "key") == {}
    _write(tmp_path / "p.json", "key", [POINT])
    assert _read(tmp_path / "p.json", "key") == {"half": POINT}
    with pytest.raises(InputError, match="of another model"):
        _read(tmp_path / "p.json", "other")


@pytest.mark.parametrize("change", [
    {"size": "4096"}, {"size": None}, {"name": []}, {"name": 3}, {"losses": [1]}, {"losses": {"relative-l2": "small"}},
    {"layers": {"bf16": []}}, {"assignment": {"layer": 8}}, {"unknown": 1},
])  # fmt: skip
def test_points_with_other_fields(tmp_path: Path, change: dict[str, Any]) -> None:
    text = json.dumps({"format": 1, "key": "key", "points": [{**asdict(POINT), **change}]})
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p\.json: is no measurement of mlc pareto"):
        _read(tmp_path / "p.json", "key")


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, '{"format": 1, "key": "key", "points": 3}', "\ud800"])
def test_what_is_no_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match="is no measurement of mlc pareto"):
        _read(tmp_path / "p.json", "key")
