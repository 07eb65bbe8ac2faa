"""Contractions, reductions, norms, pools, recurrent and control flow: results, and what fuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lowering import F, ap, graph, run, tensor
from mlc.codegen.kernel import AttentionKernel, ContractKernel, LoopKernel
from mlc.codegen.lower import LowerOptions, lower
from mlc.codegen.lower.fusion import Fusion
from mlc.ir import DType, Graph, Node, Shape, const, sym
from mlc.ir.ops import (
    LRN,
    Add,
    ArgReduce,
    Attention,
    Concat,
    Conv,
    ConvTranspose,
    CumSum,
    Dequantize,
    Erf,
    Expand,
    If,
    LayerNorm,
    Loop,
    MatMul,
    Mul,
    Pool,
    Quantize,
    Recurrent,
    Reduce,
    Relu,
    Reshape,
    RMSNorm,
    Sigmoid,
    Slice,
    Softmax,
    Sub,
    Transpose,
)  # fmt: skip

B = sym("B", 1)
rng = np.random.default_rng(3)


def weights(*shape: int) -> object:
    return const(rng.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shapes", [((2, 3, 5), (5, 7)), ((2, 3, 5), (2, 5, 7)), ((3, 5), (4, 5, 70)),
                                    ((2, 1, 3, 5), (4, 5, 7)), ((B, 2, 3, 5), (2, 5, 7)),
                                    ((2, 4, 3, 5), (2, 1, 5, 7)), ((B, 3, 5), (5, 7)), ((3, B), (B, 7)), ((3, 5), (5, B)),
                                    ((B, 2, 3, 5), (B, 2, 5, 3)), ((1, 5), (5, 1)), ((0, 5), (5, 3)),
                                    ((3, 0), (0, 2))])  # fmt: skip
def test_matmul(shapes: tuple[tuple, tuple]) -> None:
    a, b = (tensor(*s) for s in shapes)
    run(graph([a, b], ap(Relu(), ap(MatMul(), a, b))), B=4)
    if all(isinstance(d, int) for d in shapes[1]):
        run(graph([a], ap(MatMul(), a, weights(*shapes[1]))), B=4)


@pytest.mark.parametrize(("rows", "k", "panel"), [(7, 700, 48), (7, 70, 64), (6, 700, 64), (9, 700, 64)])
def test_few_rows_by_a_large_matrix_have_panels_of_their_own(rows: int, k: int, panel: int) -> None:
    a = tensor(rows, k)
    plan = run(graph([a], ap(MatMul(), a, weights(k, 100))), options=LowerOptions(few_rows=(7, 8), few_panel=48))
    assert [s.kernel.panel for s in plan.steps if isinstance(s.kernel, ContractKernel)] == [panel]


def test_gelu_epilogue() -> None:
    a, res = tensor(B, 6, 8), tensor(B, 6, 20)
    y = ap(Add(), ap(MatMul(), a, weights(8, 20)), weights(20))
    y = ap(Mul(), y, ap(Add(), ap(Erf(), ap(Mul(), y, const(np.float32(0.7)))), const(np.float32(1))))
    y = ap(Add(), res, y)
    plan = run(graph([a, res], y), B=3)
    assert [type(s.kernel) for s in plan.steps] == [ContractKernel]


def test_second_branch_is_the_residual() -> None:
    x = tensor(2, 5, 5, 4)
    c1 = ap(Add(), ap(Conv((1, 1), (1, 1), (1, 1), (1, 1)), x, weights(3, 3, 4, 8)), weights(8))
    c2 = ap(Add(), ap(Conv((1, 1), (0, 0), (0, 0), (1, 1)), x, weights(1, 1, 4, 8)), weights(8))
    plan = run(graph([x], ap(Relu(), ap(Add(), c1, c2))))
    assert len(plan.steps) == 2


def test_channel_scale_per_image_is_in_the_epilogue() -> None:
    x, s = tensor(2, 5, 5, 4), tensor(2, 1, 1, 8)
    y = ap(Relu(), ap(Conv((1, 1), (0, 0), (0, 0), (1, 1)), x, weights(1, 1, 4, 8)))
    assert len(run(graph([x, s], ap(Mul(), y, s))).steps) == 1
    assert len(run(graph([x, s], ap(Mul(), y, ap(Sigmoid(), s)))).steps) == 2


@pytest.mark.parametrize("shape", [(B, 1, 20), (1, 6, 20), (6, 20), (B, 1, 1), (B, 6, 1)])
def test_what_repeats_for_sequences_or_steps_is_in_the_epilogue(shape: Shape) -> None:
    a, s = tensor(B, 6, 8), tensor(*shape)
    assert len(run(graph([a, s], ap(Relu(), ap(Add(), ap(MatMul(), a, weights(8, 20)), s))), B=3).steps) == 1


def test_what_repeats_within_columns_is_not_in_the_epilogue() -> None:
    a, s = tensor(2, 6, 8), tensor(2, 6, 5)
    y = ap(Reshape((2, 6, 4, 5)), ap(MatMul(), a, weights(8, 20)))
    assert len(run(graph([a, s], ap(Add(), y, ap(Reshape((2, 6, 1, 5)), s)))).steps) == 2


@pytest.mark.parametrize("groups,c,o", [(1, 4, 6), (2, 4, 32), (4, 4, 4), (4, 4, 8), (2, 6, 4), (12, 24, 36), (10, 40, 30)])
@pytest.mark.parametrize("rank", [1, 2])
def test_conv(groups: int, c: int, o: int, rank: int) -> None:
    x = tensor(B, *(7, 6)[:rank], c)
    op = Conv((2, 1)[:rank], (1, 0)[:rank], (2, 1)[:rank], (1, 2)[:rank], groups)
    w = weights(*(3, 2)[:rank], c // groups, o)
    plan = run(graph([x], ap(Relu(), ap(Add(), ap(op, x, w), weights(o)))), B=2)
    assert len(plan.steps) == 1
    w = tensor(*(3, 2)[:rank], c // groups, o)
    run(graph([x, w], ap(op, x, w)), B=2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_transpose(groups: int) -> None:
    x = tensor(B, 4, 3, 4)
    op = ConvTranspose((2, 1), (1, 0), (0, 1), (1, 0), (1, 2), groups)
    run(graph([x], ap(Relu(), ap(Add(), ap(op, x, weights(3, 2, 8 // groups, 4)), weights(8)))), B=2)


@pytest.mark.parametrize("axes,keep", [((1,), True), ((0, 2), False), ((0, 1, 2), False), ((), True), ((2,), False)])
@pytest.mark.parametrize("kind", ["sum", "mean", "prod", "max", "min"])
def test_reduce(axes: tuple[int, ...], keep: bool, kind: str) -> None:
    x = tensor(B, 3, 4)
    plan = run(graph([x], ap(Relu(), ap(Reduce(kind, axes, keep), ap(Mul(), x, x)))), B=2)
    assert len(plan.steps) == 1
    i = tensor(2, 3, 4, dtype=DType.I32)
    run(graph([i], ap(Reduce(kind, axes, keep), i)))


def test_arg_and_cumsum() -> None:
    x = tensor(B, 5)
    for kind in ("argmax", "argmin"):
        for last in (False, True):
            run(graph([x], ap(ArgReduce(kind, 1, last, last), x)), [np.array([[1, 3, 3, -1, -1]] * 2, np.float32)], B=2)
    for exclusive in (False, True):
        for reverse in (False, True):
            run(graph([x], ap(CumSum(1, exclusive, reverse), x)), B=2)


def test_rows() -> None:
    x = tensor(B, 3, 6)
    for axis in (1, 2):
        plan = run(graph([x], ap(Relu(), ap(Softmax(axis), ap(Mul(), x, const(np.float32(0.3)))))), B=2)
        assert len(plan.steps) == 1
        run(graph([x], ap(Softmax(axis, True), x)), B=2)
    run(graph([x], ap(Relu(), ap(LayerNorm(1, 1e-5), x, weights(3, 6), weights(3, 6)))), B=2)
    run(graph([x], ap(LayerNorm(2, 1e-5), ap(Sigmoid(), x), weights(6), weights(1))), B=2)
    run(graph([x], ap(RMSNorm(2, 1e-5), x, weights(6))), B=2)
    assert len(run(graph([x], ap(Softmax(2), ap(Sigmoid(), x))), B=2).steps) == 2


@pytest.mark.parametrize("kind", ["max", "avg", "lp"])
@pytest.mark.parametrize("ceil", [False, True])
def test_pool(kind: str, ceil: bool) -> None:
    x = tensor(B, 7, 6, 3)
    for include in (False, True):
        run(graph([x], ap(Pool(kind, (3, 2), (2, 2), (1, 0), (0, 1), (1, 2), ceil, include), x)), B=2)
    run(graph([x], ap(Pool(kind, (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), ceil), x)), B=2)
    run(graph([x], ap(LRN(3), x)), B=2)


@pytest.mark.parametrize("beta", [0.5, 0.6, 0.75, 1.0])
def test_lrn(beta: float) -> None:
    x = tensor(B, 4, 5, 7)
    run(graph([x], ap(LRN(3, 2.0, beta, 0.5), x)), B=2)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(heads: int, causal: bool) -> None:
    q, k, v, m = tensor(B, 4, 5, 3), tensor(B, heads, 6, 3), tensor(B, heads, 6, 2), tensor(B, 1, 1, 6)
    op = Attention(0.5, causal)
    run(graph([q, k, v, m], ap(op, q, k, v, m)), B=2)
    run(graph([q, k, v], ap(op, q, k, v)), B=1)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 5)), ((4, 2, 3), (4, 3, 5)), ((2, 4, 2, 3), (4, 3, 5)), ((1, 3), (2, 3, 5)), ((2, 1), (1, 5))]
)
def test_few_rows_by_a_computed_matrix_in_place(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (tensor(*s) for s in shapes)
    run(graph([a, b], ap(Relu(), ap(MatMul(), a, b))))
    wide = tensor(*shapes[1][:-1], 9)
    part = ap(Slice((0,) * (len(wide.shape) - 1) + (3,), shapes[1], (1,) * len(wide.shape)), wide)
    run(graph([a, wide], ap(MatMul(), a, part)))


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("step", [1, 2])
def test_columns_unevenly_apart_are_stored_by_lines(step: int, rows: int) -> None:
    """Pixels that strides or a crop pick: rows of the copy are lines of the image, where packing would gather."""
    a, x = tensor(rows, 8), tensor(1, 8, 20, 22)
    seen = ap(Reshape((8, 90)), ap(Slice((0, 0, 1, 1), (1, 8, 9, 10), (1, 1, step, step)), x))
    copies = [s.kernel.axes for s in run(graph([a, x], ap(MatMul(), a, seen))).steps if isinstance(s.kernel, LoopKernel)]
    assert math.prod(copies[0]) == 720


def test_columns_that_copy_fewer_elements_are_packed_from_those() -> None:
    a, x = tensor(200, 8), tensor(1, 8, 9, 1)
    wide = ap(Reshape((8, 90)), ap(Expand((1, 8, 9, 10)), x))
    copies = [s.kernel.axes for s in run(graph([a, x], ap(MatMul(), a, wide))).steps if isinstance(s.kernel, LoopKernel)]
    assert [math.prod(c) for c in copies] == [8 * 64, 8 * 26]


@pytest.mark.parametrize("shapes", [((4, 7), (7, 1)), ((2, 3, 4, 7), (2, 1, 7, 1)), ((3, 4, 7), (1, 7, 1))])
def test_matrix_by_a_column_is_a_sum(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (tensor(*s) for s in shapes)
    plan = run(graph([a, b], ap(Relu(), ap(MatMul(), a, b))))
    assert all(isinstance(s.kernel, LoopKernel) for s in plan.steps)


def test_row_by_a_transposed_matrix_reads_it_as_it_lies() -> None:
    a, b = tensor(2, 1, 7), tensor(2, 70, 7)
    plan = run(graph([a, b], ap(Relu(), ap(MatMul(), a, ap(Transpose((0, 2, 1)), b)))))
    assert len(plan.steps) == 1


@pytest.mark.parametrize("lead", [(), (3,)])
def test_few_rows_by_a_transposed_matrix_swap(lead: tuple[int, ...]) -> None:
    a, b, c = tensor(*lead, 3, 7), tensor(*lead, 20, 7), tensor(20)
    swap = (*range(len(lead)), len(lead) + 1, len(lead))
    plan = run(graph([a, b, c], ap(Add(), ap(MatMul(), a, ap(Transpose(swap), b)), c)))
    assert next(s.kernel for s in plan.steps if isinstance(s.kernel, ContractKernel)).m == 20


@pytest.mark.parametrize("rows, depth, along", [(3, 9, True), (4, 11, False), (8, 64, True), (33, 300, False), (B, 400, False)])
def test_few_rows_by_a_matrix_that_lies_by_columns(rows: Any, depth: int, along: bool) -> None:
    """Read as it lies, also where columns belong to heads side by side."""
    a, b = tensor(1, 3, rows, depth), tensor(1, 20, 3, depth)
    y = ap(Relu(), ap(MatMul(), a, ap(Transpose((0, 2, 3, 1)), b)))
    plan = run(graph([a, b], y), options=LowerOptions(inner=32), **({"B": 5} if rows is B else {}))
    kernels = [s.kernel for s in plan.steps]
    assert (len(kernels) == 1 and kernels[0].b_column == 3 * depth) == along, kernels


@pytest.mark.parametrize("n", [64, 65, 130, 20])
def test_packing_writes_the_columns_there_are(n: int) -> None:
    a, b = tensor(2, 200, 7), tensor(2, n, 7)
    run(graph([a, b], ap(Relu(), ap(MatMul(), a, ap(Transpose((0, 2, 1)), b)))))
    run(graph([a, b], ap(MatMul(), a, ap(Transpose((0, 2, 1)), ap(Relu(), b)))))


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_block_moves_nothing(batch: int) -> None:
    x = tensor(batch, 6, 8)
    q, k, v = (ap(Transpose((0, 2, 1, 3)), ap(Reshape((batch, 6, 2, 4)), ap(Add(), ap(MatMul(), x, weights(8, 8)), weights(8))))
               for _ in range(3))  # fmt: skip
    y = ap(Reshape((batch, 6, 8)), ap(Transpose((0, 2, 1, 3)), ap(Attention(0.5), q, k, v)))
    plan = run(graph([x], ap(MatMul(), y, weights(8, 8))))
    assert len(plan.steps) == 5, [s.kernel for s in plan.steps]  # q, k, v, attention, output


def test_attention_reads_parts_of_one_product() -> None:
    """q, k and v side by side, the way merged projections leave them."""
    x = tensor(2, 5, 24)
    parts = (ap(Slice((0, 0, 8 * i), (2, 5, 8), (1, 1, 1)), x) for i in range(3))
    q, k, v = (ap(Transpose((0, 2, 1, 3)), ap(Reshape((2, 5, 2, 4)), p)) for p in parts)
    y = ap(Reshape((2, 5, 8)), ap(Transpose((0, 2, 1, 3)), ap(Attention(0.5), q, k, v)))
    plan = run(graph([x], ap(MatMul(), y, weights(8, 8))))
    assert len(plan.steps) == 2, [s.kernel for s in plan.steps]


@pytest.mark.parametrize("rows, causal", [(1, False), (3, True), (40, False)])
def test_attention_of_few_heads_in_parts(rows: int, causal: bool) -> None:
    """Keys of few heads are cut, and the results of parts weighed; known sizes, sizes known when it runs, and rows of merged heads."""
    options = LowerOptions(attention_units=8)
    q, k, v = tensor(1, 4, rows, 64), tensor(1, 2, 1100, 64), tensor(1, 2, 1100, 64)
    y = ap(Transpose((0, 2, 1, 3)), ap(Attention(0.5, causal), q, k, v))
    plan = run(graph([q, k, v], y), options=options)
    kernels = [s.kernel for s in plan.steps]
    assert [k.parts for k in kernels if isinstance(k, AttentionKernel)] == [2]
    assert isinstance(kernels[-1], LoopKernel) and len(kernels) == 2
    mask = np.where(rng.random((1, 1, rows, 1100)) < 0.5, 0, -np.inf).astype(np.float32)
    mask[..., :700] = -np.inf
    run(graph([q, k, v], ap(Attention(0.5), q, k, v, const(mask))), options=options)
    n = sym("L", 1, 10_000)
    k, v = tensor(1, 2, n, 64), tensor(1, 2, n, 64)
    for length in (5, 1100):
        plan = run(graph([q, k, v], ap(Attention(0.5), q, k, v)), options=options, L=length)
    assert len(plan.steps) == 2
    assert len(run(graph([q, k, v], ap(Attention(0.5), q, k, v)), L=5).steps) == 1  # not unless asked


def test_attention_of_one_query_joins_the_heads_that_share_keys() -> None:
    q, k, v = tensor(2, 6, 1, 4), tensor(2, 2, 9, 4), tensor(2, 2, 9, 4)
    plan = run(graph([q, k, v], ap(Attention(0.5, True), q, k, v)))
    (step,) = plan.steps
    assert (step.kernel.heads, step.kernel.rows, step.kernel.causal) == (2, 3, False)


@pytest.mark.parametrize("shape", [(5, 6), (4, 1, 6), (2, 1, 5, 6), (2, 4, 5, 1), (1, 1, 1, 6)])
def test_attention_masks(shape: tuple[int, ...]) -> None:
    q, k, v, m = tensor(2, 4, 5, 3), tensor(2, 4, 6, 3), tensor(2, 4, 6, 2), tensor(*shape)
    run(graph([q, k, v, m], ap(Attention(0.5), q, k, v, m)))
    run(graph([q, k, v], ap(Attention(0.5), q, k, v, const(rng.standard_normal(shape).astype(np.float32)))))


@pytest.mark.parametrize("shape, by_rows", [((2, 4, 5, 6), True), ((4, 5, 6), True), ((5, 6), False), ((2, 4, 1, 6), False)])
def test_attention_turns_masks_that_few_heads_read(shape: tuple[int, ...], by_rows: bool) -> None:
    q, k, v, m = tensor(2, 4, 5, 3), tensor(2, 4, 6, 3), tensor(2, 4, 6, 2), tensor(*shape)
    for mask in (m, ap(Add(), m, m)):
        plan = run(graph([q, k, v, m], ap(Attention(0.5), q, k, v, mask)), options=LowerOptions(mask_turns=2))
        (kernel,) = [s.kernel for s in plan.steps if isinstance(s.kernel, AttentionKernel)]
        assert kernel.mask_strides is not None and (kernel.mask_strides[2:] == (1, 6)) == by_rows
        assert not by_rows or len(plan.steps) == 1 + isinstance(mask.node.op, Add)


def test_layers_share_a_transposed_mask() -> None:
    x, m = tensor(1, 2, 5, 4), tensor(1, 1, 5, 5)
    y = ap(Attention(0.5), x, x, x, m)
    plan = run(graph([x, m], ap(Attention(0.5), y, y, y, m)))
    assert len(plan.steps) == 3


def test_attention_of_other_element_types_stores_scores() -> None:
    q = tensor(1, 2, 5, 4, dtype=DType.F64)
    assert len(run(graph([q], ap(Attention(0.5), q, q, q))).steps) > 1


def test_concat_of_convolutions() -> None:
    x = tensor(B, 4, 4, 3)
    parts = [ap(Relu(), ap(Conv((1, 1), (0, 0), (0, 0), (1, 1)), x, weights(1, 1, 3, n))) for n in (8, 5)]
    plan = run(graph([x], ap(Reshape((B, 16, 13)), ap(Concat(3), *parts))), B=2)
    assert len(plan.steps) == 2


@pytest.mark.parametrize("cell,n,acts", [("lstm", 4, ("Sigmoid", "Tanh", "Tanh")), ("gru", 3, ("Sigmoid", "Tanh")), ("rnn", 1, ("Tanh",))])
@pytest.mark.parametrize("directions", [(False,), (False, True)])
def test_recurrent(cell: str, n: int, acts: tuple[str, ...], directions: tuple[bool, ...]) -> None:
    d, t, b, i, h = len(directions), 4, 2, 3, 5
    x, h0 = tensor(t, b, i), tensor(d, b, h)
    op = Recurrent(cell, h, directions, tuple((a, 0.0, 0.0) for a in acts) * d, 0.0, True, False)
    lens = const(np.array([4, 3], np.int32))
    args = (weights(d, n * h, i), weights(d, n * h, h), weights(d, 2 * n * h), lens, h0, weights(d, b, h), weights(d, 3 * h))
    node = Node.make(op, (x, *args))
    run(graph([x, h0], *node.outputs))
    run(graph([x, h0], node.outputs[0]))


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("cell,n,acts", [("lstm", 4, ("Sigmoid", "Tanh", "Tanh")), ("gru", 3, ("Sigmoid", "Tanh"))])
def test_recurrent_of_small_floats_keeps_its_state_in_float32(cell: str, n: int, acts: tuple[str, ...], dtype: DType) -> None:
    t, b, i, h = 6, 2, 3, 5
    x, h0 = tensor(t, b, i, dtype=dtype), tensor(1, b, h, dtype=dtype)

    def small(*shape: int) -> object:
        return const(rng.standard_normal(shape).astype(dtype.np))

    op = Recurrent(cell, h, (False,), tuple((a, 0.0, 0.0) for a in acts))
    lens = const(np.array([6, 4], np.int32))
    args = (small(1, n * h, i), small(1, n * h, h), small(1, 2 * n * h), lens, h0, small(1, b, h), small(1, 3 * h))
    run(graph([x, h0], *Node.make(op, (x, *args)).outputs), tol=1e-3 if dtype is DType.F16 else 1e-2)


def test_if() -> None:
    c, x = tensor(dtype=DType.BOOL), tensor(2, 3)
    y = tensor(2, 3)
    then, other = graph([y], ap(Relu(), y), y), graph([y], ap(Sub(), y, y), ap(Add(), y, y))
    node = Node.make(If(then, other), (c, x))
    for flag in (True, False):
        run(
            graph([c, x], ap(Sigmoid(), node.outputs[0]), node.outputs[1]),
            [np.array(flag), rng.standard_normal((2, 3)).astype(np.float32)],
        )


def test_loop() -> None:
    i, c, s, k = tensor(dtype=DType.I64), tensor(dtype=DType.BOOL), tensor(2, 3), tensor(2, 3)
    body = graph([i, c, s, k], c, ap(Add(), s, k), ap(Mul(), s, s))
    x, y = tensor(2, 3), tensor(2, 3)
    node = Node.make(Loop(body, 1, 1, 4), (const(np.int64(4)), const(np.bool_(True)), x, y))
    run(graph([x, y], *node.outputs))


def test_what_fuses_is_decided_once_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop's kernels behind its body asked for all of the graph around it once more."""
    decided: list[Graph] = []
    whole = Fusion.__init__

    def counted(self: Fusion, of: Graph, *options: bool) -> None:
        decided.append(of)
        whole(self, of, *options)

    monkeypatch.setattr(Fusion, "__init__", counted)
    i, c, s = tensor(dtype=DType.I64), tensor(dtype=DType.BOOL), tensor(2, 3)
    body = graph([i, c, s], c, ap(Relu(), s), ap(Mul(), s, s))
    x = tensor(2, 3)
    g = graph([x], *Node.make(Loop(body, 1, 1, 4), (const(np.int64(4)), const(np.bool_(True)), x)).outputs)
    lower(g, LowerOptions())
    assert [id(of) for of in decided] == [id(g), id(body)]


