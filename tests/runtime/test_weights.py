"""Weights that arrive while a module is already loaded: no run computes with what was not checked."""

from __future__ import annotations

import io
import os
import pickle

import mlc
import numpy as np
import onnx
import pytest
from mlc.errors import ArtifactError
from mlc.runtime import archive, artifact
from mlc.runtime.address import aligned
from mlc.runtime.native import native
from mlc.runtime.weights import CHUNK, Arrival, checksums


def large(chunks: float) -> np.ndarray:
    data = aligned(int(chunks * CHUNK))
    data[:] = np.arange(len(data)) % 251
    return data


def test_checksums_of_chunks():
    data = large(5.25)
    assert data.ctypes.data % 64 == 0
    sums = checksums(data)
    assert len(sums) == 6 and sums[5] == native().checksum(data[5 * CHUNK :].ctypes.data, CHUNK // 4)
    data[2 * CHUNK] ^= 1
    assert [a == b for a, b in zip(checksums(data), sums, strict=True)] == [True, True, False, True, True, True]


@pytest.fixture
def arrive(tmp_path):
    """Makes an `Arrival` of data, which also lie in a file, behind 100 other bytes."""

    def make(data: np.ndarray, expected: object, copied: int) -> Arrival:
        path = tmp_path / "a"
        path.write_bytes(bytes(100) + data.tobytes())
        with open(path, "rb") as f:
            return Arrival(data, expected, "a.mlc", copied, (f.fileno(), 100))

    return make


@pytest.mark.parametrize("copied", [0, CHUNK, CHUNK + 7, 3 * CHUNK])
def test_waiting(copied, arrive):
    data = large(3)
    sums = checksums(data)
    for expected in (sums, None):
        arrival = arrive(data, expected, copied)
        arrival.wait()
        arrival.wait()
        assert arrival.copy is None if not copied else (arrival.copy == data[:copied]).all()
    for wrong in ([], [*sums, 0], [sums[0] ^ 1, *sums[1:]], [*sums[:2], sums[2] ^ 1], "no list", 7):
        bad = arrive(data, wrong, copied)
        for _ in range(2):
            with pytest.raises(ArtifactError, match=r"a\.mlc: the weights do not match their digests\. Compile the model again"):
                bad.wait()


@pytest.mark.parametrize("copied", [0, 2 * CHUNK])
def test_chunks_that_were_begun_and_never_finished(copied, arrive, monkeypatch):
    """What a process finds that was forked while threads of its parent were at it."""
    data = large(4)
    sums = checksums(data)
    monkeypatch.setattr("mlc.runtime.weights._start", lambda work, size: [])
    for expected, fits in ((sums, True), ([*sums[:-1], 5], False)):
        arrival = arrive(data, expected, copied)
        next(arrival._next, None)
        arrival._of_rest._taken[0] = 1
        if fits:
            arrival.wait()
        else:
            with pytest.raises(ArtifactError):
                arrival.wait()
        assert not copied or (arrival.copy == data[:copied]).all()


def test_files_that_become_shorter(tmp_path, monkeypatch):
    data = large(3)
    (tmp_path / "a").write_bytes(data.tobytes())
    monkeypatch.setattr("mlc.runtime.weights._start", lambda work, size: [])
    with open(tmp_path / "a", "rb") as f:
        arrival = Arrival(data, checksums(data), "a.mlc", 2 * CHUNK, (f.fileno(), 0))
    os.truncate(tmp_path / "a", CHUNK + 5)
    with pytest.raises(ArtifactError, match=r"a\.mlc: a file that became shorter"):
        arrival.wait()


def matmul(seed: int, symbolic: bool) -> mlc.Module:
    """16 MB of weights."""
    weights = np.random.default_rng(seed).standard_normal((2048, 2048)).astype(np.float32)
    h = onnx.helper
    rows = "N" if symbolic else 1
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [h.make_tensor_value_info("x", 1, [rows, 2048])], [h.make_tensor_value_info("y", 1, [rows, 2048])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    return mlc.compile(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9))


X = np.ones((1, 2048), np.float32)


@pytest.mark.parametrize("symbolic", [False, True])
def test_damaged_files(symbolic, tmp_path):
    module = matmul(0, symbolic)
    expected, blob = module(X), module.to_bytes()
    spans, _ = archive.read(blob)
    begin, size = spans[2]
    path = tmp_path / "m.mlc"
    for at in (begin, begin + CHUNK - 1, begin + size // 2, begin + size - 1):
        bad = bytearray(blob)
        bad[at] ^= 0x10
        path.write_bytes(bad)
        loaded = mlc.load(path)
        for run in (lambda: loaded(X), lambda: loaded.run({"x": X}), lambda: loaded.profile({"x": X})):  # noqa: B023
            with pytest.raises(ArtifactError, match=r"m\.mlc: the weights do not match their digests"):
                run()
        with pytest.raises(ArtifactError, match="weights"):
            artifact.load(path)
        mlc.load(path, verify=False)(X)
    for end in (len(blob) - 1, begin + size - 1, begin + CHUNK, begin - 1, 100):
        path.write_bytes(blob[:end])
        with pytest.raises(ArtifactError, match=r"m\.mlc"):
            mlc.load(path)
    path.write_bytes(blob)
    np.testing.assert_array_equal(mlc.load(path)(X), expected)


def test_swapped_weights():
    """Parts of two good files are no good file."""
    one, other = (artifact.load(matmul(seed, False).to_bytes()) for seed in (1, 2))
    mixed = artifact.to_bytes(artifact.Parts(one.manifest, one.code, other.weights))
    with pytest.raises(ArtifactError, match="the weights do not match their digests"):
        mlc.load(mixed)(X)
    short = io.BytesIO()
    archive.write(short, [memoryview(b) for b in artifact_members(one, other.weights[:CHUNK])], archive.read(mixed)[1])
    with pytest.raises(ArtifactError):
        mlc.load(short.getvalue())(X)


def artifact_members(parts: artifact.Parts, weights: np.ndarray) -> list[bytes]:
    blob = artifact.to_bytes(parts)
    return [*(blob[at : at + size] for at, size in archive.read(blob)[0][:2]), weights.tobytes()]


def test_processes_forked_before_the_first_run():
    blob = matmul(3, False).to_bytes()
    loaded, expected = mlc.load(blob, threads=1), mlc.load(blob, threads=1)(X)
    child = os.fork()
    if child == 0:
        os._exit(0 if (loaded(X) == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(loaded(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mlc.load(blob)))(X), expected)
