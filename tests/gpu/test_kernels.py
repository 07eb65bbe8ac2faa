"""Every kernel test of the emulation, on the device: the same graphs, compared with the same interpreter."""

from __future__ import annotations

import emulated
import pytest
import test_attention
import test_contract
import test_contract_mma
import test_loops
import test_recurrent
from mlc.ir import DType
from on_device import DeviceLibrary, launch

CASES = [
    (module, name)
    for module in (test_loops, test_contract, test_contract_mma, test_attention, test_recurrent)
    for name in sorted(vars(module))
    if name.startswith("test_")
    and name not in ("test_dtypes", "test_dot_products", "test_b_that_is_computed", "test_unsupported", "test_tf32_option")
]


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch, device) -> None:
    for module in (emulated, test_recurrent):
        monkeypatch.setattr(module, "build", lambda sources, options=None: DeviceLibrary(device, sources))
        monkeypatch.setattr(module, "launch", launch)


@pytest.mark.parametrize("module,name", CASES, ids=[f"{m.__name__}-{n}" for m, n in CASES])
def test_on_device(module, name: str) -> None:
    getattr(module, name)()


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64, DType.I8, DType.U8, DType.I32, DType.I64], ids=lambda d: d.value)
def test_dtypes(dtype: DType) -> None:
    test_loops.test_dtypes(dtype)
    if dtype not in (DType.I8, DType.U8, DType.I64):
        test_contract.test_dtypes(dtype)


@pytest.mark.parametrize("a,b", [(DType.BF16, DType.BF16), (DType.U8, DType.I8)], ids=["bf16", "int8"])
def test_dot_products(a: DType, b: DType) -> None:
    test_contract_mma.test_dot_products(a, b)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16], ids=lambda d: d.value)
def test_b_that_is_computed(dtype: DType) -> None:
    test_contract_mma.test_b_that_is_computed(dtype)
