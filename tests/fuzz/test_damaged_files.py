"""Files with any field or byte damaged: a module or a typed error, and no crash, no warning, no hang, no memory without bound.

`python tests/fuzz/test_damaged_files.py FIRST COUNT` tries other seeds; the test does so in a process of its own, which may end.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import mlc
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from damaged import damaged, models
from mlc import MlcError

SECONDS = 10  # of the processor, for one file
MEMORY = 12 << 30  # bytes of addresses


def late(*_: object) -> None:
    raise TimeoutError("still compiling")


def attempt(path: Path, seed: int) -> str:
    """What became of one file: "compiled", "refused", or what it should not be."""
    bases = models()
    rng = random.Random(seed)
    path.write_bytes(damaged(bases[list(bases)[seed % len(bases)]], rng))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        mlc.compile(path, threads=1, opt_level=rng.choice([0, 3]))
    except MlcError:
        return "refused"
    except BaseException:
        traceback.print_exc()
        return f"wrong with seed {seed}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "compiled"


def main(first: int, count: int) -> None:
    signal.signal(signal.SIGPROF, late)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "v.bin")
        data.write_bytes(np.ones(4, np.float32).tobytes())
        for name, model in models().items():
            Path(folder, "m.onnx").write_bytes(model.SerializeToString())
            assert mlc.compile(Path(folder, "m.onnx"), threads=1), name
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        print(dict(Counter(attempt(Path(folder, "m.onnx"), seed) for seed in range(first, first + count))))


def tried(first: int, count: int) -> str:
    command = [sys.executable, __file__, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "wrong" not in done.stdout, done.stderr[-3000:] + done.stdout
    return done.stdout


def test_damaged_files() -> None:
    found = tried(0, 400)
    assert "refused" in found and "compiled" in found


@pytest.mark.parametrize("seed", [102955, 206958])
def test_found(seed: int) -> None:
    """Indices that overflow int64 between pieces of a line; a row of 2^31 points under a pool."""
    tried(seed, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
