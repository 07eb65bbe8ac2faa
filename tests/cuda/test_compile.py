"""Targets, and kernels of every kind through NVRTC, which needs neither a GPU nor a driver."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from lowering import ap, graph, tensor
from mlc.codegen.cuda import contract, contract_schedule
from mlc.codegen.cuda.compile import compile_all, compile_source
from mlc.codegen.cuda.contract_schedule import WgmmaSchedule
from mlc.codegen.cuda.emit import emit, emit_forms
from mlc.codegen.cuda.emulate.compiler import translation_unit
from mlc.codegen.cuda.nvrtc import Nvrtc, nvrtc
from mlc.codegen.cuda.target import LOWERING, capability, parse
from mlc.codegen.kernel import AttentionKernel
from mlc.codegen.lower import lower
from mlc.codegen.lower.top_k import TopOrder
from mlc.errors import CodegenError, TargetError
from mlc.ir import DType, Graph, Node, const, sym
from mlc.ir import ops as O
from mlc.ir.ops.dot import DotConv, DotMatMul


def available() -> bool:
    try:
        nvrtc()
    except TargetError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not available(), reason="NVRTC is not installed")


def test_targets() -> None:
    assert parse("cuda:sm_90a,sm_80").archs == ("sm_80", "sm_90a")
    assert parse("cuda:sm_90a,sm_80").base == "sm_80" and parse("cuda:sm_90a").ptx == "compute_90"
    assert parse("cuda", "sm_86").archs == ("sm_86",)
    assert [parse("cuda", later).base for later in ("sm_88", "sm_103", "sm_110", "sm_121")] == ["sm_87", "sm_100", "sm_100", "sm_120"]
    assert capability("sm_90a") == 90
    with pytest.raises(TargetError, match="--target=cuda:sm_90a"):
        parse("cuda")
    with pytest.raises(TargetError, match="sm_80"):
        parse("cuda:sm_42")
    with pytest.raises(TargetError):
        parse("rocm")


def sources() -> dict[str, tuple[str, tuple[str, ...]]]:
    """One kernel of every template, and its architectures."""
    rng = np.random.default_rng(0)
    b, x, h = sym("B", 1), tensor(3, 48), tensor(3, 48, dtype=DType.BF16)
    w = const(rng.standard_normal((48, 40)).astype(np.float32))
    deep = tensor(1, 4096)
    image = tensor(2, 9, 9, 4)
    weights = const(rng.standard_normal((3, 3, 4, 8)).astype(np.float32))
    cell = O.Recurrent("lstm", 8, (False,), tuple((a, 0.0, 0.0) for a in ("Sigmoid", "Tanh", "Tanh")), 0.0, False, False)
    recurrent = [tensor(4, 2, 5), tensor(1, 32, 5), tensor(1, 32, 8), tensor(1, 64), tensor(2, dtype=DType.I32), tensor(1, 2, 8),
                 tensor(1, 2, 8), tensor(1, 24)]  # fmt: skip
    graphs = [
        graph([x], ap(O.Softmax(1), x)), graph([x], ap(O.Tanh(), ap(O.MatMul(), x, w))), graph([h], ap(O.Exp(), h)),
        graph([deep], ap(O.MatMul(), deep, const(np.ones((4096, 64), np.float32)))), graph([deep], ap(O.Softmax(1), deep)),
        graph([image], ap(O.Relu(), ap(O.Conv((1, 1), (1, 1), (1, 1), (1, 1)), image, weights))),
        graph([image], ap(O.Pool("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)), image)), graph(recurrent, ap(cell, *recurrent)),
        graph([d := tensor(b, 7)], ap(O.ArgReduce("argmax", 1, False), d)),
        graph([deep], ap(O.CumSum(1, False, False), deep)),
    ]  # fmt: skip
    bytes_, rows = tensor(40, 64, dtype=DType.U8), tensor(40, 64, dtype=DType.BF16)
    quantized = const(rng.integers(-9, 9, (64, 48)).astype(np.int8))
    half, heads = tensor(20, 64, dtype=DType.F16), [tensor(1, 2, 9, 16) for _ in range(3)]
    sixteen = [tensor(1, 2, n, 16, dtype=DType.BF16) for n in (1, 900, 900)]
    graphs += [
        graph([bytes_], ap(DotMatMul(), bytes_, quantized)), graph([rows], ap(DotMatMul(), rows, const(np.ones((64, 48), DType.BF16.np)))),
        graph([half], ap(O.MatMul(), half, const(np.ones((64, 48), np.float16)))), graph(sixteen, ap(O.Attention(0.3, True), *sixteen)),
        graph([h], ap(DotMatMul(), h, const(np.ones((48, 40), DType.BF16.np)))), graph(heads, ap(O.Attention(0.3, True), *heads)),
    ]  # fmt: skip
    mask, deep_rows, small_rows = tensor(9000, dtype=DType.BOOL), tensor(2, 50_000), tensor(4, 100, dtype=DType.F64)
    boxes = [tensor(1, 90, 4), tensor(1, 2, 90), tensor(1, dtype=DType.I64), tensor(1), tensor(1)]
    bytes8 = tensor(32, dtype=DType.F8E5M2FNUZ)
    wide = tensor(256, 64, dtype=DType.BF16)
    pixels, taps = tensor(2, 16, 16, 16, dtype=DType.BF16), const(np.ones((3, 3, 16, 64), DType.BF16.np))
    levels = [const(rng.integers(0, 16, (64, 24)), DType.U8), *(const(rng.standard_normal((2, 24)), DType.F32) for _ in range(2))]
    # Blocks share k: by splits, and of a little more than a wave of tiles by steps.
    long_rows, long_single, streamed = tensor(70, 3072, dtype=DType.BF16), tensor(12, 2100), tensor(116 * 128, 4096, dtype=DType.BF16)
    long_levels = [const(rng.integers(0, 16, (1024, 24)), DType.U8), *(const(rng.standard_normal((32, 24)), DType.F32) for _ in range(2))]
    few_rows = tensor(9, 1024, dtype=DType.BF16)
    any_rows, any_single = tensor(sym("R", 100), 2048, dtype=DType.BF16), tensor(sym("R", 100), 2048)  # at the launch it follows how many
    rows_of_any, half_rows = tensor(sym("R", 1), 64), tensor(sym("R", 1), 64, dtype=DType.BF16)
    graphs += [
        graph([mask], *Node.make(O.Positions(), (mask,)).outputs), graph([deep_rows], ap(O.Sort(True), deep_rows)),
        graph([small_rows], ap(O.Sort(), small_rows)), graph([deep_rows], ap(TopOrder(9, True), deep_rows)),
        graph(boxes, *Node.make(O.Suppress(), tuple(boxes)).outputs), graph([bytes8], ap(O.Mul(), bytes8, bytes8)),
        graph([wide], ap(DotMatMul(), wide, const(np.ones((64, 256), DType.BF16.np)))),
        graph([pixels], ap(DotConv((1, 1), (1, 1), (1, 1), (1, 1), 1), pixels, taps)),
        graph([rows_of_any], ap(O.GroupedMatMul(4, 32), rows_of_any, *levels)), graph([deep_rows], ap(O.Transpose((1, 0)), deep_rows)),
        graph([half_rows], ap(O.GroupedMatMul(4, 32), half_rows, *levels)),
        graph([deep_rows], ap(O.Reduce("sum", (0, 1), False), deep_rows)),
        graph([long_rows], ap(DotMatMul(), long_rows, const(np.ones((3072, 48), DType.BF16.np)))),
        graph([long_single], ap(O.MatMul(), long_single, const(np.ones((2100, 64), np.float32)))),
        graph([streamed], ap(DotMatMul(), streamed, const(np.ones((4096, 256), DType.BF16.np)))),
        graph([few_rows], ap(O.GroupedMatMul(4, 32), few_rows, *long_levels)),
        graph([any_rows], ap(DotMatMul(), any_rows, const(np.ones((2048, 256), DType.BF16.np)))),
        graph([any_single], ap(O.MatMul(), any_single, const(np.ones((2048, 256), np.float32)))),
    ]  # fmt: skip
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for text in ("cuda:sm_80,sm_90a", "cuda:sm_80+tf32"):
        steps = [s for g in graphs for s in lower(g, LOWERING).steps]
        forms = [f for s in steps for f in emit_forms(s.kernel, parse(text), [16] * len(s.buffers))]
        found |= {k.symbol: (k.source, f.archs) for f in forms for k in f.emitted.launches}
    return found


@needs_nvrtc
def test_products_are_rounded_by_themselves() -> None:
    """As on CPUs, whatever is added to them: what lies on a step of floor must not fall from it. Sums of products are multiply-adds."""

    def multiply_adds(g: Graph) -> int:
        (step,) = lower(g, LOWERING).steps
        launches = [k for f in emit_forms(step.kernel, parse("cuda:sm_80"), [16] * len(step.buffers)) for k in f.emitted.launches]
        return sum(compile_source(k.source, ["compute_80"])["compute_80"].count(b"fma.rn.f") for k in launches)

    for dtype in (DType.F32, DType.F64):
        x, w, b = (tensor(64, 96, dtype=dtype) for _ in range(3))
        assert not multiply_adds(graph([x, w, b], ap(O.Floor(), ap(O.Add(), ap(O.Mul(), x, w), b))))
        assert multiply_adds(graph([x, w], ap(O.Reduce("sum", (1,), False), ap(O.Mul(), x, w))))


@needs_nvrtc
def test_every_template_compiles() -> None:
    found = sources()
    texts = {s: text for s, (text, _) in found.items()}
    together = "".join(texts.values())
    assert all(f"mma_{kind}(" in together for kind in ("bf16", "f16", "tf32", "u8s8")) and "wgmma.mma_async" in together
    shared = {(t.split(":")[0], how) for t in texts.values() for how in ("last_of(counters", "StreamedWork work(") if how in t}
    assert len(shared) >= 5, "by multiply-add, mma.sync and wgmma, splits and streams"
    assert len({t.split("\n")[0][:12] for t in texts.values()}) >= 6
    told: list[str] = []
    code = compile_all(texts, lambda symbol: found[symbol][1], told.append)
    assert sorted(told) == sorted(texts)
    for symbol, by_arch in code.items():
        hopper = "wgmma" in texts[symbol]
        assert by_arch.keys() - {"sm_80", "compute_80"} <= {"sm_90a"} and (by_arch.keys() == {"sm_90a"}) == hopper
        assert hopper or (by_arch["sm_80"][:4] == b"\x7fELF" and by_arch["compute_80"].lstrip().startswith(b"//"))


def test_kernels_wait_before_they_touch_memory() -> None:
    """For the launch before, with which they may overlap: parameters that point to memory are named behind that only."""
    for text, _ in sources().values():
        head, _, body = text.partition('extern "C" __global__')[2].partition(") {\n")
        pointers = {p.split()[-1] for p in head.split("(")[-1].split(", ") if "*" in p or "TensorMap" in p}
        before, once, _ = body.partition("begin_work();")
        assert once and pointers and not pointers & set(re.findall(r"\w+", before)), text


@needs_nvrtc
def test_compilers_move_no_access_before_the_wait() -> None:
    """They might: what is read only counts as never written to while the kernel runs, which launches that overlap do to each other."""
    touches = re.compile(r"\b(?:ld|st|atom|red|ldu)(?:\.\w+)*?\.global|cp\.async|prefetch\.global")
    for text, archs in sources().values():
        arch = "compute_90a" if "sm_90a" in archs and len(archs) == 1 else "compute_90"
        code = compile_source(text, [arch])[arch].decode()
        before, waits, behind = code.partition("griddepcontrol.wait")
        assert waits and not touches.search(before) and touches.search(behind), text


def attention(size: int) -> Graph:
    x = [tensor(4, 32, 512, size, dtype=DType.BF16) for _ in range(3)]
    return graph(x, ap(O.Attention(0.3, True), *x))


def registers_suffice(source: str, threads: int, told: str) -> bool:
    """Whether warps get the registers that they ask for: where a block entered with fewer than all take together, `setmaxnreg` would
    wait for ever (https://github.com/NVIDIA/cutlass/issues/2007)."""
    given, taken = (re.search(rf"{how}_registers<(\d+)>", source) for how in ("give", "take"))
    found = re.search(r"Used (\d+) registers", told)
    if given is None or taken is None or found is None:
        return given is None and taken is None
    return 128 * int(given[1]) + (threads - 128) * int(taken[1]) <= threads * int(found[1])


@needs_nvrtc
@pytest.mark.parametrize(
    "plan",
    [
        *contract_schedule._GROUPS,
        *(replace(contract_schedule._GROUPS[0], **more) for more in ({"stream": 132}, {"cluster": 2})),
        64,
        128,
        256,
    ],
    ids=str,
)
def test_machine_code_of_warp_groups(monkeypatch, plan: WgmmaSchedule | int) -> None:
    """Sums stay in registers, and the assembler puts no waits between products, as it does where it cannot follow their registers."""
    if isinstance(plan, int):
        graphs = [attention(plan)]
    else:
        monkeypatch.setattr(contract, "schedule_wgmma", lambda kernel: plan)
        x, image = tensor(512, 256, dtype=DType.BF16), tensor(2, 16, 16, 64, dtype=DType.BF16)
        weights = const(np.ones((256, 512), DType.BF16.np))
        graphs = [graph([x], ap(DotMatMul(), x, weights)), graph([x], ap(O.MatMul(), x, weights)),
                  graph([image], ap(DotConv((1, 1), (1, 1), (1, 1), (1, 1), 1), image, const(np.ones((3, 3, 64, 256), DType.BF16.np))))]  # fmt: skip
    found = 0
    for g in graphs:
        for s in lower(g, LOWERING).steps:
            for launch in emit(s.kernel, parse("cuda:sm_90a"), [16] * len(s.buffers)).launches:
                if "wgmma.mma_async" in launch.source:
                    told, found = nvrtc().messages(launch.source, "sm_90a"), found + 1
                    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)
                    # A stream keeps more from tile to tile: two registers of it by NVRTC 13.0, three by 13.5, which are stored
                    # before the loop along k and loaded behind it (read in what nvdisasm shows).
                    most = 12 if isinstance(plan, WgmmaSchedule) and plan.stream else 0
                    assert spilled and max(map(int, spilled.groups())) <= most and "(C75" not in told, told
                    assert registers_suffice(launch.source, launch.threads, told), told
    assert found == len(graphs)


