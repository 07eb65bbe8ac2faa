"""The CPU benchmark beside torch: turns, rows that fail, the table."""

import pytest
from mlc.errors import DeviceError, InputError
from mlc.models import suite, torch_rows, turns
from mlc.models.torch_rows import EAGER, INDUCTOR, MLC, TorchRow


def test_turns(monkeypatch) -> None:
    """Each engine runs in every block; one that fails is named once, and the others go on."""
    monkeypatch.setattr(turns, "SECONDS", 0.0)
    ran, waited, notes = [], [], []

    def broken() -> None:
        ran.append("broken")
        raise DeviceError("no | more")

    found = turns.by_turns({"good": lambda: ran.append("good"), "broken": broken}, notes, lambda: waited.append(1))
    assert list(found) == ["good"] and found["good"] > 0
    assert ran.count("good") == turns.BLOCKS * (turns.WARM + 3) and ran.count("broken") == 1
    assert len(waited) == 2 * turns.BLOCKS and len(notes) == 1 and notes[0].startswith("broken: ") and "|" not in notes[0]


def test_table() -> None:
    title = suite.SUITE["mlp"].title
    rows = [
        TorchRow("mlp", 1, {MLC: 2.0, EAGER: 5.0, INDUCTOR: 3.0}, {MLC: 0.5, INDUCTOR: 20.0}),
        TorchRow("mlp", 2, {MLC: 1.0, EAGER: None}, {MLC: 0.5}, ["torch: broke"]),
    ]
    lines = torch_rows.markdown(rows).splitlines()
    assert lines[2] == f"| {title} | 1 | 2.00 | 5.00 | 3.00 | 2.50 | 1.50 | 0.50 | 20.00 |"
    assert lines[3] == f"| {title} | 2 | 1.00 |  |  |  |  | 0.50 |  |"
    assert len({line.count("|") for line in lines[:4]}) == 1 and lines[-1] == f"{title}, 2: torch: broke"


def test_unknown_models() -> None:
    with pytest.raises(InputError, match="resnet5"):
        next(torch_rows.rows(["resnet5"], [1]))
