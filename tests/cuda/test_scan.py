"""Running sums and products on CUDA: blocks share rows; the order stays in one thread where rows are short or many."""

from __future__ import annotations

import pytest
from emulated import check_all, needs_gxx
from lowering import ap, graph, tensor
from mlc.codegen.cuda.emit import emit
from mlc.codegen.cuda.scan import schedule_scan
from mlc.codegen.cuda.target import LOWERING, parse
from mlc.codegen.kernel import LoopKernel
from mlc.codegen.lower import lower
from mlc.ir import DType, Graph, sym
from mlc.ir import ops as O

N = sym("N", 0)


def running(op: type[O.CumSum] | type[O.CumProd], *shape: object, axis: int = 0, exclusive: bool = False, reverse: bool = False,
            dtype: DType = DType.F32) -> Graph:  # fmt: skip
    x = tensor(*shape, dtype=dtype)
    return graph([x], ap(op(axis, exclusive, reverse), x))


@needs_gxx
def test_rows_and_columns() -> None:
    jobs = [
        (running(O.CumSum, 3, 100, axis=1), {}),
        (running(O.CumSum, 2, 2500, axis=1, reverse=True), {}),
        (running(O.CumSum, 3, 70, 5, axis=1, exclusive=True, reverse=True, dtype=DType.I64), {}),
        (running(O.CumSum, 4, N, axis=1, exclusive=True, dtype=DType.I32), {"N": 600}),
        (running(O.CumSum, N, dtype=DType.F64), {"N": 0}),
        (running(O.CumSum, N, dtype=DType.F64), {"N": 1}),
        (running(O.CumProd, 2, 65, axis=1, dtype=DType.F64), {}),
        (running(O.CumSum, 2, 90, axis=1, dtype=DType.F16), {}),
    ]
    for plan in check_all([(g, None, bindings) for g, bindings in jobs]):
        kernel = plan.steps[0].kernel
        assert isinstance(kernel, LoopKernel) and schedule_scan(kernel, [16, 16]) is not None


@pytest.mark.parametrize("shape,axis", [((1000, 32), 1), ((100, 4096), 0)])
def test_not_shared(shape: tuple[int, ...], axis: int) -> None:
    (step,) = lower(running(O.CumSum, *shape, axis=axis), LOWERING).steps
    assert isinstance(step.kernel, LoopKernel) and schedule_scan(step.kernel, [16, 16]) is None
    assert "a thread for each 1 point" in emit(step.kernel, parse("cuda:sm_80"), [16, 16]).launches[0].source
