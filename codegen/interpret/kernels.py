"""One kernel on flat arrays: which interpreter serves which kind."""

from __future__ import annotations

import numpy as np

from ...errors import VerifyError
from ...ir import Shape, evaluate
from ...ir.ops import Attention, Positions, Recurrent, Sort, Suppress
from ..kernel import (
    AttentionKernel,
    ContractKernel,
    GroupedKernel,
    IrregularKernel,
    Kernel,
    LoopKernel,
    RecurrentKernel,
    WinogradKernel,
)  # fmt: skip
from ..packing import unpack_gates
from .loops import run_loop
from .products import run_contract, run_grouped, run_winograd
from .values import Arrays, Bindings, check_bounds, grid


def run_kernel(kernel: Kernel, arrays: Arrays, bindings: Bindings | None = None) -> None:
    """Run one kernel on flat arrays, writing those of its written operands."""
    bound = bindings or {}
    for i, (o, a) in enumerate(zip(kernel.operands, arrays, strict=True)):
        if a.dtype != o.dtype.np or a.size < evaluate(o.numel, bound):
            raise VerifyError(f"operand {i} is {a.dtype}[{a.size}]", expected=f"{o.dtype.np}[{evaluate(o.numel, bound)}]")
    match kernel:
        case LoopKernel():
            run_loop(kernel, arrays, bound)
        case ContractKernel():
            run_contract(kernel, arrays, bound)
        case GroupedKernel():
            run_grouped(kernel, arrays, bound)
        case WinogradKernel():
            run_winograd(kernel, arrays, bound)
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
            lines = given[0].reshape(rows, size, -1).swapaxes(1, 2)
            results = (Sort("descending" in kernel.flags).reference(lines)[0][..., :inner].swapaxes(1, 2),)
        case "suppress":
            boxes, scores = given[0].reshape(-1, size, 4), given[1].reshape(-1, inner, size)
            results = Suppress("center" in kernel.flags).reference(boxes, scores, *given[2:])
        case _:
            raise VerifyError(f"irregular kernel {kernel.kind!r}")
    for result, to in zip(results, written, strict=False):
        to[: result.size] = result.ravel()


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
        t, b, j = grid([steps, batch, h])
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
        places = grid([batch, heads, *sizes])
        places[1] = places[1] // group
        steps = [evaluate(s, bound) for s in strides]
        offset = sum((g * s for g, s in zip(places, (*steps, 1), strict=False)), np.zeros([batch, heads, *sizes], np.int64))
        check_bounds(offset, arrays[operand].size, f"operand {operand} of an attention")
        return offset

    q = arrays[0][at(0, kernel.q_strides, rows, kernel.size)]
    k = arrays[1][at(1, kernel.k_strides, keys, kernel.size, group=kernel.group)]
    v = arrays[2][at(2, kernel.v_strides, keys, kernel.value_size, group=kernel.group)]
    args = [q, k, v]
    if kernel.mask_strides is not None:
        args.append(arrays[3][at(3, kernel.mask_strides, keys, rows)].swapaxes(2, 3))
    args = [a.astype(np.float64) for a in args]
    to = at(len(arrays) - 1, kernel.out_strides, rows, kernel.value_size)
    if kernel.parts is None:
        (arrays[-1][to],) = Attention(kernel.scale, kernel.causal).reference(*args)
        return
    parts = evaluate(kernel.parts, bound)
    tops, each = arrays[-2].reshape(-1)[: 2 * parts * batch * heads * rows].reshape(2, parts, batch, heads, rows), -(-keys // parts)
    scores = np.einsum("bhsd,bhld->bhsl", args[0], args[1]) * kernel.scale + (args[3] if len(args) == 4 else 0)
    if kernel.causal:
        scores = np.where(np.arange(keys) <= np.arange(rows)[:, None] + keys - rows, scores, -np.inf)
    for part in range(parts):
        own = slice(part * each, min(keys, (part + 1) * each))
        tops[0, part] = top = scores[..., own].max(-1, initial=-np.inf)
        weights = np.exp(scores[..., own] - np.where(np.isinf(top), 0, top)[..., None])
        tops[1, part] = total = weights.sum(-1)
        y = (weights / np.where(total == 0, 1, total)[..., None]) @ args[2][:, :, own]
        check_bounds(to + part * y.size, arrays[-1].size, "results of a part of an attention")
        arrays[-1][to + part * y.size] = y
