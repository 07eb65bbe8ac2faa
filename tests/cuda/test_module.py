"""CUDA modules on the emulated device: whole models against onnxruntime, arrays without copies, graphs, errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlc
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
import small_models
from emulated import needs_gxx
from mlc.codegen.cuda.emulate.compiler import EmulateOptions
from mlc.codegen.cuda.emulate.device import EmulatedArray
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend, emulate, emulated_module
from mlc.compiler.options import Options
from mlc.compiler.precision.options import Precision
from mlc.errors import ArtifactError, DeviceError, InputError, TargetError
from mlc.ir import DType
from mlc.runtime import artifact
from mlc.runtime.cuda import images
from mlc.runtime.cuda.module import CudaModule

pytestmark = needs_gxx
rng = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


CASES = {
    "mlp": [{"x": floats(n, 16)} for n in (1, 7, 0)],
    "cnn": [{"x": floats(n, 3, 17, 15)} for n in (2, 3)],
    "transformer": [{"x": floats(1, n, 16)} for n in (5, 33)],
    "loop": [{"x": floats(4), "n": np.array(n)} for n in (0, 3)] + [{"x": -np.ones(4, np.float32), "n": np.array(1)}],
    "lstm": [{"x": floats(n, 2, 6)} for n in (1, 9)],
    "topk": [{"x": floats(3, 30)}],
    "heads": [{"x": floats(1, n, 16)} for n in (1, 33)],
    "shifted": [{"x": floats(n, 6, 9, 16)} for n in (1, 3)],
}


def agree(module: CudaModule, blob: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    got = module.run(feeds)
    want = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    for (name, a), b in zip(got.items(), want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1.0, float(np.abs(b).max(initial=0))), err_msg=name)
    return got


@pytest.fixture(scope="module")
def modules():
    made: dict[str, tuple[CudaModule, bytes]] = {}

    def get(name: str) -> tuple[CudaModule, bytes]:
        if name not in made:
            blob = getattr(small_models, name)()
            made[name] = emulate(blob), blob
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_models_agree_with_onnxruntime(modules, name: str) -> None:
    module, blob = modules(name)
    for feeds in CASES[name]:
        agree(module, blob, feeds)


def test_rolled_windows_are_read_where_they_lie(modules) -> None:
    """One launch each for what goes into windows, their product, and what comes back and is added."""
    module, _ = modules("shifted")
    assert len(module.profile(CASES["shifted"][0], runs=1)) == 3


def test_orders_of_blocks_and_threads_do_not_matter(modules) -> None:
    module, _ = modules("transformer")
    feeds = CASES["transformer"][1]
    first = module.run(feeds)["y"]
    for seed in (1, 2):
        module.device.seed = seed
        np.testing.assert_array_equal(module.run(feeds)["y"], first)
    module.device.seed = 0


def test_sizes_that_turn_out_to_be_one() -> None:
    """The module's second program, for sizes that the first takes as equal, also where data decide them."""
    blob = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[a,16] x, float[c,16] y, bool[a] k) => (float[m,16] z, float[p,16] v) {
            z = Add(x, y) t = Compress<axis = 0>(x, k) v = Mul(t, y) }""").SerializeToString()
    module = emulate(blob)
    for a, c, kept in ((5, 5, 5), (1, 5, 1), (5, 1, 3), (1, 1, 0), (5, 5, 1)):
        agree(module, blob, {"x": floats(a, 16), "y": floats(c, 16), "k": np.arange(a) < kept})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_heads_are_one_product(precision: str) -> None:
    """Three projections are one contraction, whose rows attention reads as they lie: no kernel besides."""
    blob, feeds = small_models.heads(), {"x": floats(1, 70, 16)}
    module = emulate(blob, precision=precision)
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    assert np.linalg.norm(module.run(feeds)["y"] - want) <= {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}[precision] * np.linalg.norm(want)
    steps = len(
        compile_stages(
            blob, Options("cuda:sm_90a", precision=Precision(precision)), backend=EmulatedBackend(parse("cuda:sm_90a"))
        ).plan.steps
    )
    assert steps == 3 + (precision != "fp32")  # rounding the input, projections, attention, the last product


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "cuda:sm_90a+tf32"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_images_of_few_channels_are_read_in_pieces(target: str, precision: str) -> None:
    """Tensor cores take 16 bytes at a time also of them; true float32 takes them as they are."""
    blob, feeds = small_models.stem(), {"x": floats(2, 3, 30, 31)}
    module = emulate(blob, target=target, precision=precision)
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    limit = 2e-3 if "tf32" in target and precision == "fp32" else {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}[precision]
    assert np.linalg.norm(module.run(feeds)["y"] - want) <= limit * np.linalg.norm(want)
    result = compile_stages(blob, Options(target, precision=Precision(precision)), backend=EmulatedBackend(parse(target)))
    element_by_element = "b0[at]"
    products = [text for text in result.texts.values() if "contraction on tensor cores" in text or "contraction by warp groups" in text]
    assert not any(element_by_element in text for text in products) and bool(products) == (precision != "fp32" or "tf32" in target)


@pytest.mark.parametrize("precision,limit,exact", [("bf16", 2e-2, False), ("fp16", 3e-3, False), ("fp16", 3e-3, True)])
def test_sums_between_products_lie_in_16_bits(precision: str, limit: float, exact: bool) -> None:
    """What norms and the next sum read; results stay float32 (`codegen/lower/narrow.py`), and all sums where they are to be `exact`."""
    blob = small_models.model(RESIDUAL, w=(32, 32), v=(32, 32), o=np.ones(32, np.float32))
    options = Options("cuda:sm_90a", exact=exact, precision=Precision(precision))
    result = compile_stages(blob, options, backend=EmulatedBackend(parse("cuda:sm_90a")))
    wide = [b.kind for b in result.plan.buffers if b.dtype is DType.F32 and b.kind not in ("const", "alias")]
    assert sorted(wide) == (["arena"] * 3 if exact else []) + ["input", "output"]  # a, d and h
    feeds = {"x": floats(40, 32)}
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    (got,) = emulated_module(result).run(feeds).values()
    assert got.dtype == np.float32 and np.linalg.norm(got - want) <= limit * np.linalg.norm(want)


RESIDUAL = """g (float[40, 32] x) => (float[40, 32] y) {
    a = MatMul(x, w) b = LayerNormalization(a, o) c = MatMul(b, v) d = Add(a, c)
    e = LayerNormalization(d, o) f = MatMul(e, w) h = Add(d, f) k = LayerNormalization(h, o) y = MatMul(k, v) }"""


@pytest.mark.parametrize("precision,limit", [("bf16", 2e-2), ("fp16", 3e-3), ("int8-dynamic", 5e-2)])
def test_lower_precision(precision: str, limit: float) -> None:
    blob = small_models.mlp()
    feeds = {"x": floats(40, 16)}
    exact, got = (emulate(blob, precision=p).run(feeds)["y"] for p in ("fp32", precision))
    error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert 0 < error < limit


def test_unoptimized_models_agree() -> None:
    blob = small_models.cnn()
    agree(emulate(blob, opt_level=0), blob, CASES["cnn"][0])


def test_graph_replaces_launches_from_the_second_run_on() -> None:
    blob = small_models.mlp()
    module = emulate(blob, shapes={"x": (4, 16)})
    device, feeds = module.device, {"x": floats(4, 16)}
    for _ in range(4):
        agree(module, blob, feeds)
    assert device.replays == 3
    module.graphs = False
    agree(module, blob, feeds)
    assert device.replays == 3


LONG = """control (float[8] x, int64 n) => (float[8] y) {
    a = Softmax<axis = 0>(x)  u = CumSum(a, zero)
    z = Loop(n, go, u) <body = step (int64 i, bool on, float[8] p) => (bool on2, float[8] q) {
        on2 = Identity(on)  t = Abs(p)  r = Softmax<axis = 0>(t)  w = CumSum(r, zero)  q = Softmax<axis = 0>(w) }>
    m = Softmax<axis = 0>(z)  y = CumSum(m, zero) }"""


def test_graphs_of_what_lies_between_branches() -> None:
    """A loop's body is a graph, and what lies before and behind it; whether and how often each runs is up to the data."""
    blob = small_models.model(LONG, go=np.array(True), zero=np.array(0))
    module, x = emulate(blob), np.arange(8, dtype=np.float32)
    for n in (3, 0, 2, 5, 5):
        agree(module, blob, {"x": x, "n": np.array(n)})
    assert module.device.replays > 8
    before = module.device.replays
    module.graphs = False
    agree(module, blob, {"x": x, "n": np.array(4)})
    assert module.device.replays == before


