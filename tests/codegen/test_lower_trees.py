"""Trees by the interpreter of kernels against the meaning of their ops, for few rows and for many."""

import numpy as np
import pytest
from lowering import ap, graph, run, tensor
from mlc.codegen.lower import LowerOptions
from mlc.errors import VerifyError
from mlc.ir import Const, DType, Node, sym
from mlc.ir import ops as O

TREES, FEATURES = 5, 3


def const(array):
    return Node.make(Const(array), ()).out


def nodes(count, targets, dtype, bits):
    """Random nodes, and masks that always leave one bit of the lowest `count + 1`."""
    rng = np.random.default_rng(count)
    shape = (count, targets, TREES) if targets else (count, TREES)
    masks = ~(1 << rng.integers(0, count, shape)).astype(bits)
    return rng.integers(0, FEATURES, shape).astype(np.int32), rng.standard_normal(shape).astype(dtype), masks


@pytest.mark.parametrize("rows", [1, 3, 4, 21])
@pytest.mark.parametrize(
    "count,bits,dtype", [(1, np.int32, DType.F32), (31, np.int32, DType.F32), (63, np.int64, DType.F32), (9, np.int64, DType.F64)]
)
@pytest.mark.parametrize("kind", ["sum", "max", None])
def test_all_nodes_are_asked(rows, count, bits, dtype, kind):
    rng = np.random.default_rng(rows)
    x = tensor(sym("N"), FEATURES, dtype=dtype)
    tables = nodes(count, 2 if kind else 0, dtype.np, bits)
    turned = ap(O.Transpose((1, 0)), x)
    given = rng.standard_normal((rows, FEATURES)).astype(dtype.np)
    if kind:
        last = rng.standard_normal((count + 1, 2, TREES)).astype(np.float32)
        op = O.AskedTreeSum(kind)
    else:
        last, op = rng.integers(0, 99, (count + 1, TREES)).astype(np.int32), O.AskedTreeLeaves()
    y = ap(op, x, turned, *map(const, tables), const(last))
    bits_left = np.full((rows, *tables[0].shape[1:]), -1, bits)
    for feature, threshold, mask in zip(*tables, strict=True):
        bits_left &= np.where(given[:, feature] > threshold, mask, bits(-1))
    leaf = np.array([(int(b) & -int(b)).bit_length() - 1 for b in bits_left.ravel()]).reshape(bits_left.shape)
    want = np.take_along_axis(last, leaf.reshape(rows, -1), 0) if last.ndim == 1 else last[(leaf, *np.indices(leaf.shape)[1:])]
    if kind:
        want = getattr(want, kind)(-1).astype(np.float32)
    np.testing.assert_allclose(op.reference(given, given.T, *tables, last)[0], want, rtol=1e-5, atol=1e-5)
    run(graph([x], y), [given], [want], N=rows)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("kind", ["sum", None])
@pytest.mark.parametrize("depth", [3, 17, 50])
def test_trees_are_walked_in_turns(rows, kind, depth):
    """Combs: node 2·i goes on to 2·i + 2 at its right, and ends in 2·i + 1 at its left."""
    count, x = 2 * depth + 1, tensor(sym("N"), FEATURES)
    inner = np.arange(count) % 2 == 0
    inner[-1] = False
    child = np.where(inner, np.arange(count) + 1, np.arange(count)).astype(np.int32)
    threshold = np.where(inner, np.linspace(-2, 2, count), np.inf).astype(np.float32)
    feature = (np.arange(count) % FEATURES).astype(np.int32)
    last = np.arange(count).astype(np.float32 if kind else np.int32)
    root = np.zeros((2, 3) if kind else 3, np.int32)
    op = O.TreeSum(depth, kind) if kind else O.TreeLeaves(depth)
    given = np.random.default_rng(depth).standard_normal((rows, FEATURES)).astype(np.float32)
    given[0] = 9
    tables = root, feature, threshold, child, last
    want = op.reference(given, *tables)[0]
    assert (want[0] == (count - 1) * (3 if kind else 1)).all()
    run(graph([x], ap(op, x, *map(const, tables))), [given], [want], options=LowerOptions(walk=12), N=rows)


def test_tables_that_do_not_fit_are_refused():
    x = tensor(4, FEATURES)
    feature, threshold, mask = nodes(40, 2, np.float32, np.int32)
    values = np.zeros((41, 2, TREES), np.float32)
    with pytest.raises(VerifyError, match="as many leaves as bits"):
        ap(O.AskedTreeSum(), x, ap(O.Transpose((1, 0)), x), const(feature), const(threshold), const(mask), const(values))
