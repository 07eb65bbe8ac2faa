"""What is supported, told from the tables: the document, and a model's operators before compiling."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from mlc.compiler.capability import capability
from mlc.compiler.cli import main
from mlc.compiler.operators import KINDS, kind_of, markdown, support
from onnx import TensorProto, helper


def test_the_document_is_current() -> None:
    document = Path(__file__).parents[2] / "docs" / "operators.md"
    assert document.read_text(encoding="utf-8") == markdown(), "run: python -m mlc.compiler.operators > docs/operators.md"


def test_every_operator_has_rows() -> None:
    rows = support()
    names = {(r.domain, r.operator) for r in rows}
    assert {("", "Conv"), ("com.microsoft", "Attention"), ("ai.onnx.preview.training", "Adam")} <= names
    assert {r.kind for r in rows} <= set(KINDS)
    seen = [(r.domain, r.operator, v) for r in rows for v in r.versions]
    assert len(seen) == len(set(seen))


def test_kinds() -> None:
    assert kind_of("", "Add", 21) == kind_of("ai.onnx", "Add", 3) == "native"
    assert kind_of("", "StringConcat", 20) == "host"
    assert kind_of("", "HannWindow", 17) == "expanded"
    assert kind_of("", "NoSuchOperator", 21) == kind_of("", "HannWindow", 16) == "missing"


def _model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_model(
        helper.make_graph(list(nodes), "g", [x], [y]),
        functions=[function] if any(n.domain for n in nodes) else [],
        opset_imports=imports,
        ir_version=10,
    )


def test_a_model_that_can_be_compiled() -> None:
    nodes = [
        helper.make_node("Twice", ["x"], ["a"], domain="own"),
        helper.make_node("Celu", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    told = capability(_model(*nodes))
    assert told.complete
    assert {(u.operator, u.count, u.kind) for u in told.uses} == {("Add", 2, "native"), ("Celu", 1, "native"), ("Twice", 1, "function")}


def test_a_sequence_that_the_model_spells_out_needs_no_host() -> None:
    nodes = [
        helper.make_node("Constant", [], ["i"], value_int=1),
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("SequenceAt", ["s", "i"], ["y"]),
    ]
    told = capability(_model(*nodes))
    assert {u.operator: u.kind for u in told.uses}["SequenceAt"] == "native"


def test_a_model_that_is_refused() -> None:
    told = capability(_model(helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mystery", ["a"], ["y"], name="here")))
    assert not told.complete and "here" in told.refused
    assert {u.operator: u.kind for u in told.uses} == {"Relu": "native", "Mystery": "missing"}


@pytest.mark.parametrize(("operator", "code"), [("Relu", 0), ("Mystery", 1)])
def test_command(operator: str, code: int, tmp_path, capsys) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_model(helper.make_node(operator, ["x"], ["y"])), path)
    with pytest.raises(SystemExit) as e:
        main(["inspect", "--capability", "--json", "-", str(path)])
    assert (e.value.code or 0) == code
    told = json.loads(capsys.readouterr().out)
    assert told["operators"][0]["operator"] == operator and bool(told["refused"]) == bool(code)
