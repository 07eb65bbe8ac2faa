"""The command line for CUDA targets on a machine without a GPU."""

from __future__ import annotations

import json

import pytest
import small_models
from click.testing import CliRunner
from mlc.codegen.cuda.nvrtc import nvrtc
from mlc.compiler.commands.compile import command as compile_command
from mlc.compiler.commands.inspect import command as inspect_command
from mlc.errors import TargetError
from mlc.runtime import artifact
from mlc.runtime.cuda import images


@pytest.fixture(scope="module", autouse=True)
def _needs_nvrtc() -> None:
    try:
        nvrtc()
    except TargetError as e:
        pytest.skip(str(e))


def test_cross_compile_and_inspect(tmp_path) -> None:
    path, out, dump = tmp_path / "m.onnx", tmp_path / "m.mlc", tmp_path / "dump"
    path.write_bytes(small_models.mlp())
    args = [str(path), "-o", str(out), "--target=cuda:sm_80,sm_90a", "--dump", str(dump)]
    done = CliRunner().invoke(compile_command, args, catch_exceptions=False)
    assert done.exit_code == 0
    parts = artifact.load(out.read_bytes())
    assert parts.manifest.raw["target"] == {"kind": "cuda", "archs": ["sm_80", "sm_90a"], "ptx": "compute_80"}
    for _, image in images.split(parts.code):
        assert set(image.code) == {"sm_80", "sm_90a", "compute_80"}
    assert list((dump / "kernels").glob("*.cu")) and list((dump / "kernels").glob("*.sm_90a.cubin"))
    shown = CliRunner().invoke(inspect_command, [str(out), "--json", "-"], catch_exceptions=False)
    assert shown.exit_code == 0 and json.loads(shown.output)["target"]["kind"] == "cuda"
    assert "CUDA sm_80" in CliRunner().invoke(inspect_command, [str(out)], catch_exceptions=False).output


def test_equal_models_give_equal_files(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_models.lstm())
    blobs = []
    for name in ("a.mlc", "b.mlc"):
        CliRunner().invoke(compile_command, [str(path), "-o", str(tmp_path / name), "--target=cuda:sm_80"], catch_exceptions=False)
        blobs.append((tmp_path / name).read_bytes())
    assert blobs[0] == blobs[1]
