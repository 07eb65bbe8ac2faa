"""`.mlc` files: deterministic, aligned, atomic; anything damaged or made up is an ArtifactError, never a crash."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import subprocess
import sys
import zipfile

import mlc
import numpy as np
import pytest
from mlc.errors import ArtifactError, InputError, MlcError
from mlc.runtime import archive, artifact, objects
from mlc.runtime.loading import load
from mlc.runtime.module import Module
from mlc.runtime.native import native

X = np.ones((4, 8), np.float32)


@pytest.fixture(scope="module")
def blob(static_parts):
    return artifact.to_bytes(static_parts)


def rebuild(parts, change) -> bytes:
    """A file with correct digests whose manifest went through `change`."""
    raw = copy.deepcopy(parts.manifest.raw)
    raw = change(raw) or raw
    manifest = json.dumps(raw).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in zip(archive.NAMES, (manifest, parts.code, parts.weights.tobytes()), strict=True):
            z.writestr(name, data)
        z.comment = b"mlc checksum %016x" % (checksum(manifest) % 2**64)
    return out.getvalue()


def test_layout_of_the_file(blob, static_parts, tmp_path):
    assert artifact.to_bytes(static_parts) == blob
    with zipfile.ZipFile(io.BytesIO(blob)) as z:
        assert z.testzip() is None
        assert tuple(z.namelist()) == archive.NAMES
        assert len({i.date_time for i in z.infolist()}) == 1
    weights = static_parts.weights.tobytes()
    assert blob.index(weights) % archive.PAGE == 0
    path = tmp_path / "m.mlc"
    artifact.save(static_parts, path)
    parts = artifact.load(path)
    assert not parts.weights.flags.writeable and not parts.weights.flags.owndata
    assert os.listdir(tmp_path) == ["m.mlc"]


def test_flipped_bits(blob, static_parts):
    expected = Module(static_parts)(X)
    rng = random.Random(1)
    positions = set(range(1200)) | set(range(len(blob) - 400, len(blob))) | {rng.randrange(len(blob)) for _ in range(400)}
    for at in positions:
        bad = bytearray(blob)
        bad[at] ^= 1 << rng.randrange(8)
        try:
            module = load(bytes(bad))
        except ArtifactError:
            continue
        np.testing.assert_array_equal(module(X), expected)  # a bit that means nothing, such as a time stamp


def test_truncated(blob):
    for size in [*range(200), *range(200, len(blob), 97), len(blob) - 1]:
        with pytest.raises(ArtifactError):
            load(blob[:size])


def test_not_a_module(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"hello" * 100)
    with zipfile.ZipFile(tmp_path / "c", "w") as z:
        z.writestr("readme.txt", "x")
    os.mkfifo(tmp_path / "pipe")
    for name in ("a", "b", "c", "absent", ".", "pipe", "a\0b"):
        with pytest.raises(ArtifactError, match=str(tmp_path)):
            load(tmp_path / name)
    with pytest.raises(ArtifactError, match="/dev/zero: no plain file"):
        load("/dev/zero")


def test_what_is_no_module_is_not_read_whole(tmp_path):
    os.truncate(os.open(tmp_path / "a", os.O_CREAT | os.O_RDWR), 1 << 40)
    with pytest.raises(ArtifactError, match="no mlc file"):
        load(tmp_path / "a")


def test_newer_format(static_parts):
    with pytest.raises(ArtifactError, match=r"format 8; expected format 7\. Install a newer mlc"):
        load(rebuild(static_parts, lambda m: m.update(format=8)))
    with pytest.raises(ArtifactError, match=r"format 1; expected format 7\. Compile the model again"):
        load(rebuild(static_parts, lambda m: m.update(format=1)))


def test_code_index(static_parts):
    pairs = objects.split(static_parts.code)
    assert objects.join(pairs) == static_parts.code and len(pairs) == 2
    head = b"mlccode1"
    for bad in (b"", head, static_parts.code[:-1], static_parts.code + b"x", head + bytes(8), head + b"\xff" * 8,
                objects.join([("f", b"no object" * 20)]), objects.join([("f", b"")]),
                head + (2).to_bytes(8, "little") + b"{}", head + (2).to_bytes(8, "little") + b"[3"):  # fmt: skip
        with pytest.raises(ArtifactError):
            objects.split(bad)


def test_digests(static_parts, tmp_path):
    parts = artifact.Parts(static_parts.manifest, static_parts.code + b"x", static_parts.weights)
    with pytest.raises(ArtifactError, match="code does not match"):
        load(artifact.to_bytes(parts))
    other = static_parts.weights.copy()
    other[3] ^= 1
    changed = artifact.to_bytes(artifact.Parts(static_parts.manifest, static_parts.code, other))
    with pytest.raises(ArtifactError, match="weights do not match"):
        load(changed)
    load(changed, verify=False)
    with pytest.raises(InputError, match="verify='no'"):
        mlc.load(changed, verify="no")


def checksum(data: bytes) -> int:
    """The definition in native.ll, in Python."""
    mask, lanes = 2**64 - 1, [*range(1, 9)]

    def mix(lane: int, word: int) -> int:
        x = lane ^ word
        return ((x << 23 | x >> 41) & mask) * 0x9E3779B185EBCA87 & mask

    part = len(data) // 512 * 64
    rest = data[8 * part :].ljust(512, b"\0")
    for i in range(8):
        mine = data[i * part : (i + 1) * part] + rest[64 * i : 64 * (i + 1)]
        for at in range(0, len(mine), 8):
            lanes[i] = mix(lanes[i], int.from_bytes(mine[at : at + 8], "little"))
    h = len(data)
    for lane in lanes:
        h = mix(h, lane)
    h ^= h >> 32
    return h - 2**64 if h >= 2**63 else h


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 512, 1000, 1536])
def test_checksum(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert native().checksum(data.ctypes.data, size) == checksum(data.tobytes())
    seen = set()
    for bit in range(8 * size):
        data[bit // 8] ^= 1 << bit % 8
        seen.add(native().checksum(data.ctypes.data, size))
        data[bit // 8] ^= 1 << bit % 8
    assert checksum(data.tobytes()) not in seen


def test_files_of_format_1_are_named(blob):
    end = blob.rindex(b"mlc checksum ")
    comment = b"mlc sha256 " + b"0" * 64
    with pytest.raises(ArtifactError, match=r"format 1; expected format 7\. Compile the model again"):
        load(blob[: end - 2] + len(comment).to_bytes(2, "little") + comment)


def test_large_archives(monkeypatch):
    """Numbers of 64 bits, as zipfile writes them for what is large; here, for anything."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)
    members = [memoryview(bytes([i]) * size) for i, size in enumerate((100, 41, 9000))]
    file = io.BytesIO()
    archive.write(file, members, b"about it")
    spans, comment = archive.read(file.getvalue())
    assert [file.getvalue()[at : at + size] for at, size in spans] == [bytes(m) for m in members] and comment == b"about it"
    assert b"PK\x06\x06" in file.getvalue()
    for at in range(len(comment) + 1, len(file.getvalue()), 7):
        with pytest.raises(ArtifactError):
            archive.read(file.getvalue()[:-at])


