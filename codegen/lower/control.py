"""If and Loop: nested graphs become nested steps over shared buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...ir import Const, DType, Graph, Limit, Node, Value, lower, upper
from ...ir.ops import Concat, If, Loop
from ..kernel import Store
from ..plan import Append, Branch, Carry, PlanStep, Repeat, Step
from ..simplify import opaque
from .builder import KernelBuilder, View, finish
from .options import LowerOptions
from .state import Lowering
from .storage import Storage

LowerGraph = Callable[[Graph, LowerOptions, Storage, Sequence[View], Sequence[View]], list[PlanStep]]


def emit_if(lw: Lowering, node: Node, lower_graph: LowerGraph) -> None:
    """Results whose sizes differ between the branches are handed over by the branch that ran."""
    op = node.op
    assert isinstance(op, If)
    cond = lw.contiguous(node.inputs[0])
    captured = [lw.view(v) for v in node.inputs[1:]]
    same = [t == a.type == b.type for t, a, b in zip(node.types, op.then_branch.outputs, op.else_branch.outputs, strict=True)]
    results = [lw.place(v) if s else lw.storage.add("given", v.dtype, v.shape) for v, s in zip(node.outputs, same, strict=True)]
    sides = []
    for graph in (op.then_branch, op.else_branch):
        outs = [r if s else lw.storage.add("arena", v.dtype, v.shape) for r, s, v in zip(results, same, graph.outputs, strict=True)]
        steps = [*_requirements(graph), *lower_graph(graph, lw.options, lw.storage, captured, outs)]
        carries = [Carry(o.buffer, r.buffer, True, node.loc) for o, r, s in zip(outs, results, same, strict=True) if not s]
        sides.append((*steps, *carries))
    lw.steps.append(Branch(cond.buffer, sides[0], sides[1], node.loc))
    lw.views.update(zip(node.outputs, results, strict=True))


def emit_loop(lw: Lowering, node: Node, lower_graph: LowerGraph) -> None:
    """State lives in buffers of its own: a body computes the next state beside it, then it is copied.

    Of a state that only grows at its end, the body computes what is new, which is appended.
    """
    op = node.op
    assert isinstance(op, Loop)
    trip, go, *rest = node.inputs
    new = lw.storage.add
    counter = new("arena", DType.I64, ())
    cond = lw.copy(go, new("arena", DType.BOOL, ()), node.loc)
    changing = [f.type != v.type or o.type != f.type
                for f, v, o in zip(op.body.inputs[2:], rest[: op.n_state], op.body.outputs[1:], strict=False)]  # fmt: skip
    state = _first_states(lw, node, op, changing)
    captured = [lw.view(v) for v in rest[op.n_state :]]
    scans = [lw.place(v) for v in node.outputs[op.n_state :]]
    trips = lw.contiguous(trip)

    grown = {i: more for i in range(op.n_state) if changing[i] and (more := _appended(op.body, i)) is not None}
    graph = op.body
    if grown:
        graph = replace(graph, outputs=tuple(grown.get(i - 1, v) for i, v in enumerate(graph.outputs)))
    nexts = [new("arena", v.dtype, v.shape) for v in graph.outputs]
    body = lower_graph(graph, lw.options, lw.storage, [counter, cond, *state, *captured], nexts)
    always = _always(op.body.outputs[0]) and _always(go)
    after: list[PlanStep] = []
    if not always:
        after.append(_moved(lw.storage, nexts[0], cond, node.loc))
    for i, (source, to) in enumerate(zip(nexts[1 : 1 + op.n_state], state, strict=True)):
        if i in grown:
            after.append(Append(source.buffer, to.buffer, node.loc))
        elif changing[i]:
            after.append(Carry(source.buffer, to.buffer, True, node.loc))
        else:
            after.append(_moved(lw.storage, source, to, node.loc))
    for source, to in zip(nexts[1 + op.n_state :], scans, strict=True):
        k = KernelBuilder(source.shape)
        at = opaque(k.load(counter, ()), 0)
        after.append(_step(lw.storage, k, k.store(to, (at, *k.index), k.load(source, k.index)), node.loc))
    steps = (*_requirements(graph), *body, *after)
    lw.steps.append(Repeat(trips.buffer, -1 if always else cond.buffer, counter.buffer, steps, node.loc))
    for i, v in enumerate(node.outputs[: op.n_state]):
        if changing[i]:
            last, state[i] = state[i], new("given", v.dtype, v.shape)
            lw.steps.append(Carry(last.buffer, state[i].buffer, True, node.loc))
    lw.views.update(zip(node.outputs, (*state, *scans), strict=True))


def _first_states(lw: Lowering, node: Node, op: Loop, changing: Sequence[bool]) -> list[View]:
    """Where states lie, which hold their first values: those that keep their type where the loop's results are, if that may be."""
    found = []
    for v, out, formal, changes in zip(node.inputs[2 : 2 + op.n_state], node.outputs, op.body.inputs[2:], changing, strict=False):
        if changes:
            to = lw.storage.add("given", v.dtype, formal.shape)
            lw.steps.append(Carry(_whole(lw, v).buffer, to.buffer, False, node.loc))
        else:
            to = lw.place(out)
            to = lw.copy(v, to if to.contiguous else lw.storage.add("arena", v.dtype, v.shape), node.loc)
        found.append(to)
    return found


def _requirements(graph: Graph) -> list[Limit]:
    """What a graph that may not run needs of sizes, where they are not known to be so."""
    return [m for m in graph.limits if lower(m.dim - m.lo) < 0 or upper(m.dim - m.hi) > 0]


def _appended(body: Graph, i: int) -> Value | None:
    """What the body's next state i has behind the state itself, if it is those two one after the other and nothing else reads it."""
    state, after = body.inputs[2 + i], body.outputs[1 + i]
    op, ins = after.node.op, after.node.inputs
    if not isinstance(op, Concat) or len(ins) < 2 or ins[0] is not state or any(d != 1 for d in after.shape[: op.axis]):
        return None
    alone = after not in body.uses and body.outputs.count(after) == 1 and all(s.value is not after for s in body.sizes)
    if not alone:
        return None
    return ins[1] if len(ins) == 2 else Node.make(op, ins[1:], after.node.loc).out


def _whole(lw: Lowering, v: Value) -> View:
    """The value in a buffer of exactly its size."""
    view = lw.contiguous(v)
    if lw.storage.extent(view.buffer)[1] != v.type.numel:
        view = lw.copy(v, lw.storage.add("arena", v.dtype, v.shape))
    return view


def _always(v: Value) -> bool:
    return isinstance(v.node.op, Const) and bool(v.node.op.data.all())


def _moved(storage: Storage, source: View, to: View, loc: tuple[str, ...]) -> Step:
    k = KernelBuilder(source.shape)
    return _step(storage, k, k.store(to, k.index, k.load(source, k.index)), loc)


def _step(storage: Storage, k: KernelBuilder, store: Store, loc: tuple[str, ...]) -> Step:
    return Step(*finish(k, (), [store], storage.extent, False), loc)
