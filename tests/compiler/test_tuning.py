"""Tuned schedules compute the same, records are kept and used, and the default stays unless it is beaten."""

import json
from pathlib import Path

import mlc
import numpy as np
import onnx
import pytest
from mlc.codegen.cpu.emit import emit
from mlc.codegen.cpu.hints import (
    ContractHints,
    DotHints,
    GroupedHints,
    Hints,
    LoopHints,
    RecurrentHints,
    as_json,
    candidates,
    from_json,
)
from mlc.codegen.cpu.recurrent import LENGTHS, Y
from mlc.codegen.cpu.target import parse
from mlc.codegen.kernel import ContractKernel, GroupedKernel, RecurrentKernel
from mlc.codegen.plan import steps_of
from mlc.compiler.api import compile_stages, compile_with
from mlc.compiler.cli import main
from mlc.compiler.options import Options
from mlc.compiler.stages import module_of
from mlc.compiler.tuning import measure, search
from mlc.compiler.tuning.records import Records
from mlc.errors import ScheduleError
from onnx import helper, numpy_helper


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def integers(dtype: type, *shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)


def build(nodes: list[onnx.NodeProto], shape: list[int | str], **weights: np.ndarray) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, shape)], [value("y", 1, None)], [numpy_helper.from_array(v, n) for n, v in weights.items()]
    )
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=9
    )
    return made.SerializeToString()


QUANTIZED = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
TO_FLOAT = helper.make_node("Cast", ["i"], ["y"], to=1)
MODELS = {
    "matmul": (build([helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Gelu", ["m"], ["y"])], ["n", 320], w=noise(320, 200)), (37, 320)),
    "static matmul": (build([helper.make_node("MatMul", ["x", "w"], ["y"])], [150, 600], w=noise(600, 128)), (150, 600)),
    "conv": (build([helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, strides=[2, 2]), helper.make_node("Relu", ["c"], ["y"])], [1, 32, 18, 14], w=noise(70, 32, 3, 3)), (1, 32, 18, 14)),
    "winograd": (build([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], [1, 64, 30, 27], w=noise(140, 64, 3, 3)), (1, 64, 30, 27)),
    "attention": (build([helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), helper.make_node("MatMul", ["x", "t"], ["s"]), helper.make_node("Softmax", ["s"], ["p"]), helper.make_node("MatMul", ["p", "x"], ["y"])], [1, 3, 300, 32]), (1, 3, 300, 32)),
    "bytes": (build([QUANTIZED, helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]), TO_FLOAT], [150, 192], w=integers(np.int8, 192, 330)), (150, 192)),
    "bytes, unknown rows": (build([QUANTIZED, helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]), TO_FLOAT], ["n", 100], w=integers(np.int8, 100, 200)), (37, 100)),
    "convolution of bytes": (build([QUANTIZED, helper.make_node("ConvInteger", ["q", "w", "z"], ["i"], pads=[1] * 4), TO_FLOAT], [1, 64, 23, 17], w=integers(np.int8, 140, 64, 3, 3)), (1, 64, 23, 17)),
    "bfloat16": (build([helper.make_node("Cast", ["x"], ["b"], to=16), helper.make_node("Cast", ["w"], ["v"], to=16), helper.make_node("MatMul", ["b", "v"], ["i"]), TO_FLOAT], [70, 256], w=noise(256, 200)), (70, 256)),
    "few bits": (build([helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=128, N=330, bits=4, block_size=32)], [100, 128], w=integers(np.uint8, 330, 4, 16), s=noise(330, 4)), (100, 128)),
    "lstm": (build([helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=40, direction="bidirectional")], [7, 5, 24], w=noise(2, 160, 24), r=noise(2, 160, 40)), (7, 5, 24)),
    "rnn": (build([helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=33)], [6, "n", 24], w=noise(1, 33, 24), r=noise(1, 33, 33)), (6, 9, 24)),
    "rows": (build([helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("ReduceMax", ["s", "a"], ["y"])], [5, 90, 70], a=np.array([1])), (5, 90, 70)),
}  # fmt: skip
SLOW = {"lstm", "rnn", "few bits", "bfloat16"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "_SAMPLE", 1e-6)
    monkeypatch.setattr(search, "_WHOLE", search.bench.Options(seconds=0.001, rounds=1, pause=0))


