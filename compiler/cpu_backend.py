"""The backend of CPUs: LLVM text, compiled in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from ..codegen.cpu import emit as cpu_emit
from ..codegen.cpu.dot.instructions import dot_kind, instruction
from ..codegen.cpu.emitted import Emitted
from ..codegen.cpu.parallel import CompilePool
from ..codegen.cpu.shared_numbers import share_numbers
from ..codegen.cpu.target import CpuTarget
from ..codegen.kernel import Kernel
from ..codegen.lower import LowerOptions
from ..codegen.lower.scattered_taps import ScatterCosts
from ..codegen.lower.winograd import cheapest_tile, conv_costs
from ..codegen.plan import Plan, Step, steps_of
from ..ir import DType, Node
from ..passes.base import Pass
from ..passes.half_products import HalfProducts
from ..passes.long_reductions import LongReductions
from ..passes.pipelines import CLEAN
from ..passes.separate_resizes import SeparateResizes
from ..runtime import objects
from ..runtime.artifact import Parts
from .assemble import Overriding, assemble
from .backend import Done, Equal
from .constants import Packed
from .emission import emit_once, kernel_key
from .program import cpu_code

_WALK = 12  # steps down a tree before asking whether any row still moves costs less than going on
_ATTENTION_UNITS = 8  # a few threads then have something to share out
_MASK_TURNS = 4  # of a mask in registers, while attention reads it, take less than storing it transposed
_INNER_ROWS = 32  # beyond, turning B once is little beside the products
_FEW_ROWS = (7, 8)  # two register tiles of 4 vectors by 4 rows would read B twice, with 16 sums each
_BESIDE_DOTS = 1.1  # what dot products of 16 bits gain besides: neighbours that store half the bytes (docs/precision.md)
_BESIDE_TWO_DOTS = 0.8  # where two of them begin in a cycle, which loads hold up (the same page, Zen 5)
_SMALL = 24  # nodes of a graph whose kernels this process compiles before another one has started


class CpuBackend:
    runs_here = True

    def __init__(self, target: CpuTarget) -> None:
        self.target = target
        self._pool = CompilePool(target)
        self._written: dict[object, Emitted] = {}  # by what they are built from: layers repeat, and so do programs

    def __enter__(self) -> CpuBackend:
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, trace)

    def prepare(self, nodes: int) -> None:
        if nodes > _SMALL:
            self._pool.start()

    def options(self, opt_level: int, exact: bool) -> LowerOptions:
        panel = self.target.lanes(4) * (4 if self.target.vector_registers == 32 else 2)  # columns of a register tile
        return LowerOptions(
            opt_level=opt_level,
            panel=max(16, panel),
            own_last=self.target.vector_registers == 32 and self.target.vector_bits == 512 and "amx-tile" not in self.target.features,
            few_rows=_FEW_ROWS if self.target.streams and self.target.vector_registers == 32 else (),
            few_panel=3 * self.target.lanes(4),
            inner=_INNER_ROWS if opt_level > 0 else 0,
            diagonal=True,
            overwrite=opt_level > 0,
            planes=opt_level > 0,
            passes=opt_level > 0,
            prologue=opt_level > 0,
            attention_units=_ATTENTION_UNITS if opt_level > 0 else 0,
            mask_turns=_MASK_TURNS if opt_level > 0 else 0,
            checks=True,
            rounded_rows=opt_level > 0 and not exact,
            walk=_WALK,
            winograd=None if exact or opt_level == 0 else conv_costs(self.target.multiply_adds),
            abreast=opt_level > 0,
            scatter=ScatterCosts() if opt_level > 0 else None,
        )

    def stays(self, layer: Node, precision: str, costs: LowerOptions) -> bool:
        """Convolutions that minimal filtering saves more multiply-adds than dot products of two bfloat16 a lane do."""
        how = instruction(dot_kind(DType.BF16, DType.BF16), self.target)
        if precision != "bf16" or how == "tiles" or costs.winograd is None:
            return False
        dots = self.target.paired_multiply_adds / self.target.multiply_adds if how == "dot" else 1.0
        beside = _BESIDE_TWO_DOTS if self.target.two_dots else _BESIDE_DOTS
        found = cheapest_tile(layer, costs.winograd)
        return found is not None and found[1] > beside * dots

    def attention(self, precision: str) -> DType | None:
        return None

    def passes(self, opt_level: int) -> tuple[Pass, ...]:
        how = instruction(dot_kind(DType.BF16, DType.BF16), self.target)
        halves = HalfProducts(dots=how != "lanes", split=how == "tiles")
        return (SeparateResizes(), halves, CLEAN, LongReductions()) if opt_level > 0 else ()

    def emit(self, plan: Plan) -> dict[int, Emitted]:
        kernels = share_numbers(step.kernel for step in steps_of(plan.steps))

        def one(step: Step) -> tuple[object, Callable[[], Emitted]]:
            kernel = kernels[id(step.kernel)]
            return kernel_key(kernel), lambda: self._emit(kernel)

        return emit_once(plan, one, self._written)

    def _emit(self, kernel: Kernel) -> Emitted:
        made = cpu_emit.emit(kernel, self.target)
        self._pool.offer(made.texts)
        return made

    def texts(self, emitted: Mapping[int, Emitted], known: Mapping[str, bytes]) -> dict[str, str]:
        return {symbol: text for e in emitted.values() for symbol, text in e.texts.items() if symbol not in known}

    def compile(self, texts: Mapping[str, str], done: Done) -> dict[str, bytes]:
        return self._pool.compile(texts, done)

    def parts(
        self,
        plan: Plan,
        emitted: Mapping[int, Emitted],
        compiled: Mapping[str, bytes],
        equal: Equal,
        packed: Packed,
        before: Parts | None = None,
        overriding: Overriding | None = None,
    ) -> Parts:
        code = {i: cpu_code(e) for i, e in emitted.items()}
        return assemble(plan, code, compiled, objects, self.target.manifest, equal, packed, before, overriding)

    def dump(self, folder: Path, texts: Mapping[str, str], compiled: Mapping[str, bytes]) -> None:
        for symbol, text in texts.items():
            (folder / f"{symbol}.ll").write_text(text)
        for symbol, code in compiled.items():
            (folder / f"{symbol}.o").write_bytes(code)

    def describe(self, emitted: Emitted) -> list[str]:
        return [f"{emitted.symbol} units={emitted.units}"]
