"""Plans: memory, branches, loops, and buffers whose sizes the plan itself computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import InputError, VerifyError
from ...ir import Limit, evaluate, symbols_of
from ..plan import Append, Bind, Branch, Carry, Expect, HostStep, Plan, PlanStep, Repeat
from .kernels import run_kernel
from .values import Bindings


def run_plan(plan: Plan, inputs: Sequence[np.ndarray], bindings: Bindings | None = None) -> list[np.ndarray]:
    """Run a plan on arrays, in the order of its inputs; returns its outputs. Raises VerifyError for an access out of bounds."""
    return Machine(plan, inputs, dict(bindings or {})).run()


class Machine:
    """Memory of one run. Buffers whose sizes the plan itself computes come into being where they are bound."""

    def __init__(self, plan: Plan, inputs: Sequence[np.ndarray], bound: dict[str, int]) -> None:
        self.plan, self.inputs, self.bound = plan, inputs, bound
        self.memory: list[np.ndarray] = [np.empty(0)] * len(plan.buffers)
        self.outputs: dict[int, np.ndarray] = {}

    def run(self) -> list[np.ndarray]:
        self.make([i for i in range(len(self.plan.buffers)) if self.known(i)])
        self.steps(self.plan.steps)
        return [self.outputs[i] for i in range(len(self.outputs))]

    def known(self, i: int) -> bool:
        b = self.plan.buffers[i]
        return symbols_of((*b.shape, b.shift)) <= self.bound.keys() and (b.kind != "alias" or self.known(b.of))

    def make(self, buffers: Sequence[int]) -> None:
        for i in buffers:
            b = self.plan.buffers[i]
            shape = tuple(evaluate(d, self.bound) for d in b.shape)
            size = math.prod(shape)
            match b.kind:
                case "input":
                    x = np.asarray(self.inputs[b.index])
                    if x.shape != shape or x.dtype != b.dtype.np:
                        raise InputError(f"input {b.index} is {x.dtype}{list(x.shape)}", expected=f"{b.dtype.np}{list(shape)}")
                    self.memory[i] = x.reshape(-1)
                case "const":
                    self.memory[i] = np.asarray(self.plan.constants[i]).reshape(-1)
                case "alias":
                    shift, owner = evaluate(b.shift, self.bound), self.memory[b.of]
                    if shift < 0 or (size and shift + size > owner.size):
                        raise VerifyError(f"alias buffer {i} covers {shift}..{shift + size} of {owner.size} elements")
                    self.memory[i] = owner[shift : shift + size]
                case "given":
                    pass
                case _:
                    self.memory[i] = _garbage(b.dtype.np, size)
                    if b.kind == "output":
                        self.outputs[b.index] = self.memory[i].reshape(shape)

    def bind(self, step: Bind) -> None:
        names = {symbol for symbol, _, _ in step.sizes}
        for symbol, buffer, index in step.sizes:
            self.bound[symbol] = int(self.memory[buffer][index])
        changed = [i for i, b in enumerate(self.plan.buffers) if self.known(i) and names & symbols_of((*b.shape, b.shift))]
        owners = {i for i in changed if self.plan.buffers[i].kind != "alias"}
        self.make(changed + [i for i, b in enumerate(self.plan.buffers) if b.kind == "alias" and b.of in owners and i not in changed])

    def carry(self, step: Carry) -> None:
        self.memory[step.target] = self.memory[step.source].copy()
        self.make([i for i, b in enumerate(self.plan.buffers) if b.kind == "alias" and b.of == step.target and self.known(i)])

    def append(self, step: Append) -> None:
        self.memory[step.target] = np.concatenate([self.memory[step.target], self.memory[step.source]])

    def steps(self, steps: Sequence[PlanStep]) -> None:
        memory = self.memory
        for step in steps:
            match step:
                case Branch():
                    self.steps(step.then if bool(memory[step.cond][0]) else step.orelse)
                case Repeat():
                    i = 0
                    while (step.trips < 0 or i < int(memory[step.trips][0])) and (step.cond < 0 or bool(memory[step.cond][0])):
                        memory[step.counter][0] = i
                        self.steps(step.body)
                        i += 1
                case Bind():
                    self.bind(step)
                case Carry():
                    self.carry(step)
                case Append():
                    self.append(step)
                case Expect():
                    least, greatest = memory[step.buffer][2 * step.k : 2 * step.k + 2]
                    lo, hi = evaluate(step.lo, self.bound), evaluate(step.hi, self.bound)
                    if least < lo or greatest > hi:
                        raise InputError(f"index {least if least < lo else greatest}", expected=f"{lo} to {hi}", loc=" + ".join(step.loc))
                case Limit():
                    size, lo, hi = (evaluate(d, self.bound) for d in step.dims)
                    if not lo <= size <= hi:
                        raise InputError(f"a size of {size}", expected=f"{lo} to {hi}", loc=step.loc)
                case HostStep():
                    raise VerifyError(f"host function {step.call}", expected="kernels", remedy="The runtime runs it.")
                case _:
                    try:
                        run_kernel(step.kernel, [memory[b] for b in step.buffers], self.bound)
                    except VerifyError as e:
                        raise VerifyError(e.found, expected=e.expected, remedy=e.remedy, loc=" + ".join(step.loc)) from e


def _garbage(dtype: np.dtype, size: int) -> np.ndarray:
    """Memory nobody has written: reading it must show."""
    if dtype.kind == "f":
        return np.full(size, np.nan, dtype)
    return np.full(size, 1 if dtype.kind == "b" else 77, dtype)