def test_deep_graph() -> None:
    x = tensor(1, 4)
    y = x
    for n in range(3000):
        y = ap(Slice((0, 0), (1, 4), (1, 1)), ap(Relu(), y)) if n % 7 == 0 else ap(Add(), y, x)
    assert run(graph([x], y), [np.full((1, 4), 1e-3, np.float32)]).steps


def test_kernels_are_equal_where_only_offsets_differ() -> None:
    x = tensor(4, 12, dtype=F)
    parts = [ap(Relu(), ap(Slice((0, start), (4, 4), (1, 1)), x)) for start in (0, 4, 8)]
    plan = run(graph([x], *parts))
    assert all(isinstance(s.kernel, LoopKernel) for s in plan.steps)
    assert len({repr(s.kernel) for s in plan.steps}) == 1


def test_convolution_to_one_pixel() -> None:
    x = tensor(1, 2, 4)
    run(graph([x], ap(Conv((2,), (1,), (1,), (1,)), x, weights(3, 4, 5))))


def test_scale_behind_moves_joins_the_product() -> None:
    x = tensor(1, 6, 8)
    y = x
    for _ in range(2):  # twice: what was rewritten before does not stop it
        y = ap(Add(), ap(MatMul(), y, weights(8, 8)), weights(8))
        y = ap(Transpose((0, 2, 1, 3)), ap(Reshape((1, 6, 2, 4)), y))
        y = ap(Relu(), ap(Mul(), y, const(np.float32(0.5))))
        y = ap(Reshape((1, 6, 8)), ap(Transpose((0, 2, 1, 3)), y))
    plan = run(graph([x], y))
    assert all(isinstance(s.kernel, ContractKernel) for s in plan.steps) or len(plan.steps) <= 4


