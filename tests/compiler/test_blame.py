"""`mlc blame` names the pass, or the stage after the passes, that a fault was planted in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from mlc.codegen.lower import driver
from mlc.compiler import cpu_backend
from mlc.compiler.blame import blame
from mlc.compiler.cli import main
from mlc.ir import Node
from mlc.ir.ops import Neg, Relu
from mlc.passes.fold_scale import FoldScale
from mlc.passes.fuse_patterns import FusePatterns
from onnx import TensorProto, helper, numpy_helper

X = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def source():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="project"),
        helper.make_node("Relu", ["a"], ["b"], name="rectify"),
        helper.make_node("Mul", ["b", "c"], ["d"], name="scale"),
        helper.make_node("Softmax", ["d"], ["y"], name="rows"),
    ]
    weights = {"w": np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32), "c": np.full(5, 0.5, np.float32)}
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 8]), ("y", ["n", 5]))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def wrong(graph):
    """Relu becomes negation."""
    return graph.rewrite(lambda node, ins: Node.make(Neg(), ins, node.loc).outputs if isinstance(node.op, Relu) else None)


def test_nothing_to_blame(source):
    found = blame(source, {"x": X})
    assert found.culprit == "" and [agrees for _, agrees in found.tried] == [True]


@pytest.mark.parametrize("cls, name", [(FoldScale, "fold_scale"), (FusePatterns, "fuse_patterns")])
def test_a_planted_wrong_pass(source, cls, name, monkeypatch):
    run = cls.run
    monkeypatch.setattr(cls, "run", lambda self, graph, ctx: run(self, wrong(graph), ctx))
    found = blame(source, {"x": X})
    assert found.culprit.endswith(f", {name}") and "relative L2" in found.why
    assert any(line.startswith("-") and "relu" in line for line in found.changes.splitlines())
    assert any(line.startswith("+") and "neg" in line for line in found.changes.splitlines())
    assert found.tried[0][1] is False and len(found.tried) <= 8


def test_lowering_with_fusion(source, monkeypatch):
    hoist = driver.hoist
    monkeypatch.setattr(driver, "hoist", lambda graph: wrong(hoist(graph)))
    found = blame(source, {"x": X})
    assert found.culprit == "lowering at -O3 (at -O0 it agrees)"


def test_code_generation(source, monkeypatch):
    emit = cpu_backend.cpu_emit.emit

    def planted(kernel, target):
        e = emit(kernel, target)
        return replace(e, ir_text=e.ir_text.replace(" fdiv ", " fmul "))

    monkeypatch.setattr(cpu_backend.cpu_emit, "emit", planted)
    found = blame(source, {"x": X})
    assert found.culprit == "code generation" and "rows: kernel mlc_" in found.why


def test_the_importer(source, monkeypatch):
    from mlc.compiler import blame as module

    import_model = module.import_model
    monkeypatch.setattr(module, "import_model", lambda *a: wrong(import_model(*a)))
    assert blame(source, {"x": X}).culprit.startswith("the importer")


def test_command(source, tmp_path, monkeypatch, capsys):
    path, report = tmp_path / "m.onnx", tmp_path / "blame.json"
    onnx.save(onnx.load_from_string(source), path)
    with pytest.raises(SystemExit) as left:
        main(["blame", str(path), "--shape=x=6,8"])
    assert left.value.code == 0 and "nothing to blame" in capsys.readouterr().out
    run = FoldScale.run
    monkeypatch.setattr(FoldScale, "run", lambda self, graph, ctx: run(self, wrong(graph), ctx))
    with pytest.raises(SystemExit) as left:
        main(["blame", str(path), "--shape=x=6,8", "--json", str(report)])
    assert left.value.code == 1 and "fold_scale" in capsys.readouterr().out
    assert "fold_scale" in json.loads(report.read_text())["culprit"]
