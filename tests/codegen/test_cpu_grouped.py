"""Products with weights of few bits: native code against the op's reference and the kernel interpreter."""

from dataclasses import replace

import numpy as np
import pytest
from mlc.codegen.cpu.grouped.emit import emit_grouped
from mlc.codegen.cpu.grouped.schedule import schedule_grouped
from mlc.codegen.cpu.target import host, missing_features, parse
from mlc.codegen.group_blocks import GroupBlocks, scale_type, zero_type
from mlc.codegen.interpret import run_plan
from mlc.codegen.kernel import GroupedKernel, Operand
from mlc.codegen.lower import lower
from mlc.codegen.packing import pack_levels, unpack_levels
from mlc.compiler.stages import compile_graph
from mlc.errors import ArtifactError, CodegenError, VerifyError
from mlc.ir import DType, Graph, Input, Node, TensorType, const, evaluate, sym
from mlc.ir.ops import Add, Dequantize, GroupedMatMul, Quantize, Relu, Tanh, Transpose
from mlc.passes.base import apply
from mlc.runtime import artifact
from mlc.runtime.loading import load

RNG = np.random.default_rng(0)


def layer(m, k, n, bits, group, asymmetric):
    groups = -(-k // group)
    if bits == 16:
        halves = RNG.standard_normal((k, n)).astype(np.float16)
        return [const(halves), const(np.ones((groups, n)), DType.F32), const(np.zeros((groups, n)), DType.F32)]
    zeros = RNG.integers(0, 1 << bits, (groups, n)) if asymmetric else np.full((groups, n), 1 << (bits - 1))
    return [
        const(RNG.integers(0, 1 << bits, (k, n)), DType.U8),
        const(RNG.standard_normal((groups, n)), DType.F32),
        const(zeros, DType.F32),
    ]


def graph(m, k, n, bits=4, group=32, asymmetric=False):
    x = Node.make(Input(TensorType(DType.F32, (m, k))), ()).out
    y = apply(GroupedMatMul(bits, group), x, *layer(m, k, n, bits, group, asymmetric))
    y = apply(Relu(), apply(Add(), y, const(RNG.standard_normal(n), DType.F32)))
    return Graph((x,), (y,), ("x",), ("y",))


SHAPES = [(64, 64, 4, 32, False), (96, 70, 4, 32, True), (100, 33, 4, 32, False), (130, 17, 8, 16, True), (77, 5, 8, 64, False),
          (20, 40, 4, 20, True), (64, 128, 8, 64, True), (97, 70, 16, 97, False), (64, 130, 16, 64, False)]  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64-v2"])
@pytest.mark.parametrize("m", [1, 5, 13, 40])
def test_sums_are_float32_sums(m, target):
    for k, n, bits, group, asymmetric in SHAPES:
        g = graph(m, k, n, bits, group, asymmetric)
        x = RNG.standard_normal((m, k)).astype(np.float32)
        (want,) = g.evaluate(x)
        got = compile_graph(g, target=target).run({"x": x})["y"]
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), (k, n, bits, group, asymmetric)
        (interpreted,) = run_plan(lower(g), [x])
        assert np.array_equal(interpreted, want)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64-v2"])
@pytest.mark.parametrize("m", [3, 40])
def test_rows_of_a_tile_share_a_long_epilogue(m, target):
    g = graph(m, 64, 70)
    y = Graph(g.inputs, (apply(Tanh(), g.outputs[0]),), ("x",), ("y",))
    x = (RNG.standard_normal((m, 64)) / 64).astype(np.float32)
    got = compile_graph(y, target=target).run({"x": x})["y"]
    assert np.allclose(got, y.evaluate(x)[0], atol=1e-4)


