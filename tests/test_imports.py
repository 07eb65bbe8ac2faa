"""Who may import whom (docs/architecture.md), and that loading a module never imports the compiler."""

import subprocess
import sys
import tomllib
from pathlib import Path

import mlc
import pytest

ROOT = Path(__file__).parents[1]


def test_import_contracts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    code = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capfd.readouterr().out


def test_public_api_is_lazy() -> None:
    code = (
        "import sys, mlc, mlc.runtime.loading as m; assert mlc.load is m.load;"
        "bad = [n for n in sys.modules if n in ('onnx', 'onnxruntime', 'zipfile') or n.startswith(('mlc.compiler', 'mlc.ir',"
        " 'mlc.passes', 'mlc.codegen'))]; assert not bad, bad"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_public_names_are_listed() -> None:
    """As completion in a notebook asks for them."""
    assert set(mlc.__all__) <= set(dir(mlc))


@pytest.mark.parametrize(
    ("args", "unwanted"), [("--help", ("numpy", "mlc.compiler.commands")), ("run --help", ("onnx", "llvmlite", "mlc.ir"))]
)
def test_commands_import_what_they_need(args: str, unwanted: tuple[str, ...]) -> None:
    code = (
        "import sys; from mlc.compiler.cli import cli; cli.main(args=sys.argv[1].split(), standalone_mode=False);"
        f"bad = [n for n in sys.modules if n.startswith({unwanted})]; assert not bad, bad"
    )
    result = subprocess.run([sys.executable, "-c", code, args], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_wheel_has_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    environments = {p.parent for p in ROOT.rglob("pyvenv.cfg")}  # of users who keep theirs in the checkout
    packages = [p.parent for p in ROOT.rglob("__init__.py") if environments.isdisjoint(p.parents)]
    found = {".".join(("mlc", *p.relative_to(ROOT).parts)) for p in packages}
    assert listed == {n for n in found if not n.startswith(("mlc.tests", "mlc.build"))}
