"""Samples and real models agree with onnxruntime, at the listed sizes and one other for each dynamic dimension.

Real models are skipped where they have not been fetched: python -m mlc.models fetch
"""

from collections import Counter

import mlc
import numpy as np
import onnx
import pytest
from mlc.compiler import inputs, oracle
from mlc.models import real, resolve, sizes, tables

# Dimensions of which the model takes one size only: its recurrent cell takes a single window of 576 samples; the batch is
# that of a state whose shape is fixed.
ONE_SIZE = {"silero_vad_half": ["sequence"], "aecmos": ["batch_size"]}
REAL = [n.partition(":")[2] for n in tables.check_names() if n.startswith("real:")]


def check(name: str, module: mlc.Module, specs: list[inputs.InputSpec], shapes: sizes.Shapes) -> None:
    feeds = inputs.generate(specs, shapes)
    for d in oracle.check(module.run, resolve.resolve(name), feeds, threads=1).outputs:
        assert d.agrees, f"{name} at {shapes}: {d.name}: {d.why}"


@pytest.mark.parametrize("name", ["resnet50", "squeezenet", "shufflenet", "inception_v2", "zfnet512"])
def test_samples(name: str) -> None:
    path = resolve.resolve(f"sample:{name}")
    specs = inputs.specs_of_onnx(onnx.load(path))
    check(f"sample:{name}", mlc.compile(path, threads=2), specs, {})


@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    path = real.path_of(name)
    if not path.is_file():
        pytest.skip(f"not fetched: python -m mlc.models fetch {name}")
    specs = inputs.specs_of_onnx(onnx.load(path))
    module = mlc.compile(path, threads=2)
    for shapes in sizes.all_sizes(name):
        check(f"real:{name}", module, specs, shapes)
    # Back at the first sizes, the same bytes must come out: nothing is left over from the others.
    feeds = inputs.generate(specs, sizes.listed(name))
    first, again = module.run(feeds), module.run(feeds)
    assert all(np.array_equal(first[k], again[k], equal_nan=first[k].dtype.kind == "f") for k in first)


def test_every_dynamic_dimension_has_another_size() -> None:
    for name in REAL:
        path = real.path_of(name)
        if not path.is_file():
            continue
        seen: dict[str, Counter[int]] = {}
        specs = inputs.specs_of_onnx(onnx.load(path))
        for shapes in sizes.all_sizes(name):
            for symbol, size in inputs.symbols_of_sizes(specs, shapes).items():
                seen.setdefault(symbol, Counter())[size] += 1
        lacking = [s for s, c in seen.items() if len(c) < 2]
        assert lacking == ONE_SIZE.get(name, []), name