SHARED = """shared (float[48, 1600] x, int64 n) => (float[48, 64] y) {
    h = MatMul(x, w)
    z, s = Loop(n, go, h) <body = step (int64 i, bool on, float[48, 64] p) => (bool on2, float[48, 64] q, float[48, 64] r) {
        on2 = Identity(on)  t = MatMul(x, w)  u = Add(t, p)  q = Tanh(u)  r = Relu(q) }>
    y = Add(z, h) }"""


@pytest.mark.parametrize("target,inside", [("cuda:sm_90a", False), ("cuda:sm_80", True)])
def test_blocks_that_share_k_are_counted(target: str, inside: bool) -> None:
    """Plainly and as graphs, before a loop and in it: counters are zero where memory begins, and each launch leaves them so."""
    text = SHARED.replace("h = MatMul(x, w)", "h = Identity(g)" if inside else "h = MatMul(x, w)")
    blob = small_models.model(text, w=(1600, 64), g=np.zeros((48, 64), np.float32), go=np.array(True))
    result = compile_stages(blob, Options(target, precision=Precision("bf16")), backend=EmulatedBackend(parse(target)))
    assert any("last_of(" in text for text in result.texts.values())
    module = emulated_module(result)
    for n in (2, 0, 3, 3):
        feeds = {"x": floats(48, 1600) / 40, "n": np.array(n)}
        (got,), (want,) = module.run(feeds).values(), ort.InferenceSession(blob).run(None, feeds)
        assert np.linalg.norm(got - want) < 1e-2 * max(1.0, float(np.linalg.norm(want)))