def test_skip_connection_lives_in_the_concatenation() -> None:
    x = tensor(B, 4, 4, 3)
    skip = ap(Relu(), ap(Conv((1, 1), (1, 1), (1, 1), (1, 1)), x, weights(3, 3, 3, 8)))
    down = ap(Pool("max", (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)), skip)
    up = ap(ConvTranspose((2, 2), (0, 0), (0, 0), (0, 0), (1, 1)), down, weights(2, 2, 6, 8))
    y = ap(Conv((1, 1), (1, 1), (1, 1), (1, 1)), ap(Concat(3), up, skip), weights(3, 3, 14, 4))
    plan = run(graph([x], y), B=2)
    assert len(plan.steps) == 5
    assert not plan.steps[3].kernel.stages  # taps that do not overlap are a move


@pytest.mark.parametrize("k,s,d,lo", [(3, 2, 1, 1), (4, 2, 1, 1), (5, 3, 1, 0), (2, 3, 1, 0), (3, 2, 2, 1), (4, 1, 1, 2)])
def test_conv_transpose_taps(k: int, s: int, d: int, lo: int) -> None:
    x = tensor(1, 5, 4)
    run(graph([x], ap(ConvTranspose((s,), (lo,), (0,), (0,), (d,)), x, weights(k, 3, 4))))