@pytest.mark.parametrize(("name", "target"), [(n, "cpu") for n in MODELS] + [(n, "cpu:x86-64-v3") for n in MODELS if n not in SLOW])
def test_every_candidate_computes_the_same(name: str, target: str) -> None:
    source, shape = MODELS[name]
    result = compile_stages(source, Options(target=target))
    x = noise(*shape)
    want = module_of(result, 2)(x)
    jobs = search._jobs(result, Records("any", 2))
    tried = 0
    for job in jobs:
        for hints in candidates(job.kernel, result.backend.target):
            tuned = search._with(result, [job], {job.key: hints})
            got = module_of(tuned, 2)(x)
            limit = (1e-2 if name == "bfloat16" else 1e-4) * max(1.0, np.abs(want).max())
            assert np.abs(got - want).max() <= limit, (type(job.kernel).__name__, hints)
            tried += tuned is not result
    assert tried >= 3


def test_hints_that_do_not_suit_are_refused() -> None:
    cpu = parse("cpu")
    kernels = [s.kernel for s in steps_of(compile_stages(MODELS["static matmul"][0], Options()).plan.steps)]
    contract = next(k for k in kernels if isinstance(k, ContractKernel))
    for hints in (ContractHints(vectors=3), ContractHints(tall=1), ContractHints(tall=99), ContractHints(block=1), LoopHints()):
        with pytest.raises(ScheduleError):
            emit(contract, cpu, hints)
    for text in ('{"kind": "other"}', '{"kind": "loop", "depth": 1}', '{"kind": "loop", "group": "2"}', "3", "[]"):
        with pytest.raises(ScheduleError):
            from_json(json.loads(text))
    for hints in (ContractHints(tall=5), DotHints(rows=32), GroupedHints(expand=-1), RecurrentHints(together=1)):
        assert from_json(json.loads(json.dumps(as_json(hints)))) == hints


@pytest.mark.parametrize(("name", "refused"), [
    ("bytes", [DotHints(rows=33), DotHints(rows=1 << 20), DotHints(strips=99), ContractHints(tall=5)]),
    ("convolution of bytes", [DotHints(rows=99), DotHints(rows=4, fetch=1)]),
    ("few bits", [GroupedHints(rows=4096), GroupedHints(vectors=3), GroupedHints(chunk=99), DotHints(rows=32)]),
    ("lstm", [RecurrentHints(rows=6, vectors=4), RecurrentHints(vectors=-1), RecurrentHints(rows=9), LoopHints(group=2)]),
])  # fmt: skip
def test_each_kind_refuses_what_it_cannot_have(name: str, refused: list[Hints]) -> None:
    kinds = {"bytes": ContractKernel, "convolution of bytes": ContractKernel, "few bits": GroupedKernel, "lstm": RecurrentKernel}
    found = [s.kernel for s in steps_of(compile_stages(MODELS[name][0], Options()).plan.steps)]
    kernel = next(k for k in found if isinstance(k, kinds[name]) and getattr(k, "group", 0) != 1)
    for hints in refused:
        with pytest.raises(ScheduleError):
            emit(kernel, parse("cpu"), hints)


