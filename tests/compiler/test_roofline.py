"""Kernel by kernel: times, rates and shares add up, and loops of the model have no rates."""

import json

import mlc
import numpy as np
import onnx
import pytest
from mlc.codegen.cpu.compile import compile_ir
from mlc.codegen.cpu.probe import loads, multiply_adds
from mlc.codegen.cpu.target import parse
from mlc.compiler import roofline
from mlc.compiler.cli import main
from mlc.runtime.instructions import CALL, CLEAR, INCREMENT, JUMP, JUMP_IF_GE
from onnx import helper

PEAKS = roofline.Peaks(1, 100.0, ((1 << 15, 200.0), (1 << 20, 50.0)))


@pytest.fixture(scope="module")
def model() -> bytes:
    value, w = helper.make_tensor_value_info, np.ones((32, 48), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="project"), helper.make_node("Softmax", ["h"], ["y"], name="soft")]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 32])], [value("y", 1, None)], [onnx.numpy_helper.from_array(w, "w")])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def test_bandwidth_is_that_of_the_smallest_set_that_holds_the_bytes() -> None:
    assert [PEAKS.bandwidth(b) for b in (1, 1 << 15, (1 << 15) + 1, 1 << 30)] == [200, 200, 50, 50]
    assert roofline.Peaks(2, 1.0, PEAKS.gbytes).bandwidth(1 << 16) == 200


def test_profile_adds_up(model: bytes) -> None:
    feeds = {"x": np.ones((7, 32), np.float32)}
    p = roofline.profile(mlc.compile(model, threads=1), feeds, PEAKS, runs=3)
    assert {n for k in p.kernels for n in k.nodes} >= {"project", "soft"}
    assert [k.ms for k in p.kernels] == sorted((k.ms for k in p.kernels), reverse=True)
    assert sum(k.share for k in p.kernels) == pytest.approx(1)
    project = next(k for k in p.kernels if "project" in k.nodes)
    assert project.flops >= 2 * 7 * 32 * 48 and project.bytes >= 4 * (7 * 32 + 32 * 48 + 7 * 48)
    assert project.gflops == pytest.approx(project.flops / project.ms * 1e-6)
    assert project.roofline == pytest.approx(max(project.gflops / 100, project.gbytes / 200))  # type: ignore[operator]
    assert json.loads(json.dumps(p.as_json()))["kernels_ms"] == pytest.approx(p.kernels_ms)


def test_shares_are_of_the_peak_in_turns_with_the_runs(model: bytes) -> None:
    feeds, paces = {"x": np.ones((7, 32), np.float32)}, iter([90.0, 10.0, 20.0])
    p = roofline.profile(mlc.compile(model, threads=1), feeds, PEAKS, 3, lambda: next(paces))
    assert p.peaks.gflops == 20 and p.peaks.gbytes == PEAKS.gbytes
    project = next(k for k in p.kernels if "project" in k.nodes)
    assert project.roofline == pytest.approx(max(project.gflops / 20, project.gbytes / 200))  # type: ignore[operator]


def test_sustained_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SUSTAINED", 1e-4)
    monkeypatch.setattr(roofline, "_ROUNDS", 1)
    measure = roofline.sustained_gflops(2)
    assert measure() > 0 and measure() > 0


def test_words_in_loops() -> None:
    call = [CALL, 0, 1, 1, 0, 0, 5, 6]
    program = [*call, CLEAR, 0, JUMP_IF_GE, 0, 1, 26, *call, INCREMENT, 0, JUMP, 10, *call]
    looped = roofline.words_in_loops(program)
    assert 14 in looped and 0 not in looped and 26 not in looped


def test_a_loop_of_the_model_has_no_rates() -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Mul", ["a", "a"], ["b"], name="inside")],
        "body",
        [value("i", 7, []), value("c", 9, []), value("a", 1, [64])],
        [value("d", 9, []), value("b", 1, [64])],
    )
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["h"], body=body), helper.make_node("Add", ["h", "x"], ["y"], name="outside")]
    graph = helper.make_graph(nodes, "g", [value("n", 7, []), value("x", 1, [64])], [value("y", 1, [64])])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feeds = {"n": np.array(5), "x": np.ones(64, np.float32)}
    kernels = roofline.profile(mlc.compile(source, threads=1), feeds, PEAKS, runs=2).kernels
    assert all(k.roofline is None for k in kernels if "inside" in k.nodes)
    assert any(k.roofline is not None for k in kernels if "outside" in k.nodes)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v2", "cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:aarch64"])
def test_probes_compile_everywhere(target: str) -> None:
    cpu = parse(target)
    flops, reads = multiply_adds(cpu), loads(cpu)
    assert flops.flops % (2 * cpu.lanes(4)) == 0 and reads.bytes & (reads.bytes - 1) == 0
    assert compile_ir(flops.ir_text, cpu) and compile_ir(reads.ir_text, cpu)


def test_peaks_and_the_command(model: bytes, tmp_path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_WORKING_SETS", (1 << 12, 1 << 16))
    monkeypatch.setattr(roofline, "_SECONDS", 1e-4)
    path, report = tmp_path / "m.onnx", tmp_path / "r.json"
    path.write_bytes(model)
    with pytest.raises(SystemExit) as end:
        main(["bench", str(path), "--kernels", "--against=none", "--threads=1,2", "--seconds=0.01", f"--json={report}"])
    assert not end.value.code
    out = capfd.readouterr().out
    assert "% of roofline" in out and "project" in out and "2 threads: peak" in out
    found = json.loads(report.read_text())["kernels"]
    assert [p["peaks"]["threads"] for p in found] == [1, 2]
    assert all(p["peaks"]["gflops"] > 0 and p["peaks"]["gbytes"][0][1] >= p["peaks"]["gbytes"][1][1] > 0 for p in found)