def test_saving_fails_cleanly(static_parts, tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifact.save(static_parts, tmp_path / "no" / "such" / "m.mlc")
    with pytest.raises(ArtifactError, match="a NoneType; expected a path"):
        artifact.save(static_parts, None)
    (tmp_path / "m.mlc").write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact.save(static_parts, tmp_path / "m.mlc")
    assert (tmp_path / "m.mlc").read_bytes() == b"old" and os.listdir(tmp_path) == ["m.mlc"]


@pytest.mark.parametrize("limit", [10, 2000, 4200])
def test_disk_full(static_parts, tmp_path, limit):
    artifact.save(static_parts, tmp_path / "good.mlc")
    script = (
        "import resource, sys, mlc\n"
        "m = mlc.load(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    m.save(sys.argv[2])\n"
        "except mlc.MlcError as e:\n"
        "    print(type(e).__name__, e)\n"
    )
    args = [sys.executable, "-c", script, tmp_path / "good.mlc", tmp_path / "new.mlc"]
    out = subprocess.run(args, capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.startswith("ArtifactError") and "File too large" in out.stdout, out
    assert os.listdir(tmp_path) == ["good.mlc"]


JUNK = [None, -1, 0, 1, 7, 2**31, 2**62, 2**63, 10**30, 1.5, "x", "", [], [1], [[]], {}, True, ["sym", "N"], ["floordiv", 1, 0]]


def places(value, path=()):
    """Every position in a JSON value."""
    found, stack = [], [(value, path)]
    while stack:
        v, p = stack.pop()
        found.append(p)
        items = v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ()
        stack += [(w, (*p, k)) for k, w in items]
    return found


def put(raw, path, value):
    if not path:
        return value
    node = raw
    for k in path[:-1]:
        node = node[k]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return raw


@pytest.mark.parametrize("which", ["static_parts", "dynamic_parts", "control_parts"])
def test_made_up_manifests(which, request):
    """Whatever single field is replaced: a typed error, or a module that passed every check."""
    parts = request.getfixturevalue(which)
    rng = random.Random(which)
    spots = [p for p in places(parts.manifest.raw) if p]
    for path in spots:
        for junk in [KeyError, *rng.sample(JUNK, 4)]:
            data = rebuild(parts, lambda m, path=path, junk=junk: put(m, path, copy.deepcopy(junk)))
            try:
                module = load(data)
                if module.manifest.symbols:
                    module.binding(N=5)
            except MlcError:
                continue


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("program", 1), 99, "function 99"),
        (("program", 4), 99, "dim slot 99"),
        (("program", 6), 99, "buffer 99"),
        (("program", 2), 2**40, "ends within"),
        (("program", 0), 77, "unknown instruction"),
        (("buffers", 0, "index"), 3, "input 3"),
        (("buffers", 5, "of"), 5, "alias of an alias"),
        (("layout", "total"), 64, "outside the arena"),
        (("layout", "offsets", 4), 32, "arena"),
        (("inputs", 0, "dtype"), "f33", "element type"),
        (("inputs", 0, "shape"), [4, 9], "bytes"),
        (("inputs", 0, "shape"), [["sym", "Q"], 8], "dim expression"),
        (("dims",), [], "dim slot"),
        (("streamed",), 10**6, "streamed bytes"),
        (("streamed",), 1, "a constant at 0 of 4 bytes"),
    ],
)
def test_what_is_wrong_is_named(static_parts, path, value, words):
    with pytest.raises(ArtifactError, match=words):
        load(rebuild(static_parts, lambda m: put(m, path, value)))


def test_jumps_and_writes_are_checked(control_parts):
    raw = control_parts.manifest.raw
    program = raw["program"]
    loop = program.index(5)  # clear the counter, then "jump if counter >= trips"
    for at, value, words in (
        (loop + 5, loop + 3, "middle"),
        (loop + 5, 10**6, "middle"),
        (loop + 1, 0, "writes a constant or an input"),
    ):
        with pytest.raises(ArtifactError, match=words):
            load(rebuild(control_parts, lambda m, at=at, value=value: put(m, ("program", at), value)))


@pytest.mark.parametrize("others", [[3], [{"others": []}], [{}]])
def test_other_programs_that_are_none(static_parts, others):
    with pytest.raises(ArtifactError, match=r"no program|malformed"):
        load(rebuild(static_parts, lambda m: m.update(others=others)))


def test_bytes_in_any_buffer(blob):
    assert load(bytearray(blob)).to_bytes() == load(memoryview(blob)).to_bytes() == blob
    with pytest.raises(ArtifactError) as e:
        load(bytearray(10**6))
    assert len(str(e.value)) < 200  # not what it holds
