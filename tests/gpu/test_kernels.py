"""Every kernel test of the emulation, on the device: the same graphs, compared with the same interpreter."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import emulated
import mlc
import numpy as np
import pytest
import small_models
import test_attention
import test_contract
import test_contract_mma
import test_contract_wgmma
import test_grouped
import test_irregular
import test_loops
import test_recurrent
from mlc.codegen.cuda.target import parse
from mlc.ir import DType
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
    if device.capability != 90:  # kernels for Hopper are for nothing else
        monkeypatch.setattr(emulated, "parse", lambda text: parse(text.replace("sm_90a", "sm_80")))


@pytest.mark.parametrize("test,arguments", list(cases()))
def test_on_device(test: Any, arguments: dict[str, Any]) -> None:
    test(**arguments)


tile = test_contract_wgmma.tile  # a fixture


@pytest.fixture
def hopper(device):
    if device.capability != 90:
        pytest.skip("warp groups multiply on Hopper only")


@pytest.mark.parametrize("bm,bn", [(128, 256), (128, 128), (64, 64)])
def test_tiles_of_warp_groups(hopper, tile, bm: int, bn: int) -> None:
    test_contract_wgmma.test_tiles(tile, bm, bn)


@pytest.mark.parametrize("name", ["test_element_types", "test_splits", "test_batches", "test_convolutions"])
def test_warp_groups(hopper, tile, name: str) -> None:
    getattr(test_contract_wgmma, name)(tile)


@pytest.mark.parametrize("m,n,k", [(2048, 2048, 4096), (1000, 1536, 1000), (4096, 256, 8192)])
def test_large_products(device, m: int, n: int, k: int) -> None:
    """As many tiles as the device has room for, and more: the pipeline runs many times around its stages."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    text = f"product (float[{m}, {k}] x) => (float[{m}, {n}] y) {{ y = MatMul(x, w) }}"
    got = mlc.compile(small_models.model(text, w=w), target="cuda", precision="bf16").run({"x": x})["y"]
    rounded = [a.astype(DType.BF16.np).astype(np.float32) for a in (x, w)]
    want = rounded[0] @ rounded[1]
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)