def test_a_team_is_measured_with_rows_that_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of length 0 would be over before the first step."""
    result = compile_stages(MODELS["lstm"][0], Options())
    job = next(j for j in search._jobs(result, Records("any", 2)) if isinstance(j.kernel, RecurrentKernel))
    place = measure.Bench(job.kernel, job.constant, {}, parse("cpu"), 2)
    assert (place._arrays[LENGTHS][0] == 7).all()
    assert place.runner(job.default)(2) > 0
    assert np.abs(place._arrays[Y][0]).min() > 0


def test_records(tmp_path: Path) -> None:
    result = compile_stages(MODELS["conv"][0], Options())
    default = next(iter(result.emitted.values()))
    records = Records("cpu", 1, tmp_path / "r")
    key = records.key(default)
    assert key != Records("cpu", 2).key(default) and key != Records("other", 1).key(default)
    assert records.get(key) == (False, None)
    records.put(key, LoopHints(group=2), 1.2)
    assert records.get(key) == (True, LoopHints(group=2))
    records.put(key, None, 1.0)
    assert records.get(key) == (True, None)
    for text in ('{"hints": {"kind": "loop"', "[" * 100_000, "[]", '{"hints": {"kind": []}}', "\udcff"):
        (tmp_path / "r" / f"{key}.json").write_bytes(text.encode(errors="surrogateescape"))
        assert records.get(key) == (False, None)
    Records("cpu", 1, tmp_path / "r" / f"{key}.json").put(key, None, 1.0)  # a folder that cannot be made


class Slow(search.Bench):
    """A machine on which the first candidate that is other code is twice as fast as all others."""

    def runner(self, code):
        class Fixed(measure.Runner):
            def __call__(inner, calls: int) -> float:
                super().__call__(1)
                return 1.0 if code is Slow.winner else 2.0

        return Fixed(self, code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def remembered(kernel, target, hints=None):
        code = emit(kernel, target, hints)
        if Slow.winner is None and code.symbol != emit(kernel, target).symbol:
            Slow.winner = code
        return code

    Slow.winner = None  # type: ignore[attr-defined]
    monkeypatch.setattr(search, "emit", remembered)
    monkeypatch.setattr(search, "Bench", Slow)


def symbols(module: mlc.Module) -> set[str]:
    return {s.symbol for s in module.manifest.steps}


def test_the_winner_is_kept_and_used_again(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source, shape = MODELS["static matmul"]
    monkeypatch.setattr(search, "_faster", lambda *args: True)
    plain = mlc.compile(source, threads=1)
    stages: list[str] = []
    tuned = mlc.compile(source, threads=1, tune=30, progress=lambda stage, done, total: stages.append(stage))
    assert "tune (seconds)" in stages
    assert symbols(tuned) != symbols(plain)
    x = noise(*shape)
    assert np.allclose(tuned(x), plain(x), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(search, "_Search", None)  # the record suffices
    assert symbols(mlc.compile(source, threads=1, tune=0)) == symbols(tuned)
    assert symbols(mlc.compile(source, threads=1)) == symbols(plain), "without --tune the result depends on the model alone"
    assert symbols(mlc.compile(source, threads=2, tune=0)) == symbols(plain), "a record is of one number of threads"


def test_nothing_is_kept_that_does_not_pay_in_the_module(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = MODELS["static matmul"]
    monkeypatch.setattr(search, "_faster", lambda *args: False)
    assert symbols(mlc.compile(source, threads=1, tune=30)) == symbols(mlc.compile(source, threads=1))
    assert symbols(mlc.compile(source, threads=1, tune=0)) == symbols(mlc.compile(source, threads=1))


def test_an_interrupt_leaves_no_half_record(fake: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_faster", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mlc.compile(MODELS["static matmul"][0], threads=1, tune=30)
    assert not (tmp_path / "cache" / "mlc" / "tuned").exists()


def test_real_search_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(MODELS["matmul"][0])
    with pytest.raises(SystemExit) as end:
        main(["compile", str(path), "-o", str(tmp_path / "m.mlc"), "--tune", "1", "--threads", "2"])
    assert not end.value.code
    x = noise(9, 320)
    assert np.allclose(mlc.load(tmp_path / "m.mlc")(x), mlc.compile(path)(x), rtol=1e-4, atol=1e-4)


def test_another_machine_cannot_be_measured() -> None:
    with pytest.raises(ScheduleError, match="aarch64"):
        compile_with(MODELS["conv"][0], Options(target="cpu:aarch64", tune=1))
    compile_with(MODELS["conv"][0], Options(target="cpu:aarch64", tune=0))
