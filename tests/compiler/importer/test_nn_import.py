"""Neural-network handlers: imported single nodes, run by the ops' references, agree with onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from against_onnxruntime import session
from mlc.compiler.importer.context import ImportContext
from mlc.compiler.importer.handlers.table import HANDLERS
from mlc.compiler.importer.node_view import UnsupportedError
from mlc.ir import DType, Graph, Input, Node, TensorType, evaluate, sym
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(dtype, lo, hi, *shape):
    return RNG.integers(lo, hi, shape).astype(dtype)


def case(op, inputs, *, opset=17, domain="", n_out=1, const=(), check=None, name="", **attrs):
    inputs = [None if a is None else np.asarray(a) for a in inputs]
    label = name or f"{op}-" + "-".join(f"{k}={v}" for k, v in attrs.items())
    return pytest.param(op, inputs, opset, domain, n_out, const, check, attrs, id=label.replace(" ", ""))


def handler_for(op, domain, opset):
    key = f"{domain}::{op}" if domain else op
    version = 1 if domain else opset
    since = max(v for (name, v) in HANDLERS if name == key and v <= version)
    return HANDLERS[key, since]


def build(op, inputs, opset, domain, n_out, const, attrs, symbolic=False):
    """The imported graph of one node, and the same node as an ONNX model."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(inputs)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(n_out)], domain=domain, **attrs)
    ctx = ImportContext({"": opset, "com.microsoft": 1}, numpy_helper.to_array)
    ins, args = [], []
    for k, a in enumerate(inputs):
        if a is None:
            ins.append(None)
        elif k in const:
            ins.append(ctx.const(a))
        else:
            shape = tuple(sym(f"d{k}_{i}", 1) for i in range(a.ndim)) if symbolic else a.shape
            ins.append(Node.make(Input(TensorType(DType.from_numpy(a.dtype), shape))).out)
            args.append((ins[-1], a))
    outs = list(handler_for(op, domain, opset)(ctx, node, ins))[:n_out]
    graph = Graph(tuple(v for v, _ in args), tuple(outs), tuple("x" for _ in args), tuple("y" for _ in outs))
    return graph, [a for _, a in args], node


