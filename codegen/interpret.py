"""The meaning of kernels and plans, in NumPy. Every access is bounds-checked; slow, exact, used by tests and --validate."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, VerifyError
from ..ir import NUMPY, Dim, DType, Shape, evaluate, symbols_of
from ..ir.ops import Attention, GroupedMatMul, Positions, Recurrent, Sort, Suppress
from ..ir.ops.nn import wide
from .expr import Acc, Axis, Bits, Call, Cast, DimParam, E, Load, Num, Reduced, Ticks
from .kernel import (
    AttentionKernel,
    Bind,
    Branch,
    Carry,
    ContractKernel,
    GroupedKernel,
    HostStep,
    IrregularKernel,
    Kernel,
    LoopKernel,
    Plan,
    PlanStep,
    RecurrentKernel,
    Reduction,
    Repeat,
    WinogradKernel,
)  # fmt: skip
from .packing import packed_size, unpack_b, unpack_gates, unpack_levels
from .winograd import filtering, positions

Arrays = Sequence[np.ndarray]
Bindings = Mapping[str, int]


def run_plan(plan: Plan, inputs: Sequence[np.ndarray], bindings: Bindings | None = None) -> list[np.ndarray]:
    """Run a plan on arrays, in the order of its inputs; returns its outputs. Raises VerifyError for an access out of bounds."""
    return _Machine(plan, inputs, dict(bindings or {})).run()


class _Machine:
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


def run_kernel(kernel: Kernel, arrays: Arrays, bindings: Bindings | None = None) -> None:
    """Run one kernel on flat arrays, writing those of its written operands."""
    bound = bindings or {}
    for i, (o, a) in enumerate(zip(kernel.operands, arrays, strict=True)):
        if a.dtype != o.dtype.np or a.size < evaluate(o.numel, bound):
            raise VerifyError(f"operand {i} is {a.dtype}[{a.size}]", expected=f"{o.dtype.np}[{evaluate(o.numel, bound)}]")
    match kernel:
        case LoopKernel():
            _run_loop(kernel, arrays, bound)
        case ContractKernel():
            _run_contract(kernel, arrays, bound)
        case GroupedKernel():
            _run_grouped(kernel, arrays, bound)
        case WinogradKernel():
            _run_winograd(kernel, arrays, bound)
        case RecurrentKernel():
            _run_recurrent(kernel, arrays, bound)
        case AttentionKernel():
            _run_attention(kernel, arrays, bound)
        case IrregularKernel():
            _run_irregular(kernel, arrays, bound)


def _run_irregular(kernel: IrregularKernel, arrays: Arrays, bound: Bindings) -> None:
    rows, size, inner = (evaluate(d, bound) for d in (kernel.rows, kernel.size, kernel.inner))
    written = [a for a, o in zip(arrays, kernel.operands, strict=True) if o.written]
    given = list(arrays[: len(arrays) - len(written)])
    match kernel.kind:
        case "positions":
            results = Positions().reference(given[0][:size])
        case "sort":
            results = Sort("descending" in kernel.flags).reference(given[0].reshape(rows, size))
        case "top":
            results = (Sort("descending" in kernel.flags).reference(given[0].reshape(rows, size))[0][:, :inner],)
        case "suppress":
            boxes, scores = given[0].reshape(-1, size, 4), given[1].reshape(-1, inner, size)
            results = Suppress("center" in kernel.flags).reference(boxes, scores, *given[2:])
        case _:
            raise VerifyError(f"irregular kernel {kernel.kind!r}")
    for result, to in zip(results, written, strict=False):
        to[: result.size] = result.ravel()


class Evaluator:
    """Values of expressions over a grid of loop variables; `axes[i]` broadcasts over the grid."""

    def __init__(self, arrays: Arrays, bound: Bindings, axes: Sequence[np.ndarray]) -> None:
        self.arrays, self.bound, self.axes = arrays, bound, axes
        self.reduced: list[np.ndarray] = []
        self.acc: np.ndarray | None = None
        self._memo: dict[int, np.ndarray] = {}

    def __call__(self, e: E) -> np.ndarray:
        if id(e) not in self._memo:
            self._memo[id(e)] = self._value(e)
        return self._memo[id(e)]

    def _value(self, e: E) -> np.ndarray:
        match e:
            case Num():
                return NUMPY.const(e.value, e.dtype)
            case Axis():
                return self.axes[e.index]
            case DimParam():
                return np.asarray(evaluate(e.dim, self.bound), np.int64)
            case Ticks():
                return np.asarray(time.perf_counter_ns())
            case Load():
                offset = self(e.offset)
                data = self.arrays[e.operand]
                check_bounds(offset, data.size, f"load of operand {e.operand}")
                if data.dtype != e.dtype.np:
                    raise VerifyError(f"load of {e.dtype.value} from operand {e.operand} of {data.dtype}")
                return np.asarray(data[offset])
            case Bits():
                return np.asarray(NUMPY.bits(self(e.arg), e.source, e.dtype))
            case Cast():
                return np.asarray(NUMPY.cast(self(e.arg), e.dtype))
            case Call():
                args = [self(a) for a in e.args]
                kinds = {a.dtype for a in (e.args[1:] if e.fn == "select" else e.args)}
                if len(kinds) > 1:
                    raise VerifyError(f"{e.fn} of {', '.join(sorted(k.value for k in kinds))}", expected="one dtype")
                out = np.asarray(NUMPY.ops.call(e.fn, *args))
                if out.dtype != e.dtype.np:
                    raise VerifyError(f"{e.fn} gives {out.dtype}", expected=e.dtype.value)
                return out
            case Reduced():
                return self.reduced[e.stage]
            case Acc():
                assert self.acc is not None
                return self.acc
        raise VerifyError(f"unknown expression {type(e).__name__}")


def check_bounds(offset: np.ndarray, size: int, what: str) -> None:
    if offset.size and (int(offset.min()) < 0 or int(offset.max()) >= size):
        raise VerifyError(f"{what} at {int(offset.min())}..{int(offset.max())} of {size} elements")


def _grid(sizes: Sequence[int]) -> list[np.ndarray]:
    return list(np.indices(sizes, np.int64, sparse=True)) if sizes else []


def _reads_own_result(kernel: LoopKernel) -> bool:
    stack: list[E] = [e for s in kernel.stores for e in (s.value, s.offset, s.guard) if e is not None]
    seen: set[int] = set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, Load):
            if kernel.operands[e.operand].written:
                return True
            stack.append(e.offset)
        stack.extend(e.args if isinstance(e, Call) else (e.arg,) if isinstance(e, Cast | Bits) else ())
    return False


def _run_loop(kernel: LoopKernel, arrays: Arrays, bound: Bindings) -> None:
    axes = [evaluate(d, bound) for d in kernel.axes]
    inner = [evaluate(d, bound) for d in kernel.reduce_axes]
    if any(d <= 0 for d in axes):
        return
    if not kernel.stages and _reads_own_result(kernel):
        for point in itertools.product(*map(range, inner)):
            outer = [a.reshape(a.shape) for a in _grid(axes)]
            ev = Evaluator(arrays, bound, [*outer, *(np.asarray(p, np.int64) for p in point)])
            _stores(kernel, ev, arrays, axes, [])
        return
    ev = Evaluator(arrays, bound, _grid([*axes, *(max(d, 0) for d in inner)]))
    for stage in kernel.stages:
        ev.reduced.append(_reduce(stage, ev, axes, inner))
    _stores(kernel, ev, arrays, axes, inner)


def _stores(kernel: LoopKernel, ev: Evaluator, arrays: Arrays, axes: list[int], inner: list[int]) -> None:
    for s in kernel.stores:
        if s.per_element and any(d <= 0 for d in inner):
            continue
        shape = [*axes, *(inner if s.per_element else [1] * len(inner))]
        if not kernel.operands[s.operand].written:
            raise VerifyError(f"store to operand {s.operand}, which is not written")
        if s.value.dtype is not kernel.operands[s.operand].dtype:
            raise VerifyError(f"store of {s.value.dtype.value}", expected=kernel.operands[s.operand].dtype.value)
        offset, value = (np.broadcast_to(ev(e), shape).reshape(-1) for e in (s.offset, s.value))
        if s.guard is not None:
            keep = np.broadcast_to(ev(s.guard), shape).reshape(-1)
            offset, value = offset[keep], value[keep]
        check_bounds(offset, arrays[s.operand].size, f"store to operand {s.operand}")
        arrays[s.operand][offset] = value


def _reduce(stage: Reduction, ev: Evaluator, axes: list[int], inner: list[int]) -> np.ndarray:
    """fn over the reduce axes; these stay, with size 1. Floats accumulate in float64."""
    kept = [*axes, *(1 for _ in inner)]
    dtype = stage.value.dtype
    if any(d <= 0 for d in inner):
        x = np.zeros([*axes, 0], dtype.np)
    else:
        x = np.broadcast_to(ev(stage.value), [*axes, *inner]).reshape([*axes, -1])
    match stage.fn:
        case "argmax" | "argmin":
            return getattr(np, stage.fn)(x, axis=-1).astype(np.int64).reshape(kept)
        case "sum" | "prod":
            out = getattr(np, stage.fn)(x, axis=-1, dtype=np.float64 if dtype.is_float else dtype.np)
        case "and":
            out = np.logical_and.reduce(x, axis=-1)
        case "or":
            out = np.logical_or.reduce(x, axis=-1)
        case "max" | "min":
            out = getattr(np, stage.fn)(x, axis=-1, initial=neutral(stage.fn, dtype))
        case _:
            raise VerifyError(f"unknown reduction {stage.fn!r}")
    with np.errstate(all="ignore"):
        return np.asarray(out).astype(dtype.np).reshape(kept)


def neutral(fn: str, dtype: DType) -> Any:
    """The value that a max or min of nothing has."""
    if dtype.is_float:
        return -np.inf if fn == "max" else np.inf
    if dtype is DType.BOOL:
        return fn == "min"
    info = np.iinfo(dtype.np)
    return info.min if fn == "max" else info.max


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Floats in float64; bytes in float64 too, which holds their sums exactly."""
    dtype = DType.from_numpy(a.dtype)
    if dtype.is_float or dtype.itemsize == 1:
        out = a.astype(np.float64) @ b.astype(np.float64)
        return out if dtype.is_float else out.astype(np.int64).astype(np.int32)
    return a @ b