def on_device(module: CudaModule, array: np.ndarray, shift: int = 0) -> EmulatedArray:
    memory = module.device.allocate(array.nbytes + shift)
    module.device.upload(memory.ptr + shift, array, 0)
    out = EmulatedArray(memory, array.shape, array.dtype)
    out.__cuda_array_interface__["data"] = (memory.ptr + shift, False)
    return out


def test_device_arrays_go_in_and_come_out_without_copies(modules) -> None:
    module, blob = modules("mlp")
    feeds = {"x": floats(6, 16)}
    want = agree(module, blob, feeds)["y"]
    copies: list[int] = []
    module.device.copy, original = lambda to, source, n, s: (copies.append(n), original(to, source, n, s)), module.device.copy
    uploads, module.device.upload = module.device.upload, lambda *a: pytest.fail("an upload")
    module.device.upload = uploads
    x = on_device(module, feeds["x"])
    y = module.run({"x": x})["y"]
    assert isinstance(y, EmulatedArray) and not copies
    np.testing.assert_array_equal(y.numpy(), want)
    np.testing.assert_array_equal(module.run({"x": x}, on_device=False)["y"], want)
    np.testing.assert_array_equal(module.run(feeds, on_device=True)["y"].numpy(), want)
    np.testing.assert_array_equal(module.run({"x": on_device(module, feeds["x"], 4)})["y"].numpy(), want)  # misaligned: copied
    assert copies == [feeds["x"].nbytes]
    np.testing.assert_array_equal(module.run({"x": x}, stream=3, wait=False)["y"].numpy(), want)


