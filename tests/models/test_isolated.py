"""Jobs in another process: results, errors, hangs and deaths, and what comes after them."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from mlc.errors import DeviceError, InputError
from mlc.models import gpu
from mlc.models.isolated import Isolated

# Functions by name, as the process imports them: of modules that are on its path.
from mlc.models.store import models_dir


def test_results_errors_hangs_and_deaths() -> None:
    with Isolated(gpu.device_works) as process:
        first = process.call(os.getpid, seconds=300)
        assert first != os.getpid() and process.call(os.getpid, seconds=300) == first
        assert process.call(models_dir, seconds=300) == models_dir()
        with pytest.raises(DeviceError, match="no end after 0 s"):
            process.call(time.sleep, 60, seconds=0.3)
        second = process.call(os.getpid, seconds=300)
        assert second != first
        with pytest.raises(DeviceError, match=r"the process died \(exit code 7\)"):
            process.call(os._exit, 7, seconds=300)
        third = process.call(os.getpid, seconds=300)
        with pytest.raises(DeviceError, match="invalid literal"):
            process.call(int, "x", seconds=300)  # no GPU: the process is not kept
        assert process.call(os.getpid, seconds=300) not in (first, second, third)


def _broken(*_: object) -> gpu.GpuRow:
    raise InputError("nothing")


class _Here:
    """In this process, what `Isolated` does in another."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def call(self, function, *args, seconds: float):
        assert 0 < seconds <= 150
        try:
            return function(*args)
        except InputError as e:
            raise DeviceError(e.found) from None


def test_rows_that_fail_are_rows(monkeypatch) -> None:
    parts = {k: replace(p, measure=_broken) for k, p in gpu.PARTS.items()}
    parts["kernels"] = replace(parts["kernels"], measure=lambda i: _broken() if i == 1 else gpu.GpuRow(f"case {i}", {"mlc": 0.5}))
    monkeypatch.setattr(gpu, "PARTS", parts)
    some = gpu.cases()[:3]
    monkeypatch.setattr(gpu, "cases", lambda: some)
    found = list(gpu.rows(60, worker=_Here()))
    kernels, models = ([r for t, r in found if (t == "kernels") == yes] for yes in (True, False))
    assert [r.name for r in kernels] == ["case 0", some[1].name, "case 2"] and kernels[1].notes == ["FAILED: nothing"]
    assert len(models) == 2 * (len(gpu.MODELS) + len(gpu.BATCHED)) and all("FAILED" in r.notes[0] for r in models)
    assert gpu.line(kernels[0]) == "case 0; mlc 0.500 ms"
    assert [t for t, _ in gpu.rows(60, ["mlp"], worker=_Here())] == ["models", "models beside torch.compile"]
    assert not list(gpu.rows(60, ["mlp"], ("kernels",), _Here())) and not list(gpu.rows(-1, worker=_Here()))
    assert "FAILED" in gpu.markdown({"GPU": "X", "date": "today"}, found)
