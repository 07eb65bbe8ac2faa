"""The command line: what it prints, its exit codes, and that failures leave nothing behind."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from mlc.compiler.cli import cli, main
from onnx import TensorProto, helper


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], outputs: list[str], **constants) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="project"),
        helper.make_node("Add", ["h", "b"], ["a"], name="shift"),
        helper.make_node("Relu", ["a"], ["y"], name="rectify"),
    ]
    weights = {"w": np.linspace(-1, 1, 24).reshape(4, 6), "b": np.arange(6)}
    return save(tmp_path / "model.onnx", nodes, {"x": ["batch", 4]}, ["y"], **weights)


def mlc(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in args])
    streams = capfd.readouterr()
    return exit_info.value.code or 0, streams.out, streams.err  # type: ignore[return-value]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    return lambda *args: mlc(capfd, *args)


def test_check_agrees(run, model: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, out, _ = run("check", model, "--per-layer", "--json", report)
    assert code == 0 and "agrees" in out and "3 layers compared, 0 differ" in out
    figures = json.loads(report.read_text())
    assert figures["agrees"] and [x["node"] for x in figures["layers"]] == ["project", "shift", "rectify"]
    assert figures["outputs"][0]["relative_l2"] < 1e-6


@pytest.mark.parametrize("options", [["-O0"], ["--static"], ["--shape", "x=5,4"], ["--target", "cpu:x86-64-v3", "--threads", "1"]])
def test_check_options(run, model: Path, options: list[str]) -> None:
    assert run("check", model, *options)[0] == 0


def test_check_names_what_differs(run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlc.compiler import api

    compile_model = api.compile_with

    def planted(*args):
        module = compile_model(*args)
        right = module.run
        module.run = lambda feeds: {k: v + (k in ("a", "y")) for k, v in right(feeds).items()}
        return module

    monkeypatch.setattr(api, "compile_with", planted)
    code, out, _ = run("check", model, "--per-layer")
    assert code == 1
    assert "differs" in out and "first to differ: shift (Add)" in out


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_a_planted_wrong_kernel_is_found(model: Path, level: str) -> None:
    # In a process of its own: lowering remembers the bodies of ops.
    code = "import sys; from mlc.ir.ops import Relu; from mlc.compiler.cli import main;Relu.body = lambda self, s, x: x; main(sys.argv[1:])"
    result = subprocess.run([sys.executable, "-c", code, "check", str(model), level, "--shape=x=64,4"], capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "relative L2" in result.stdout and "differs" in result.stdout


def test_compile_run_inspect(run, model: Path, tmp_path: Path) -> None:
    module, x, out = tmp_path / "model.mlc", tmp_path / "x.npy", tmp_path / "out.npz"
    np.save(x, np.ones((3, 4), np.float32))
    assert run("compile", model, "-o", module)[0] == 0
    assert run("run", module, "--input", f"x={x}", "-o", out)[0] == 0
    from_module = np.load(out)["y"]
    assert from_module.shape == (3, 6)
    assert run("run", model, "--input", f"x={x}", "-o", out)[0] == 0
    np.testing.assert_array_equal(np.load(out)["y"], from_module)
    np.savez(tmp_path / "in.npz", x=np.ones((2, 4), np.float32))
    code, text, _ = run("run", module, "--inputs", tmp_path / "in.npz")
    assert code == 0 and "[2, 6]" in text
    for path in (module, model):
        code, text, _ = run("inspect", path, "--json", "-")
        assert code == 0
        figures = json.loads(text)
        assert figures["flops"] > 0 and figures["memory"]["weights"] > 0
        assert figures["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert figures["operators"] == {"MatMul": 1, "Add": 1, "Relu": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", "model.mlc", "model.onnx", "out.npz", "x.npy"]


def test_inspect_of_a_module_for_another_machine(run, model: Path, tmp_path: Path) -> None:
    assert run("compile", str(model), "--target", "cpu:aarch64", "-o", str(tmp_path / "arm.mlc"))[0] == 0
    code, out, err = run("inspect", str(tmp_path / "arm.mlc"), "--json", "-")
    assert code == 0, err
    assert json.loads(out)["target"]["triple"].startswith("aarch64")
    code, _, err = run("run", str(tmp_path / "arm.mlc"))
    assert code == 2 and "a module for aarch64" in err


def test_compile_is_deterministic(run, model: Path, tmp_path: Path) -> None:
    for name in ("a.mlc", "b.mlc"):
        assert run("compile", model, "-o", tmp_path / name)[0] == 0
    assert (tmp_path / "a.mlc").read_bytes() == (tmp_path / "b.mlc").read_bytes()


def test_compile_binds_shapes(run, model: Path, tmp_path: Path) -> None:
    assert run("compile", model, "--shape", "x=7,4", "-o", tmp_path / "m.mlc", "--dump", tmp_path / "dump")[0] == 0
    assert any((tmp_path / "dump").iterdir())
    _, text, _ = run("inspect", tmp_path / "m.mlc", "--json", "-")
    assert json.loads(text)["inputs"][0]["shape"] == [7, 4]


def test_bench(run, model: Path, tmp_path: Path) -> None:
    code, out, _ = run("bench", model, "--threads", "1", "--seconds", "0.02", "--rounds", "2", "--json", tmp_path / "b.json")
    assert code == 0 and "onnxruntime" in out
    timings = json.loads((tmp_path / "b.json").read_text())["timings"]
    assert [t["engine"] for t in timings] == ["mlc", "onnxruntime"]
    assert all(0 < t["min_ms"] <= t["median_ms"] <= t["p99_ms"] for t in timings)


def test_models_from_pipes(run, model: Path, tmp_path: Path) -> None:
    assert run("compile", model, "-o", tmp_path / "m.mlc")[0] == 0
    for name, command in ((model, ("inspect", "--json", "-")), (tmp_path / "m.mlc", ("run", "-o", tmp_path / "o.npz"))):
        read, write = os.pipe()
        with os.fdopen(write, "wb") as f:
            f.write(name.read_bytes())
        code, out, err = run(command[0], f"/dev/fd/{read}", *command[1:])
        os.close(read)
        assert code == 0, out + err
    assert np.load(tmp_path / "o.npz")["y"].shape[1] == 6
    command = [sys.executable, "-m", "mlc", "inspect", "-", "--capability"]
    done = subprocess.run(command, input=model.read_bytes(), capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0 and b"every node can be compiled" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.mlc", "model.onnx", "o.npz"]


def test_exports_of_modules_take_no_options(run, model: Path, tmp_path: Path) -> None:
    assert run("compile", model, "-o", tmp_path / "m.mlc")[0] == 0
    code, _, err = run("export", tmp_path / "m.mlc", "--shape", "x=1,4", "-o", tmp_path / "d")
    assert code == 2 and "options of compilation" in err and not (tmp_path / "d").exists()


def test_bench_of_a_compiled_module(run, model: Path, tmp_path: Path) -> None:
    module = tmp_path / "m.mlc"
    assert run("compile", model, "-o", module)[0] == 0
    few = "--threads", "1", "--seconds", "0.02", "--rounds", "2"
    code, out, _ = run("bench", module, *few, "--kernels", "--json", tmp_path / "b.json")
    assert code == 0 and "onnxruntime does not take part" in out and "calls" in out
    assert [t["engine"] for t in json.loads((tmp_path / "b.json").read_text())["timings"]] == ["mlc"]
    for command, option in (("bench", "--static"), ("bench", "--exact"), ("run", "-O1")):
        code, _, err = run(command, module, option)
        assert code == 2 and "compiled module" in err


@pytest.mark.parametrize("command", ["run", "check", "bench", "inspect"])
def test_sizes_are_found_at_which_the_model_runs(run, tmp_path: Path, command: str) -> None:
    """Two symbols that have to be equal, and a window that is longer than the default sizes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Concat", ["p", "s"], ["y"], axis=1),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["a", 1, "time"], "s": ["b", 1, 1]}, ["y"], w=np.ones((2, 1, 300)))
    more = {"bench": ["--seconds", "0.01", "--rounds", "1", "--threads", "1"]}.get(command, [])
    assert run(command, path, *more)[0] == 0
    if command in ("run", "inspect"):
        assert run("compile", path, "-o", tmp_path / "m.mlc")[0] == 0
        assert run(command, tmp_path / "m.mlc")[0] == 0


