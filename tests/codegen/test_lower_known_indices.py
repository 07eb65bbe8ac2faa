"""Constant indices of equal steps are index arithmetic; others are read."""

from __future__ import annotations

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.lower.known_indices import distinct, steps_of
from mlc.codegen.plan import Plan
from mlc.ir import DType, const, sym
from mlc.ir.ops import Gather, GatherND, ScatterND

B = sym("B", 1)


def reads_indices(plan: Plan) -> bool:
    return any(b.kind == "const" and b.dtype is DType.I64 for b in plan.buffers)


def places(*ranges: range) -> np.ndarray:
    """[*lengths, axes]: what an assignment to x[ranges] writes to."""
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).astype(np.int64)


@pytest.mark.parametrize("shape, indices", [
    ((4, 6, 9), places(range(4), range(2, 5), range(3, 9))),
    ((4, 6, 9), places(range(1, 3))),
    ((4, 6, 9), places(range(3, 4), range(0, 6, 2))),
    ((4, 6, 9), places(range(0, 4, 3), range(5, -1, -1), range(8))),
    ((12,), np.arange(12)[::-1, None].copy()),
])  # fmt: skip
def test_assignment_to_a_slice(shape: tuple[int, ...], indices: np.ndarray) -> None:
    x, u = tensor(*shape), tensor(*indices.shape[:-1], *shape[indices.shape[-1] :])
    assert not reads_indices(run(graph([x, u], ap(ScatterND(), x, const(indices), u))))


@pytest.mark.parametrize("indices", [
    places(range(3), range(4)) * [1, 0],  # the last of several wins
    np.array([[0, 0], [1, 1], [2, 3]]),
    np.array([[-1, 0], [-1, 1]]),
    np.array([[3, 5], [2, 4], [3, 5]]),
])  # fmt: skip
def test_other_places(indices: np.ndarray) -> None:
    x, u = tensor(4, 6, 9), tensor(*indices.shape[:-1], 9)
    run(graph([x, u], ap(ScatterND(), x, const(indices.astype(np.int64)), u)))


def test_slices_are_added_to() -> None:
    indices = places(range(1, 3), range(4))
    x, u = tensor(4, 6), tensor(*indices.shape[:-1])
    run(graph([x, u], ap(ScatterND("add"), x, const(indices), u)))


@pytest.mark.parametrize("indices", [
    np.arange(3)[:, None] * 4 + np.arange(8),  # windows that overlap
    np.arange(3)[:, None, None] * 5 + np.arange(4)[:, None] - 2 * np.arange(2) + 2,
    np.array([7, 5, 3]),
    np.array([[11]]),
])  # fmt: skip
def test_strided_views(indices: np.ndarray) -> None:
    x = tensor(5, 20)
    assert not reads_indices(run(graph([x], ap(Gather(1), x, const(indices.astype(np.int64))))))


@pytest.mark.parametrize("indices", [np.array([0, 1, 3]), np.array([-2, -1]), np.array([[0, 1], [2, 4]])])
def test_other_indices_are_read(indices: np.ndarray) -> None:
    x = tensor(5, 20)
    assert reads_indices(run(graph([x], ap(Gather(1), x, const(indices)))))


def test_elements_by_steps() -> None:
    x = tensor(5, 20)
    assert not reads_indices(run(graph([x], ap(GatherND(), x, const(places(range(1, 4), range(0, 20, 3)))))))


def test_symbolic_sizes() -> None:
    x = tensor(B, 20)
    run(graph([x], ap(Gather(0), x, const(np.zeros(2, np.int64)))), B=3)
    run(graph([x], ap(Gather(0), x, const(np.arange(2)))), B=3)  # the size may be 1: indices are kept within it


def test_what_steps_are() -> None:
    assert steps_of(np.arange(24).reshape(2, 3, 4) * 2 + 5) == (5, (24, 8, 2))
    assert steps_of(np.array([[0, 1], [1, 3]])) is None and steps_of(np.array([0, 2, 1, 3])) is None
    assert steps_of(np.zeros((0, 2), np.int64)) is None and steps_of(np.zeros(3, np.float32)) is None
    assert distinct(places(range(2), range(3)), (2, 3)) and not distinct(places(range(2), range(3)), (2, 2))
    assert not distinct((np.arange(3)[:, None] + np.arange(3))[..., None], (5,))
    assert distinct((np.arange(3)[:, None] + 3 * np.arange(3))[..., None], (9,))