def oracle(node, inputs, opset):
    given = {f"i{k}": a for k, a in enumerate(inputs) if a is not None}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in node.output]
    for o in outs:
        o.ClearField("type")
    graph = helper.make_graph([node], "g", infos, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    return session(model).run(None, given)


def agree(got, want):
    assert got.shape == want.shape and got.dtype == want.dtype
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
    else:
        scale = np.linalg.norm(want.astype(np.float64)) or 1.0
        error = np.linalg.norm(got.astype(np.float64) - want.astype(np.float64)) / scale
        assert error <= (1e-5 if want.dtype.itemsize >= 4 else 2e-3), f"relative L2 {error:.2e}"


X4 = f32(2, 6, 11, 9)
IMG = f32(1, 3, 13, 10)
W = f32(8, 3, 3, 2)
SEQ, BATCH, IN, HID = 5, 3, 4, 6


def gates(n, dn):
    return [f32(SEQ, BATCH, IN), f32(dn, n * HID, IN), f32(dn, n * HID, HID), f32(dn, 2 * n * HID)]


LENS = np.array([5, 2, 3], np.int32)

CASES = [
    case("Conv", [IMG, W, f32(8)], const=(1, 2), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", [IMG, W], dilations=[2, 3]),
    case("Conv", [IMG, W], auto_pad="SAME_UPPER", strides=[2, 3]),
    case("Conv", [IMG, W], auto_pad="SAME_LOWER", strides=[3, 2]),
    case("Conv", [IMG, W], auto_pad="VALID"),
    case("Conv", [X4, f32(6, 1, 3, 3), f32(6)], group=6, pads=[1, 1, 1, 1], name="Conv-depthwise"),
    case("Conv", [X4, f32(12, 1, 3, 3)], group=6, name="Conv-depth-multiplier"),
    case("Conv", [X4, f32(4, 3, 3, 3), f32(4)], group=2, name="Conv-grouped"),
    case("Conv", [f32(2, 4, 20), f32(5, 4, 3), f32(5)], pads=[2, 0], strides=[3], name="Conv-1d"),
    case("Conv", [f32(1, 2, 5, 6, 7), f32(3, 2, 2, 3, 2)], name="Conv-3d"),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3), f32(4)], strides=[2, 2], pads=[1, 0, 1, 2], output_padding=[1, 0]),
    case("ConvTranspose", [X4, f32(6, 2, 3, 2)], group=3, dilations=[2, 1], strides=[1, 3]),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3)], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3)], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3)], output_shape=[22, 18], strides=[2, 2]),
    case("ConvTranspose", [X4, f32(6, 4, 2, 2)], output_shape=[23, 19], strides=[2, 2]),
    case("ConvTranspose", [f32(1, 3, 9), f32(3, 2, 4)], strides=[2], name="ConvTranspose-1d"),
    *(
        case(op, [X4], kernel_shape=[3, 2], **more)
        for op in ("MaxPool", "AveragePool")
        for more in (
            {"strides": [2, 2], "pads": [1, 0, 1, 1]},
            {"strides": [2, 3], "ceil_mode": 1},
            {"strides": [2, 2], "pads": [1, 1, 1, 0], "ceil_mode": 1},
            {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
            {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
            {},
        )
    ),
    case("MaxPool", [X4], kernel_shape=[3, 3], dilations=[2, 2]),
    case("MaxPool", [ints(np.uint8, 0, 255, 1, 2, 6, 6)], kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", [X4], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", [X4], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1, ceil_mode=1, opset=19),
    case("AveragePool", [X4], kernel_shape=[3, 3], dilations=[2, 1], opset=19),
    case("LpPool", [X4], kernel_shape=[3, 2], p=3, strides=[2, 2], pads=[1, 0, 1, 0]),
    case("GlobalAveragePool", [X4]), case("GlobalMaxPool", [X4]),
    case("GlobalLpPool", [X4], p=1), case("GlobalLpPool", [X4]), case("GlobalLpPool", [X4], p=3),
    case("LRN", [X4], size=3), case("LRN", [X4], size=5, alpha=0.02, beta=0.5, bias=2.0),
    case("DepthToSpace", [f32(2, 12, 3, 4)], blocksize=2), case("DepthToSpace", [f32(2, 12, 3, 4)], blocksize=2, mode="CRD"),
    case("SpaceToDepth", [f32(2, 3, 4, 6)], blocksize=2),
    case("BatchNormalization", [X4, f32(6), f32(6), f32(6), abs(f32(6))], const=(1, 2, 3, 4)),
    case("BatchNormalization", [X4, f32(6), f32(6), f32(6), abs(f32(6))], epsilon=1e-2),
    case("BatchNormalization", [f32(5, 6), f32(6), f32(6), f32(6), abs(f32(6))], opset=9, name="BatchNormalization-2d"),
    case("InstanceNormalization", [X4, f32(6), f32(6)]),
    case("GroupNormalization", [X4, f32(3), f32(3)], opset=18, num_groups=3),
    case("GroupNormalization", [X4, f32(6), f32(6)], opset=21, num_groups=3),
    case("LayerNormalization", [X4, f32(9), f32(9)]), case("LayerNormalization", [X4, f32(11, 9)], axis=2, epsilon=1e-3),
    case("LayerNormalization", [f32(4, 5), f32(5), f32(5)], n_out=3),
    case("RMSNormalization", [X4, f32(9)], opset=23),
    case("SimplifiedLayerNormalization", [f32(4, 5), f32(5)], axis=-1, epsilon=1e-4),
    case("MeanVarianceNormalization", [X4]), case("MeanVarianceNormalization", [X4], axes=[0, 2]),
    case("LpNormalization", [X4], axis=1), case("LpNormalization", [X4], p=1),
    case("Hardmax", [X4]), case("Hardmax", [X4], axis=1), case("Hardmax", [X4], opset=11, axis=2),
    case("MatMul", [f32(3, 4), f32(4, 5)]), case("MatMul", [f32(2, 1, 3, 4), f32(7, 4, 5)]),
    case("MatMul", [f32(4), f32(4, 5)]), case("MatMul", [f32(2, 3, 4), f32(4)]), case("MatMul", [f32(4), f32(4)]),
    case("MatMul", [f32(4), f32(3, 4, 5)]), case("MatMul", [ints(np.int32, -9, 9, 3, 4), ints(np.int32, -9, 9, 4, 2)]),
    case("Gemm", [f32(3, 4), f32(4, 5), f32(5)], alpha=0.5, beta=2.0),
    case("Gemm", [f32(4, 3), f32(5, 4), f32(3, 1)], transA=1, transB=1), case("Gemm", [f32(3, 4), f32(4, 5)]),
    *(
        case("Einsum", [f32(*s) for s in shapes], equation=eq)
        for eq, shapes in (
            ("ij,jk->ik", [(3, 4), (4, 5)]), ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("ij->ji", [(3, 4)]),
            ("ii->i", [(4, 4)]), ("ii", [(4, 4)]), ("bii->bi", [(2, 4, 4)]), ("i,j->ij", [(3,), (4,)]),
            ("ij,ik,il->jkl", [(3, 2), (3, 4), (3, 5)]), ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 6)]), ("i,i", [(4,), (4,)]),
            ("bijk,bjl->bilk", [(2, 3, 4, 5), (2, 4, 6)]), ("ij,ij->i", [(3, 4), (3, 4)]), ("b...->...", [(3, 4, 2)]),
            ("abc,cd,def->abef", [(2, 3, 4), (4, 5), (5, 2, 3)]), ("ij", [(3, 4)]), ("ba", [(3, 4)]),
            ("...,...->...", [(3, 4), (3, 4)]), ("nkctv,kvw->nctw", [(2, 3, 4, 5, 6), (3, 6, 7)]), ("iij->j", [(3, 3, 4)]),
        )
    ),
    *(
        case(op, gates(n, 1 if d != "bidirectional" else 2), n_out=3 if op == "LSTM" else 2, hidden_size=HID, direction=d)
        for op, n in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for d in ("forward", "reverse", "bidirectional")
    ),
    case("LSTM", [*gates(4, 2), LENS, f32(2, 3, 6), f32(2, 3, 6), f32(2, 18)], n_out=3, hidden_size=HID, direction="bidirectional",
         name="LSTM-everything"),
    case("LSTM", [*gates(4, 1), None, f32(1, 3, 6), f32(1, 3, 6)], n_out=3, hidden_size=HID, clip=0.5),
    case("LSTM", [*gates(4, 1), None, None, None, f32(1, 18)], n_out=3, hidden_size=HID, input_forget=1,
         activations=["HardSigmoid", "ScaledTanh", "Elu"], activation_alpha=[0.3, 1.2, 0.7], activation_beta=[0.4, 0.6]),
    case("GRU", [*gates(3, 2), LENS, f32(2, 3, 6)], n_out=2, hidden_size=HID, direction="bidirectional", name="GRU-lens"),
    case("GRU", gates(3, 1), n_out=2, hidden_size=HID, linear_before_reset=1),
    case("GRU", [*gates(3, 1), LENS, f32(1, 3, 6)], n_out=2, hidden_size=HID, direction="reverse", linear_before_reset=1),
    case("GRU", gates(3, 1), n_out=2, hidden_size=HID, clip=0.4),
    case("RNN", [*gates(1, 1), LENS, f32(1, 3, 6)], n_out=2, hidden_size=HID, activations=["Relu"], clip=1.0),
    case("Attention", [f32(2, 3, 4, 8), f32(2, 3, 6, 8), f32(2, 3, 6, 5)], opset=23),
    case("Attention", [f32(2, 4, 5, 8), f32(2, 2, 5, 8), f32(2, 2, 5, 8)], opset=23, is_causal=1),
    case("Attention", [f32(2, 4, 24), f32(2, 6, 24), f32(2, 6, 24), f32(4, 6)], opset=23, q_num_heads=3, kv_num_heads=3, scale=0.3),
    case("Attention", [f32(2, 4, 24), f32(2, 6, 24), f32(2, 6, 24), RNG.random((2, 1, 4, 6)) > 0.3], opset=23, q_num_heads=3,
         kv_num_heads=3, softcap=2.0),
    case("Attention", [f32(1, 2, 3, 8), f32(1, 2, 3, 8), f32(1, 2, 3, 8), None, f32(1, 2, 4, 8), f32(1, 2, 4, 8)], opset=23, n_out=3,
         is_causal=1, name="Attention-past"),
    case("RotaryEmbedding", [f32(2, 3, 4, 8), f32(9, 4), f32(9, 4), ints(np.int64, 0, 9, 2, 4)], opset=23),
    case("RotaryEmbedding", [f32(2, 4, 24), f32(2, 4, 3), f32(2, 4, 3)], opset=23, num_heads=3, interleaved=1,
         rotary_embedding_dim=6),
    case("MultiHeadAttention", [f32(2, 4, 12), f32(2, 5, 12), f32(2, 5, 12), f32(36)], domain="com.microsoft", num_heads=3),
    case("MultiHeadAttention", [f32(2, 4, 12), f32(2, 5, 12), f32(2, 5, 12), None, ints(np.int32, 0, 2, 2, 5)],
         domain="com.microsoft", num_heads=3, name="MultiHeadAttention-padding"),
    case("RotaryEmbedding", [f32(2, 3, 4, 8), ints(np.int64, 0, 9, 2, 4), f32(9, 4), f32(9, 4)], domain="com.microsoft",
         name="RotaryEmbedding-ms"),
    case("Gelu", [X4], domain="com.microsoft"), case("BiasGelu", [f32(3, 5), f32(5)], domain="com.microsoft"),
    case("FastGelu", [f32(3, 5), f32(5)], domain="com.microsoft"), case("QuickGelu", [f32(3, 5)], domain="com.microsoft"),
    case("SkipLayerNormalization", [f32(2, 3, 5), f32(2, 3, 5), f32(5), f32(5), f32(5)], domain="com.microsoft"),
    case("FusedMatMul", [f32(2, 4, 3), f32(2, 5, 4)], domain="com.microsoft", transA=1, transB=1, alpha=0.5),
    *(
        case("Resize", [f32(1, 2, 3, 4), np.float32([0, 0, 0.1, 0.2, 1, 1, 0.9, 1.2]), None, np.int64([1, 2, *sizes])], const=(1, 3), mode=mode, extrapolation_value=0.7,
             coordinate_transformation_mode="tf_crop_and_resize", name=f"crop-{mode}-{sizes}")
        for mode in ("nearest", "linear", "cubic") for sizes in ((3, 5), (6, 4), (3, 4))
    ),
    *(
        case("RNN", [f32(3, 2, 4), f32(1, 5, 4), f32(1, 5, 5)], const=(1, 2), hidden_size=5, activations=[name])
        for name in ("Affine", "ThresholdedRelu", "ScaledTanh", "LeakyRelu", "Elu", "HardSigmoid")
    ),
    case("Resize", [f32(1, 2, 3, 7), np.float32([1, 1, 2, 0.6])], opset=10, const=(1,), mode="nearest", name="downsampled by opset 10"),
    *(
        case("Slice", [f32(5, 4), np.int64([3]), np.int64([end]), np.int64([0]), np.int64([-2])], const=(1, 2, 3, 4), name=f"back to {end}")
        for end in (2**31 - 1, 2**63 - 1, 2**31, -(2**63))
    ),
    case("QuantizeLinear", [10 * f32(3, 4), np.float32(0.3), np.uint8(7)]),
    case("QuantizeLinear", [10 * f32(3, 4), abs(f32(4)) + 0.1, ints(np.int8, -5, 5, 4)], axis=1),
    case("DequantizeLinear", [ints(np.int8, -128, 127, 3, 4), abs(f32(3)), ints(np.int8, -5, 5, 3)], axis=0),
    case("DequantizeLinear", [ints(np.int8, -128, 127, 6, 4), abs(f32(3, 4))], axis=0, block_size=2, opset=21),
    case("DequantizeLinear", [ints(np.int32, -999, 999, 3, 4), np.float32(0.01)], name="DequantizeLinear-i32"),
    case("DynamicQuantizeLinear", [f32(3, 4)], n_out=3), case("DynamicQuantizeLinear", [abs(f32(3, 4)) + 1], n_out=3, name="Dyn-pos"),
    case("MatMulInteger", [ints(np.uint8, 0, 255, 3, 4), ints(np.int8, -99, 99, 4, 5), np.uint8(9), ints(np.int8, -3, 3, 5)]),
    case("QLinearMatMul", [ints(np.uint8, 0, 255, 3, 4), np.float32(0.02), np.uint8(99), ints(np.uint8, 0, 255, 4, 5), np.float32(0.03),
                           np.uint8(111), np.float32(0.05), np.uint8(128)]),
    case("ConvInteger", [ints(np.uint8, 0, 255, 1, 3, 6, 6), ints(np.uint8, 0, 255, 4, 3, 3, 3), np.uint8(3), np.uint8(5)],
         pads=[1, 1, 1, 1]),
    case("QLinearConv", [ints(np.uint8, 0, 255, 1, 3, 6, 6), np.float32(0.02), np.uint8(99), ints(np.int8, -99, 99, 4, 3, 3, 3),
                         abs(f32(4)) / 50, np.zeros(4, np.int8), np.float32(0.5), np.uint8(128), ints(np.int32, -99, 99, 4)]),
    case("ReverseSequence", [f32(5, 3, 2), np.array([5, 2, 1])]), case("EyeLike", [f32(3, 5)], k=1, dtype=7),
    case("ReverseSequence", [f32(3, 5, 2), np.array([5, 2, 1])], time_axis=1, batch_axis=0),
    *(
        case("GridSample", [f32(2, 3, 5, 6), 1.6 * RNG.random((2, 4, 3, 2)).astype(np.float32) - 0.8], mode=m, padding_mode=p,
             align_corners=a)
        for m in ("bilinear", "nearest", "bicubic") for p in ("zeros", "border", "reflection") for a in (0, 1)
    ),
    case("GridSample", [f32(1, 2, 4, 5, 6), 3 * RNG.random((1, 2, 3, 4, 3)).astype(np.float32) - 1.5], mode="linear", opset=20,
         padding_mode="reflection", name="GridSample-3d"),
    *(
        case("GridSample", [f32(1, 2, 5, 6), 6 * RNG.random((1, 4, 9, 2)).astype(np.float32) - 3], mode="bilinear", padding_mode=p,
             name=f"GridSample-outside-{p}")
        for p in ("zeros", "border", "reflection")
    ),
    case("DFT", [f32(2, 9, 1)], axis=1), case("DFT", [f32(2, 9, 3, 2), np.array(7)], const=(1,), axis=1),
    case("DFT", [f32(2, 10, 1)], onesided=1), case("DFT", [f32(2, 8, 2)], inverse=1),
    case("STFT", [f32(2, 40, 1), np.array(4), f32(16)], const=(1,)),
    case("STFT", [f32(2, 40, 1), np.array(5), None, np.array(12)], const=(1, 3), onesided=0),
    case("Col2Im", [f32(2, 12, 9), np.array([4, 5]), np.array([2, 3])], opset=18, const=(1, 2), name="Col2Im-plain"),
    case("Col2Im", [f32(1, 8, 6), np.array([5, 4]), np.array([2, 2])], opset=18, const=(1, 2), strides=[2, 2], pads=[0, 1, 0, 1]),
    *(
        case("RoiAlign", [f32(2, 3, 8, 9), np.array([[0, 0, 5, 6], [1.5, 2, 7, 7.5], [-2, -3, 12, 11]], np.float32),
                          np.array([0, 1, 1])], output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.7, mode=m,
             coordinate_transformation_mode=t)
        for m in ("avg", "max") for t in ("half_pixel", "output_half_pixel")
    ),
    case("DeformConv", [f32(2, 4, 6, 7), f32(6, 2, 3, 2), f32(2, 24, 4, 6), f32(6), f32(2, 12, 4, 6)], opset=19, group=2, offset_group=2),
    case("DeformConv", [f32(1, 2, 6, 7), f32(3, 2, 2, 2), f32(1, 8, 4, 4)], opset=19, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("FusedConv", [IMG, W, f32(8)], domain="com.microsoft", activation="Relu"),
    case("FusedConv", [IMG, W, f32(8)], domain="com.microsoft", activation="LeakyRelu", activation_params=[0.2]),
    case("FusedGemm", [f32(3, 4), f32(4, 5), f32(5)], domain="com.microsoft", activation="Relu"),
    case("Attention", [f32(2, 4, 12), f32(12, 36), f32(36), ints(np.int32, 0, 2, 2, 4)], domain="com.microsoft", num_heads=3,
         name="Attention-ms"),
    case("EmbedLayerNormalization", [ints(np.int32, 0, 9, 2, 4), ints(np.int32, 0, 2, 2, 4), f32(9, 6), f32(7, 6), f32(2, 6), f32(6),
                                     f32(6), ints(np.int32, 0, 2, 2, 4)], domain="com.microsoft", n_out=2),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "opset", "domain", "n_out", "const", "check", "attrs"), CASES)
