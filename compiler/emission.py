"""Kernels of a plan, of which those that are built alike are emitted once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..codegen.expr import structure
from ..codegen.kernel import AttentionKernel, ContractKernel, GroupedKernel, IrregularKernel, Kernel, RecurrentKernel, WinogradKernel
from ..codegen.plan import Plan, Step, steps_of


def emit_once(plan: Plan, one: Callable[[Step], tuple[object, Callable[[], Any]]], known: dict[object, Any]) -> dict[int, Any]:
    """Code of every step; kernels that are built alike, or like those `known`, which it adds to, are emitted once."""
    out: dict[int, Any] = {}
    for step in steps_of(plan.steps):
        key, make = one(step)
        if key not in known:
            known[key] = make()
        out[id(step)] = known[key]
    return out


def kernel_key(kernel: Kernel) -> object:
    """Equal for kernels that are built alike."""
    match kernel:
        case ContractKernel(epilogue=e) | GroupedKernel(epilogue=e) | WinogradKernel(epilogue=e):
            return type(kernel), *(getattr(kernel, f.name) for f in fields(kernel) if f.name != "epilogue"), structure((e,))
        case AttentionKernel() | RecurrentKernel() | IrregularKernel():
            return kernel
    stages = tuple(s.fn for s in kernel.stages)
    stores = tuple((s.operand, s.per_element, s.guard is None) for s in kernel.stores)
    return kernel.axes, kernel.reduce_axes, kernel.operands, stages, stores, structure(kernel.roots)