@needs_nvrtc
def test_sums_that_blocks_share_stay_in_registers(monkeypatch) -> None:
    """Those of the largest tile of `mma.sync`, of which a thread has 128, on their way through memory too; and those of attention."""
    monkeypatch.setattr(contract, "schedule_mma", lambda kernel, device: replace(contract_schedule._TILES[0], stream=108))
    x, (q, k, v) = tensor(512, 4096, dtype=DType.BF16), (tensor(1, 8, n, 128, dtype=DType.BF16) for n in (1, 2048, 2048))
    product = graph([x], ap(DotMatMul(), x, const(np.ones((4096, 512), DType.BF16.np))))
    for g in (product, graph([q, k, v], ap(O.Attention(0.3), q, k, v))):
        (step,) = lower(g, LOWERING).steps
        (launch,) = emit(step.kernel, parse("cuda:sm_80"), [16] * len(step.buffers)).launches
        assert "u64* counters" in launch.source
        told = nvrtc().messages(launch.source, "sm_80")
        assert re.search(r"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", told), told


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_attention_in_float32_stays_in_registers(arch: str) -> None:
    for size, keys, causal in ((64, 1024, False), (128, 2048, True)):
        q, k, v, mask = (tensor(8, 16, n, m) for n, m in ((1024, size), (keys, size), (keys, size), (1024, keys)))
        steps = lower(graph([q, k, v, mask], ap(O.Attention(0.3, causal), q, k, v, mask)), LOWERING).steps  # a mask is turned first, maybe
        step = next(s for s in steps if isinstance(s.kernel, AttentionKernel))
        (launch,) = emit(step.kernel, parse(f"cuda:{arch}"), [16] * len(step.buffers)).launches
        told = nvrtc().messages(launch.source, arch)
        assert "by multiply-add" in launch.source and re.search(r"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", told), (
            told
        )


