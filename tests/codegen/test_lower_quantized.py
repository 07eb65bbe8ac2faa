"""Integer products: their plans compute what the ops mean, with zero points on either side, borders, and any size."""

import sys
from pathlib import Path

import numpy as np
import pytest
from mlc.codegen.expr import Cast as CastOf
from mlc.codegen.expr import postorder
from mlc.codegen.kernel import ContractKernel
from mlc.codegen.plan import Step
from mlc.ir import DType, const, sym
from mlc.ir.ops import Add, Cast, DotConv, IntegerConv, IntegerMatMul, MatMul, Max, Min, Mul, Quantize, Relu, Transpose

sys.path.insert(0, str(Path(__file__).parent))
from lowering import ap, graph, run, tensor

R = np.random.default_rng(3)


def full(shape, dtype):
    info = np.iinfo(dtype)
    return R.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("a", [np.uint8, np.int8])
@pytest.mark.parametrize("b", [np.uint8, np.int8])
@pytest.mark.parametrize("zeros", ["none", "numbers", "columns", "computed", "rows"])
def test_matmul(a, b, zeros):
    m, k, n = 5, 19, 37
    x = tensor(2, m, k, dtype=DType.from_numpy(a))
    w = const(full((k, n), b))
    given = [full((2, m, k), a)]
    az, bz = const(np.zeros((), a)), const(np.zeros((), b))
    inputs = [x]
    if zeros != "none":
        az, bz = const(np.asarray(3, a)), const(np.asarray(7, b))
    if zeros == "columns":
        bz = const(full((n,), b))
    if zeros == "rows":
        az = const(full((m, 1), a))
    if zeros == "computed":
        az, w = tensor(dtype=DType.from_numpy(a)), tensor(k, n, dtype=DType.from_numpy(b))
        inputs += [az, w]
        given += [np.asarray(9, a), full((k, n), b)]
    run(graph(inputs, ap(IntegerMatMul(), x, w, az, bz)), given)


def test_batched_operands():
    x, w = tensor(3, 5, 70, dtype=DType.U8), tensor(3, 70, 6, dtype=DType.I8)
    z = const(np.uint8(128)), const(np.int8(-4))
    run(graph([x, w], ap(IntegerMatMul(), x, w, *z)), [full((3, 5, 70), np.uint8), full((3, 70, 6), np.int8)])


def test_symbolic_sizes():
    m, k = sym("M"), sym("K")
    x, w = tensor(m, k, dtype=DType.I8), tensor(k, 9, dtype=DType.U8)
    z = const(np.int8(-7)), const(np.uint8(130))
    given = [full((4, 11), np.int8), full((11, 9), np.uint8)]
    want = IntegerMatMul().reference(*given, np.int8(-7), np.uint8(130))
    run(graph([x, w], ap(IntegerMatMul(), x, w, *z)), given, want, M=4, K=11)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("k,n", [(64, 64), (64, 37), (20, 32), (19, 5), (66, 33)])
def test_computed_matrices_are_packed_in_pieces(turned, k, n):
    """Whole panels and lines, what is left of them, and zeros behind the last row; of known and of unknown sizes."""
    shape = (2, n, k) if turned else (2, k, n)
    given = [full((2, 5, k), np.uint8), full(shape, np.int8)]
    want = given[0].astype(np.int32) @ (given[1].swapaxes(1, 2) if turned else given[1])
    names = {"K": k, "N": n}
    for sizes in (names, {name: sym(name) for name in names}):
        x = tensor(2, 5, sizes["K"], dtype=DType.U8)
        w = tensor(2, *((sizes["N"], sizes["K"]) if turned else (sizes["K"], sizes["N"])), dtype=DType.I8)
        b = ap(Transpose((0, 2, 1)), w) if turned else w
        acc = ap(IntegerMatMul(), x, b, const(np.uint8(0)), const(np.int8(0)))
        run(graph([x, w], acc), given, [want], **({} if sizes is names else names))


