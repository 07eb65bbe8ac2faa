"""Recurrent ops, scatter, and control flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import CodegenError
from ...ir import DType, Graph, Node, TensorType, Value, const, prod
from ...ir.ops import If, Loop, Recurrent, ScatterElements, ScatterND
from ..expr import Axis, Call, E, Load, Num
from ..kernel import Branch, Operand, RecurrentKernel, Repeat, Step, Store
from .contract import PANEL, contraction, pack
from .core import Lowering, Stored, Virtual
from .index import add, linear, mul, num
from .moves import to_index


def recurrent(lo: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, Recurrent)
    x, w, r, bias, lens, h0, c0, peep = node.inputs
    steps, batch, size = x.shape
    h, dn = op.hidden, len(op.directions)
    gh = w.shape[1]
    ys = [lo.destination(v) for v in node.outputs]
    if len(ys) == 2:  # GRU and RNN have no cell state, but their kernel has the operand
        ys.append(lo.buffer("arena", TensorType(x.dtype, (dn, batch, h))))
    a = lo.stored(x)

    def part(v: Value, d: int, shape: tuple[object, ...], extra: int = 0) -> int:
        """Direction d of an operand: a constant of its own, or a view."""
        stored = lo.stored(v)
        shift = d * prod(v.shape[1:]) + extra
        array = lo.constants.get(stored)
        if isinstance(array, np.ndarray):
            # its own size, which the kernel's dims equal at run time even where they are symbolic
            count = gh if v is bias else prod(v.shape[1:])
            return lo.constant(array.reshape(-1)[int(shift) : int(shift + count)])  # type: ignore[arg-type]
        return lo.alias(stored, TensorType(v.dtype, shape), shift)  # type: ignore[arg-type]

    def transposed(v: Value, d: int, rows: object, columns: object) -> int:
        """v[d] is [columns, rows]; packed as its transpose."""
        stored = lo.stored(v)
        array = lo.constants.get(stored)
        if isinstance(array, np.ndarray):
            t = const(np.ascontiguousarray(array[d].T))
            lo.forms[t] = Stored(t.type, lo.constant(t.node.op.data))  # type: ignore[attr-defined]
            return pack(lo, t, rows, columns)  # type: ignore[arg-type]
        base = d * rows * columns  # type: ignore[operator]
        return pack(lo, v, rows, columns, lambda b, i, j: Load(stored, add(add(mul(j, num(rows)), i), num(base)), dtype=v.dtype))  # type: ignore[arg-type]

    for d, reverse in enumerate(op.directions):
        gates_type = TensorType(x.dtype, (steps * batch, gh))
        wb = part(bias, d, (gh,))
        gates = Value(Node(op, (), (gates_type,), node.loc))
        pending = contraction(
            lo, gates, a, transposed(w, d, size, gh), node.loc, batch=1, m=steps * batch, n=gh, k=size, lda=size, a_batch=0,
            b_batch=0, ldc=gh, c_batch=0,
        )  # fmt: skip
        out = lo.buffer("arena", gates_type)
        pending.finish(out, Call("add", (pending.value, Load(wb, Axis(2), dtype=x.dtype)), dtype=x.dtype), node.loc)
        state = TensorType(x.dtype, (batch, h))
        buffers = (
            out, transposed(r, d, h, gh), part(bias, d, (gh,), gh), part(h0, d, (batch, h)), part(c0, d, (batch, h)),
            part(peep, d, (3 * h,)), lo.stored(lens),
            lo.alias(ys[0], TensorType(x.dtype, (prod((steps, dn, batch, h)) - d * batch * h,)), d * batch * h),
            lo.alias(ys[1], state, d * batch * h), lo.alias(ys[2], state, d * batch * h),
        )  # fmt: skip
        operands = tuple(Operand(lo.buffers[b].dtype, prod(lo.buffers[b].shape), i >= 7) for i, b in enumerate(buffers))
        kernel = RecurrentKernel(
            op.cell, steps, batch, h, reverse, op.activations_of(d), op.clip, op.linear_before_reset, op.input_forget, operands,
            dn * batch * h, h, PANEL,
        )  # fmt: skip
        lo.steps.append(Step(kernel, buffers, node.loc))
    for v, b in zip(node.outputs, ys, strict=False):
        lo.forms[v] = Stored(v.type, b)


def scatter(lo: Lowering, node: Node) -> None:
    """A copy, then one store per update in order; the vector axis never spans duplicates because updates run in one unit."""
    op = node.op
    assert isinstance(op, (ScatterElements, ScatterND))
    data, indices, updates = node.inputs
    value = node.out
    out = lo.destination(value)
    lo.store_virtual(lo.virtual(data), out)
    index_of, update = lo.load(lo.stored(indices), indices.type), lo.load(lo.stored(updates), updates.type)
    n = updates.type.rank
    # One reduce-free kernel whose updates are a sequential reduce axis would reorder nothing: stores are per element.
    shape = updates.shape
    flat = prod(shape)
    from .index import div, rem

    where: list[E] = []
    for axis in range(n):
        inner = prod(shape[axis + 1 :])
        q = div(Axis(0), num(inner))
        where.append(q if axis == 0 else rem(q, num(shape[axis])))
    if isinstance(op, ScatterElements):
        i = to_index(index_of.at(tuple(where)), data.shape[op.axis])
        place = linear((*where[: op.axis], i, *where[op.axis + 1 :]), data.shape)
    else:
        depth = indices.shape[-1]
        assert isinstance(depth, int)
        lead = indices.type.rank - 1
        found = [to_index(index_of.at((*where[:lead], Num(j))), data.shape[j]) for j in range(depth)]
        place = linear((*found, *where[lead:]), data.shape)
    new = update.at(tuple(where))
    fn = {"none": "", "add": "add", "mul": "mul", "max": "max", "min": "min"}[op.reduction]
    if fn:
        new = Call(fn, (Load(out, place, dtype=value.dtype), new), dtype=value.dtype)
    if flat != 0:
        # axes (): one unit, sequential over the reduce axis
        moved = _shift_axes(new), _shift_axes(place)
        lo.loop((), (flat,), (), (Store(out, moved[1], moved[0], per_element=True),), node.loc)
    lo.forms[value] = Stored(value.type, out)


def _shift_axes(x: E) -> E:
    """Axis 0 already is the only (reduce) axis of a kernel without parallel axes."""
    return x


def branch(lo: Lowering, node: Node) -> None:
    op = node.op
    assert isinstance(op, If)
    cond = lo.stored(node.inputs[0])
    captured = [lo.stored(v) for v in node.inputs[1:]]
    outs = [lo.destination(v) for v in node.outputs]
    arms = [lo.nested(g, captured, outs) for g in (op.then_branch, op.else_branch)]
    lo.steps.append(Branch(cond, tuple(arms[0]), tuple(arms[1]), node.loc))
    for v, b in zip(node.outputs, outs, strict=True):
        lo.forms[v] = Stored(v.type, b)


def loop(lo: Lowering, node: Node) -> None:
    """State lives in fixed buffers; each iteration writes new ones, which are then copied over."""
    op = node.op
    assert isinstance(op, Loop)
    trip, cond = node.inputs[:2]
    state, captured = node.inputs[2 : 2 + op.n_state], node.inputs[2 + op.n_state :]
    cond_type, counter_type = TensorType(DType.BOOL, ()), TensorType(DType.I64, ())
    cond_buffer, counter = lo.buffer("arena", cond_type), lo.buffer("arena", counter_type)
    lo.store_virtual(lo.virtual(cond), cond_buffer)
    held = [lo.destination(v) for v in node.outputs[: op.n_state]]
    for v, b in zip(state, held, strict=True):
        lo.store_virtual(lo.virtual(v), b)
    scans = [lo.destination(v) for v in node.outputs[op.n_state :]]
    trips = lo.stored(trip)
    inner = [counter, cond_buffer, *held, *(lo.stored(v) for v in captured)]
    results = op.body.outputs
    fresh = [lo.buffer("arena", v.type) for v in results]
    steps = lo.nested(op.body, inner, fresh)
    outer, lo.steps = lo.steps, list(steps)
    for b, f, v in zip([cond_buffer, *held], fresh, results, strict=False):
        lo.store_virtual(lo.load(f, v.type), b)
    step: E = Load(counter, Num(0))
    for b, f, v in zip(scans, fresh[1 + op.n_state :], results[1 + op.n_state :], strict=True):
        each = v.type.numel
        lo.store_virtual(lo.load(f, v.type), b, lambda i, s=v.shape, e=each: add(mul(step, num(e)), linear(i, s)))  # type: ignore[misc]
    body, lo.steps = lo.steps, outer
    lo.steps.append(Repeat(trips, cond_buffer, counter, tuple(body), node.loc))
    for v, b in zip(node.outputs, [*held, *scans], strict=True):
        lo.forms[v] = Stored(v.type, b)
