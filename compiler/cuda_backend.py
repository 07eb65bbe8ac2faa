"""The backend of NVIDIA GPUs: CUDA C++, compiled by NVRTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from ..codegen.cuda.compile import compile_all
from ..codegen.cuda.emit import emit_forms
from ..codegen.cuda.emitted import Form
from ..codegen.cuda.nvrtc import nvrtc
from ..codegen.cuda.target import FLOAT8, LOWERING, CudaTarget, capability
from ..codegen.lower import LowerOptions
from ..codegen.plan import Buffer, Expect, Plan, PlanStep, Step, steps_of
from ..ir import Dim, DType, Node, dim_max
from ..ir.dims import floordiv
from ..passes.base import Pass
from ..passes.few_channels import FewChannels
from ..passes.grouped_activations import GroupedActivations
from ..passes.merge_products import MergeProducts
from ..passes.patches import Patches
from ..passes.pipelines import CLEAN
from ..passes.rolls import Rolls
from ..runtime.artifact import Parts
from ..runtime.cuda import images
from ..runtime.cuda.images import Image, MapSpec
from .assemble import Overriding, assemble
from .backend import Done, Equal
from .constants import Packed
from .emission import emit_once, kernel_key
from .program import Call, Code

_ALIGNED = (16, 8, 4, 2)  # alignments in bytes that kernels make use of


@dataclass
class CudaBackend:
    """NVRTC compiles in this process, in threads: no GPU and no driver take part."""

    target: CudaTarget
    runs_here: ClassVar[bool] = False

    def __enter__(self) -> CudaBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def prepare(self, nodes: int) -> None:
        nvrtc()  # fails before the work begins

    def options(self, opt_level: int, exact: bool) -> LowerOptions:
        few = capability(self.target.base) >= FLOAT8
        return replace(LOWERING, opt_level=opt_level, float8=DType.F8E4M3FN if few else DType.BF16)

    def stays(self, layer: Node, precision: str, costs: LowerOptions) -> bool:
        return False

    def attention(self, precision: str) -> DType | None:
        return {"bf16": DType.BF16, "fp16": DType.F16}.get(precision)

    def passes(self, opt_level: int) -> tuple[Pass, ...]:
        if opt_level < 2:
            return (GroupedActivations(),) if opt_level > 0 else ()
        few = FewChannels(frozenset({DType.F16, DType.BF16} | ({DType.F32} if self.target.tf32 else set())))
        return GroupedActivations(), MergeProducts(), Rolls(), Patches(), few, CLEAN

    def emit(self, plan: Plan) -> dict[int, tuple[Form, ...]]:
        def one(step: Step) -> tuple[object, Callable[[], tuple[Form, ...]]]:
            aligned = tuple(alignment(plan, b) for b in step.buffers)
            return (kernel_key(step.kernel), aligned), lambda: emit_forms(step.kernel, self.target, aligned)

        return emit_once(plan, one, {})

    def texts(self, emitted: Mapping[int, tuple[Form, ...]], known: Mapping[str, Image]) -> dict[str, str]:
        every = [f for forms in emitted.values() for f in forms]
        self._launches = {k.symbol: k for f in every for k in f.emitted.launches}
        self._archs: dict[str, list[str]] = {s: [] for s in self._launches}
        for f in every:
            for k in f.emitted.launches:
                self._archs[k.symbol] += [a for a in f.archs if a not in self._archs[k.symbol]]
        have = {s: image.code.keys() for s, image in known.items()}
        return {s: k.source for s, k in self._launches.items() if not have.get(s, frozenset()) >= set(self._archs[s])}

    def archs(self, symbol: str) -> Sequence[str]:
        """What a kernel is compiled for: the architectures that have a step of which it is a part."""
        return self._archs[symbol]

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, Any]:
        code = compile_all(texts, self.archs, done)
        return {s: self.image(s, code[s]) for s in texts}

    def image(self, symbol: str, code: Mapping[str, bytes]) -> Image:
        """A kernel's code, and how it is launched."""
        k = self._launches[symbol]

        def numbers(dims: Sequence[Dim]) -> tuple[int | tuple[int], ...]:
            return tuple(d if isinstance(d, int) else (len(k.operands) + k.dims.index(d),) for d in dims)

        maps = tuple(MapSpec(m.operand, m.itemsize, numbers(m.sizes), numbers(m.strides), m.box) for m in k.maps)
        return Image(k.threads, k.shared, code, maps)

    def parts(
        self,
        plan: Plan,
        emitted: Mapping[int, tuple[Form, ...]],
        compiled: Mapping[str, Any],
        equal: Equal,
        packed: Packed,
        before: Parts | None = None,
        overriding: Overriding | None = None,
    ) -> Parts:
        plan, code = cuda_code(plan, emitted, self.target.all)
        return assemble(plan, code, compiled, images, self.target.manifest, equal, packed, before, overriding)

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, Any]) -> None:
        for symbol, text in texts.items():
            (folder / f"{symbol}.cu").write_text(text)
        for symbol, image in compiled.items():
            for arch, data in image.code.items():
                (folder / f"{symbol}.{arch}.{'cubin' if arch.startswith('sm_') else 'ptx'}").write_bytes(data)

    def describe(self, emitted: tuple[Form, ...]) -> list[str]:
        out = []
        for f in emitted:
            where = f" on {', '.join(f.archs)}" if len(emitted) > 1 else ""
            out += [f"{k.symbol} blocks={k.blocks} threads={k.threads} shared={k.shared}{where}" for k in f.emitted.launches]
        return out


