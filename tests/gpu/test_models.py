"""Whole models on the device against onnxruntime; arrays of cupy and torch without copies; streams, graphs, errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mlc
import numpy as np
import onnx_coverage
import onnxruntime as ort
import pytest
import small_models
import test_float8
from click.testing import CliRunner
from mlc.compiler.cli import cli
from mlc.compiler.precision.options import Precision
from mlc.errors import DeviceError, InputError
from mlc.ir import DType
from mlc.runtime.cuda.module import CudaModule
from test_coverage import RUN
from test_module import CASES, FAMILY_SIZES, FEW_BITS, SIXTEEN_BITS, agree, agrees_in_16_bits, floats


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


def test_commands(tmp_path) -> None:
    model, made = tmp_path / "m.onnx", tmp_path / "m.mlc"
    model.write_bytes(small_models.cnn())
    here = [str(model), "--target=cuda"]
    for args, told in ((["compile", *here, "-o", str(made)], "m.mlc"), (["inspect", str(made)], "arena"), (["run", str(made)], "float32"),
                       (["check", *here, "--precision=bf16"], "agrees"), (["bench", *here, "--seconds=0.05", "--rounds=1"], "median")):  # fmt: skip
        done = CliRunner().invoke(cli, args, catch_exceptions=False)
        assert done.exit_code == 0 and told in done.output, done.output


@pytest.mark.parametrize("name", ["transformer", "cnn"])
def test_launches_that_overlap(name: str) -> None:
    module, _ = compiled(name, precision="bf16")
    overlapping = CudaModule(module.parts, overlap=True)
    for feeds in CASES[name]:
        want = module.run(feeds)
        for _ in range(20):
            got = overlapping.run(feeds)
            assert all(np.array_equal(got[n], want[n]) for n in want)


def test_cupy_arrays_stay_where_they_are(real) -> None:
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


def test_torch_tensors_by_dlpack(real) -> None:
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

    def work(i: int) -> None:
        module, blob = pairs[i % 2]
        for _ in range(5):
            agree(module, blob, CASES["mlp" if i % 2 == 0 else "cnn"][0])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize("precision,limit", [("bf16", 2e-2), ("fp16", 3e-3), ("int8-dynamic", 5e-2)])
def test_lower_precision(precision: str, limit: float) -> None:
    feeds = {"x": floats(40, 16)}
    exact, got = (compiled("mlp", precision=p)[0].run(feeds)["y"] for p in ("fp32", precision))
    assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < limit


@pytest.mark.parametrize("name,shape,precision,limit", SIXTEEN_BITS)
def test_models_in_16_bits(name: str, shape: tuple[int, ...], precision: str, limit: float) -> None:
    feeds = {"x": floats(*shape)}
    (exact,), (got,) = (compiled(name, precision=p)[0].run(feeds).values() for p in ("fp32", precision))
    assert 0 < np.linalg.norm(got - exact) < limit * np.linalg.norm(exact)


@pytest.mark.parametrize("model,shape", [
    (test_float8.matmul(256, 96), (70, 256)), (test_float8.gemm(64, 48), (1, 64)), (test_float8.conv(16, 24), (2, 16, 9, 10)),
])  # fmt: skip
def test_float8_products(model, shape: tuple[int, ...]) -> None:
    """Tensor cores add them in fewer bits than float32 has."""
    module, x = mlc.compile(model, target="cuda"), floats(*shape)
    (want,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.linalg.norm(module.run({"x": x})["y"] - want) < 2e-3 * np.linalg.norm(want)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("name", FAMILY_SIZES)
def test_families_of_operators_in_16_bits(name: str, dtype: DType) -> None:
    agrees_in_16_bits(mlc.compile(small_models.family(name, dtype, dtype), target="cuda"), name, dtype)


@pytest.mark.parametrize("precision,limit", FEW_BITS)
def test_weights_of_few_bits(precision: str, limit: float) -> None:
    modules = [compiled("wide", precision=p)[0] for p in ("fp32", precision)]
    for rows in (1, 9, 40):
        feeds = {"x": floats(rows, 64)}
        want, got = (m.run(feeds)["y"] for m in modules)
        assert 0 < np.linalg.norm(got - want) < limit * np.linalg.norm(want)


def test_weights_of_few_bits_by_16_bit_floats() -> None:
    """One row, those that multiply what tensor cores expand on the way, and those of weights expanded once."""
    blob = small_models.wide()
    exact = mlc.compile(blob, target="cuda")
    module = mlc.compile(blob, target="cuda", precision=Precision("bf16", (("MatMul", "int4"),)))
    for rows in (1, 40, 300):
        feeds = {"x": floats(rows, 64)}
        want, got = (m.run(feeds)["y"] for m in (exact, module))
        assert 0 < np.linalg.norm(got - want) < 0.12 * np.linalg.norm(want)


@pytest.mark.parametrize("name", ["mlp", "unet", "heads"])
def test_tf32(name: str) -> None:
    """Given as `+tf32` behind an architecture: products, convolutions and attention round to it."""
    from mlc.runtime.cuda.cupy_device import present_architecture

    blob = getattr(small_models, name)()
    feeds = {"x": floats(*{"mlp": (40, 16), "unet": (1, 8, 16, 16), "heads": (1, 70, 16)}[name])}
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


def test_sizes_that_depend_on_data() -> None:
    import test_yields

    rng = np.random.default_rng(8)
    selecting = mlc.compile(test_yields.chosen(), target="cuda")
    for n in (0, 1, 31, 50_000):
        test_yields.agree(selecting, test_yields.chosen(), {"x": rng.standard_normal(n).astype(np.float32)})
    first = small_models.model(test_yields.FIRST)
    module = mlc.compile(first, target="cuda")
    for n, k in ((40, 1), (30_000, 7), (30_000, 500)):
        test_yields.agree(module, first, {"x": rng.standard_normal((2, n)).astype(np.float32), "k": np.array([k])})
    growing = mlc.compile(test_yields.growing(), target="cuda")
    for n in (1, 4, 2):
        test_yields.agree(growing, test_yields.growing(), {"x": np.array([1, 2], np.float32), "n": np.array(n)})


def test_what_python_runs() -> None:
    import test_yields

    model = test_yields.strings_and_sequences()
    feeds = {"s": np.array(["ab", "", "ü"], object), "x": floats(2, 3)}
    got, want = mlc.compile(model, target="cuda").run(feeds), mlc.compile(model, threads=1).run(feeds)
    assert got["t"].tolist() == want["t"].tolist()
    np.testing.assert_array_equal(got["y"], want["y"])


@pytest.mark.parametrize("name", sorted(set(RUN) & set(onnx_coverage.present("node"))))
def test_one_of_each_family_of_operators(name: str) -> None:
    model = onnx_coverage.model_of("node", name)
    module = mlc.compile(model, target="cuda")
    for data in onnx_coverage.data_of("node", name, model):
        got = module.run(data.feeds)
        for output, want in zip(model.graph.output, data.expected, strict=True):
            onnx_coverage.assert_same(got[output.name], want, onnx_coverage.cases("node")[name], output.name)
