"""The lists of models are consistent, and a recipe keeps nothing that has another digest."""

import hashlib
import zipfile
from pathlib import Path

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from mlc import MlcError
from mlc.models import real, resolve, samples, sizes, suite, tables


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLC_MODELS_DIR", str(tmp_path))
    return tmp_path


def test_samples_are_in_the_onnx_package() -> None:
    assert all(samples.path_of(n).is_file() for n in samples.SAMPLES)


def test_table_is_pinned_and_complete() -> None:
    for model in real.table().values():
        assert "==" in model.package and len(model.sha256) == 64 and model.license and model.inputs
    assert set(sizes.OTHER_SIZES) <= set(real.table())
    for name in real.table():
        base, *others = sizes.all_sizes(name)
        assert all(set(o) == set(base) and o != base for o in others)
    assert "real:common_old" not in tables.check_names() and len(tables.check_names()) == 41


def test_suite_has_fourteen_models() -> None:
    assert len(suite.SUITE) == 14


def test_absent_models_say_how_to_get_them() -> None:
    with pytest.raises(MlcError, match=r"python -m mlc\.models fetch silero_vad"):
        resolve.resolve("real:silero_vad")
    with pytest.raises(MlcError, match=r"python -m mlc\.models export mlp"):
        resolve.resolve("suite:mlp")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> real.RealModel:
    """A package with one file, in place of the registry."""
    data = b"weights"
    model = real.RealModel("tiny", "no-such-package==1", "a/m.onnx", hashlib.sha256(data).hexdigest(), "MIT", {}, "")

    def download(name: str, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "p.whl", "w") as z:
            z.writestr("a/m.onnx", data)
        return folder / "p.whl"

    monkeypatch.setattr(real, "_download", download)
    monkeypatch.setattr(real, "table", lambda: {"tiny": model})
    return model


def test_fetch_checks_the_digest(package: real.RealModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert real.fetch(["tiny"]) == {"tiny": "downloaded"}
    assert real.path_of("tiny").read_bytes() == b"weights"
    assert real.fetch(["tiny"]) == {"tiny": "cached"}
    real.path_of("tiny").write_bytes(b"changed")
    assert real.fetch(["tiny"]) == {"tiny": "downloaded"}
    real.path_of("tiny").unlink()
    monkeypatch.setattr(real, "table", lambda: {"tiny": real.RealModel("tiny", "p==1", "a/m.onnx", "0" * 64, "", {}, "")})
    with pytest.raises(MlcError, match="SHA-256"):
        real.fetch(["tiny"])
    assert not list((folder / "real").iterdir())


def test_fetch_says_what_the_package_lacks(package: real.RealModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "table", lambda: {"tiny": real.RealModel("tiny", "p==1", "b/m.onnx", "0" * 64, "", {}, "")})
    with pytest.raises(MlcError, match=r"no b/m\.onnx"):
        real.fetch(["tiny"])


def test_tables() -> None:
    output = {"name": "y", "relative_l2": 1e-6, "max_abs": 2e-6, "onnxruntime_noise": 0.0, "why": ""}
    good = tables.Row("real:common", {"x": (1, 2)}, {"outputs": [output], "agrees": True, "compile_seconds": 1.5}, "", 0)
    bad = tables.Row("sample:vgg19", {}, None, "it broke", 2)
    lines = tables.check_table([good, bad]).splitlines()
    assert lines[2] == "| real:common | x 1×2 | 1.0e-06 | 2.0e-06 | 0.0e+00 |  | 1.50 | agrees |"
    assert "it broke" in lines[3] and all(line.count("|") == 9 for line in lines)


def test_the_decoder_recipe_takes_a_token_with_a_past(tmp_path):
    """A small one, in float32 and with 4-bit weights, against onnxruntime."""
    from mlc.models.quantized import _Decoder

    for bits in (None, 4):
        path = tmp_path / f"decoder{bits}.onnx"
        _Decoder(bits, layers=2, width=96, heads=6, key_heads=2, inner=128, vocabulary=50)(path)
        rng = np.random.default_rng(0)
        feeds = {"ids": np.array([[7]])}
        feeds |= {f"past_{kind}{i}": rng.standard_normal((1, 2, 5, 16)).astype(np.float32) for kind in "kv" for i in range(2)}
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        got, want = mlc.compile(path).run(feeds), session.run(None, feeds)
        for o, w in zip(session.get_outputs(), want, strict=True):
            assert np.linalg.norm(got[o.name] - w) <= 1e-4 * np.linalg.norm(w), (bits, o.name)
