"""The language model that perplexity is measured with: its text, its perplexity, its sizes."""

import sys

import numpy as np
import pytest
from mlc.errors import InputError
from mlc.models import fidelity, resolve, trained


def test_what_is_held_out_is_not_trained_on():
    seen, held_out = (trained.pieces(400, held_out=out) for out in (False, True))
    for rows in (seen, held_out):
        assert all(r.shape == (trained.CONTEXT + 1,) and r.dtype == np.int64 and r.min() >= 0 and r.max() < 256 for r in rows)
    kept, out = trained._split()
    assert len(out) > 100_000 and 10 < len(kept) / len(out) < 20
    text = kept.tobytes()
    assert np.mean([row.astype(np.uint8).tobytes() in text for row in held_out]) < 0.1  # docstrings that differ have much in common


@pytest.mark.parametrize("count", [0, 10**9])
def test_so_many_pieces_there_are_not(count):
    with pytest.raises(InputError, match="pieces of text"):
        trained.pieces(count, held_out=True)


def test_texts_of_a_language_model_say_what_follows():
    given = fidelity.texts_for("trained:byte_decoder", 3, 64)
    assert len(given.calibration) == len(given.data) == len(given.following) == 3
    for feeds, following in zip(given.data, given.following, strict=True):
        assert feeds["ids"].shape == (1, trained.CONTEXT) and np.array_equal(feeds["ids"][0, 1:], following[:-1])


def test_the_decoder_sees_nothing_ahead():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = trained._decoder().eval()
    ids = torch.randint(0, 256, (1, trained.CONTEXT))
    changed = ids.clone()
    changed[0, 70:] = 5
    with torch.no_grad():
        a, b = model(ids), model(changed)
    assert a.shape == (1, trained.CONTEXT, 256)
    assert torch.equal(a[0, :70], b[0, :70]) and not torch.allclose(a[0, 70:], b[0, 70:])


def test_names(monkeypatch, tmp_path):
    monkeypatch.setenv("MLC_MODELS_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"not here yet.*export trained:byte_decoder"):
        resolve.resolve("trained:byte_decoder")
    with pytest.raises(InputError, match="no trained model"):
        resolve.resolve("trained:other")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="training needs torch"):
        trained.export("byte_decoder")