def cuda_code(plan: Plan, emitted: Mapping[int, tuple[Form, ...]], archs: Sequence[str]) -> tuple[Plan, dict[int, Code]]:
    """The plan with the workspaces of its steps as buffers and its checks at the end, and the calls of each step, each for some of
    `archs`. Counters are one buffer of all steps, which leave it zero, as it is before the first run."""

    def calls_of(f: Form, memory: Sequence[int]) -> tuple[Call, ...]:
        mask = sum(1 << archs.index(a) for a in f.archs)
        return tuple(Call(k.symbol, tuple(memory[o] for o in k.operands), k.dims, k.blocks, mask) for k in f.emitted.launches)

    buffers = list(plan.buffers)
    code: dict[int, Code] = {}
    count = max((f.emitted.counters for forms in emitted.values() for f in forms), default=0)
    counters = len(buffers)
    if count:
        buffers.append(Buffer("arena", DType.U64, (count,), kept=True))
    for step in steps_of(plan.steps):
        forms = emitted[id(step)]
        spaces = []
        for sizes in zip_longest(*(f.emitted.workspaces for f in forms), fillvalue=0):  # a device runs one of the forms
            spaces.append(len(buffers))
            buffers.append(Buffer("arena", DType.U8, (reduce(dim_max, sizes),)))
        calls = tuple(c for f in forms for c in calls_of(f, (*step.buffers, *spaces[: len(f.emitted.workspaces)], counters)))
        code[id(step)] = Code(calls, forms[0].emitted.flops, forms[0].emitted.bytes)
    return replace(plan, buffers=tuple(buffers), steps=late_checks(plan.steps)), code


def late_checks(steps: Sequence[PlanStep]) -> tuple[PlanStep, ...]:
    """Checks behind all else, where they do not make the host wait for the device in the middle of a run; those in loops and
    branches stay."""
    checks = [s for s in steps if isinstance(s, Expect)]
    return (*(s for s in steps if not isinstance(s, Expect)), *checks)


def alignment(plan: Plan, buffer: int) -> int:
    """Bytes (16 at most) that the address of a buffer is a multiple of. The runtime aligns everything that has an address."""
    b = plan.buffers[buffer]
    shift: Any = 0
    while b.kind == "alias":
        shift, b = shift + b.shift * b.dtype.itemsize, plan.buffers[b.of]
    return next((a for a in _ALIGNED if (shift % a == 0 if isinstance(shift, int) else floordiv(shift, a) * a == shift)), 1)
