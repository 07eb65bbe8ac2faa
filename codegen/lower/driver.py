"""The walk over a graph in order: each node defines an index function, emits kernels, or waits for its epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import CodegenError, MlcError
from ...ir import Const, Elementwise, Graph, Input, Node, Op
from ...ir.ops import (
    AskedTreeLeaves,
    AskedTreeSum,
    Clock,
    Concat,
    CumProd,
    CumSum,
    If,
    Loop,
    Positions,
    Rotary,
    ScatterElements,
    ScatterND,
    Sort,
    Suppress,
    TopK,
    TreeLeaves,
    TreeSum,
    Within,
)
from ..plan import Bind, Plan, PlanStep
from .anchors import emit_anchor
from .attention import emit_attention
from .attention_op import BlockedAttention
from .builder import View
from .composite import RecurrentCell, decompose, hoist, swap_few_rows
from .control import emit_if, emit_loop
from .fusion import ANCHORS, MOVES
from .host import HostCall, chained, emit_host, encode_handles, unmapped, uses_handles
from .in_place import share_memory
from .irregular import emit_concat, emit_scatter_elements, emit_scatter_nd, emit_topk
from .moves import define_elementwise, define_move
from .narrow import narrowed
from .options import LowerOptions
from .pools import separate_pools
from .prologue import split
from .recurrent import emit_recurrent
from .rotary import emit_rotary
from .scattered_taps import scatter_taps
from .select import emit_positions, emit_sort, emit_suppress, emit_top
from .sequential import emit_clock, emit_running
from .side_by_side import side_by_side
from .state import Lowering, check
from .storage import Storage
from .string_uses import string_uses
from .top_k import TopOrder
from .trees import emit_asked_leaves, emit_asked_sum, emit_tree_leaves, emit_tree_sum
from .within import emit_within

__all__ = ["LowerOptions", "lower"]

_EMIT: dict[type[Op], Callable[[Lowering, Node], None]] = {
    Concat: emit_concat, TopK: emit_topk, ScatterElements: emit_scatter_elements, ScatterND: emit_scatter_nd,
    BlockedAttention: emit_attention, RecurrentCell: emit_recurrent, If: lambda lw, n: emit_if(lw, n, lower_graph),
    Loop: lambda lw, n: emit_loop(lw, n, lower_graph), Positions: emit_positions, Sort: emit_sort, Suppress: emit_suppress,
    CumSum: emit_running, CumProd: emit_running, Clock: emit_clock, HostCall: emit_host,
    TopOrder: emit_top, Rotary: emit_rotary, TreeSum: emit_tree_sum, TreeLeaves: emit_tree_leaves,
    AskedTreeSum: emit_asked_sum, AskedTreeLeaves: emit_asked_leaves,
    Within: emit_within,
}  # fmt: skip


def lower(graph: Graph, options: LowerOptions | None = None) -> Plan:
    """Kernels and buffers that compute the graph. Raises CodegenError for what no kernel can express."""
    options = options or LowerOptions()
    graph, labels = unmapped(graph)
    graph = chained(graph)
    prologue = None
    if options.prologue:
        graph, prologue = split(graph, tuple(labels))
        if prologue is not None:
            labels = {at: labels[position] for at, position in enumerate(prologue.passed) if position in labels}
    public = [[v.dtype for v in values] for values in (graph.inputs, graph.outputs)]
    uses = string_uses(graph) if uses_handles(graph) else {}
    input_strings = tuple(uses.get(v, "") for v in graph.inputs)
    graph, strings = encode_handles(graph, uses)
    storage = Storage()
    inputs = [storage.add("input", v.dtype, v.shape, i) for i, v in enumerate(graph.inputs)]
    outputs = [storage.add("output", v.dtype, v.shape, i) for i, v in enumerate(graph.outputs)]
    steps: Sequence[PlanStep] = lower_graph(graph, options, storage, inputs, outputs)
    if options.beside and options.opt_level > 1:
        steps = side_by_side(steps, storage.buffers)
    buffers = share_memory(storage.buffers, steps) if options.overwrite else tuple(storage.buffers)
    return Plan(
        buffers=buffers,
        steps=tuple(steps),
        constants=storage.constants,
        input_names=graph.input_names,
        output_names=graph.output_names,
        input_dtypes=tuple(public[0]),
        output_dtypes=tuple(public[1]),
        output_labels=labels,
        limits=graph.limits,
        input_strings=input_strings,
        strings=strings,
        prologue=prologue,
        metadata=graph.metadata,
    )


def lower_graph(graph: Graph, options: LowerOptions, storage: Storage, inputs: Sequence[View], outputs: Sequence[View]) -> list:
    """Steps that read `inputs` and write `outputs`. Nested graphs come back here, one level per nesting."""
    if options.scatter is not None:
        graph = scatter_taps(graph, options.scatter)  # makes transposed convolutions, which are decomposed
    if options.passes:
        graph = separate_pools(graph)
    graph = decompose(graph, options.attention, options.ranked, options.abreast, options.float8, options.mask_turns,
                      options.in_place if options.planes else 0)  # fmt: skip
    if options.opt_level > 0:
        graph = hoist(graph if options.panel == 1 else swap_few_rows(graph, options.inner))  # B that lies by columns is read as it is
        if options.between is not None:
            graph = narrowed(graph, options.between, options.divide)
    lw = Lowering(graph, options, storage, emit_anchor)
    lw.views.update(zip(graph.inputs, inputs, strict=True))
    for v, view in zip(graph.outputs, outputs, strict=True):
        check(v)
        if not isinstance(v.node.op, (Input, Const)):
            lw.set_output(v, view)
    for node in graph.nodes:
        try:
            _visit(lw, node)
            bind_sizes(lw, node)
        except MlcError as e:
            if e.loc or not node.loc:
                raise
            raise type(e)(e.found, expected=e.expected, remedy=e.remedy, loc=" + ".join(node.loc)) from None
    for v, view in zip(graph.outputs, outputs, strict=True):
        if v not in lw.views or lw.views[v] != view:
            lw.copy(v, view)
    return lw.steps


def bind_sizes(lw: Lowering, node: Node) -> None:
    """After the node that computes sizes, have them read."""
    for v in node.outputs:
        found = [s for s in lw.graph.bound if s.value == v] if lw.unbound else ()
        if found:
            buffer = lw.contiguous(v).buffer
            lw.steps.append(Bind(tuple((s.symbol, buffer, s.index) for s in found), node.loc))
            lw.unbound -= {s.symbol for s in found}


def _visit(lw: Lowering, node: Node) -> None:
    op = node.op
    if isinstance(op, (Input, Const)):
        return
    for v in node.outputs:
        check(v)
    if type(op) in _EMIT:
        _EMIT[type(op)](lw, node)
    elif isinstance(op, (Elementwise, MOVES)):
        v = node.out
        if v in lw.views:
            return  # its producer wrote it already
        (define_elementwise if isinstance(op, Elementwise) else define_move)(lw, node)
        if lw.fusion.stored(v) and v not in lw.views:
            lw.materialise(v)
    elif isinstance(op, ANCHORS):
        if lw.fusion.stored(node.out) and node.out not in lw.views:
            lw.materialise(node.out)
    else:
        raise CodegenError(f"operator {op.name} has no kernel", loc=" + ".join(node.loc))
