"""The wheel holds every package and every data file of the tree."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("compiler", "ir", "passes", "codegen", "runtime", "models")


@pytest.fixture(scope="module")
def setuptools() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]


def files() -> list[Path]:
    return [p.relative_to(ROOT) for f in FOLDERS for p in (ROOT / f).rglob("*") if p.is_file() and p.suffix != ".pyc"]


def test_every_folder_with_code_is_a_listed_package(setuptools: dict) -> None:
    folders = {p.parent for p in files() if p.suffix == ".py"}
    assert all((ROOT / f / "__init__.py").is_file() for f in folders)
    assert {"mlc", *("mlc." + ".".join(f.parts) for f in folders)} == set(setuptools["packages"])


def test_every_data_file_is_listed(setuptools: dict) -> None:
    patterns = setuptools["package-data"]["mlc"]
    assert [p for p in files() if p.suffix != ".py" and not any(fnmatch.fnmatch(str(p), x) for x in patterns)] == []
    assert (ROOT / "py.typed").is_file() and "py.typed" in patterns
