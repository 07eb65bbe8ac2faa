"""`sample:NAME`: the nine classic CNNs that the onnx wheel carries, so the first command needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError

SAMPLES = (
    "resnet50",
    "vgg19",
    "densenet121",
    "squeezenet",
    "shufflenet",
    "zfnet512",
    "inception_v1",
    "inception_v2",
    "bvlc_alexnet",
)


def path_of(name: str) -> Path:
    """The file of a sample inside the installed onnx package."""
    if name not in SAMPLES:
        raise InputError(f"no sample is called {name!r}", expected="one of " + ", ".join(SAMPLES))
    spec = find_spec("onnx")
    if spec is None or spec.origin is None:
        raise InputError("the onnx package is not installed", remedy="Install it with: pip install onnx")
    path = Path(spec.origin).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    if not path.is_file():
        raise InputError(f"the installed onnx package carries no {path.name}", remedy="Reinstall it with: pip install onnx")
    return path