def test_agrees_with_onnxruntime(op, inputs, opset, domain, n_out, const, check, attrs):
    graph, args, node = build(op, inputs, opset, domain, n_out, const, attrs)
    for got, want in zip(graph.evaluate(*args), oracle(node, inputs, opset), strict=True):
        agree(got, want)


@pytest.mark.parametrize(("op", "inputs", "opset", "domain", "n_out", "const", "check", "attrs"), [
    case("Conv", [IMG, W], const=(1,), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", [IMG, W], const=(1,), auto_pad="SAME_UPPER", strides=[2, 3]),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3)], const=(1,), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", [X4, f32(6, 4, 3, 3)], const=(1,), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", [X4], kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    case("AveragePool", [X4], kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("GroupNormalization", [X4, f32(6), f32(6)], const=(1, 2), opset=21, num_groups=3),
    case("Einsum", [f32(2, 3, 4), f32(2, 3, 5)], equation="bij,bik->bjk"),
    case("Einsum", [f32(3, 4, 4)], equation="bii->bi"),
    case("LSTM", gates(4, 1), const=(1, 2, 3), n_out=3, hidden_size=HID),
    case("Attention", [f32(2, 3, 4, 8), f32(2, 3, 6, 8), f32(2, 3, 6, 8)], opset=23, scale=0.5, is_causal=1),
    case("Gemm", [f32(3, 4), f32(4, 5), f32(5)], const=(1, 2)),
    case("Hardmax", [X4], opset=11, axis=2),
    case("LayerNormalization", [X4, f32(9), f32(9)], const=(1, 2)),
    case("RMSNormalization", [X4, f32(11, 9)], const=(1,), axis=2, opset=23),
    case("DeformConv", [f32(2, 4, 6, 7), f32(6, 4, 3, 2), f32(2, 12, 4, 6)], const=(1,), opset=19),
    case("GridSample", [f32(2, 3, 5, 6), f32(2, 4, 3, 2)], const=()),
    case("GridSample", [f32(2, 19, 5, 6), f32(2, 4, 3, 2)], const=(), name="GridSample-rows"),
    case("STFT", [f32(2, 40), np.array(4), f32(16)], const=(1, 2)),
])  # fmt: skip
def test_symbolic_shapes_hold_the_static_ones(op, inputs, opset, domain, n_out, const, check, attrs):
    static, _, _ = build(op, inputs, opset, domain, n_out, const, attrs)
    symbolic, args, _ = build(op, inputs, opset, domain, n_out, const, attrs, symbolic=True)
    bindings = {}
    for v, a in zip(symbolic.inputs, args, strict=True):
        bindings.update({str(d): n for d, n in zip(v.shape, a.shape, strict=True)})
    for s, d in zip(static.outputs, symbolic.outputs, strict=True):
        assert tuple(evaluate(x, bindings) for x in d.shape) == s.shape


@pytest.mark.parametrize(("op", "inputs", "attrs", "n_out"), [
    ("Einsum", [f32(3, 3)], {"equation": "ij,jk->ik"}, 1),
    ("Einsum", [f32(3)], {"equation": "i->ii"}, 1),
    ("LSTM", gates(4, 1), {"hidden_size": HID, "activations": ["Sigmoid", "Tanh", "Gelu"]}, 1),
    ("Conv", [IMG, W], {"auto_pad": "SAME"}, 1),
])  # fmt: skip
def test_unsupported_variants_are_typed_errors(op, inputs, attrs, n_out):
    with pytest.raises(UnsupportedError):
        build(op, inputs, 17, "", n_out, (), attrs)