def test_sample_is_resolved(run) -> None:
    code, out, _ = run("inspect", "sample:zfnet512", "--json", "-")
    assert code == 0 and json.loads(out)["operators"]["Conv"] == 5


@pytest.mark.parametrize("args", [("compile", "-o"), ("run", "-o"), ("check", "--json"), ("bench", "--json"), ("inspect", "--json")])
def test_files_that_cannot_be_written_are_told_first(run, tmp_path: Path, args: tuple[str, str]) -> None:
    code, _, err = run(args[0], tmp_path / "no_such_model.onnx", args[1], tmp_path / "missing" / "file")
    assert code == 2 and "no folder" in err and "no_such_model" not in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["check", "sample:nothing"], "bvlc_alexnet"),
        (["check", "real:nothing"], "silero_vad"),
        (["check", "suite:nothing"], "bert_base"),
        (["check", "no_such.onnx"], "no such file"),
        (["check", "{folder}"], "is a folder"),
        (["check", "{text}"], "protobuf"),
        (["check", "a" * 300], "too long"),
        (["check", "{text}/m.onnx"], "no such file"),
        (["check", "a\0b"], "null"),
        (["check", "{empty}"], "empty"),
        (["check", "{cut}"], "truncated"),
        (["compile", "{model}", "--target", "cpu:nonsense"], "nonsense"),
        (["compile", "{model}", "--target", "tpu"], "tpu"),
        (["compile", "{model}", "-o", "{folder}/missing/m.mlc"], "missing"),
        (["compile", "{model}", "-o", "{folder}"], "folder"),
        (["compile", "{model}", "-o", "/dev/full"], "No space left"),
        (["compile", "{model}", "-o", "{model}"], "is the model itself"),
        (["check", "{model}", "--json", "{model}"], "is the model itself"),
        (["compile", "{model}", "-o", "-"], "standard output"),
        (["cache", "--trim", "--clear"], "one of them"),
        (["compile", "{model}", "-o", "/proc/m.mlc"], "cannot be written"),
        (["compile", "{model}", "--dump", "{text}/dump"], "cannot be written"),
        (["check", "{model}", "--json", "{folder}/missing/r.json"], "missing"),
        (["run", "{model}", "--shape", "x=4000000000000,4"], "memory"),
        (["run", "{model}", "--shape", "x=99999999999999999999,4"], "--shape"),
        (["compile", "{model}", "--shape", "q=1"], "q"),
        (["compile", "{model}", "--shape", "x=1,5"], "4"),
        (["compile", "{model}", "--shape", "x"], "--shape"),
        (["compile", "{model}", "--shape", "x=1,,4"], "x=1,,4"),
        (["compile", "{model}", "--tune", "inf"], "inf"),
        (["run", "{model}", "--shape", "x=1,4", "--shape", "x=2,4"], "twice"),
        (["run", "{model}", "--input", "x={array}", "--input", "x={array}"], "twice"),
        (["run", "{zip}"], "zip archive"),
        (["run", "{model}", "--shape", "x=2,4", "--inputs", "{rows}"], "x=2,4"),
        (["run", "{model}", "--input", "x"], "NAME=FILE.npy"),
        (["run", "{model}", "--input", "q={array}"], "'q'"),
        (["run", "{model}", "--input", "x={array}"], "float64"),
        (["run", "{model}", "--input", "x={text}"], "it is no NumPy file"),
        (["run", "{model}", "--inputs", "{array}"], "one array"),
        (["run", "{model}", "-o", "{folder}/missing/o.npz"], "written"),
        (["run", "{mlc}"], "mlc"),
        (["run", "/dev/zero"], "is a device"),
        (["bench", "{model}", "--threads", "0"], "--threads"),
        (["bench", "{model}", "--against", "pytorch"], "pytorch"),
        (["bench", "{model}", "--seconds", "nan"], "nan"),
        (["bench", "{model}", "--seconds", "inf"], "inf"),
        (["check", "{model}", "--rtol", "nan"], "nan"),
        (["blame", "{model}", "--atol", "nan"], "nan"),
        (["check", "{model}", "-O7"], "7"),
        (["check", "{model}", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        ([], "Usage"),
    ],
)
def test_bad_use(run, model: Path, tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "text").write_text("this is no model, but a text that goes on for a while")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(model.read_bytes()[:-30])
    (tmp_path / "bad.mlc").write_bytes(b"PK\x03\x04 and then nothing of use")
    np.save(tmp_path / "array.npy", np.ones((1, 4)))
    np.savez(tmp_path / "rows.npz", x=np.ones((3, 4), np.float32))
    np.savez(tmp_path / "zip", x=np.ones(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip")
    names = {n: tmp_path / n for n in ("text", "empty", "cut", "zip")}
    names |= {
        "model": model,
        "folder": tmp_path,
        "array": tmp_path / "array.npy",
        "mlc": tmp_path / "bad.mlc",
        "rows": tmp_path / "rows.npz",
    }
    before = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    code, out, err = run(*[a.format(**names) for a in args])
    assert code == 2, out + err
    assert message.lower() in err.lower()
    assert "Traceback" not in err + out
    assert err.count("\n") == 1 or not args, "one line, but for the help that `mlc` alone shows"
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == before


def test_unsupported_operators_are_all_listed(run, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FancyOp", ["x"], ["a"], domain="acme"),
        helper.make_node("OtherOp", ["a"], ["y"], domain="acme"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2]}, ["y"])
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(proto, path)
    code, _, err = run("compile", path, "-o", tmp_path / "m.mlc")
    assert code == 2 and "FancyOp" in err and "OtherOp" in err
    assert not (tmp_path / "m.mlc").exists()


def test_debug_shows_the_traceback(run) -> None:
    for args in (["--debug", "check", "sample:nothing"], ["check", "sample:nothing", "--debug"]):
        code, _, err = run(*args)
        assert code == 2 and "Traceback" in err and "InputError" in err


def test_bugs_are_told_apart(run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlc.compiler import api

    def broken(*args, **options):
        raise RuntimeError("boom")

    monkeypatch.setattr(api, "compile_with", broken)
    code, _, err = run("run", model)
    assert code == 70 and "internal error: RuntimeError: boom" in err and "Traceback" not in err


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["cache", "--json", "-"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_takes(args: list[str], unbuffered: str) -> None:
    """A reader that went away is no result that differs (1), and a full disk no bug (70)."""
    command = [sys.executable, "-m", "mlc", *args]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_lists_every_command_without_the_compiler() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("compile", "run", "check", "bench", "inspect"))
    for name in ("compile", "run", "check", "bench", "inspect"):
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("command", ["check", "run", "compile"])
def test_names_of_any_kind(run, model: Path, tmp_path: Path, command: str) -> None:
    path = tmp_path / "模型 ünï [bold]x.onnx"
    path.write_bytes(model.read_bytes())
    assert run(command, path, *(["-o", tmp_path / "ø [red].mlc"] if command == "compile" else []))[0] == 0


@pytest.mark.parametrize("args", [["inspect"], ["check", "--per-layer"], ["run"], ["run", "--input", "nothing=x.npy"]])
def test_names_steer_no_terminal(run, tmp_path: Path, args: list[str]) -> None:
    name = "\x1b]0;title\x07\x9b2J\r\u202e[red]"
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", [name], [name + "y"], name=name)], {name: [2]}, [name + "y"])
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    _, out, err = run(args[0], path, *(a.replace("x.npy", str(tmp_path / "x.npy")) for a in args[1:]))
    assert "�]0;" in out + err and not set("\x1b\x07\x9b\r\u202e") & set(out + err)


@pytest.mark.parametrize("moment", ["import", "compile"])
def test_an_interrupt_is_quiet_and_leaves_nothing(run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    from mlc.compiler import api, cpu_backend

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"import": (api, "import_variants"), "compile": (cpu_backend.CompilePool, "compile")}[moment], interrupt)
    code, out, err = run("compile", model, "-o", tmp_path / "m.mlc")
    assert code == 130 and err.strip() == "interrupted" and not out
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_an_interrupt_ends_a_long_run(tmp_path: Path) -> None:
    trips = "m = Constant<value_int = 1099511627776>() t = Constant<value_int = 1>() go = Cast<to = 9>(t)"
    body = "b (int64 i, bool c, float[8] s) => (bool d, float[8] r) { d = Identity(c) r = Cos(s) }"
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[8] x) => (float[8] y) {{ {trips} y = Loop(m, go, x)<body = {body}> }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "mlc", "run", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "o.npz")]
    # Who runs the tests in the background of a shell ignores the signal, and so would this process.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        try:
            status, caught, end = Path(f"/proc/{process.pid}/status"), False, time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:  # Python catches the signal until native code takes over
                masks = dict(line.split(":", 1) for line in status.read_text().splitlines() if line.startswith("SigCgt"))
                catches = bool(int(masks["SigCgt"], 16) >> (signal.SIGINT - 1) & 1)
                if caught and not catches:
                    break
                caught = catches
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == -signal.SIGINT
        finally:
            process.kill()
        assert process.stderr is not None and process.stderr.read() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_no_progress_when_not_a_terminal(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlc", "run", str(model), "-o", str(tmp_path / "o.npz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == ""
    assert result.stderr == f"{tmp_path / 'o.npz'}: 1 outputs\n" or result.stderr.split() == [
        f"{tmp_path / 'o.npz'}:",
        "1",
        "outputs",
    ]
