"""Modules whose texts are read before the program runs."""

import copy
import pickle

import mlc
import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from mlc.errors import ArtifactError, InputError, MlcError
from mlc.runtime.artifact import Parts
from mlc.runtime.loading import open_parts
from mlc.runtime.manifest import parse

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
texts (string[N] s, string[N] t, float[N] x, string[1, N] r)
    => (string[M] c, int64[N] n, float[N] y, string[N] same, float[N] f, bool[N] e, string[P] parts, string[N] printed, string[N] q) {
    bang = Constant<value_string = "!">()
    c = StringConcat(s, bang)
    parts2, n = StringSplit<delimiter = "-">(s)
    minus = Constant<value_ints = [-1]>()
    parts = Reshape(parts2, minus)
    m = Cast<to = 1>(n)
    y = Add(m, x)
    same = Identity(c)
    f = Cast<to = 1>(t)
    e = Equal(s, t)
    printed = Cast<to = 8>(x)
    q = Reshape(r, minus)
}"""
SEQUENCES = """<ir_version: 10, opset_import: ["" : 20]>
lists (seq(float[P]) s, float[N] x, int64[K] sizes, seq(string[Q]) words)
    => (float[A] first, seq(float[B]) parts, float[C] last, seq(float[P]) more, string[D] w, string[D] joined, float[A] twice) {
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {-1}>()
    first = SequenceAt(s, zero)
    parts = SplitToSequence<axis = 0>(x, sizes)
    last = SequenceAt(parts, one)
    more = SequenceInsert(s, x, zero)
    w = SequenceAt(words, zero)
    joined = StringConcat(w, w)
    twice = Add(first, first)
}"""
OUTPUTS = ("c", "n", "y", "same", "f", "e", "parts", "printed", "q")


def feeds(n):
    s = np.array(["a-b", "1", "", "-", "é-ü-\x00x", "3e2"][:n], object)
    t = np.array(["1", "1", "-2.5", "1e3", "0", "3e2"][:n], object)
    return {"s": s, "t": t, "x": np.arange(n, dtype=np.float32) / 3, "r": s[None]}


@pytest.fixture(scope="module")
def module():
    return mlc.compile(onnx.parser.parse_model(MODEL), threads=1)


@pytest.fixture(scope="module")
def session():
    return ort.InferenceSession(onnx.parser.parse_model(MODEL).SerializeToString())


def test_values_are_those_of_onnxruntime(module, session):
    assert module.manifest.prologue is not None and not module.manifest.handlers
    assert [t.name for t in module.inputs] == ["s", "t", "x", "r"] and [t.name for t in module.outputs] == list(OUTPUTS)
    for n in (6, 1, 3, 6):
        given = feeds(n)
        given["s"] = np.array([s.replace("\x00", "") for s in given["s"]], object)  # which onnxruntime cuts texts at
        got = module.run(given)
        for name, want in zip(OUTPUTS, session.run(list(OUTPUTS), given), strict=True):
            assert got[name].shape == want.shape and got[name].dtype == want.dtype and got[name].flags.c_contiguous, name
            assert got[name].tolist() == want.tolist(), name


def test_texts_of_any_kind(module):
    want = module.run(feeds(4))
    plain = feeds(4)
    for change in (
        lambda a: np.array([np.str_(s) for s in a.ravel()], object).reshape(a.shape),
        lambda a: a.astype(str),
        lambda a: np.array([s.encode() for s in a.ravel()], object).reshape(a.shape),
        lambda a: a.tolist(),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    ):
        got = module.run({k: change(v) if v.dtype == object else v for k, v in plain.items()})
        for name in OUTPUTS:
            assert got[name].tolist() == want[name].tolist()
            assert got[name].dtype != object or {*map(type, got[name].ravel())} <= {str}
    nothing = module.run({k: v[..., :0] for k, v in plain.items()})
    assert all(nothing[name].size == 0 for name in OUTPUTS)
    surrogate = module.run({**feeds(1), "s": np.array(["\ud800-\x00"], object)})
    assert surrogate["c"].tolist() == ["\ud800-\x00!"] and surrogate["parts"].tolist() == ["\ud800", "\x00"]


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"s": np.array([1, 2], object)}, "input s"),
        ({"s": np.array(["a", None], object)}, "NoneType"),
        ({"s": np.array([b"\xff", "a"], object)}, "UTF-8"),
        ({"s": np.array(["a", "b", "c"], object)}, "symbolic dim N"),
        ({"s": np.array([["a", "b"]], object)}, "shape"),
        ({"x": np.zeros(2, np.float64)}, "dtype"),
        ({"x": np.zeros(3, np.float32)}, "symbolic dim N"),
        ({"t": np.array(["1", "one"], object)}, "cast_string"),
        ({"r": np.array(["a", "b"], object)[:, None]}, "expected 1"),
    ],
)
def test_what_does_not_fit_is_named(module, wrong, message):
    with pytest.raises(InputError, match=message):
        module.run({**feeds(2), **wrong})
    assert module.run(feeds(2))["c"].tolist() == ["a-b!", "1!"]


def test_outputs_are_arrays_of_their_own(module):
    given = feeds(3)
    got = module.run(given)
    for name in ("c", "q", "same", "parts"):
        got[name][:] = "changed"
    assert given["s"].tolist() == feeds(3)["s"].tolist() and given["r"].tolist() == feeds(3)["r"].tolist()
    assert got["n"].base is None or got["n"].base is not given["x"]
    out = {"f": np.empty(3, np.float32), "y": np.empty(3, np.float32), "n": np.empty(3, np.int64)}
    again = module.run(given, out)
    want = module.run(given)
    for name, array in out.items():
        assert again[name] is array and array.tolist() == want[name].tolist()
    for wrong in ({"f": np.empty(2, np.float32)}, {"c": np.empty(3, object)}, {"z": np.empty(3)}, {"f": given["x"]}, [1]):
        with pytest.raises(InputError):
            module.run(given, wrong)


def lists():
    words = [np.array(["a", "b"], object), np.array(["c"], object)]
    x = np.arange(5, dtype=np.float32)
    return {"s": [x[:3].copy(), x[:1].copy()], "x": x, "sizes": np.array([2, 0, 3]), "words": words}


def test_sequences():
    module = mlc.compile(onnx.parser.parse_model(SEQUENCES), threads=1)
    assert module.manifest.prologue is not None and not module.manifest.handlers
    for _ in range(2):
        given = lists()
        got = module.run(given)
        assert got["first"].tolist() == [0, 1, 2] and got["last"].tolist() == [2, 3, 4] and got["twice"].tolist() == [0, 2, 4]
        assert [p.tolist() for p in got["parts"]] == [[0, 1], [], [2, 3, 4]] and got["more"][0].tolist() == [0, 1, 2, 3, 4]
        assert got["w"].tolist() == ["a", "b"] and got["joined"].tolist() == ["aa", "bb"]
        for of in (got["first"], got["last"], got["w"], *got["parts"], got["more"][0]):
            of[:] = 7
        assert str(given) == str(lists()) and got["joined"].tolist() == ["aa", "bb"]
    for wrong, message in (
        ({"s": []}, "sequence_at"),
        ({"s": 3}, "sequence_at"),
        ({"s": None}, "sequence_at"),
        ({"s": [np.array(["a"], object)]}, "sequence_at gives"),
        ({"words": [np.array([3], object)]}, "input words"),
        ({"sizes": np.array([2, 2, 2])}, "split_to_sequence"),
    ):
        with pytest.raises(InputError, match=message):
            module.run({**lists(), **wrong})


def test_copies(module, tmp_path):
    module.save(tmp_path / "m.mlc")
    for copy_of in (pickle.loads(pickle.dumps(module)), mlc.load(tmp_path / "m.mlc")):
        assert copy_of.run(feeds(2))["c"].tolist() == ["a-b!", "1!"]
    assert module.profile(feeds(2), 2).keys() == {s.word for s in module.steps}


@pytest.mark.parametrize("text,given", [(MODEL, feeds(2)), (SEQUENCES, lists())], ids=["texts", "sequences"])
def test_prologues_that_do_not_fit(text, given):
    """Whatever is changed in what the manifest says, there is an error of ours or a run that ends."""
    parts = mlc.compile(onnx.parser.parse_model(text), threads=1).parts

    def places(value, path=()):
        if path:
            yield path
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            yield from places(inner, (*path, key))

    refused = 0
    for path in places(parts.manifest.raw["prologue"]):
        for odd in (None, -2, 10**6, "odd", "object", [], {}):
            raw = copy.deepcopy(parts.manifest.raw)
            at = raw["prologue"]
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = odd
            try:
                open_parts(Parts(parse(raw, 10_000, parts.weights.nbytes), parts.code, parts.weights)).run(given)
            except ArtifactError:
                refused += 1
            except MlcError:
                pass
    assert refused > 300
