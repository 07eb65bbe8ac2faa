"""What the emulation finds of mistakes that no result shows: fences, barriers, descriptors and registers of kernels for Hopper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from emulated import aligned_array, launch, needs_gxx
from mlc.codegen.cuda import contract
from mlc.codegen.cuda.contract_schedule import WgmmaSchedule
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.emitted import Emitted
from mlc.codegen.cuda.emulate.compiler import build
from mlc.codegen.cuda.emulate.device import tensor_map
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.lower import lower
from mlc.errors import DeviceError, VerifyError
from mlc.ir import DType, evaluate
from test_contract_mma import convolution, tensor

pytestmark = needs_gxx
# What is planted in the kernel of a convolution: a text, what takes its place, and what the emulation says.
MISTAKES = {
    "nothing": ("", "", ""),
    "rows without a fence": ("auto tell = [&]() {\n            writes_visible_to_engines();", "auto tell = [&]() {", "without a fence"),
    "results without a fence": ("            writes_visible_to_engines();\n            group_barrier", "            group_barrier", "without a fence"),
    "products not begun": ("products_begin();", "", "not begun"),
    "barriers nobody tells of": ("barriers_initialized();", "", "that it is initialized"),
    "no barrier behind barriers": ("__syncthreads();\n    begin_work", "begin_work", "that it is initialized"),
    "another step of the swizzle": ("further(a, 32)", "further(a, 128)", "where its swizzle does not"),
    "stages not at multiples of 1024": ("(0u - shared_address(shared)) % 1024", "(0u - shared_address(shared)) % 1024 + 128", "do not begin at|does not"),
    "behind shared memory": ("matrix_descriptor(from + A_BYTES)", "matrix_descriptor(from + A_BYTES + 229376)", "outside of shared"),
    "warps that differ": ("further(b, 2 * B_STEP)", "further(b, thread / 32 % 2 * B_STEP)", "warps of a group"),
    "more registers than there are": ("take_registers<208>", "take_registers<216>", "more registers"),
    "registers given that are taken": ("give_registers<88>", "give_registers<176>", "other way round"),
}  # fmt: skip
CLUSTERS = "in a cluster, "
MISTAKES |= {  # for clusters
    CLUSTERS + "nothing": ("", "", ""),
    CLUSTERS + "barriers not known to others": (
        "cluster_barrier();  // barriers of all",
        "// of all",
        "that it is initialized|is not there",
    ),
    CLUSTERS + "a part for some": ("copy_box_to_all<CLUSTER>", "copy_box_to_all<1>", "wait for each other"),
}


@pytest.fixture(scope="module")
def planted():
    """The kernel, launches by mistake, and the library that has them all."""
    x, patch = tensor(1, 20, 8, 16, dtype=DType.BF16), pytest.MonkeyPatch()
    graph, _, _ = convolution(x, 3, 3, 16, 40, dtypes=(DType.BF16, DType.BF16), pads=(1, 1))
    (step,) = lower(graph, LOWERING).steps
    made: dict[str, Emitted] = {}
    for cluster in (1, 2):
        patch.setattr(contract, "schedule_wgmma", lambda kernel, cluster=cluster: WgmmaSchedule(128, 256, 4, 1, 1.0, cluster=cluster))
        emitted = emit(step.kernel, parse("cuda:sm_90a"), [16] * len(step.buffers))
        (k,) = emitted.launches
        for i, (name, (old, new, _)) in enumerate(MISTAKES.items()):
            if name.startswith(CLUSTERS) == (cluster > 1):
                assert old in k.source, name
                symbol = f"planted_{i}"
                text = k.source.replace(k.symbol, symbol).replace(old or symbol, new or ("" if old else symbol))
                made[name] = replace(emitted, launches=(replace(k, symbol=symbol, source=text),))
    patch.undo()
    return step.kernel, made, build({e.launches[0].symbol: e.launches[0].source for e in made.values()})


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(planted, name: str) -> None:
    kernel, made, library = planted
    arrays = [aligned_array(evaluate(o.numel, {}), o.dtype.np) for o in kernel.operands]
    if name.endswith("nothing"):
        launch(library, made[name], arrays, {}, 1)
        return
    with pytest.raises(VerifyError, match=MISTAKES[name][2]):
        launch(library, made[name], arrays, {}, 1)


@pytest.mark.parametrize("wrong", [(8, 2, (64, 5), (128,), (64, 5)), (16, 2, (64, 0), (128,), (64, 5)), (16, 2, (64, 5), (120,), (64, 5)),
                                   (16, 2, (64, 5), (1 << 40,), (64, 5)), (16, 2, (64, 5), (128,), (64, 257)), (16, 2, (64, 5), (128,), (128, 5)),
                                   (16, 2, (64, 5), (128,), (8, 5))])  # fmt: skip
def test_tensor_maps_that_the_driver_would_refuse(wrong) -> None:
    assert all(len(tensor_map(16, 2, (64, 5), (128,), (row, 5))) == 128 for row in (64, 32, 16))
    with pytest.raises(DeviceError, match="a tensor map at"):
        tensor_map(*wrong)
