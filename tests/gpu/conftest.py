"""Everything here needs an NVIDIA GPU; `python -m pytest tests/gpu` runs it, and skips it with a reason elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mlc.errors import MlcError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cuda"), str(HERE.parent / "codegen")]


def _why_not() -> str:
    try:
        from mlc.codegen.cuda.nvrtc import nvrtc
        from mlc.runtime.cuda.cupy_device import device

        nvrtc()
        device()
    except MlcError as e:
        return str(e)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [i for i in items if HERE in Path(i.fspath).parents]
    reason = _why_not() if mine else ""
    for item in mine:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        else:
            item.add_marker(pytest.mark.xdist_group("gpu"))


@pytest.fixture(scope="session")
def device():
    from mlc.runtime.cuda.cupy_device import device

    return device()
