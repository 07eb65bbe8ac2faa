"""The emulation itself: barriers, races, warp collectives, late copies, matrix instructions and 16-bit floats by definition."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from emulated import needs_gxx
from mlc.codegen.cuda.emulate import compiler
from mlc.codegen.cuda.emulate.compiler import build
from mlc.errors import CodegenError, VerifyError

pytestmark = needs_gxx
HEAD = '#include "mlc.cuh"\n#include "stream.cuh"\nextern "C" __global__ void '
KERNELS = {
    # each thread reads what its neighbour wrote; `race` forgets the barrier
    "rotate": "rotate(float* y) { MLC_SHARED(s); float* x = (float*)s; x[threadIdx.x] = threadIdx.x; __syncthreads();"
              " y[threadIdx.x] = x[(threadIdx.x + 1) % 64]; }",
    "race": "race(float* y) { MLC_SHARED(s); float* x = (float*)s; x[threadIdx.x] = threadIdx.x; y[threadIdx.x] = x[(threadIdx.x + 1) % 64]; }",
    "diverged": "diverged(float* y) { if (threadIdx.x < 16) __syncwarp(); __syncthreads(); y[0] = 1; }",
    "gone": "gone(float* y) { if (threadIdx.x == 3) return; y[threadIdx.x] = warp_reduce<Sum>(1.0f); }",
    "sums": "sums(float* y) { MLC_SHARED(s); y[threadIdx.x] = block_reduce<Sum, 2>((float)threadIdx.x, s); }",
    "unwaited": "unwaited(const float* x, float* y) { MLC_SHARED(s); cp_async16(s + 16 * threadIdx.x, x + 4 * threadIdx.x, 16); cp_async_commit();"
                " y[threadIdx.x] = ((float*)s)[4 * threadIdx.x]; }",
    "waited": "waited(const float* x, float* y) { MLC_SHARED(s); cp_async16(s + 16 * threadIdx.x, x + 4 * threadIdx.x, threadIdx.x == 5 ? 0 : 16);"
              " cp_async_commit(); cp_async_wait<0>(); y[threadIdx.x] = ((float*)s)[4 * threadIdx.x]; }",
    # each block waits for the one before, and for the one after too in `circle`
    "chain": "chain(float* y, u64* f) { if (threadIdx.x == 0 && blockIdx.x) wait_for_block(f + blockIdx.x - 1); __syncthreads();"
             " if (threadIdx.x == 9) y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] + 1 : 1; __syncthreads(); if (threadIdx.x == 0) tell_blocks(f + blockIdx.x); }",
    "circle": "circle(u64* f) { if (threadIdx.x == 0) { wait_for_block(f + 1 - blockIdx.x); tell_blocks(f + blockIdx.x); } }",
    "halves": "halves(const f16* x, float* wide, const float* z, f16* narrow, bf16* brain) { int i = blockIdx.x * 256 + threadIdx.x;"
              " wide[i] = to_float(x[i]); narrow[i] = to_f16(z[i]); brain[i] = to_bf16(z[i]); }",
}  # fmt: skip
for _kind, _acc in (("bf16", "float"), ("f16", "float"), ("tf32", "float"), ("u8s8", "int")):
    KERNELS[_kind] = f"""{_kind}(const u32* a, const u32* b, {_acc}* c) {{
        int q = threadIdx.x / 4, t = threadIdx.x % 4;
        u32 x[4] = {{a[q * 8 + t], a[(q + 8) * 8 + t], a[q * 8 + t + 4], a[(q + 8) * 8 + t + 4]}}, y[2] = {{b[q * 8 + t], b[q * 8 + t + 4]}};
        {_acc} s[4] = {{1, 1, 1, 1}};
        mma_{_kind}(s, x, y);
        for (int e = 0; e < 4; ++e) c[(q + e / 2 * 8) * 8 + 2 * t + e % 2] = s[e];
    }}"""


@pytest.fixture(scope="module")
def library():
    return build({name: HEAD + text for name, text in KERNELS.items()})


def run(library, name: str, *arrays: np.ndarray, blocks: int = 1, threads: int = 64, shared: int = 1024, seed: int = 0) -> None:
    library.run(name, [a.ctypes.data for a in arrays], blocks, threads, shared, seed)


def test_blocks_that_wait(library) -> None:
    for seed in range(4):
        y, flags = np.zeros(20, np.float32), np.zeros(20, np.uint64)
        run(library, "chain", y, flags, blocks=20, seed=seed)
        np.testing.assert_array_equal(y, np.arange(1, 21))
    with pytest.raises(VerifyError, match="wait for each other"):
        run(library, "circle", np.zeros(2, np.uint64), blocks=2)
    run(library, "sums", np.zeros(64, np.float32))  # and the next kernel finds nothing left of them


def test_barriers_and_races(library) -> None:
    want = (np.arange(64) + 1) % 64
    y = np.zeros(64, np.float32)
    for seed in range(4):
        run(library, "rotate", y, seed=seed)
        np.testing.assert_array_equal(y, want)
    run(library, "race", y, seed=1)
    assert not np.array_equal(y, want), "a race shows: what nobody has written is NaN"
    for name in ("diverged", "gone"):
        with pytest.raises(VerifyError, match=r"not all threads reach|have exited"):
            run(library, name, y)
    run(library, "sums", y)  # and the next kernel finds nothing left of them
    np.testing.assert_array_equal(y, np.full(64, 63 * 32))


def test_copies_happen_when_they_are_waited_for(library) -> None:
    block = np.zeros(256 + 4, np.float32)
    x = block[-block.ctypes.data % 16 // 4 :][:256]
    x[:] = np.arange(256)
    y = np.zeros(64, np.float32)
    run(library, "unwaited", x, y)
    assert np.isnan(y).all()
    run(library, "waited", x, y)
    want = x[::4].copy()
    want[5] = 0
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("kind,a,b", [("bf16", ml_dtypes.bfloat16, ml_dtypes.bfloat16), ("f16", np.float16, np.float16),
                                      ("tf32", np.float32, np.float32), ("u8s8", np.uint8, np.int8)])  # fmt: skip
def test_matrix_instructions(library, kind: str, a: type, b: type) -> None:
    rng = np.random.default_rng(0)
    depth = 32 // np.dtype(a).itemsize
    draw = (lambda t: rng.integers(*(0, 255) if t is np.uint8 else (-128, 127), size=(16, depth)).astype(t)) if kind == "u8s8" else (
        lambda t: rng.standard_normal((16, depth)).astype(t))  # fmt: skip
    x, y = draw(a), draw(b)[:8].copy()
    c = np.zeros((16, 8), np.int32 if kind == "u8s8" else np.float32)
    run(library, kind, x, y, c, threads=32)
    want = x.astype(np.float64) @ y.astype(np.float64).T + 1
    np.testing.assert_allclose(c, want, rtol=1e-6, atol=1e-6)


def test_small_floats_convert_as_numpy_does(library) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rng = np.random.default_rng(0)
    z = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    z[: 1 << 15] = (rng.standard_normal(1 << 15) * 10.0 ** rng.integers(-9, 6, 1 << 15)).astype(np.float32)
    wide, narrow, brain = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, np.float16), np.zeros(1 << 16, ml_dtypes.bfloat16)
    run(library, "halves", x, wide, z, narrow, brain, blocks=256, threads=256)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(wide, x.astype(np.float32))
        np.testing.assert_array_equal(narrow, z.astype(np.float16))
        np.testing.assert_array_equal(brain.astype(np.float32), z.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_refused_source() -> None:
    with pytest.raises(CodegenError, match="nonsense"):
        build({"k": HEAD + "k() { nonsense; }"})


def test_what_kernels_have_in_common_is_compiled_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ran: list[str] = []
    run = compiler._run
    monkeypatch.setattr(compiler, "_run", lambda *command: (ran.append(str(command[-1])[-4:]), run(*command)))
    for text in ("1", "2", "1"):
        a = np.zeros(32, np.float32)
        source = f'#include "mlc.cuh"\nextern "C" __global__ void k(float* p) {{ p[threadIdx.x] = {text}.0f; }}'
        build({"k": source}).run("k", [a.ctypes.data], 1, 32, 0)
        assert (a == float(text)).all()
    assert ran == ["pp.o", ".gch", "s.so", "s.so"]
