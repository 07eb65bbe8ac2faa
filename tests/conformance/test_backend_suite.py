"""Every case of the onnx loader: as it is, unoptimized, with unknown dims, and with its inputs turned into constants."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import mlc
import mlc.backend
import numpy as np
import onnx.backend.test
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from cases import SETS, Data, assert_drawn, assert_same, cases, data_of, missing, model_of, symbolic
from excluded import DRAWN, EXCLUDED
from guarded import guarded

# Inputs of the real models are images: as constants, the whole network would be folded by the slow references.
MODES = {kind: ("static", "symbolic") if kind == "real" else ("static", "unoptimized", "symbolic", "constants") for kind in SETS}
CASES = [f"{mode}/{kind}/{name}" for kind in SETS for name in sorted(cases(kind)) for mode in MODES[kind]]
_RUN_EXCLUDED = bool(os.environ.get("MLC_RUN_EXCLUDED"))  # to see which exclusions are still needed


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    mode, kind, name = case.split("/")
    reason = missing(kind, name) or ("" if _RUN_EXCLUDED else EXCLUDED.get(name, EXCLUDED.get(f"{name} {mode}", "")))
    if reason:
        pytest.skip(reason)
    model = model_of(kind, name)
    outputs = [o.name for o in model.graph.output]
    if mode != "constants":
        level = 0 if mode == "unoptimized" else 3
        prepared = mlc.backend.prepare(symbolic(model) if mode == "symbolic" else model, opt_level=level, threads=1)
    for data in data_of(kind, name, model):
        got = _constants(model, data, outputs) if mode == "constants" else prepared.run(_guarded(data.feeds))
        if name in DRAWN:
            assert_drawn(got, data)
            continue
        for output, have, want in zip(outputs, got, data.expected, strict=True):
            assert_same(have, want, cases(kind)[name], output)


def _guarded(feeds: dict[str, Any]) -> dict[str, Any]:
    return {n: guarded(v) if isinstance(v, np.ndarray) else v for n, v in feeds.items()}


def _constants(model: Any, data: Data, outputs: list[str]) -> list[Any]:
    """Tensors are constants; sequences and optionals stay inputs."""
    tensors = {i.name for i in model.graph.input if i.type.HasField("tensor_type")}
    fixed = {n: np.asarray(v) for n, v in data.feeds.items() if n in tensors}
    module = mlc.compile(model, constants=fixed, threads=1)
    got = module.run({n: v for n, v in data.feeds.items() if n not in fixed})
    return [got[name] for name in outputs]


def test_exclusions_name_cases() -> None:
    known = {name for kind in SETS for name in cases(kind)}
    assert {name.split()[0] for name in EXCLUDED} | DRAWN <= known
    assert all(reason.strip() for reason in EXCLUDED.values())


# The standard interface, unchanged, on a sample; `test_case` runs all of them.
backend_test = onnx.backend.test.BackendTest(mlc.backend, __name__)
for pattern in ("test_(add|nonzero_example|sequence_insert_at_back|reduce_max_keepdims_random|string_concat|slice|optional_get_element_tensor)_cpu",
                "test_(sequence_model4|expand_shape_model1|operator_maxpool|Conv2d_groups)_cpu", "test_(add|slice)_cuda"):  # fmt: skip
    backend_test.include(pattern)
globals().update(backend_test.test_cases)
