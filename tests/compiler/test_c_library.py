"""Models as libraries for C: compiled by the C compiler with a main of their own, they give what the module gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mlc
import numpy as np
import onnx.parser
import pytest
from click.testing import CliRunner
from mlc import MlcError
from mlc.compiler.c_library import c_library, write_c_library
from mlc.compiler.c_library.archive import archive
from mlc.compiler.cli import cli

CC = shutil.which("cc") or shutil.which("gcc")
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler")

CNN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 3, 17, 19] x, int64[4] k) => (float[2, 4, 10] y, int64[2, 4] default) <float[8, 3, 3, 3] w, float[8] b, float[10, 8] v> {
  c = Conv <kernel_shape = [3, 3], strides = [2, 2]> (x, w, b)
  r = Relu (c)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  z = Constant <value_ints = [1]> ()
  e = Unsqueeze (f, z)
  s = Constant <value_ints = [2, 4, 8]> ()
  h = Expand (e, s)
  t = Transpose <perm = [1, 0]> (v)
  m = MatMul (h, t)
  q = Softmax (m)
  y = Gather <axis = 1> (q, k)
  default = ArgMax <axis = 2, keepdims = 0> (y)
}"""
# files of inputs, files of outputs; the sizes of these; code of the run as exit status
MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include "net.h"
static void *file(const char *name, size_t size) {
  void *p = aligned_alloc(64, (size + 127) / 64 * 64);
  FILE *f = fopen(name, "rb");
  if (!f || fread(p, 1, size, f) != size) exit(99);
  fclose(f);
  return p;
}
int main(void) {
  void *weights = file("net.weights", net_WEIGHTS_BYTES), *arena = aligned_alloc(64, (net_ARENA_BYTES + 127) / 64 * 64);
  net_inputs in = {file("x", 2 * 3 * 17 * 19 * 4), file("k", 4 * 8)};
  static float y[2 * 4 * 10];
  static int64_t best[2 * 4];
  net_outputs out = {y, best};
  for (int i = 0; i < 3; i++) {
    int code = net_run(weights, arena, &in, &out, 1 + i);
    if (code) { printf("%s", net_message(code)); return code < 0 ? 77 : code; }
  }
  FILE *f = fopen("out", "wb");
  fwrite(y, 4, 80, f);
  fwrite(best, 8, 8, f);
  return fclose(f);
}
"""


@pytest.fixture(scope="module")
def module() -> mlc.Module:
    model = onnx.parser.parse_model(CNN)
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (10, 8)}
    tensors = [onnx.numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return mlc.compile(model, threads=1)


@pytest.fixture(scope="module")
def program(module: mlc.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    write_c_library(module.parts, folder, "net")
    (folder / "main.c").write_text(MAIN)
    command = [
        str(CC),
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        "main.c",
        "net.c",
        "-L.",
        "-lnet",
        "-lm",
        "-lpthread",
        "-o",
        "main",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def run(folder: Path, x: np.ndarray, k: np.ndarray) -> subprocess.CompletedProcess[str]:
    x.tofile(folder / "x")
    k.tofile(folder / "k")
    return subprocess.run([folder / "main"], cwd=folder, capture_output=True, text=True, timeout=60)


@needs_cc
def test_a_c_program_gives_what_the_module_gives(module: mlc.Module, program: Path) -> None:
    x, k = np.random.default_rng(1).standard_normal((2, 3, 17, 19)).astype(np.float32), np.array([0, 3, -1, 2])
    done = run(program, x, k)
    assert done.returncode == 0, done.stdout + done.stderr
    y, best = module(x, k)
    data = (program / "out").read_bytes()
    assert data == y.tobytes() + best.tobytes()


@needs_cc
def test_an_index_out_of_range_is_an_error_of_the_run(module: mlc.Module, program: Path) -> None:
    x, k = np.zeros((2, 3, 17, 19), np.float32), np.array([0, 3, 9, 2])
    done = run(program, x, k)
    assert done.returncode == 1 and done.stdout == "Gather:y"
    with pytest.raises(MlcError, match=r"Gather:y: index 9"):
        module(x, k)


@needs_cc
def test_the_archive_is_one(tmp_path: Path, module: mlc.Module) -> None:
    path = tmp_path / "libnet.a"
    path.write_bytes(c_library(module.parts, "net").library)
    listed = subprocess.run(["ar", "t", path], check=True, capture_output=True, text=True).stdout.split()
    assert listed[0] == "k0.o" and len(listed) == len(set(listed)) > 2
    assert len(archive([(b"abc", ["f"])])) % 2 == 0


def test_the_same_module_gives_the_same_files(module: mlc.Module) -> None:
    a, b = c_library(module.parts, "net"), c_library(module.parts, "net")
    assert (a.header, a.program, a.library) == (b.header, b.program, b.library)
    assert "const float *x; /* x: float32[2, 3, 17, 19], 1938 elements */" in a.header
    assert "int64_t *default_;" in a.header  # a word of C


def simple(shape: str, body: str, out: str) -> mlc.Module:
    return mlc.compile(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g (float[{shape}] x) => ({out} y) {{ {body} }}'))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: simple("n, 3", "y = Relu (x)", "float[n, 3]"), r"symbolic sizes \(n\).*--shape"),
        (lambda: simple("4", "y = NonZero (x)", "int64[1, k]"), "needs Python while it runs"),
        (lambda: simple("4", "y = SequenceConstruct (x)", "seq(float[4])"), "y: strings or objects"),
    ],
)
def test_modules_that_c_cannot_run(make, words: str) -> None:
    with pytest.raises(MlcError, match=words):
        c_library(make().parts, "net")


def test_names_are_identifiers(module: mlc.Module) -> None:
    for name in ("", "3d", "a-b", "int", "x/../y"):
        with pytest.raises(MlcError, match="an identifier of C"):
            c_library(module.parts, name)


def test_the_command(tmp_path: Path) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }')
    onnx.save(model, tmp_path / "my net.onnx")
    done = CliRunner().invoke(cli, ["export", str(tmp_path / "my net.onnx"), "--shape", "x=2,3", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"my_net.h", "my_net.c", "libmy_net.a", "my_net.weights"}
