"""The peers of `mlc bench`: what they give, and what is said where one is not there or does not take the model."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlc.compiler import engines
from mlc.compiler.cli import main
from mlc.compiler.trial import crashes
from mlc.errors import InputError
from onnx import helper as h
from onnx import numpy_helper

X = np.random.default_rng(0).standard_normal((3, 5), np.float32)
W = np.random.default_rng(1).standard_normal((5, 7), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", (3, 5)), ("y", (3, 7))))
    graph = h.make_graph([h.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [numpy_helper.from_array(W, "w")])
    path = tmp_path / "model.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_onnxruntime(model: Path) -> None:
    np.testing.assert_allclose(engines.onnxruntime_engine(model, {"x": X}, 1, {})()[0], X @ W, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_iree(model: Path, threads: int) -> None:
    pytest.importorskip("iree.compiler")
    np.testing.assert_allclose(engines.iree_engine(model, {"x": X}, threads)()[0], X @ W, rtol=1e-5, atol=1e-6)


def test_what_iree_does_not_take(tmp_path: Path) -> None:
    pytest.importorskip("iree.compiler")
    s, n = h.make_tensor_value_info("s", onnx.TensorProto.STRING, (2,)), h.make_tensor_value_info("n", onnx.TensorProto.STRING, (2,))
    graph = h.make_graph([h.make_node("StringNormalizer", ["s"], ["n"])], "text", [s], [n])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(engines.Refusal, match=r"IREE cannot compile the model: .*error"):
        engines.iree_engine(tmp_path / "m.onnx", {"s": np.array(["a", "b"], object)}, 1)


@pytest.mark.parametrize(("package", "make"), [("iree", lambda p: engines.iree_engine(p, {"x": X}, 1)), ("openvino", lambda p: engines.openvino_engine(p, {"x": X}, 1, False))])  # fmt: skip
def test_engines_that_are_not_installed(model: Path, monkeypatch, package: str, make) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match="pip install"):
        make(model)


def test_what_crashes_is_told_and_ends_nothing_else() -> None:
    calls = {"fault": [int, partial(signal.raise_signal, signal.SIGSEGV)], "error": [partial(int, "x")], "fine": [int]}
    assert crashes(calls) == {"fault": "SIGSEGV"}


def test_bench_beside_a_peer_that_crashes(model: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "openvino.py").write_text("import os\nCore = os.abort\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["bench", str(model), "--against", "openvino,onnxruntime", "--threads", "1", "--seconds", "0.01", "--rounds", "1"])
    out = " ".join(capfd.readouterr().out.split())
    assert end.value.code == 0 and "openvino does not take part: crashed (SIGABRT) on this model" in out and "│ 1 │ onnxruntime │" in out


def test_versions() -> None:
    found = engines.versions(["onnxruntime", "no such engine"])
    assert set(found) == {"mlc", "onnxruntime", "cpu"} and all(found.values())


def test_the_line_of_an_error() -> None:
    assert engines._error_line("note\nm.mlir:1:2: error: no\nmore") == "m.mlir:1:2: error: no"
    assert engines._error_line("a\nlast\n\n") == "last"