def test_text_grows_little_with_what_is_quantized_on_the_way():
    def size(times):
        g = graph(40, 64, 128)
        y = g.outputs[0]
        for zero in range(times):
            grid = const(0.01, DType.F32), const(zero, DType.U16)
            y = apply(Dequantize(), apply(Quantize(DType.U16), y, *grid), *grid)
        (step,) = lower(Graph(g.inputs, (y,), ("x",), ("y",))).steps
        return len(emit_grouped(step.kernel, parse("cpu:sapphirerapids")).ir_text)

    assert size(2) < 1.3 * size(0), (size(0), size(1), size(2))


ROWS = [
    *(s for s in SHAPES if s[2] < 16),
    (32, 1, 4, 32, True),
    (576, 330, 4, 32, False),
    (40, 600, 8, 8, False),
    (1, 64, 4, 32, True),
    (300, 200, 4, 1000, True),
]


@pytest.mark.parametrize("target", ["cpu", "cpu:alderlake", "cpu:x86-64-v3", "cpu:x86-64-v2"])
@pytest.mark.parametrize("count", [1, 11, 133])
def test_rows_are_exact_where_float32_is(count, target):
    """Few bits by levels, scaled by powers of two: every way to add them up gives the same bits as the interpreter of kernels."""
    for at, (k, n, bits, group, asymmetric) in enumerate(ROWS):
        levels, scales, zeros = (v.node.op.data for v in layer(1, k, n, bits, group, asymmetric))
        scales = np.copysign(np.exp2(RNG.integers(-1, 2, scales.shape) - 20 * (at % 2)), scales).astype(np.float32)
        zeros = zeros if at % 4 == 0 else np.full_like(zeros, (0.0, 2.5, 7.0)[at % 3])
        several = RNG.integers(-20, 21, (count, k)).astype(np.float32)
        several[:, : k // 4] = 0  # groups of nothing
        several[:, k // 2 :] /= 16
        one = np.zeros((count, k), np.float32)  # all digits of a number
        one[np.arange(count), RNG.integers(k, size=count)] = RNG.integers(1 << 20, size=count) - (1 << 19)

        def row(m, levels=levels, scales=scales, zeros=zeros, k=k, op=GroupedMatMul(bits, group)):  # noqa: B008
            x = Node.make(Input(TensorType(DType.F32, (m, k))), ()).out
            return Graph((x,), (apply(op, x, const(levels), const(scales), const(zeros)),), ("x",), ("y",))

        plan, module = lower(row(count)), compile_graph(row(sym("rows") if at % 2 else count), target=target)
        if missing_features(host().triple, parse(target).features):
            continue
        for data in (several, one / (1 << bits)):
            (want,) = run_plan(plan, [data])
            assert np.array_equal(module.run({"x": data})["y"], want), (k, n, bits, group)


def test_few_rows_are_as_exact_as_sums_of_float32():
    for spread in (0, 8):  # elements of a group as alike as others, and few large ones
        g = graph(3, 1024, 200, 4, 32, True)
        x = (RNG.standard_normal((3, 1024)) * np.exp(spread * RNG.standard_normal((3, 1024)) / 4)).astype(np.float32)
        (want,) = g.evaluate(x)
        assert np.linalg.norm(compile_graph(g).run({"x": x})["y"] - want) <= 1e-6 * np.linalg.norm(want)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64-v2"])
@pytest.mark.parametrize("m, k, n, zero", [(1, 64, 33, 0.0), (7, 100, 20, 0.0), (40, 64, 64, 0.0), (5, 32, 18, 2.0)])
def test_levels_that_stand_for_uneven_values(m, k, n, zero, target):
    values = tuple(sorted(map(float, RNG.standard_normal(16).astype(np.float32))))
    levels, scales, _ = layer(m, k, n, 4, 32, False)
    x = Node.make(Input(TensorType(DType.F32, (m, k))), ()).out
    y = apply(GroupedMatMul(4, 32, values), x, levels, scales, const(np.full(scales.shape, zero), DType.F32))
    g = Graph((x,), (y,), ("x",), ("y",))
    data = RNG.standard_normal((m, k)).astype(np.float32)
    (want,) = g.evaluate(data)
    weights = (np.array(values)[levels.node.op.data] - zero) * np.repeat(scales.node.op.data, 32, axis=0)[:k]
    np.testing.assert_allclose(want, data @ weights, rtol=1e-4, atol=1e-4)
    got = compile_graph(g, target=target).run({"x": data})["y"]
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)
    (interpreted,) = run_plan(lower(g), [data])
    assert np.array_equal(interpreted, want)


@pytest.mark.parametrize("row_bits, lost", [(8, 1e-2), (16, 5e-5)])
def test_rows_that_may_be_rounded(row_bits, lost):
    """Blocks of rows share what is read of the weights; one that holds an infinity is multiplied as floats."""
    g = graph(sym("rows"), 2048, 70, 4, 32, True)
    (product,) = (n for n in g.nodes if isinstance(n.op, GroupedMatMul))
    rounded = g.rewrite(lambda n, ins: [apply(replace(n.op, row_bits=row_bits), *ins)] if n is product else None)
    module, whole = compile_graph(rounded), compile_graph(g)
    for rows in (1, 5, 150):
        x = RNG.standard_normal((rows, 2048)).astype(np.float32)
        want = whole.run({"x": x})["y"]
        assert np.linalg.norm(module.run({"x": x})["y"] - want) <= lost * np.linalg.norm(want)
        x[-1, 5] = np.inf
        got = module.run({"x": x})["y"]
        assert not np.isfinite(got[-1]).all() and np.linalg.norm(got[:-1] - want[:-1]) <= lost * max(np.linalg.norm(want[:-1]), 1e-9)


def test_rows_that_are_unknown_until_run_time():
    g = graph(sym("rows"), 48, 37)
    module = compile_graph(g)
    for rows in (0, 1, 6, 12, 19, 50, 101, 300):
        x = RNG.standard_normal((rows, 48)).astype(np.float32)
        (want,) = g.evaluate(x)
        assert np.linalg.norm(module.run({"x": x})["y"] - want) <= 1e-5 * np.linalg.norm(want), rows


@pytest.mark.parametrize("k, n, bits, group", [(32, 200, 4, 64), (1000, 330, 8, 2000), (2100, 64, 4, 4200), (2500, 70, 4, 40),
                                               (3001, 200, 16, 3001)])  # fmt: skip
def test_many_rows_in_blocks_and_chunks(k, n, bits, group):
    """Of rows, of strips of columns, and of K, whose bounds do not lie between groups."""
    for m in (sym("rows"), 290):
        x = RNG.standard_normal((290, k)).astype(np.float32)
        g = graph(m, k, n, bits, group, group == 40)
        (want,) = g.evaluate(x)
        assert np.linalg.norm(compile_graph(g).run({"x": x})["y"] - want) <= 1e-5 * np.linalg.norm(want)


def test_a_later_block_of_k_that_cannot_be_split():
    """Nothing is written before all blocks are split, not even where results replace an operand."""
    x = RNG.standard_normal((40, 2200)).astype(np.float32)
    x[3, 2100] = np.inf
    v = Node.make(Input(TensorType(DType.F32, (40, 2200))), ()).out
    y = apply(GroupedMatMul(4, 40), apply(Relu(), v), *layer(40, 2200, 64, 4, 40, True))
    z = apply(Add(), apply(GroupedMatMul(4, 40), apply(Relu(), v), *layer(40, 2200, 64, 4, 40, True)), y)
    g = Graph((v,), (z,), ("x",), ("y",))
    with np.errstate(invalid="ignore"):
        want = g.evaluate(x)[0]
    got = compile_graph(g).run({"x": x})["y"]
    finite = np.isfinite(want)
    assert np.array_equal(finite, np.isfinite(got)) and not finite[3].all() and finite[4:].all()
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e-40])
def test_rows_that_have_no_low_part(value, rows):
    """What does not split into two bfloat16 (AMX) is multiplied as float32: infinities stay, NaN does not spread to other rows."""
    x = RNG.standard_normal((rows, 96)).astype(np.float32)
    x[rows // 2, 5] = value
    weights = [const(np.full((96, 8), 9), DType.U8), const(np.full((3, 8), 0.25), DType.F32), const(np.full((3, 8), 8), DType.F32)]
    v = Node.make(Input(TensorType(DType.F32, (rows, 96))), ()).out
    y = apply(GroupedMatMul(4, 32), v, *weights)
    g = Graph((v,), (y,), ("x",), ("y",))
    np.testing.assert_allclose(compile_graph(g).run({"x": x})["y"], g.evaluate(x)[0], rtol=1e-4, atol=1e-4)


def test_rows_apart_and_batches():
    x = Node.make(Input(TensorType(DType.F32, (3, 32, 2))), ()).out
    y = apply(GroupedMatMul(4, 16), apply(Transpose((2, 0, 1)), x), *layer(6, 32, 24, 4, 16, True))
    g = Graph((x,), (y,), ("x",), ("y",))
    a = RNG.standard_normal((3, 32, 2)).astype(np.float32)
    np.testing.assert_allclose(compile_graph(g).run({"x": a})["y"], g.evaluate(a)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_packing_goes_both_ways(bits):
    levels = layer(1, 45, 70, bits, 45, False)[0].node.op.data
    packed = pack_levels(levels, 64, bits)
    assert packed.size == 2 * -(-45 * bits // 32) * 64
    assert np.array_equal(unpack_levels(packed, 45, 70, 64, bits), levels)


@pytest.mark.parametrize("k, n, bits, group", [(45, 70, 4, 16), (45, 70, 8, 64), (60, 5, 4, 12), (7, 130, 8, 7)])
@pytest.mark.parametrize("scale, zero", [(DType.F32, None), (DType.F16, DType.U8), (DType.F16, DType.F32)])
def test_blocks_go_both_ways(k, n, bits, group, scale, zero):
    blocks = GroupBlocks(k, n, 64, bits, group, scale, zero)
    levels, scales, zeros = (v.node.op.data for v in layer(1, k, n, bits, group, True))
    scales = scales.astype(np.float16).astype(np.float32)
    words = np.empty(blocks.size, np.uint32)
    blocks.pack(levels, scales, zeros, words)
    for want, got in zip((levels, scales, zeros), blocks.unpack(words), strict=True):
        assert (got is None and zero is None) or np.array_equal(got, want)
    with pytest.raises(VerifyError, match="weights of few bits end"):
        blocks.unpack(words[:-1])


def test_half_precision_holds_scales_where_it_is_exact():
    exact = np.array([[0.5, 1024, 2.0**-24, 0, -3.25]], np.float32)
    assert scale_type(exact) is DType.F16
    assert [scale_type(np.append(exact, np.float32(v))) for v in (0.1, 1e5, 1e-9, np.nan)] == [DType.F32] * 4
    assert [zero_type(np.array([0.0, 255.0, v], np.float32)) for v in (3, 2.5, -1, 256)] == [DType.U8, *[DType.F32] * 3]


def test_weights_take_their_bits_and_no_more():
    g = graph(1, 256, 256, 4, 64)
    held = sum(c.nbytes for c in map(np.asarray, lower(g).constants.values()))
    assert held <= 256 * 256 // 2 + 4 * 256 * 4 + 256 * 4


def test_a_file_s_levels_move_to_large_pages(tmp_path):
    x = Node.make(Input(TensorType(DType.F32, (1, 2048))), ()).out
    y = apply(GroupedMatMul(4, 64), x, *layer(1, 2048, 4096, 4, 64, True))
    z = apply(Add(), y, const(RNG.standard_normal(4096), DType.F32))
    module = compile_graph(Graph((x,), (z,), ("x",), ("z",)))
    a = RNG.standard_normal((1, 2048)).astype(np.float32)
    module.save(tmp_path / "m.mlc")
    loaded = load(tmp_path / "m.mlc")
    assert np.array_equal(loaded.run({"x": a})["z"], module.run({"x": a})["z"])
    levels_and_tables = 4096 * 2048 // 2 + (4 + 1) * 4096 * 32  # zeros are bytes
    assert loaded.manifest.streamed == levels_and_tables
    assert artifact.load(tmp_path / "m.mlc").streamed.nbytes == levels_and_tables
    assert artifact.load(module.to_bytes()).streamed is None  # in memory of our own already
    assert loaded.to_bytes() == module.to_bytes()
    damaged = bytearray(module.to_bytes())
    damaged[len(damaged) - levels_and_tables] ^= 1  # one of them: little comes behind
    (tmp_path / "m.mlc").write_bytes(damaged)
    with pytest.raises(ArtifactError, match="weights do not match"):
        load(tmp_path / "m.mlc")


def test_a_group_of_part_words_is_refused():
    operands = tuple(Operand(t, 1) for t in (DType.F32, DType.U32, DType.F32, DType.F32))
    kernel = GroupedKernel(1, 8, 24, 4, 12, 8.0, operands, 24, 8, None)
    with pytest.raises(CodegenError, match="groups of 12"):
        schedule_grouped(kernel, parse("cpu"))
    with pytest.raises(CodegenError, match="scales lie apart"):
        emit_grouped(replace(kernel, group=8), parse("cpu"))


def test_calls_with_few_rows_read_enough_for_several_streams():
    def least(m, k, rows):
        (step,) = lower(graph(m, k, 256)).steps
        return evaluate(emit_grouped(step.kernel, parse("cpu:sapphirerapids")).least, {"rows": rows})

    assert [least(1, k, 1) for k in (576, 1536, 4096)] == [4, 2, 1]  # a deep strip is worth a call of its own
    assert [least(sym("rows"), 576, rows) for rows in (1, 9, 13)] == [4, 4, 1]
    assert least(13, 576, 13) == 1


def test_few_rows_are_dealt_out_evenly():
    def heights(m, target):
        return schedule_grouped(lower(graph(m, 64, 64)).steps[0].kernel, parse(target)).heights

    wide = {m: heights(m, "cpu:sapphirerapids") for m in range(1, 14)}
    assert [wide[m] for m in (1, 6, 7, 8, 9, 11, 12, 13)] == [(1,), (6,), (4, 3), (4,), (5, 4), (6, 5), (6,), (5, 3)]
    for target, tall in (("cpu:sapphirerapids", 6), ("cpu:x86-64-v3", 4)):
        for m in range(1, 60):
            left, tiles = m, 0
            for h in heights(m, target):
                left, tiles = left % h, tiles + left // h
            assert left == 0 and (tiles == -(-m // tall) or m > 4 * tall), (target, m)
    assert heights(sym("rows"), "cpu:sapphirerapids") == (6, 3, 2, 1)


def test_types_are_checked():
    x = Node.make(Input(TensorType(DType.F32, (2, 32))), ()).out
    levels, scales, zeros = layer(2, 32, 8, 4, 16, False)
    for wrong in ([x, levels, scales, levels], [x, levels, const(np.ones((3, 8), np.float32)), zeros]):
        with pytest.raises(VerifyError):
            Node.make(GroupedMatMul(4, 16), wrong)
    with pytest.raises(VerifyError, match="f16 levels"):
        Node.make(GroupedMatMul(16, 16), [x, levels, scales, zeros])
    with pytest.raises(VerifyError, match="3 bits"):
        Node.make(GroupedMatMul(3, 16), [x, levels, scales, zeros])


def test_rows_of_16_bits_are_another_devices() -> None:
    x = Node.make(Input(TensorType(DType.BF16, (4, 64))), ()).out
    y = apply(GroupedMatMul(4, 32), x, *layer(4, 64, 32, 4, 32, False))
    with pytest.raises(CodegenError, match="bf16"):
        compile_graph(Graph((x,), (y,), ("x",), ("y",)))
