"""Every kernel test of the emulation, on the device: the same graphs, compared with the same interpreter."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import emulated
import mlc
import numpy as np
import onnx.parser
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
NOTHING_RUNS = ("test_unsupported", "test_tf32_option", "test_schedules", "test_float32_leaves_no_multiprocessor_idle")


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


@pytest.mark.parametrize("bm,bn", [(128, 256), (128, 192), (128, 128), (64, 64)])
def test_tiles_of_warp_groups(hopper, tile, bm: int, bn: int) -> None:
    test_contract_wgmma.test_tiles(tile, bm, bn)


@pytest.mark.parametrize("bm,bn,splits", [(64, 128, 1), (64, 64, 3), (128, 192, 1), (128, 256, 1)])
def test_b_in_rows_by_warp_groups(hopper, tile, bm: int, bn: int, splits: int) -> None:
    test_contract_wgmma.test_b_in_rows(tile, bm, bn, splits)


@pytest.mark.parametrize("bm,bn", [(128, 192), (128, 128), (64, 64)])
def test_results_by_the_engine(hopper, tile, bm: int, bn: int) -> None:
    test_contract_wgmma.test_results_by_the_engine(tile, bm, bn)


@pytest.mark.parametrize("blocks,bm,bn", [(3, 128, 128), (7, 64, 64)])
def test_streams_of_warp_groups(hopper, tile, blocks: int, bm: int, bn: int) -> None:
    """Blocks that wait for each other."""
    test_contract_wgmma.test_streams(tile, blocks, bm, bn)


@pytest.mark.parametrize("name", ["test_element_types", "test_splits", "test_batches", "test_convolutions"])
def test_warp_groups(hopper, tile, name: str) -> None:
    getattr(test_contract_wgmma, name)(tile)


@pytest.mark.parametrize("bm,bn,blocks", [(128, 256, 2), (128, 192, 4), (128, 128, 6), (64, 64, 4)])
def test_clusters_of_warp_groups(hopper, tile, bm: int, bn: int, blocks: int) -> None:
    test_contract_wgmma.test_clusters(tile, bm, bn, blocks)


scheduled = test_contract_mma.scheduled  # a fixture


@pytest.mark.parametrize("blocks,bm", [(3, 16), (7, 64)])
def test_streams_of_warps(scheduled, blocks: int, bm: int) -> None:
    test_contract_mma.test_streams(scheduled, blocks, bm)


def test_splits_of_warps(scheduled) -> None:
    test_contract_mma.test_splits(scheduled)


groups = test_attention.groups  # a fixture


@pytest.mark.parametrize("dtype,tol,plan", test_attention.GROUPS)
def test_attention_of_warp_groups(hopper, groups, dtype: DType, tol: float, plan: tuple[int, ...]) -> None:
    test_attention.test_warp_groups(groups, dtype, tol, plan if plan != (2, 64, 3) else (2, 64))  # of 256 elements only two stages fit


def test_keys_hidden_from_warp_groups(hopper, groups) -> None:
    test_attention.test_keys_hidden_from_warp_groups(groups)


@pytest.mark.parametrize(
    "heads,shared,rows,keys,size,causal", [(12, 12, 1500, 1500, 64, 0), (16, 4, 2048, 2048, 128, 1), (8, 8, 700, 3000, 256, 0)]
)
def test_large_attention(device, real, heads: int, shared: int, rows: int, keys: int, size: int, causal: int) -> None:
    """More tiles of keys than are on their way, more blocks than the device has room for."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, h, n, size)).astype(np.float16) for h, n in ((heads, rows), (shared, keys), (shared, keys)))
    text = ", ".join(f"float16[{', '.join(map(str, a.shape))}] {n}" for n, a in (("q", q), ("k", k), ("v", v)))
    text = f"attention ({text}) => (float16[2, {heads}, {rows}, {size}] y) {{ y = Attention<is_causal = {causal}>(q, k, v) }}"
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 23]>\n' + text)
    got = mlc.compile(model, target="cuda").run({"q": q, "k": k, "v": v})["y"].astype(np.float32)
    wide = [np.repeat(a.astype(np.float32), heads // a.shape[1], 1) for a in (q, k, v)]
    scores = wide[0] @ wide[1].transpose(0, 1, 3, 2) / np.sqrt(size)
    if causal:
        scores += np.where(np.arange(keys) <= np.arange(rows)[:, None] + keys - rows, 0, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ wide[2]
    assert np.linalg.norm(got - want) < 3e-3 * np.linalg.norm(want)


@pytest.mark.parametrize("m,n,k", [(2048, 2048, 4096), (4096, 768, 768), (1000, 1536, 1000), (4096, 256, 8192), (6304, 768, 3072)])
def test_large_products(device, real, m: int, n: int, k: int) -> None:
    """As many tiles as the device has room for, and more: the pipeline runs many times around its stages. The last is a stream."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    text = f"product (float[{m}, {k}] x) => (float[{m}, {n}] y) {{ y = MatMul(x, w) }}"
    got = mlc.compile(small_models.model(text, w=w), target="cuda", precision="bf16").run({"x": x})["y"]
    rounded = [a.astype(DType.BF16.np).astype(np.float32) for a in (x, w)]
    want = rounded[0] @ rounded[1]
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)
