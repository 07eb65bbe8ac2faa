"""Every kind of kernel under the address and undefined-behaviour sanitizers, in a process that has them loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from emulated import needs_gxx

pytestmark = needs_gxx
HERE = Path(__file__).parent
SCRIPT = """
import ctypes
import emulated
from mlc.codegen.cuda.emulate.compiler import EmulateOptions, build
options = EmulateOptions(("address", "undefined"))
import numpy as np
import lowering as emulated_graphs

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def exact(size, dtype, offset=0):  # memory of exactly this size, so that every step outside of it is seen
    n = size * np.dtype(dtype).itemsize
    out = np.ctypeslib.as_array((ctypes.c_uint8 * n).from_address(libc.malloc(n))).view(dtype)
    out[:] = 0
    return out

emulated.aligned_array = exact

def work():
{body}

# Twice, first to learn which kernels there are: one run of g++ makes what they have in common once.
sources, compare = {}, emulated.compare
emulated.build, emulated.compare = lambda found, _=None: sources.update(found), lambda *_: None
work()
library = build(sources, options)
emulated.build, emulated.compare = lambda found, _=None: library, compare
work()
print("clean")
"""
KERNELS = """
from mlc.codegen.cuda import contract, contract_schedule
import test_attention, test_contract, test_contract_mma, test_loops
for test in (test_loops.test_maps, test_loops.test_irregular, test_contract.test_b_in_place):
    test()
for hiding in test_attention.HIDING:
    test_attention.test_hidden_keys(*hiding)
x = emulated_graphs.tensor(1, 7, 6, 4)
half, image = emulated_graphs.DType.BF16, emulated_graphs.tensor(1, 9, 9, 16, dtype=emulated_graphs.DType.BF16)
emulated.check_all([test_contract.conv(x, 3, 3, 4, 6, strides=(2, 2), pads=(1, 1)),
                    test_contract_mma.dot(20, 40, 40, half, half), test_contract_mma.dot(3, 40, 40, half, half),
                    test_contract_mma.dot(70, 70, 200, half, half),  # by warp groups, as the convolution
                    test_contract_mma.convolution(image, 3, 3, 16, 40, dtypes=(half, half), pads=(1, 1)),
                    test_attention.attention(4, 2, 5, 300, 24, 8, causal=True, batch=1, dtype=half)], tol=1e-2)
usual = contract.schedule_wgmma, contract.schedule_mma
contract.schedule_wgmma = lambda kernel: contract_schedule.WgmmaSchedule(64, 64, 3, 1, 1.0, stream=3)
contract.schedule_mma = lambda kernel, device: contract_schedule.MmaSchedule(64, 64, 16, 2, 2, 3, 1, 1.0, stream=3)
for target in ("cuda:sm_90a", "cuda:sm_80"):  # blocks share steps, and in true float32 splits of k
    emulated.check_all([test_contract_mma.dot(70, 72, 320, half, half), test_contract.product(emulated_graphs.tensor(9, 1600), emulated_graphs.tensor(1600, 20))],
                       target, tol=1e-2)
contract.schedule_wgmma, contract.schedule_mma = usual
"""
IRREGULAR = """
import test_grouped, test_irregular, test_loops
x, wide, levels = emulated_graphs.tensor(40, 33), emulated_graphs.tensor(1, 2100), test_grouped.layer
test_irregular.test_positions()
test_irregular.check_all([
    test_loops.one(test_irregular.O.Sort(), wide), test_loops.one(test_irregular.O.Sort(True), x),
    test_loops.one(test_irregular.TopOrder(100, True), wide), test_loops.one(test_loops.O.Transpose((1, 0)), x),
    (levels(1, 77, 5, 8, 64, False), None, {}), (levels(3, 100, 33, 4, 32, False), None, {}), (levels(20, 20, 40, 4, 20, True), None, {}),
    (levels(40, 72, 33, 4, 8, True, emulated_graphs.DType.BF16), None, {}),
], tol=1e-3)
test_loops.test_scatters_of_many_updates("none")
"""
OUTSIDE = """
text = '#include "mlc.cuh"\\nextern "C" __global__ void k(float* b0) { b0[threadIdx.x + 1] = 1.0f; }'
a = exact(32, np.float32)
build({"k": text}, options).run("k", [a.ctypes.data], 1, 32, 0)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    found = [
        subprocess.run(["g++", f"-print-file-name=lib{n}.so"], capture_output=True, text=True).stdout.strip() for n in ("asan", "ubsan")
    ]
    if not all(os.path.isabs(f) for f in found):
        pytest.skip("g++ has no sanitizer libraries here")
    paths = [str(HERE), str(HERE.parent / "codegen"), *(p for p in sys.path if p)]
    env = {**os.environ, "LD_PRELOAD": ":".join(found), "PYTHONPATH": os.pathsep.join(paths), "PYTHONMALLOC": "malloc",
           "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    script = SCRIPT.replace("{body}", textwrap.indent(body, "    "))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=900)


@pytest.mark.parametrize("body", [KERNELS, IRREGULAR], ids=["regular", "irregular"])
def test_kernels_are_clean(body: str) -> None:
    done = run(body)
    assert done.returncode == 0 and done.stdout.strip() == "clean", done.stderr[-3000:]


def test_a_step_outside_is_seen() -> None:
    assert shutil.which("g++")
    done = run(OUTSIDE)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
