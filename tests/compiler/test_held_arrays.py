"""Sequences, maps and optionals as named arrays, and through the command line."""

import numpy as np
import onnx
import pytest
from mlc.compiler.cli import main
from mlc.compiler.held_arrays import flatten, gather
from mlc.errors import InputError
from onnx import parser

ONE, TWO = np.arange(3, dtype=np.float32), np.ones((2, 2), np.int64)
VALUES = {
    "tensor": ONE, "sequence": [ONE, TWO], "empty": [], "nothing": None, "nested": [[ONE], [], [TWO, ONE]], "map": {"a": 1.5, "b": 2.0},
    "maps": [{1: 0.5}, {1: 0.25}], "optional": TWO, "holes": [None, ONE],
}  # fmt: skip


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_there_and_back():
    arrays = flatten(VALUES)
    assert all(isinstance(a, np.ndarray) for a in arrays.values())
    assert {"sequence[1]", "empty[]", "nothing?", "nested[2][0]", "map{keys}", "maps[1]{values}"} <= arrays.keys()
    back = gather(arrays, VALUES)
    assert back.keys() == VALUES.keys() and all(same(VALUES[k], back[k]) for k in VALUES)


def test_only_values_that_may_be_no_tensors_are_put_together():
    assert gather({"x[0]": ONE, "x": TWO}, []).keys() == {"x[0]", "x"}


@pytest.mark.parametrize("parts", [{"s[0]": ONE, "s[2]": ONE}, {"s[a]": ONE}, {"s": ONE, "s[0]": ONE}, {"s{keys}": ONE}, {"s[": ONE}])
def test_parts_that_make_no_value(parts):
    with pytest.raises(InputError):
        gather(parts, ["s"])


def save(tmp_path, text):
    path = tmp_path / "m.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}'), path)
    return path


def mlc(*args):
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in args])
    return exit_info.value.code


SEQUENCE = """g (seq(float[n]) s, float[k] x) => (seq(float[n]) t, int64 c)
              { t = SequenceInsert(s, x) c = SequenceLength(t) }"""


def test_sequences_on_the_command_line(tmp_path):
    path, given, got = save(tmp_path, SEQUENCE), tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, **{"s[0]": ONE, "s[1]": ONE + 1, "x": ONE + 2})
    assert mlc("run", path, "--inputs", given, "-o", got) == 0
    with np.load(got) as out:
        assert set(out.files) == {"t[0]", "t[1]", "t[2]", "c"} and out["c"] == 3
        np.testing.assert_array_equal(out["t[2]"], ONE + 2)
    assert mlc("check", path, "--inputs", given) == 0
    assert mlc("run", path) == 2  # a sequence cannot be generated


def test_no_elements(tmp_path):
    path, given, got = save(tmp_path, SEQUENCE), tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, **{"s[]": ONE, "x": ONE})
    assert mlc("run", path, "--inputs", given, "-o", got) == 0
    with np.load(got) as out:
        assert set(out.files) == {"t[0]", "c"}


def test_optionals_on_the_command_line(tmp_path):
    path = save(tmp_path, "g (optional(float[n]) o) => (bool h) { h = OptionalHasElement(o) }")
    given, got = tmp_path / "in.npz", tmp_path / "out.npz"
    for arrays, want in (({"o": ONE}, True), ({"o?": ONE}, False)):
        np.savez(given, **arrays)
        assert mlc("run", path, "--inputs", given, "-o", got) == 0
        with np.load(got) as out:
            assert out["h"] == want


def test_strings_on_the_command_line(tmp_path):
    path = tmp_path / "m.onnx"
    text = '<ir_version: 9, opset_import: ["": 20]> g (string[n] a, string[n] b) => (string[n] c) { c = StringConcat(a, b) }'
    onnx.save(parser.parse_model(text), path)
    given, got = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, a=np.array(["x", "yé"]), b=np.array(["1", "22"]))
    assert mlc("run", path, "--inputs", given, "-o", got) == 0
    with np.load(got) as out:
        assert out["c"].tolist() == ["x1", "yé22"]
    assert mlc("check", path, "--inputs", given) == 0
