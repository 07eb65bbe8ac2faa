"""Indices out of range, by the emulation: errors as on the CPU, at the end of a run or, in loops and branches, where they are met."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
from emulated import needs_gxx
from mlc.compiler.emulated import emulate
from mlc.errors import InputError
from mlc.runtime.instructions import CALL, EXPECT, instruction_length

X = np.arange(12, dtype=np.float32).reshape(3, 4)
STRAIGHT = """straight (float[3, 4] x, int64[n] i, int64[m, 2] j) => (float[n, 4] y, float[m] z) {
    y = Gather(x, i) a = GatherND(x, j) z = Exp(a) }"""
BRANCH = """branch (float[3, 4] x, bool c) => (float[n] y) {
    y = If (c) <then_branch = a () => (float[n] t) { at = Constant<value_int = 3>() t = Gather(x, at) },
                else_branch = b () => (float[m] e) { i = Constant<value_int = -1>() e = Gather(x, i) }> }"""
LOOP = """loop (float[3, 4] x, int64 n) => (float[k, 4] y) {
    c = Constant<value = bool {1}>()
    y = Loop (n, c) <body = b (int64 i, bool go) => (bool on, float[4] row) { on = Identity(go) row = Gather(x, i) }> }"""


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@needs_gxx
def test_at_the_end_of_a_run() -> None:
    module = emulate(small_models.model(STRAIGHT))
    words, starts = module.manifest.program, [0]
    while starts[-1] < len(words):
        starts.append(starts[-1] + instruction_length(words, starts[-1]))
    kinds = [words[s] for s in starts[:-1]]
    assert EXPECT in kinds and EXPECT not in kinds[: len(kinds) - kinds[::-1].index(CALL)]  # so that launches are one stretch
    fine = {"x": X, "i": ints(-3, 2), "j": ints(0, 3, -1, -4).reshape(2, 2)}
    for _ in range(3):  # replayed as a graph too
        got = module.run(fine)
        np.testing.assert_array_equal(got["y"], X[[-3, 2]])
        np.testing.assert_allclose(got["z"], np.exp([X[0, 3], X[-1, -4]]), rtol=1e-5)
        with pytest.raises(InputError, match="index 3; expected -3 to 2") as error:
            module.run({**fine, "i": ints(0, 3)})
        assert "Gather" in error.value.loc
        with pytest.raises(InputError, match="index -5; expected -4 to 3"):
            module.run({**fine, "j": ints(0, -5).reshape(1, 2)})
    assert module.run({**fine, "i": ints()})["y"].shape == (0, 4)


@needs_gxx
def test_in_branches_and_loops() -> None:
    module = emulate(small_models.model(BRANCH))
    np.testing.assert_array_equal(module.run({"x": X, "c": np.array(False)})["y"], X[-1])
    with pytest.raises(InputError, match="index 3"):
        module.run({"x": X, "c": np.array(True)})
    module = emulate(small_models.model(LOOP))
    np.testing.assert_array_equal(module.run({"x": X, "n": np.array(3)})["y"], X)
    with pytest.raises(InputError, match="index 3; expected -3 to 2"):
        module.run({"x": X, "n": np.array(4)})
    np.testing.assert_array_equal(module.run({"x": X, "n": np.array(2)})["y"], X[:2])
