"""Quantized models to compare with: what onnxruntime's quantizers make of the suite, and a small decoder with 4-bit weights.

The decoder has the sizes of a Llama-style model of 135 M parameters (30 layers of 576, 9 query and 3 key heads, vocabulary of
49,152) and takes one token with a past. Weights are random: times do not depend on them, fidelity is measured elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import InputError
from . import suite
from .store import appearing_whole, models_dir

SEED = 20260101
_SAMPLES = 4


@dataclass(frozen=True)
class QuantizedModel:
    """One recipe: `make(path)` writes the file."""

    title: str
    make: Callable[[Path], None]


def path_of(name: str) -> Path:
    """Where a quantized model lies (it may not exist yet). Raises InputError for an unknown name."""
    if name not in QUANTIZED:
        raise InputError(f"no quantized model is called {name!r}", expected="one of " + ", ".join(QUANTIZED))
    return models_dir() / "quantized" / f"{name}.onnx"


def export(name: str, *, force: bool = False) -> Path:
    """Make one model and return its file; an existing file is kept unless `force`."""
    path = path_of(name)
    if path.exists() and not force:
        return path
    with appearing_whole(path) as partial:
        QUANTIZED[name].make(partial)
    return path


# --- onnxruntime's quantizers -----------------------------------------------------------------------------------------


@contextmanager
def _prepared(name: str) -> Iterator[str]:
    """A suite model with its batch norms folded, as the quantizers want it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(suite.export(name)), prepared, skip_symbolic_shape=True)
        yield prepared


def _dynamic(name: str) -> Callable[[Path], None]:
    """Products with weights in i8 and activations quantized by their range at run time."""

    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with _prepared(name) as source:
            quantize_dynamic(source, str(path), weight_type=QuantType.QInt8)

    return make


def _static(name: str) -> Callable[[Path], None]:
    """QDQ form, ranges from a few samples of noise, weights by channel."""

    def make(path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Noise(CalibrationDataReader):
            def __init__(self) -> None:
                rng = np.random.default_rng(SEED)
                self._left = [{"x": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(_SAMPLES)]

            def get_next(self) -> Any:
                return self._left.pop() if self._left else None

        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        with _prepared(name) as source:
            quantize_static(source, str(path), Noise(), quant_format=QuantFormat.QDQ, per_channel=True, **types)

    return make


# --- a decoder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoder:
    """Sizes of a Llama-style decoder; `bits` of the weights of its products, None for float32."""

    bits: int | None
    layers: int = 30
    width: int = 576
    heads: int = 9
    key_heads: int = 3
    inner: int = 1536
    vocabulary: int = 49152
    group: int = 32

    def __call__(self, path: Path) -> None:
        onnx.save(_Build(self).model(), path)


class _Build:
    """The graph of a decoder step: ids [1, s], past keys and values [1, heads, past, size] -> logits, present keys and values."""

    def __init__(self, sizes: _Decoder) -> None:
        self.sizes, self.rng = sizes, np.random.default_rng(SEED)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def hold(self, name: str, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"{kind}_{len(self.nodes)}", domain=domain, **attributes))
        return out

    def linear(self, x: str, k: int, n: int, name: str, out: str = "") -> str:
        w = (self.rng.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
        if self.sizes.bits is None:
            return self.op("MatMul", x, self.hold(name, w), out=out)
        group = self.sizes.group
        blocks = w.T.reshape(n, k // group, group)
        scale = np.abs(blocks).max(axis=-1) / 7
        levels = np.clip(np.rint(blocks / scale[..., None]) + 8, 0, 15).astype(np.uint8)
        packed = self.hold(name, levels[..., 0::2] | (levels[..., 1::2] << 4))
        scales = self.hold(f"{name}.scales", scale.astype(np.float32))
        return self.op("MatMulNBits", x, packed, scales, out=out, domain="com.microsoft", K=k, N=n, bits=self.sizes.bits, block_size=group)

    def norm(self, x: str, name: str) -> str:
        scale = self.hold(name, np.ones(self.sizes.width, np.float32))
        return self.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=1e-5)

    def model(self) -> onnx.ModelProto:
        s = self.sizes
        size = s.width // s.heads
        shapes = {
            "queries": [0, 0, s.heads, size],
            "keys": [0, 0, s.key_heads, size],
            "merged": [0, 0, s.width],
            "repeated": [1, s.heads, -1, size],
            "repeats": [1, 1, s.heads // s.key_heads, 1, 1],
            "axis": [2],
        }
        for name, dims in shapes.items():
            self.hold(name, np.array(dims, np.int64))
        self.hold("scale", np.float32(size**-0.5))
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "s"])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
        table = (self.rng.standard_normal((s.vocabulary, s.width)) / 50).astype(np.float32)
        x = self.op("Gather", self.hold("embedding", table), "ids")
        for i in range(s.layers):
            kept = []
            for kind in "kv":
                inputs.append(helper.make_tensor_value_info(f"past_{kind}{i}", TensorProto.FLOAT, [1, s.key_heads, "past", size]))
                outputs.append(helper.make_tensor_value_info(f"present_{kind}{i}", TensorProto.FLOAT, None))
                kept.append(f"present_{kind}{i}")
            x = self.layer(x, i, kept)
        self.linear(self.norm(x, "norm"), s.width, s.vocabulary, "head", out="logits")
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", suite.OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def layer(self, x: str, i: int, kept: list[str]) -> str:
        s = self.sizes
        size = s.width // s.heads
        h = self.norm(x, f"norm_a{i}")
        q = self.op("Transpose", self.op("Reshape", self.linear(h, s.width, s.width, f"q{i}"), "queries"), perm=[0, 2, 1, 3])
        repeated = []
        for kind, present in zip("kv", kept, strict=True):
            new = self.op("Reshape", self.linear(h, s.width, s.key_heads * size, f"{kind}{i}"), "keys")
            self.op("Concat", f"past_{kind}{i}", self.op("Transpose", new, perm=[0, 2, 1, 3]), out=present, axis=2)
            repeated.append(self.op("Reshape", self.op("Tile", self.op("Unsqueeze", present, "axis"), "repeats"), "repeated"))
        scores = self.op("Mul", self.op("MatMul", q, self.op("Transpose", repeated[0], perm=[0, 1, 3, 2])), "scale")
        seen = self.op("MatMul", self.op("Softmax", scores, axis=-1), repeated[1])
        merged = self.op("Reshape", self.op("Transpose", seen, perm=[0, 2, 1, 3]), "merged")
        x = self.op("Add", x, self.linear(merged, s.width, s.width, f"o{i}"))
        h = self.norm(x, f"norm_b{i}")
        gate, up = self.linear(h, s.width, s.inner, f"gate{i}"), self.linear(h, s.width, s.inner, f"up{i}")
        act = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), up)
        return self.op("Add", x, self.linear(act, s.inner, s.width, f"down{i}"))


QUANTIZED: dict[str, QuantizedModel] = {
    "resnet50_qdq": QuantizedModel("ResNet-50, QDQ", _static("resnet50")),
    "mobilenet_v2_qdq": QuantizedModel("MobileNetV2, QDQ", _static("mobilenet_v2")),
    "bert_base_dynamic": QuantizedModel("BERT-base, dynamic int8", _dynamic("bert_base")),
    "minilm_l6_dynamic": QuantizedModel("MiniLM-L6, dynamic int8", _dynamic("minilm_l6")),
    "decoder": QuantizedModel("decoder of 135 M, float32", _Decoder(None)),
    "decoder_int4": QuantizedModel("decoder of 135 M, MatMulNBits of 4 bits", _Decoder(4)),
}
