"""Small maps of equal axes are one launch; what depends on each other, or is large, is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from emulated import needs_gxx
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.lower import lower
from mlc.codegen.plan import Step
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend, emulate
from mlc.compiler.importer import import_model
from mlc.compiler.options import Options
from mlc.compiler.precision.options import Precision
from mlc.models.quantized import _Decoder as Decoder
from small_models import model

CACHE = """cache (float[2, S, 16] k, float[2, S, 16] v, float[2, P, 16] pk, float[2, P, 16] pv) => (float[2, A, 16] ks, float[2, B, 16] vs) {
    nk = Mul(k, k)  nv = Mul(v, v)  ks = Concat<axis = 1>(pk, nk)  vs = Concat<axis = 1>(pv, nv) }"""


PLAIN = """plain (float[2, S, 16] k, float[2, S, 16] v, float[2, P, 16] pk, float[2, P, 16] pv) => (float[2, A, 16] ks, float[2, B, 16] vs) {
    ks = Concat<axis = 1>(pk, k)  turned = Transpose<perm = [1, 0, 2]>(v)  nv = Transpose<perm = [1, 0, 2]>(turned)  vs = Concat<axis = 1>(pv, nv) }"""


def static(text: str) -> bytes:
    for name, size in (("S", 1), ("P", 5), ("A", 6), ("B", 6)):
        text = text.replace(f" {name},", f" {size},")
    return model(text)


def kernels(blob: bytes) -> list[tuple[str, ...]]:
    """The nodes of each step."""
    return [s.loc for s in lower(import_model(blob), LOWERING).steps if isinstance(s, Step)]


def test_keys_and_values_join_their_caches_together() -> None:
    assert len(kernels(static(CACHE))) == 2


def test_what_is_only_loaded_joins_its_cache_by_one_kernel() -> None:
    """Both caches by one; not of sizes that are not known, nor where pieces of 16 bytes would lie on either side."""
    assert len(kernels(static(PLAIN))) == 1
    assert len(kernels(static(PLAIN.replace("16]", "15]")))) == 2
    assert len(kernels(model(PLAIN))) > 2
    tall = PLAIN.replace("[2, ", "[90000, ")
    assert len(kernels(static(tall))) > 2


def test_what_reads_a_result_stays_behind_it() -> None:
    blob = model("""chain (float[4, 6] x) => (float[4, 6] y, float[6, 4] z) {
        a = Transpose<perm = [1, 0]>(x)  z = Exp(a)  b = Transpose<perm = [1, 0]>(z)  y = Sqrt(b) }""")  # fmt: skip
    assert len(kernels(blob)) == 2


def test_large_ones_stay_apart() -> None:
    text = "two (float[1500, 1000] a, float[1500, 1000] b) => (float[1500, 1000] x, float[1500, 1000] y) { x = Exp(a)  y = Sqrt(b) }"
    assert len(kernels(model(text))) == 2
    assert len(kernels(model(text.replace("1500", "15")))) == 1


@needs_gxx
def test_a_decoder_in_16_bits_of_sizes_that_are_not_known(tmp_path: Path) -> None:
    """New keys and values are halves of one product, go behind their caches by one launch, and are rounded for attention by one."""
    path = tmp_path / "decoder.onnx"
    Decoder(None, layers=1, width=64, heads=4, key_heads=2, inner=96, vocabulary=64)(path)
    backend = EmulatedBackend(parse("cuda:sm_80"))
    plan = compile_stages(path, Options("cuda:sm_80", precision=Precision("bf16")), backend=backend).plan
    assert sum(isinstance(s, Step) for s in plan.steps) == 16
    module, session = emulate(path, precision="bf16"), ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for rows, past in ((1, 9), (5, 0), (6, 3)):
        caches = {f"past_{kind}0": rng.standard_normal((1, 2, past, 16)).astype(np.float32) for kind in "kv"}
        feeds = {"ids": rng.integers(0, 64, (1, rows)), **caches}
        for got, right in zip(module.run(feeds).values(), session.run(None, feeds), strict=True):
            np.testing.assert_allclose(got, right, atol=2e-2 * np.abs(right).max())


@needs_gxx
@pytest.mark.parametrize("blob", [static(CACHE), model(CACHE), static(PLAIN), model(PLAIN)],
                         ids=["static", "symbolic", "plain", "plain symbolic"])  # fmt: skip
def test_joined_maps_agree_with_onnxruntime(blob: bytes) -> None:
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((2, s, 16)).astype(np.float32) for n, s in (("k", 1), ("v", 1), ("pk", 5), ("pv", 5))}
    want = ort.InferenceSession(blob, providers=["CPUExecutionProvider"]).run(None, feeds)
    module = emulate(blob)
    for got, right in zip(module.run(feeds).values(), want, strict=True):
        np.testing.assert_allclose(got, right)
