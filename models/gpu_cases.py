"""What `bench-gpu` times of single operators: products, convolutions, attention, and what moves memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class KernelCase:
    """One operator: its ONNX text and weights, input shapes, the same in torch, and what to count ("GB/s" or "TFLOP/s")."""

    name: str
    onnx: Callable[[], bytes]
    inputs: Mapping[str, tuple[int, ...]]
    torch: Callable[[Any, dict[str, Any]], Callable[[], Any]]
    count: str
    amount: float
    precision: str = "fp32"
    half: bool = False  # inputs are float16
    cublas: bool = False  # a product of two inputs, which cupy has cuBLAS compute where there is no torch
    options: str = ""  # behind the target


def text(graph: str, **weights: np.ndarray) -> bytes:
    """A model of an ONNX graph as text, with initializers by name."""
    from onnx import numpy_helper, parser

    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n' + graph)
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model.SerializeToString()


def _weights(shape: tuple[int, ...], depth: int) -> np.ndarray:
    """Evenly spread numbers, of which sums of `depth` products are about as large as the factors; quickly, since there are many."""
    w = np.random.default_rng(0).random(shape, np.float32)
    w -= 0.5
    w *= (12 / depth) ** 0.5
    return w


def _product(m: int, n: int, k: int, precision: str, options: str = "") -> KernelCase:
    def onnx() -> bytes:
        w = _weights((k, n), k)
        return text(f"product (float[{m}, {k}] x) => (float[{m}, {n}] y) {{ y = MatMul(x, w) }}", w=w)

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        kind = {"fp32": lib.float32, "fp16": lib.float16}.get(precision, lib.bfloat16)  # which has no product of 4-bit weights
        lib.backends.cuda.matmul.allow_tf32 = "tf32" in options
        a, w = x["x"].to(kind), lib.randn(k, n, device="cuda", dtype=kind)
        return lambda: a @ w

    name = f"{precision}{options.replace('+', ' by ')} product {m}×{n}×{k}"
    return KernelCase(name, onnx, {"x": (m, k)}, torch, "TFLOP/s" if m > 16 else "GB/s", _amount(m, n, k, precision), precision,
                      cublas=precision in ("fp32", "fp16"), options=options)  # fmt: skip


def _few_bits(m: int, n: int, k: int, group: int = 32) -> KernelCase:
    """float16 by weights of 4 bits; torch has the same in float16."""

    def onnx() -> bytes:
        rng, blocks = np.random.default_rng(0), k // group
        levels, scales = rng.integers(0, 256, (n, blocks, group // 2), np.uint8), _weights((n * blocks,), k).astype(np.float16)
        return text(f"""few_bits (float16[{m}, {k}] x) => (float16[{m}, {n}] y) {{
            y = com.microsoft.MatMulNBits<K = {k}, N = {n}, bits = 4, block_size = {group}>(x, levels, scales) }}""",
            levels=levels, scales=scales)  # fmt: skip

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        w = lib.randn(k, n, device="cuda", dtype=lib.float16)
        return lambda: x["x"] @ w

    return KernelCase(f"fp16 by int4 product {m}×{n}×{k}", onnx, {"x": (m, k)}, torch, "TFLOP/s" if m > 16 else "GB/s",
                      _amount(m, n, k, "int4"), half=True)  # fmt: skip


def _amount(m: int, n: int, k: int, precision: str) -> float:
    """TFLOP, or for few rows, which are bound by the weights, their GB."""
    return 2e-12 * m * n * k if m > 16 else 1e-9 * n * k * {"fp32": 4, "int4": 0.5}.get(precision, 2)


def _convolution(batch: int, size: int, channels: int, out: int, kernel: int, stride: int) -> KernelCase:
    pad, result = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    shape = (batch, channels, size, size)

    def onnx() -> bytes:
        w = _weights((out, channels, kernel, kernel), channels * kernel * kernel)
        return text(f"""convolution (float[{batch}, {channels}, {size}, {size}] x) => (float[{batch}, {out}, {result}, {result}] y) {{
            y = Conv<pads = [{pad}, {pad}, {pad}, {pad}], strides = [{stride}, {stride}]>(x, w) }}""", w=w)  # fmt: skip

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        last = {"dtype": lib.bfloat16, "memory_format": lib.channels_last}
        a = x["x"].to(**last)
        w = lib.randn(out, channels, kernel, kernel, device="cuda").to(**last)
        return lambda: lib.nn.functional.conv2d(a, w, stride=stride, padding=pad)

    amount = 2e-12 * batch * result * result * out * channels * kernel * kernel
    return KernelCase(f"bf16 convolution {kernel}×{kernel}/{stride}, {batch}×{size}×{size}×{channels} to {out}", onnx, {"x": shape}, torch,
                      "TFLOP/s", amount, "bf16")  # fmt: skip


def _attention(batch: int, heads: int, kv_heads: int, rows: int, keys: int, size: int, causal: bool) -> KernelCase:
    shapes = {"q": (batch, heads, rows, size), "k": (batch, kv_heads, keys, size), "v": (batch, kv_heads, keys, size)}
    given = ", ".join(f"float16[{', '.join(map(str, s))}] {n}" for n, s in shapes.items())
    y = f"float16[{batch}, {heads}, {rows}, {size}] y"

    def torch(lib: Any, x: dict[str, Any]) -> Callable[[], Any]:
        attend = lib.nn.functional.scaled_dot_product_attention
        return lambda: attend(x["q"], x["k"], x["v"], is_causal=causal, enable_gqa=heads != kv_heads)

    decode = rows == 1
    amount = 1e-9 * 4 * batch * kv_heads * keys * size if decode else 4e-12 * batch * heads * rows * keys * size * (0.5 if causal else 1)
    name = f"fp16 attention {batch}×{heads}/{kv_heads}, {rows} of {keys}, heads of {size}{', causal' if causal else ''}"
    return KernelCase(name, lambda: text(f"attention ({given}) => ({y}) {{ y = Attention<is_causal = {int(causal)}>(q, k, v) }}"), shapes,
                      torch, "GB/s" if decode else "TFLOP/s", amount, half=True)  # fmt: skip


def cases() -> list[KernelCase]:
    rows, width = 1 << 16, 2048  # half a gigabyte in, half out
    size = 8e-9 * rows * width

    def memory(name: str, body: str, torch: Callable[[Any, Any], Any], shape: tuple[int, ...] = (rows, width), out: str = "",
               amount: float = size, precision: str = "fp32", **weights: np.ndarray) -> KernelCase:  # fmt: skip
        x = f"float[{', '.join(map(str, shape))}]"
        return KernelCase(name, lambda: text(f"memory ({x} x) => ({out or x} y) {{ {body} }}", **weights), {"x": shape},
                          lambda lib, v: lambda: torch(lib, v["x"]), "GB/s", amount, precision)  # fmt: skip

    one, zero = np.ones(width, np.float32), np.zeros(width, np.float32)
    few, long = 64, rows * width // 64
    return [
        memory("relu (a copy)", "y = Relu(x)", lambda t, v: t.relu(v)),
        memory("gelu", "a = Mul(x, c) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, h)", lambda t, v: t.nn.functional.gelu(v),
               c=np.array(0.70710678, np.float32), one=np.array(1, np.float32), h=np.array(0.5, np.float32)),
        memory("softmax", "y = Softmax<axis = 1>(x)", lambda t, v: t.softmax(v, 1)),
        memory("layer norm", "y = LayerNormalization(x, g, b)", lambda t, v: t.nn.functional.layer_norm(v, (width,)), g=one, b=zero),
        memory("transpose", "y = Transpose<perm = [1, 0]>(x)", lambda t, v: v.T.contiguous(), out=f"float[{width}, {rows}]"),
        memory("sums of rows", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(1), out=f"float[{rows}]", amount=size / 2,
               axes=np.array([1])),
        memory("sums of columns", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(0), out=f"float[{width}]", amount=size / 2,
               axes=np.array([0])),
        memory("sum of all", "y = ReduceSum<keepdims = 0>(x, axes)", lambda t, v: v.sum(), out="float", amount=size / 2,
               axes=np.array([0, 1])),
        memory("softmax of 64 rows", "y = Softmax<axis = 1>(x)", lambda t, v: t.softmax(v, 1), (few, long)),
        memory("top 50 of 64 rows", "y, i = TopK(x, k)", lambda t, v: t.topk(v, 50), (few, 1 << 17), f"float[{few}, 50]",
               4e-9 * few * (1 << 17), k=np.array([50])),
        memory("sort of a million", "y, i = TopK(x, k)", lambda t, v: t.sort(v), (1, 1 << 20), f"float[1, {1 << 20}]", 16e-9 * (1 << 20),
               k=np.array([1 << 20])),
        _product(1, 11008, 4096, "int4"), _few_bits(1, 11008, 4096), _few_bits(64, 11008, 4096), _few_bits(1024, 11008, 4096),
        _product(4096, 4096, 4096, "fp32"), _product(8192, 8192, 8192, "bf16"), _product(4096, 4096, 4096, "bf16"),
        _product(8192, 8192, 8192, "bf16", "+clusters"), _product(4096, 3072, 768, "bf16", "+clusters"),
        _product(8192, 8192, 8192, "fp16"), _product(8192, 8192, 8192, "fp32", "+tf32"),
        _product(128, 3072, 768, "bf16"), _product(4096, 3072, 768, "bf16"), _product(4096, 768, 3072, "bf16"),
        _product(6304, 768, 3072, "bf16"), _product(512, 11008, 4096, "bf16"),
        _product(1, 4096, 14336, "bf16"), _product(4, 4096, 4096, "bf16"), _product(16, 4096, 4096, "bf16"),
        _product(1, 4096, 4096, "fp32"),
        _convolution(32, 56, 64, 64, 3, 1), _convolution(32, 14, 256, 256, 3, 1), _convolution(32, 224, 3, 64, 7, 2),
        _attention(16, 12, 12, 512, 512, 64, False), _attention(4, 32, 8, 2048, 2048, 128, True), _attention(1, 32, 8, 1, 8192, 128, False),
    ]  # fmt: skip
