"""Streams of users and of modules, arrays between them, and memory that is used again: with streams that are as late as they may be."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import small_models
import test_yields
from emulated import needs_gxx
from lazy_cupy import LazyCupy
from mlc.codegen.cuda.target import parse
from mlc.compiler.api import compile_stages
from mlc.compiler.emulated import EmulatedBackend
from mlc.compiler.options import Options
from mlc.runtime.cuda import cupy_device
from mlc.runtime.cuda.module import CudaModule

pytestmark = needs_gxx
rng = np.random.default_rng(5)
MINE, OTHER, THIRD = 7, 8, 9  # streams of the user; the first is the current one
SPLIT = "split (float[20, 2100] x) => (float[20, 64] y) { h = MatMul(x, w)  y = Softmax<axis = 0>(h) }"


@pytest.fixture(scope="module")
def compiled():
    """By name: sources, and what a module is made of."""
    models = {
        "mlp": (small_models.mlp(), (4, 16)),
        "split": (small_models.model(SPLIT, w=(2100, 64)), (20, 2100)),
        "chosen": (test_yields.chosen(), (300,)),
    }
    found = {}
    for name, (blob, shape) in models.items():
        r = compile_stages(blob, Options("cuda:sm_80", {"x": shape}), backend=EmulatedBackend(parse("cuda:sm_80")))
        found[name] = r.texts, r.backend.parts(r.plan, r.emitted, r.objects, r.graph.equal, r.packed.result()), shape
    return found


@pytest.fixture
def fake(compiled, monkeypatch) -> Iterator[LazyCupy]:
    made = LazyCupy({symbol: text for texts, _, _ in compiled.values() for symbol, text in texts.items()})
    made.streams.append(MINE)
    monkeypatch.setattr(cupy_device, "_cupy", lambda: made)
    yield made
    gc.collect()


def opened(compiled, name: str, graphs: bool = True) -> tuple[CudaModule, list[np.ndarray], list[np.ndarray]]:
    """A module, inputs, and what it makes of them by itself."""
    _, parts, shape = compiled[name]
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(6)]
    module = CudaModule(parts, device=cupy_device.CupyDevice(), graphs=graphs)
    return module, inputs, [module.run({"x": x})["y"] for x in inputs]


@pytest.mark.parametrize("name", ["mlp", "split"])
@pytest.mark.parametrize("graphs", [True, False])
def test_streams_in_turns(fake: LazyCupy, compiled, name: str, graphs: bool) -> None:
    """Nobody waits: runs in two streams share an execution and its memory, inputs come from a third, outputs are read later."""
    module, inputs, want = opened(compiled, name, graphs)
    assert bool(module._bindings.program.kept) == (name == "split")
    fresh = CudaModule(module.parts, device=module.device, graphs=graphs)
    for used in (module, fresh):
        found, given = [], [fake.filled(x, THIRD) for x in inputs]  # the user's to keep until it has been read
        for i, x in enumerate(given):
            stream = MINE if i % 2 else OTHER
            found.append(fake.read(used.run({"x": x}, stream=stream, wait=False)["y"], stream))
        fake.finish()
        for read, w in zip(found, want, strict=True):
            np.testing.assert_array_equal(read(), w)


def test_a_stream_of_the_module(fake: LazyCupy, compiled) -> None:
    """It waits for what fills inputs, and for what still reads an output whose memory it gets; who called need not wait for it."""
    module, inputs, want = opened(compiled, "mlp")
    found, given = [], [fake.filled(x, OTHER) for x in inputs]
    for x in given:
        y = module.run({"x": x})["y"]
        found.append(fake.read(y, MINE))
        del y
    fake.finish()
    for read, w in zip(found, want, strict=True):
        np.testing.assert_array_equal(read(), w)


def test_modules_in_turns(fake: LazyCupy, compiled) -> None:
    """Two, one after the other in one stream and beside each other in two; they are dropped while their work is under way, and what
    comes next gets their memory and streams."""
    a, inputs_a, want_a = opened(compiled, "mlp", graphs=False)
    b, inputs_b, want_b = opened(compiled, "split", graphs=False)
    found, given = [], [(fake.filled(x, THIRD), fake.filled(z, THIRD)) for x, z in zip(inputs_a, inputs_b, strict=True)]

    def run(module: CudaModule, x: object, stream: int, want: np.ndarray) -> None:
        found.append((fake.read(module.run({"x": x}, stream=stream, wait=False)["y"], stream), want))

    for i, (x, z) in enumerate(given):
        run(a, x, MINE, want_a[i])
        run(b, z, MINE if i < 3 else OTHER, want_b[i])
    parts, device = b.parts, b.device
    del a, b
    gc.collect()
    c = CudaModule(parts, device=device)
    run(c, given[0][1], THIRD, want_b[0])
    fake.finish()
    for read, w in found:
        np.testing.assert_array_equal(read(), w)


def test_sizes_that_depend_on_data(fake: LazyCupy, compiled) -> None:
    """The host waits in the middle of such runs, frees and allocates; those after each other in two streams share an execution."""
    _, parts, shape = compiled["chosen"]
    module, found = CudaModule(parts, device=cupy_device.CupyDevice()), []
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(6)]
    wants = [module.run({"x": x}) for x in inputs]
    given = [fake.filled(x, THIRD) for x in inputs]
    for i, (x, want) in enumerate(zip(given, wants, strict=True)):
        stream = MINE if i % 2 else OTHER
        got = module.run({"x": x}, stream=stream, wait=False)
        found += [(fake.read(got[name], stream), want[name]) for name in want]
        del got
    fake.finish()
    for read, w in found:
        np.testing.assert_array_equal(read(), w)
