"""`python -m mlc.models bench-products`: float32 products as shares of what multiply-adds in registers sustain, as markdown.

A model multiplies one matrix by many, whose weights together do not wait in a core's own caches. Its runs take turns with multiply-adds
in registers (`mlc bench --kernels`), as both move with the clock.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..errors import InputError
from .tables import mlc

Size = tuple[int, int, int]  # m, n, k
_WEIGHTS, _MOST_WEIGHTS = 24 << 20, 64  # bytes of all weights of a model, about, and how many there are at most
_SECONDS = 1.0  # of timed runs
_LEAST, _MOST, _MOST_OPS = 256, 2048, 10**9  # of sizes drawn at random, and of their multiply-adds


@dataclass(frozen=True)
class ProductRow:
    """A line of the table: GFLOP/s of whole runs, and their share of those of multiply-adds in registers (medians)."""

    size: Size
    threads: int
    gflops: float
    share: float


def parsed(text: str) -> Size:
    """m, n and k of a text such as 128x768x3072. Raises InputError."""
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if found is None:
        raise InputError(f"no sizes of a product: {text!r}", expected="MxNxK, such as 128x768x3072")
    m, n, k = map(int, found.groups())
    return m, n, k


def drawn(count: int, seed: int) -> list[Size]:
    """Sizes at random, their logarithms evenly spread."""
    rng = np.random.default_rng(seed)
    found: list[Size] = []
    while len(found) < count:
        m, n, k = (int(x) for x in np.exp(rng.uniform(np.log(_LEAST), np.log(_MOST + 1), 3)))
        if m * n * k <= _MOST_OPS:
            found.append((m, n, k))
    return found


def rows(sizes: Sequence[Size], threads: int) -> Iterator[ProductRow]:
    """Each of the products, measured when it is asked for. Raises InputError where `mlc bench` fails."""
    for size in sizes:
        m, n, k = size
        count = min(_MOST_WEIGHTS, -(-_WEIGHTS // (4 * n * k)))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "products.onnx"
            path.write_bytes(model_of(size, count))
            _, figures, error = mlc(["bench", str(path), "--kernels", "--against=none", f"--threads={threads}", f"--seconds={_SECONDS}"])
        if figures is None:
            raise InputError(f"the product of {m} × {n} × {k} was not timed: {error}")
        (profile,) = figures["kernels"]
        rate = 2e-6 * m * n * k * count / profile["run_ms"]
        yield ProductRow(size, threads, rate, rate / profile["peaks"]["gflops"])


def model_of(size: Size, count: int) -> bytes:
    """The sum of the products of x [m, k] and `count` matrices [k, n]: results stay where the one before was, as within a model."""
    m, n, k = size
    rng = np.random.default_rng(1)
    weights = [numpy_helper.from_array(rng.standard_normal((k, n), np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(count)]
    nodes += [helper.make_node("Add", [f"y{i}" if i == 0 else f"s{i}", f"y{i + 1}"], [f"s{i + 1}"]) for i in range(count - 1)]
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [m, n])],
    )
    graph = helper.make_graph(nodes, "products", *ends, weights)
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model


def markdown(found: Sequence[ProductRow]) -> str:
    """The table, and what all together reach."""
    lines = ["| m × n × k | threads | GFLOP/s | % of multiply-adds in registers |", "| --- | --: | --: | --: |"]
    lines += [f"| {r.size[0]} × {r.size[1]} × {r.size[2]} | {r.threads} | {r.gflops:.1f} | {100 * r.share:.0f} |" for r in found]
    shares = [100 * r.share for r in found]
    if len(shares) > 1:
        lines.append(f"\n{len(shares)} products: {min(shares):.0f} to {max(shares):.0f} %, median {statistics.median(shares):.0f}")
    return "\n".join(lines)