def test_several_threads(modules) -> None:
    module, _ = modules("mlp")
    feeds = [{"x": floats(3, 16)} for _ in range(4)]
    want = [module.run(f)["y"] for f in feeds]

    def work(i: int) -> None:
        for _ in range(5):
            np.testing.assert_array_equal(module.run(feeds[i])["y"], want[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_wrong_inputs(modules) -> None:
    module, _ = modules("mlp")
    with pytest.raises(InputError, match="missing input x"):
        module.run({})
    with pytest.raises(InputError, match="float64"):
        module.run({"x": np.zeros((2, 16))})
    with pytest.raises(InputError, match="dtype"):
        module.run({"x": on_device(module, np.zeros((2, 16)))})
    with pytest.raises(InputError, match="size 15"):
        module.run({"x": on_device(module, np.zeros((2, 15), np.float32))})
    far = on_device(module, floats(2, 16))
    far.__cuda_array_interface__["strides"] = (4, 8)
    with pytest.raises(InputError, match="contiguous"):
        module.run({"x": far})
    with pytest.raises(InputError, match="stream"):
        module.run({"x": floats(2, 16)}, wait=False)
    module.device.owner = lambda ptr: 3
    with pytest.raises(DeviceError, match="device 3"):
        module.run({"x": on_device(module, floats(2, 16))})


def test_device_memory_runs_out() -> None:
    module = emulate(small_models.mlp(), memory=8000)
    module.run({"x": floats(1, 16)})
    with pytest.raises(DeviceError, match=r"\d+ bytes wanted, 8000 free"):
        module.run({"x": floats(10_000, 16)})
    module.run({"x": floats(1, 16)})


def test_a_module_without_code_for_the_device() -> None:
    blob = small_models.mlp()
    with pytest.raises(TargetError, match="sm_90a"):
        module = emulate(blob, target="cuda:sm_90a")
        CudaModule(module.parts, device=type(module.device)(module.device.library, capability=80)).run({"x": floats(1, 16)})


SIXTEEN_BITS = [
    ("stem", (2, 3, 30, 31), "fp16", 3e-3),
    ("unet", (2, 8, 16, 16), "fp16", 3e-3),
    ("transformer", (1, 70, 16), "bf16", 2e-2),
    ("wide", (130, 64), "fp16", 3e-3),
]


@pytest.mark.parametrize("name,shape,precision,limit", SIXTEEN_BITS)
@pytest.mark.parametrize("target", ["cuda:sm_90a", "cuda:sm_80"])
def test_models_in_16_bits(name: str, shape: tuple[int, ...], precision: str, limit: float, target: str) -> None:
    """Whole ones: products of the same sizes may differ in where they read and write, which is not in their text but in tensor maps."""
    model, x = getattr(small_models, name)(), floats(*shape)
    (got,) = emulate(model, target=target, precision=precision).run({"x": x}).values()
    (want,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.linalg.norm(got - want) < limit * np.linalg.norm(want)


FAMILY_SIZES = {  # of inputs, in two runs
    "decoder": [{"x": (1, 1, 32), "past_k": (1, 2, n, 8), "past_v": (1, 2, n, 8)} for n in (300, 7)],
    "recurrent": [{"x": (n, 2, 6)} for n in (4, 1)],
    "windows": [{"x": (n, 8, 13, 11)} for n in (2, 1)],
    "irregular": [{"x": (n, 30)} for n in (5, 1)],
}
SIXTEEN_BIT_ERROR = {DType.F16: 3e-3, DType.BF16: 2e-2}


def agrees_in_16_bits(module: CudaModule, name: str, dtype: DType) -> None:
    """With onnxruntime on the same numbers in float32; it has few operators in bfloat16."""
    session = ort.InferenceSession(small_models.family(name, DType.F32, dtype), providers=["CPUExecutionProvider"])
    for sizes in FAMILY_SIZES[name]:
        feeds = {n: floats(*s).astype(dtype.np) for n, s in sizes.items()}
        if name == "irregular":
            feeds["at"] = np.argsort(floats(*sizes["x"]), 1)[:, :4].copy()
        wide = {n: a if a.dtype == np.int64 else a.astype(np.float32) for n, a in feeds.items()}
        for (output, got), want in zip(module.run(feeds).items(), session.run(None, wide), strict=True):
            assert got.shape == want.shape, output
            if want.dtype == np.int64:
                np.testing.assert_array_equal(got, want, output)
                continue
            assert got.dtype == dtype.np, output
            assert np.linalg.norm(got.astype(np.float32) - want) <= SIXTEEN_BIT_ERROR[dtype] * np.linalg.norm(want), output


@pytest.mark.parametrize(
    "name,dtype", [("decoder", DType.F16), ("recurrent", DType.BF16), ("windows", DType.F16), ("irregular", DType.BF16)]
)
def test_families_of_operators_in_16_bits(name: str, dtype: DType) -> None:
    agrees_in_16_bits(emulate(small_models.family(name, dtype, dtype)), name, dtype)


FEW_BITS = [("int8-weight", 1e-2), ("int4", 0.12)]


@pytest.mark.parametrize("precision,limit", FEW_BITS)
def test_weights_of_few_bits(precision: str, limit: float) -> None:
    """One row, few, and more than the weights are read as they are for."""
    blob = small_models.wide()
    exact, module = emulate(blob), emulate(blob, precision=precision)
    for rows in (1, 9, 40):
        feeds = {"x": floats(rows, 64)}
        want, got = (m.run(feeds)["y"] for m in (exact, module))
        assert 0 < np.linalg.norm(got - want) < limit * np.linalg.norm(want)


def test_choice_of_code() -> None:
    have = dict.fromkeys(("sm_80", "sm_86", "sm_90a", "compute_80"), b"")
    chosen = {c: images.choose(have, c) for c in (75, 80, 86, 89, 90, 100)}
    assert chosen == {75: None, 80: "sm_80", 86: "sm_86", 89: "sm_86", 90: "sm_90a", 100: "compute_80"}


def test_artifacts() -> None:
    module = emulate(small_models.mlp())
    parts = artifact.load(module.to_bytes())
    assert parts.code == module.parts.code
    again = CudaModule(parts, device=module.device)
    x = floats(2, 16)
    np.testing.assert_array_equal(again.run({"x": x})["y"], module.run({"x": x})["y"])
    for broken in (b"mlccuda2", parts.code[:-1], parts.code + b"x", parts.code.replace(b"sm_90a", b"sm_9?a")):
        with pytest.raises(ArtifactError):
            images.split(broken)
    assert module.binding(N=3).layout.total > 0


def test_profile(modules) -> None:
    module, _ = modules("cnn")
    times = module.profile(CASES["cnn"][0], runs=2)
    assert set(times) == {s.word for s in module.manifest.steps} and all(t > 0 for t in times.values())
    with pytest.raises(InputError, match="runs=0"):
        module.profile(CASES["cnn"][0], runs=0)


def test_without_a_gpu() -> None:
    pytest.importorskip("cupy")
    from mlc.runtime.cuda.cupy_device import present_architecture

    if present_architecture() is not None:
        pytest.skip("this machine has a GPU")
    module = emulate(small_models.mlp())
    with pytest.raises(DeviceError, match=r"driver|GPU"):
        mlc.load(module.to_bytes())
    with pytest.raises(TargetError, match="names no architecture"):
        mlc.compile(small_models.mlp(), target="cuda")


def test_undefined_behaviour_sanitizer() -> None:
    for name in ("mlp", "cnn", "transformer"):
        blob = getattr(small_models, name)()
        agree(emulate(blob, options=EmulateOptions(("undefined",))), blob, CASES[name][0])


def test_each_device_runs_what_its_architecture_has() -> None:
    """Code of several architectures differs in kernels and grids; a device loads and runs its own."""
    target, blob, x = "cuda:sm_80,sm_90a", small_models.wide(), floats(256, 64)
    result = compile_stages(blob, Options(target, precision=Precision("bf16")), backend=EmulatedBackend(parse(target)))
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    mapped = {}
    for capability in (80, 89, 90, 100):
        module = emulated_module(result, capability=capability)
        got = [module.run({"x": x})["y"] for _ in range(3)]  # the third replays a graph
        assert all(np.linalg.norm(y - want) < 1e-2 * np.linalg.norm(want) for y in got) and module.device.replays
        mapped[capability] = any(image.maps for function, image in module._bindings.program.functions if function is not None)
    assert mapped == {80: False, 89: False, 90: True, 100: False}
    with pytest.raises(TargetError, match="sm_75"):
        emulated_module(result, capability=75).prepare()


@pytest.mark.parametrize("precision,limit", [("bf16", 2e-2), ("fp16", 3e-3)])
def test_attention_in_16_bits(precision: str, limit: float) -> None:
    """Where layers are lowered to 16 bits, attention is on tensor cores too."""
    blob, x = small_models.transformer(), floats(1, 40, 16)
    options = Options("cuda:sm_80", precision=Precision(precision))
    result = compile_stages(blob, options, backend=EmulatedBackend(parse("cuda:sm_80")))
    assert any("attention on tensor cores" in text for text in result.texts.values())
    (want,) = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    got = emulated_module(result).run({"x": x})["y"]
    assert 0 < np.linalg.norm(got - want) < limit * np.linalg.norm(want)


def test_descriptions_of_tensor_maps() -> None:
    """They come back as they were; what is no description is refused."""
    spec = images.MapSpec(1, 2, (64, (3,), 5), (128, (4,)), (64, 128, 1))
    (found,) = images.split(images.join([("k", images.Image(128, 0, {"sm_90a": b"\x7fELF"}, (spec,)))]))
    assert found[1].maps == (spec,)
    wrong = [
        {"pointer": -1},
        {"itemsize": 3},
        {"sizes": (64,)},
        {"box": (64, 300, 1)},
        {"box": (128, 128, 1)},
        {"strides": (128, -4)},
        {"sizes": (64, (999,), 5)},
        {"box": (64, (1,), 1)},
    ]
    for change in wrong:
        bad = images.join([("k", images.Image(128, 0, {"sm_90a": b"\x7fELF"}, (replace(spec, **change),)))])
        with pytest.raises(ArtifactError, match="malformed"):
            images.split(bad)
