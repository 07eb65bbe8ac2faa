"""Whole models on the device against onnxruntime; arrays of cupy and torch without copies; streams, graphs, errors."""

from __future__ import annotations

import threading

import mlc
import numpy as np
import pytest
import small_models
from mlc.errors import DeviceError, InputError
from test_module import CASES, agree, floats


def compiled(name: str, **options):
    blob = getattr(small_models, name)()
    return mlc.compile(blob, target="cuda", **options), blob


@pytest.mark.parametrize("name", CASES)
def test_models_agree_with_onnxruntime(name: str) -> None:
    module, blob = compiled(name)
    for feeds in CASES[name]:
        for _ in range(3):  # the third run of equal sizes replays a graph
            agree(module, blob, feeds)


def test_saved_and_loaded(tmp_path) -> None:
    module, blob = compiled("transformer")
    module.save(tmp_path / "m.mlc")
    agree(mlc.load(tmp_path / "m.mlc"), blob, CASES["transformer"][0])


def test_cupy_arrays_stay_where_they_are() -> None:
    import cupy

    module, blob = compiled("mlp")
    x = floats(8, 16)
    want = agree(module, blob, {"x": x})["y"]
    given = cupy.asarray(x)
    for _ in range(3):
        y = module.run({"x": given})["y"]
        assert isinstance(y, cupy.ndarray)
        np.testing.assert_array_equal(y.get(), want)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = module.run({"x": given}, stream=stream, wait=False)["y"] + 1
    stream.synchronize()
    np.testing.assert_allclose(y.get(), want + 1)


def test_torch_tensors_by_dlpack() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    module, blob = compiled("mlp")
    x = floats(8, 16)
    want = agree(module, blob, {"x": x})["y"]
    y = module.run({"x": torch.from_numpy(x).cuda()})["y"]
    np.testing.assert_array_equal(torch.from_dlpack(y).cpu().numpy(), want)


def test_several_threads_and_modules() -> None:
    pairs = [compiled("mlp"), compiled("cnn")]
    errors: list[BaseException] = []

    def work(i: int) -> None:
        module, blob = pairs[i % 2]
        try:
            for _ in range(5):
                agree(module, blob, CASES["mlp" if i % 2 == 0 else "cnn"][0])
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


@pytest.mark.parametrize("precision,limit", [("bf16", 2e-2), ("fp16", 3e-3), ("int8-dynamic", 5e-2)])
def test_lower_precision(precision: str, limit: float) -> None:
    feeds = {"x": floats(40, 16)}
    exact, got = (compiled("mlp", precision=p)[0].run(feeds)["y"] for p in ("fp32", precision))
    assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < limit


def test_tf32() -> None:
    from mlc.runtime.cuda.cupy_device import present_architecture

    blob = small_models.mlp()
    feeds = {"x": floats(40, 16)}
    exact = mlc.compile(blob, target="cuda").run(feeds)["y"]
    got = mlc.compile(blob, target=f"cuda:{present_architecture()}+tf32").run(feeds)["y"]
    assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < 5e-3


def test_errors() -> None:
    module, _ = compiled("mlp")
    with pytest.raises(InputError, match="float64"):
        module.run({"x": np.zeros((2, 16))})
    with pytest.raises(DeviceError, match=r"bytes wanted, \d+ of \d+ free"):
        module.device.allocate(1 << 46)
    module.run({"x": floats(2, 16)})


def test_profile_is_of_the_device() -> None:
    module, _ = compiled("cnn")
    times = module.profile(CASES["cnn"][0], runs=3)
    assert all(0 < t < 1 for t in times.values())
