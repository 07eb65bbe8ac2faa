"""Lowered modules serve sizes that were taken as equal and of which one is 1, as float32 ones do."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc.compiler.precision.options import Precision
from onnx import numpy_helper, parser

R = np.random.default_rng(11)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


TEXT = """<ir_version: 9, opset_import: ["": 18]>
    g (float[a,s,64] x, float[c,t,64] y) => (float[m,n,48] z)
    { l = Add(x, y) u = MatMul(l, w) r = Relu(u) v = MatMul(r, w2) z = Tanh(v) }"""


def model():
    proto = parser.parse_model(TEXT)
    for name, data in (("w", f(64, 64) / 8), ("w2", f(64, 48) / 8)):
        proto.graph.initializer.append(numpy_helper.from_array(data, name))
    return proto


SHAPES = [((2, 5), (2, 5)), ((1, 5), (3, 5)), ((3, 1), (1, 4)), ((1, 1), (1, 1)), ((0, 5), (1, 5))]


def feeds(shapes):
    return {"x": f(*shapes[0], 64), "y": f(*shapes[1], 64)}


@pytest.mark.parametrize("precision, limit", [("bf16", 2e-2), ("fp16", 3e-3), ("int8-dynamic", 5e-2), ("int4", 0.3), ("int8", 0.1)])
def test_every_size(precision, limit):
    proto = model()
    calibration = [feeds(SHAPES[0]) for _ in range(8)] if precision == "int8" else None
    module = mlc.compile(proto, threads=1, precision=Precision(precision, calibration=calibration, keep_slower=True))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    loaded = mlc.load(module.to_bytes(), threads=1)
    for shapes in SHAPES:
        given = feeds(shapes)
        want, got = session.run(None, given)[0], loaded.run(given)["z"]
        assert got.shape == want.shape
        error = np.linalg.norm(got - want)
        assert error <= limit * np.linalg.norm(want)
        assert error > 0 or want.size == 0, "float32 was kept"


def test_weights_are_shared_by_both_programs():
    """The lowered second program reads the weights of the first one."""

    def weights(precision):
        raw = mlc.compile(model(), precision=Precision(precision, keep_slower=True)).manifest.raw
        return [
            {(b["offset"], b["size"]) for b in m["buffers"] if b["kind"] == "const" and b["size"] > 1000} for m in (raw, *raw["others"])
        ]

    wide, narrow = weights("fp32"), weights("int4")
    assert narrow[0] == narrow[1] and narrow[0]
    assert sum(size for _, size in narrow[0]) < sum(size for _, size in wide[0])


def test_float32_kept_because_it_is_faster_serves_them_too(monkeypatch):
    from mlc.compiler.precision import speed

    times = iter([1.0, 9.0])

    def measured(engines, threads, options):
        class Time:
            def __init__(self, engine):
                self.engine, self.median = engine, next(times)

        return [Time(e) for e in engines]

    monkeypatch.setattr(speed.bench, "measure", measured)
    with pytest.warns(mlc.errors.SlowerWarning):
        module = mlc.compile(model(), threads=1, precision="bf16")
    assert module.run(feeds(((3, 1), (1, 4))))["z"].shape == (3, 4, 48)
