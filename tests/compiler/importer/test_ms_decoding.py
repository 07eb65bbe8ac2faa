"""onnxruntime's attention with shared caches, beams and block masks, and n-gram blocking, compared with it."""

import mlc
import numpy as np
import onnxruntime as ort
import pytest
from against_onnxruntime import session
from ms_nodes import R, build, compare, f, i32, typed

N, H, D, MAX = 4, 3, 4, 9
FLOATS = ("float",) * 4


def token():
    return [f(N, 1, H * D) for _ in range(3)]


def cache(length=MAX):
    return [f(N, H, length, D), f(N, H, length, D)]


@pytest.mark.parametrize("bias", [False, True])
def test_self_attention_of_one_token(bias):
    """onnxruntime has caches that grow in MultiHeadAttention only."""
    given, extra, (q, k, v), (past_k, past_v) = f(3 * H * D) if bias else None, f(1, H, 1, 6), token(), cache(5)
    model = build(
        "DecoderMaskedMultiHeadAttention", [q, k, v, None, extra, past_k, past_v, None, None, None, given], ["y", "k", "v"], num_heads=H
    )
    feeds = {"x0": q, "x1": k, "x2": v, "x4": extra, "x5": past_k, "x6": past_v, "x10": given}
    got = mlc.compile(typed(model, *FLOATS[:3]), threads=1).run({n: x for n, x in feeds.items() if x is not None})
    operands = [q, k, v, given, None, extra, past_k, past_v]
    want = session(build("MultiHeadAttention", operands, ["y", "k", "v"], num_heads=H)).run(
        None, {f"x{i}": x for i, x in enumerate(operands) if x is not None}
    )
    for name, x in zip("ykv", want, strict=True):
        np.testing.assert_allclose(got[name], x, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("past", [0, 5, 8])
def test_shared_cache(past):
    mask = np.ones((N, past + 1), np.int32)
    mask[1, :1] = 0
    for m in (None, mask):
        operands = [*token(), m, None, *cache(), i32([past])]
        given = {"num_heads": H, "past_present_share_buffer": 1}
        compare("DecoderMaskedMultiHeadAttention", operands, outs=("y", "k", "v"), constants=(7,), **given)
        compare("DecoderMaskedMultiHeadAttention", operands, outs=("y", "k", "v"), symbolic=True, **given)


def test_beams():
    beams = R.integers(0, 2, (2, 2, MAX)).astype(np.int32)
    operands = [*token(), None, None, *cache(), i32([6]), i32([2]), beams]
    compare("DecoderMaskedMultiHeadAttention", operands, outs=("y", "k", "v"), num_heads=H, past_present_share_buffer=1)
    operands = [*token(), f(3 * H * D), None, None, *cache(), i32([6]), beams]
    compare("MultiHeadAttention", operands, outs=("y", "k", "v"), num_heads=H)


def test_cross_attention_of_one_token():
    mask = np.ones((N, MAX), np.int32)
    mask[2, 4:] = 0
    for m in (None, mask):
        operands = [f(N, 1, H * D), *cache(), m, None, None, None, None, None, None, f(3 * H * D)]
        compare("DecoderMaskedMultiHeadAttention", operands, num_heads=H)


def test_products_of_queries_and_keys():
    q, k = f(N, 3, H * D), f(N, 5, H * D)
    for extra in (None, f(1, H, 3, 5)):
        compare("MultiHeadAttention", [q, k, k, None, None, extra], outs=("y", "pk", "pv", "qk"), kinds=FLOATS, num_heads=H)


def layouts(count, side):
    """A CSR mask whose rows see the first block, their own, and others at random."""
    rows, columns = [], []
    for _ in range(count):
        seen = np.tril(R.integers(0, 2, (side, side)) | np.eye(side, dtype=np.int64))
        seen[:, 0] = 1
        rows.append(np.concatenate([[0], np.cumsum(seen.sum(1))]))
        columns.append(np.nonzero(seen)[1])
    width = max(map(len, columns))
    return i32(np.stack(rows)), i32(np.stack([np.pad(c, (0, width - len(c)), constant_values=-1) for c in columns]))


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_sparse_attention(step, packed, rotary):
    n, heads, groups, size, block, most, s = 2, 4, 2, 16, 16, 64, 1 if step else 40
    total = 41 if step else 40
    rows, columns = layouts(2, most // block)
    lengths = i32([total, total])  # of shorter sequences onnxruntime reads scores that it did not write
    sides = (
        [f(n, s, (heads + 2 * groups) * size), None, None] if packed else [f(n, s, heads * size), *(f(n, s, groups * size) for _ in "kv")]
    )
    past = [f(n, groups, most, size), f(n, groups, most, size)]
    tables = [f(most, size // 2), f(most, size // 2)] if rotary else []
    operands = [*sides, *past, rows, columns, i32([total]), lengths, *tables]
    given = {"num_heads": heads, "kv_num_heads": groups, "sparse_block_size": block, "do_rotary": int(rotary)}
    model = build("SparseAttention", operands, ["y", "k", "v"], constants=(5, 6, 7), **given)
    feeds = {f"x{i}": x for i, x in enumerate(operands) if x is not None and i not in (5, 6, 7)}
    got = mlc.compile(typed(model, *FLOATS[:3]), threads=1).run(feeds)
    oracle = session(build("SparseAttention", operands, ["y", "k", "v"], constants=(5, 6, 7), **given))
    binding = oracle.io_binding()  # onnxruntime writes into the cache that it reads
    caches = [ort.OrtValue.ortvalue_from_numpy(x.copy()) for x in past]
    for name, x in feeds.items():
        if name in ("x3", "x4"):
            binding.bind_ortvalue_input(name, caches[int(name[1]) - 3])
        else:
            binding.bind_cpu_input(name, x)
    binding.bind_output("y")
    for name, x in zip("kv", caches, strict=True):
        binding.bind_ortvalue_output(name, x)
    oracle.run_with_iobinding(binding)
    want = binding.copy_outputs_to_cpu()
    valid = lengths if step else i32([s] * n)
    for i in range(n):
        rows_of = slice(0, int(lengths[i]) if not step else 1)
        np.testing.assert_allclose(got["y"][i, rows_of], want[0][i, rows_of], rtol=1e-4, atol=1e-4)
        for name, x in zip("kv", want[1:], strict=True):
            np.testing.assert_allclose(got[name][i, :, : valid[i]], x[i, :, : valid[i]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("symbolic", [False, True])
def test_ngram_repeat_block(size, symbolic):
    ids = R.integers(0, 3, (3, 12)).astype(np.int64)
    compare("NGramRepeatBlock", [ids, f(3, 7)], symbolic=symbolic, ngram_size=size)


def test_ngram_repeat_block_of_fewer_tokens():
    compare("NGramRepeatBlock", [np.array([[1], [2], [1]]), f(3, 7)], ngram_size=3)