@pytest.mark.parametrize("x_type,w_type", [(np.uint8, np.int8), (np.int8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("groups,c,o", [(1, 5, 7), (2, 8, 6), (6, 6, 6), (6, 6, 12)])
@pytest.mark.parametrize("w_zero", ["none", "number", "channels"])
def test_conv(x_type, w_type, groups, c, o, w_zero):
    x = tensor(2, 6, 7, c, dtype=DType.from_numpy(x_type))
    w = const(full((3, 2, c // groups, o), w_type))
    z = {"none": np.zeros(1, w_type), "number": np.full(1, 5, w_type), "channels": full((o,), w_type)}[w_zero]
    op = IntegerConv((2, 1), (1, 0), (1, 1), (1, 2), groups)
    run(graph([x], ap(op, x, w, const(np.asarray(17, x_type)), const(z))), [full((2, 6, 7, c), x_type)])


@pytest.mark.parametrize(
    "groups,each,out,products",
    [(10, 16, 16, 5), (4, 16, 16, 2), (25, 16, 16, 25), (8, 4, 4, 1), (6, 8, 24, 6), (2, 64, 64, 2), (3, 2, 1, 1)],
)
@pytest.mark.parametrize("dtype", [DType.BF16, DType.U8])
def test_groups_of_few_channels_share_a_product(groups, each, out, products, dtype):
    """Zeros stand between them, where all fits lines of inputs and a panel of outputs."""
    c, o, floats = groups * each, groups * out, dtype is DType.BF16
    if floats:
        given, weights = (R.standard_normal(s).astype(np.float32).astype(dtype.np) for s in ((1, 5, 6, c), (3, 3, each, o)))
    else:
        given, weights = full((1, 5, 6, c), np.uint8), full((3, 3, each, o), np.int8)
    x, op = tensor(1, 5, 6, c, dtype=dtype), DotConv((1, 1), (1, 1), (1, 1), (1, 1), groups)
    plan = run(graph([x], ap(op, x, const(weights))), [given], op.reference(given, weights))
    batches = [s.kernel.batch for s in plan.steps if isinstance(s, Step) and isinstance(s.kernel, ContractKernel)]
    assert batches == [products]


def test_pointwise_conv_with_a_dynamic_batch():
    x = tensor(sym("N"), 3, 3, 8, dtype=DType.U8)
    w, z = full((1, 1, 8, 5), np.int8), (np.uint8(100), np.int8(0))
    op = IntegerConv((1, 1), (0, 0), (0, 0), (1, 1))
    given = full((2, 3, 3, 8), np.uint8)
    run(graph([x], ap(op, x, const(w), *map(const, z))), [given], op.reference(given, w, *map(np.asarray, z)), N=2)


def test_rescaling_joins_the_product():
    """A quantized layer is one kernel: product, zero point, bias, activation and rounding."""
    x, w = tensor(6, 40, dtype=DType.U8), const(full((40, 32), np.int8))
    acc = ap(Add(), ap(IntegerMatMul(), x, w, const(np.uint8(120)), const(np.int8(0))), const(R.integers(-99, 99, 32).astype(np.int32)))
    y = ap(Mul(), ap(Cast(DType.F32), acc), const(R.uniform(1e-3, 1e-2, 32).astype(np.float32)))
    q = ap(Quantize(DType.U8), ap(Relu(), y), const(np.float32(0.25)), const(np.uint8(3)))
    plan = run(graph([x], q), [full((6, 40), np.uint8)])
    (step,) = plan.steps
    assert isinstance(step, Step) and isinstance(step.kernel, ContractKernel) and step.kernel.group == 4


def test_clamped_values_convert_to_bytes():
    x = tensor(50)
    y = ap(Cast(DType.I8), ap(Min(), ap(Max(), x, const(np.float32(-128))), const(np.float32(127))))
    run(graph([x], y), [np.linspace(-300, 300, 50).astype(np.float32)])


def test_residual_sums_are_quantized_in_the_epilogue():
    x, w, other = tensor(64, 40, dtype=DType.U8), const(full((40, 32), np.int8)), tensor(64, 32)
    y = ap(Mul(), ap(Cast(DType.F32), ap(IntegerMatMul(), x, w, const(np.uint8(3)), const(np.int8(0)))), const(np.float32(0.01)))
    q = ap(Quantize(DType.U8), ap(Add(), y, other), const(np.float32(0.3)), const(np.uint8(128)))
    run(graph([x, other], q), [full((64, 40), np.uint8), R.standard_normal((64, 32)).astype(np.float32) * 9])


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16], ids=str)
def test_results_of_16_bits_are_rounded_once(dtype):
    """Not as they are computed, and again as they are stored."""
    x, y, w = tensor(64, 48), tensor(64, 48), const(full((48, 32), np.int8).astype(np.float32))
    given = [R.integers(-8, 8, (64, 48)).astype(np.float32) for _ in "xy"]  # whose sums are exact
    plan = run(graph([x, y], ap(Cast(dtype), ap(Add(), x, y)), ap(Cast(dtype), ap(MatMul(), x, w))), given)
    roots = [s.kernel.epilogue if isinstance(s.kernel, ContractKernel) else s.kernel.stores[0].value for s in plan.steps]
    assert [sum(isinstance(e, CastOf) for e in postorder([root])) for root in roots] == [1, 1]
