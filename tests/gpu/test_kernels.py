"""Every kernel test of the emulation, on the device: the same graphs, compared with the same interpreter."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import emulated
import pytest
import test_attention
import test_contract
import test_contract_mma
import test_contract_wgmma
import test_grouped
import test_irregular
import test_loops
import test_recurrent
from on_device import DeviceLibrary, launch

MODULES = (test_loops, test_contract, test_contract_mma, test_contract_wgmma, test_attention, test_recurrent, test_grouped, test_irregular)
NOTHING_RUNS = ("test_unsupported", "test_tf32_option", "test_schedules")


def cases() -> Iterator[Any]:
    """Test functions of the modules with each set of their parameters; those that take fixtures are left out."""
    for module in MODULES:
        for name, fn in sorted(vars(module).items()):
            if not name.startswith("test_") or not inspect.isfunction(fn) or name in NOTHING_RUNS:
                continue
            sets = []
            for mark in getattr(fn, "pytestmark", ()):
                if mark.name == "parametrize":
                    names = [n.strip() for n in mark.args[0].split(",")]
                    sets.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in mark.args[1]])
            for chosen in itertools.product(*sets):
                arguments: dict[str, Any] = {k: v for part in chosen for k, v in part.items()}
                if set(inspect.signature(fn).parameters) <= set(arguments):
                    shown = "-".join(str(getattr(v, "value", v)) for v in arguments.values())
                    yield pytest.param(fn, arguments, id=f"{module.__name__}-{name}" + f"[{shown}]" * bool(shown))


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch, device) -> None:
    for module in (emulated, *MODULES):
        if hasattr(module, "build"):
            monkeypatch.setattr(module, "build", lambda sources, options=None: DeviceLibrary(device, sources))
        if hasattr(module, "launch"):
            monkeypatch.setattr(module, "launch", launch)


@pytest.mark.parametrize("test,arguments", list(cases()))
def test_on_device(test: Any, arguments: dict[str, Any]) -> None:
    test(**arguments)