@needs_nvrtc
def test_refused_source() -> None:
    with pytest.raises(CodegenError, match=r"kernel k: .*sm_80") as e:
        compile_all({"k": '#include "mlc.cuh"\nextern "C" __global__ void k() { nonsense; }'}, lambda symbol: ["sm_80"])
    assert "nonsense" in str(e.value)


@needs_nvrtc
def test_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = '#include "mlc.cuh"\nextern "C" __global__ void k(float* p) { p[0] = 1.0f; }'
    first = compile_source(text, ["sm_80"])
    (path,) = tmp_path.rglob("*.cubin")
    stamp = path.stat().st_mtime_ns
    assert compile_source(text, ["sm_80"]) == first and path.stat().st_mtime_ns == stamp
    path.write_bytes(b"garbage")
    assert compile_source(text, ["sm_80"]) == first and path.stat().st_mtime_ns != stamp


@needs_nvrtc
def test_machine_code_and_its_text_are_one_translation(monkeypatch) -> None:
    monkeypatch.setenv("MLC_NO_CACHE", "1")
    text = '#include "mlc.cuh"\nextern "C" __global__ void k(float* p) { begin_work(); p[threadIdx.x] = fmaf(p[0], p[1], 2.0f); }'
    alone = {a: nvrtc().compile(text, a) for a in ("sm_80", "sm_90", "compute_80", "compute_90")}
    calls: list[str] = []
    translate = Nvrtc._compile
    monkeypatch.setattr(Nvrtc, "_compile", lambda self, source, arch, *more: calls.append(arch) or translate(self, source, arch, *more))
    assert compile_source(text, ["sm_90a", "compute_90"]) == {"sm_90a": alone["sm_90"], "compute_90": alone["compute_90"]}
    assert compile_source(text, ["sm_80", "sm_90", "compute_80"]) == {a: alone[a] for a in ("sm_80", "sm_90", "compute_80")}
    assert calls == ["sm_90", "sm_80", "sm_90"]


def test_code_is_known_by_its_tensor_maps_too() -> None:
    """The engine's strides are not in the text of the kernel."""
    wide, target = tensor(256, 64, dtype=DType.BF16), parse("cuda:sm_90a")
    (step,) = lower(graph([wide], ap(DotMatMul(), wide, const(np.ones((64, 256), DType.BF16.np)))), LOWERING).steps
    kernels = [step.kernel, replace(step.kernel, ldc=512), replace(step.kernel, lda=128)]
    found = [emit(k, target, [16] * 3).launches[-1] for k in kernels]
    (step,) = (s for s in lower(attention(64), LOWERING).steps if isinstance(s.kernel, AttentionKernel))
    found += [emit(k, target, [16] * 4).launches[0] for k in (step.kernel, replace(step.kernel, k_strides=(1 << 24, 1 << 20, 64)))]
    assert all("TensorMap" in f.source for f in found) and len({f.symbol for f in found}) == len(found)


def test_emission_is_deterministic() -> None:
    first, second = ({s: text for s, (text, _) in sources().items()} for _ in range(2))
    assert translation_unit(first) == translation_unit(second)