def _spread(b: np.ndarray, taps: int, diagonal: int) -> np.ndarray:
    """[taps·inputs, n] of blocks side by side -> [taps·diagonal·inputs, n], zeros elsewhere."""
    parts = b.reshape(taps, 1, -1, diagonal, b.shape[1] // diagonal)
    mask = np.eye(diagonal, dtype=b.dtype)[None, :, None, :, None]
    return np.asarray((parts * mask).reshape(-1, b.shape[1]))


def _run_contract(kernel: ContractKernel, arrays: Arrays, bound: Bindings) -> None:
    def dim(d: Dim) -> int:
        return evaluate(d, bound)

    batch, m, n, k = map(dim, (kernel.batch, kernel.m, kernel.n, kernel.k))
    if batch <= 0 or m <= 0 or n <= 0:
        return
    a, b = arrays[0], arrays[1]
    one = dim(packed_size(k // kernel.diagonal, n, kernel.panel, kernel.group))
    outside = arrays[kernel.border][0] if kernel.border >= 0 else 0
    sums = []
    for g in range(batch):
        left = _conv_rows(kernel, a, g, m, k, bound, outside) if kernel.conv else _plain_rows(kernel, a, g, m, k, bound)
        start = g * dim(kernel.b_batch)
        if kernel.b_row:
            gk, gn = _grid([k, n])
            at = start + gk * dim(kernel.b_row) + gn
            check_bounds(at, b.size, "load of B")
            sums.append(_product(left, b[at]))
            continue
        if start + one > b.size:
            raise VerifyError(f"packed B ends at {start + one} of {b.size} elements")
        right = unpack_b(b[start : start + one], k // kernel.diagonal, n, kernel.panel, kernel.group)
        if kernel.diagonal > 1:
            right = _spread(right, math.prod(kernel.conv.kernel) if kernel.conv else 1, kernel.diagonal)
        sums.append(_product(left, right))
    _finish(kernel, np.stack(sums), dim(kernel.c_batch), arrays, bound)


def _run_grouped(kernel: GroupedKernel, arrays: Arrays, bound: Bindings) -> None:
    k, n, groups = kernel.k, kernel.n, -(-kernel.k // kernel.group)
    m, lda = evaluate(kernel.m, bound), evaluate(kernel.lda, bound)
    if m <= 0 or n <= 0:
        return
    rows, at = _grid([m, k])
    offset = rows * lda + at
    check_bounds(offset, arrays[0].size, "load of A")
    levels = unpack_levels(arrays[1], k, n, kernel.panel, kernel.bits)
    scales = unpack_b(arrays[2], groups, n, kernel.panel)
    zeros = np.full_like(scales, kernel.zero) if kernel.zero is not None else unpack_b(arrays[3], groups, n, kernel.panel)
    (sums,) = GroupedMatMul(kernel.bits, kernel.group).reference(arrays[0][offset], levels, scales, zeros)
    _finish(kernel, sums[None], 0, arrays, bound)


def _finish(
    kernel: ContractKernel | GroupedKernel | WinogradKernel, sums: np.ndarray, c_batch: int, arrays: Arrays, bound: Bindings
) -> None:
    """Epilogue and store of sums [batch, m, n]."""
    dtype, out = DType.from_numpy(arrays[0].dtype), arrays[-1]
    ev = Evaluator(arrays, bound, _grid(sums.shape))
    ev.acc = sums.astype(wide(dtype.np)) if dtype.itemsize < 4 else sums.astype(dtype.np)
    value = np.broadcast_to(ev(kernel.epilogue), sums.shape)
    if kernel.epilogue.dtype is not kernel.operands[-1].dtype:
        raise VerifyError(f"contraction stores {kernel.epilogue.dtype.value}", expected=kernel.operands[-1].dtype.value)
    gb, gm, gn = ev.axes
    offset = np.broadcast_to(gb * c_batch + gm * evaluate(kernel.ldc, bound) + gn, sums.shape)
    check_bounds(offset, out.size, "store of a contraction")
    out[offset] = value


def _plain_rows(kernel: ContractKernel, a: np.ndarray, g: int, m: int, k: int, bound: Bindings) -> np.ndarray:
    gm, gk = _grid([m, k])
    offset = g * evaluate(kernel.a_batch, bound) + gm * evaluate(kernel.lda, bound) + gk
    check_bounds(offset, a.size, "load of A")
    return a[offset]


def _conv_rows(kernel: ContractKernel, a: np.ndarray, g: int, m: int, k: int, bound: Bindings, outside: Any) -> np.ndarray:
    """im2col of one group: [m, taps·channels]."""
    c = kernel.conv
    assert c is not None
    out_spatial = [evaluate(d, bound) for d in c.out_spatial]
    spatial = [evaluate(d, bound) for d in c.spatial]
    channels = k // math.prod(c.kernel)
    rows = np.arange(m)
    tap_channel = np.arange(k)
    tap, channel = tap_channel // channels, tap_channel % channels
    outs = np.unravel_index(rows, (m // math.prod(out_spatial), *out_spatial))
    taps = np.unravel_index(tap, c.kernel)
    pixel = outs[0][:, None]
    inside = np.ones((m, k), bool)
    for i, size in enumerate(spatial):
        at = outs[1 + i][:, None] * c.strides[i] + taps[i][None] * c.dilations[i] - evaluate(c.pads_lo[i], bound)
        inside &= (at >= 0) & (at < size)
        pixel = pixel * size + at
    offset = pixel * evaluate(kernel.lda, bound) + g * channels + channel[None]
    check_bounds(offset[inside], a.size, "load of the input of a convolution")
    return np.where(inside, a[np.where(inside, offset, 0)] if a.size else 0, outside).astype(a.dtype)


def _run_winograd(kernel: WinogradKernel, arrays: Arrays, bound: Bindings) -> None:
    """Tiles of the input, transformed, times the transformed weights, transformed back: all in float64."""
    c, tile = kernel.conv, kernel.tile
    images, lda = evaluate(kernel.images, bound), evaluate(kernel.lda, bound)
    spatial, out_spatial = ([evaluate(d, bound) for d in dims] for dims in (c.spatial, c.out_spatial))
    if images <= 0 or min(out_spatial) <= 0:
        return
    f = [filtering(m, r) for m, r in zip(tile, c.kernel, strict=True)]
    counts = [-(-o // m) for o, m in zip(out_spatial, tile, strict=True)]
    i, y, x, dy, dx, ch = _grid([images, *counts, f[0].n, f[1].n, kernel.channels])
    at = [t * m + d - evaluate(p, bound) for t, m, d, p in zip((y, x), tile, (dy, dx), c.pads_lo, strict=True)]
    inside = (at[0] >= 0) & (at[0] < spatial[0]) & (at[1] >= 0) & (at[1] < spatial[1])
    offset, inside = np.broadcast_arrays(((i * spatial[0] + at[0]) * spatial[1] + at[1]) * lda + ch, inside)
    check_bounds(offset[inside], arrays[0].size, "load of the input of a convolution")
    d = np.where(inside, arrays[0][np.where(inside, offset, 0)] if arrays[0].size else 0, 0).astype(np.float64)
    d = np.einsum("pa,qb,iyxabc->iyxpqc", f[0].b, f[1].b, d, optimize=True)
    panels = -(-kernel.n // kernel.panel)
    shape = (panels, positions(tile, c.kernel), kernel.channels, kernel.panel)
    if arrays[1].size < math.prod(shape):
        raise VerifyError(f"transformed weights have {arrays[1].size} elements", expected=f"{math.prod(shape)}")
    u = arrays[1][: math.prod(shape)].reshape(shape).transpose(1, 2, 0, 3).reshape(f[0].n, f[1].n, kernel.channels, -1)[..., : kernel.n]
    products = np.einsum("iyxpqc,pqcn->iyxpqn", d, u.astype(np.float64), optimize=True)
    tiles = np.einsum("ap,bq,iyxpqn->iyaxbn", f[0].a, f[1].a, products, optimize=True)
    full = tiles.reshape(images, counts[0] * tile[0], counts[1] * tile[1], kernel.n)
    _finish(kernel, full[:, : out_spatial[0], : out_spatial[1]].reshape(1, -1, kernel.n), 0, arrays, bound)


def _run_recurrent(kernel: RecurrentKernel, arrays: Arrays, bound: Bindings) -> None:
    xg, packed, bias, h0, c0, peephole, lens, y, hn, cn, _ = arrays
    steps, batch, h = evaluate(kernel.steps, bound), evaluate(kernel.batch, bound), kernel.hidden
    dn, gates = len(kernel.directions), kernel.gate_count * h
    r = np.stack([unpack_gates(p, h, kernel.gate_groups, kernel.block) for p in packed.reshape(dn, -1)])
    state = dn * batch * h
    for d, reverse in enumerate(kernel.directions):
        op = Recurrent(kernel.cell, h, (reverse,), kernel.activations, kernel.clip, kernel.linear_before_reset, kernel.input_forget)
        rb = bias.reshape(dn, gates)[d]
        # the reference multiplies by W: the identity, because the gates are there already
        got = op.reference(
            xg[: steps * batch * dn * gates].reshape(steps, batch, dn, gates)[:, :, d], np.eye(gates, dtype=xg.dtype)[None],
            r[d : d + 1], np.concatenate([np.zeros_like(rb), rb])[None], lens[:batch],
            h0[:state].reshape(dn, batch, h)[d : d + 1], c0[:state].reshape(dn, batch, h)[d : d + 1],
            peephole.reshape(dn, 3 * h)[d : d + 1],
        )  # fmt: skip
        t, b, j = _grid([steps, batch, h])
        offset = t * evaluate(kernel.y_step, bound) + b * evaluate(kernel.y_batch, bound) + j
        offset = offset + d * evaluate(kernel.y_direction, bound)
        check_bounds(offset, y.size, "store of a recurrent result")
        y[offset] = got[0][:, 0]
        hn[:state].reshape(dn, batch, h)[d] = got[1][0]
        if kernel.cell == "lstm":
            cn[:state].reshape(dn, batch, h)[d] = got[2][0]


def _run_attention(kernel: AttentionKernel, arrays: Arrays, bound: Bindings) -> None:
    batch, heads, rows, keys = (evaluate(d, bound) for d in (kernel.batch, kernel.heads, kernel.rows, kernel.keys))

    def at(operand: int, strides: Shape, *sizes: int, group: int = 1) -> np.ndarray:
        """Offsets of [batch, heads, *sizes], checked."""
        grid = _grid([batch, heads, *sizes])
        grid[1] = grid[1] // group
        steps = [evaluate(s, bound) for s in strides]
        offset = sum((g * s for g, s in zip(grid, (*steps, 1), strict=False)), np.zeros([batch, heads, *sizes], np.int64))
        check_bounds(offset, arrays[operand].size, f"operand {operand} of an attention")
        return offset

    q = arrays[0][at(0, kernel.q_strides, rows, kernel.size)]
    k = arrays[1][at(1, kernel.k_strides, keys, kernel.size, group=kernel.group)]
    v = arrays[2][at(2, kernel.v_strides, keys, kernel.value_size, group=kernel.group)]
    args = [q, k, v]
    if kernel.mask_strides is not None:
        args.append(arrays[3][at(3, kernel.mask_strides, keys, rows)].swapaxes(2, 3))
    (y,) = Attention(kernel.scale, kernel.causal).reference(*(a.astype(np.float64) for a in args))
    arrays[-1][at(len(arrays) - 1, kernel.out_strides, rows, kernel.value_size)] = y