@pytest.mark.parametrize("out,first", [(1, ContractKernel), (3, LoopKernel)])
def test_conv_transpose_reads_channels_first(out: int, first: type) -> None:
    """Where all taps make less than the image holds; else the image is turned."""
    x = tensor(B, 8, 5, 3)
    last = ap(Transpose((0, 2, 3, 1)), x)
    y = ap(ConvTranspose((2, 2), (0, 0), (0, 0), (0, 0), (1, 1)), last, weights(2, 2, out, 8))
    plan = run(graph([x], y), options=LowerOptions(planes=True), B=2)
    assert type(plan.steps[0].kernel) is first


def test_window_partition_is_the_store_of_the_norm() -> None:
    x = tensor(1, 4, 6, 8)
    y = ap(LayerNorm(3, 1e-5), x, weights(8), weights(8))
    y = ap(Transpose((0, 1, 3, 2, 4, 5)), ap(Reshape((1, 2, 2, 2, 3, 8)), y))
    plan = run(graph([x], ap(MatMul(), ap(Reshape((4, 6, 8)), y), weights(8, 5))))
    assert len(plan.steps) == 2


def test_greatest_and_least_are_one_kernel():
    """Of the same elements, not of other axes."""
    x = tensor(8, 40)
    values = [ap(Reduce(kind, axes, False), x) for kind, axes in (("max", (1,)), ("min", (1,)), ("min", (0,)))]
    data = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    data[3, 7] = np.nan
    plan = run(graph([x], *values), [data], [data.max(1), data.min(1), data.min(0)])
    assert sorted(len(s.kernel.stages) for s in plan.steps) == [1, 2]


def test_dequantizers_are_computed_where_they_are_read() -> None:
    """Bytes are stored, not the floats that a reduction and a product read."""
    x, w = tensor(1, 6, 6, 8), weights(3, 3, 1, 8)
    step, zero = const(np.float32(0.05)), const(np.uint8(100))
    y = ap(Dequantize(), ap(Quantize(DType.U8), ap(Conv((1, 1), (1, 1), (1, 1), (1, 1), 8), x, w), step, zero), step, zero)
    mean = ap(Reduce("mean", (1, 2), True), ap(Reshape((1, 2, 3, 6, 8)), y))
    plan = run(graph([x], ap(Mul(), y, ap(Sigmoid(), y)), mean))
    assert [b.dtype for b in plan.buffers if b.kind == "arena"] == [DType.U8]
