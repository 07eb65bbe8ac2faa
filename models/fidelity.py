"""How much lower precision loses: this compiler's, and 4-bit weights beside those of onnxruntime and llama.cpp, at equal bits.

Each quantizes the constant matrices of a trained model's MatMul nodes. What llama.cpp would store goes through the `gguf`
package and back to floats. Outputs are compared with those of the float32 file on texts that no method was calibrated on, and
language models with what follows in them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import InputError
from . import trained

Feeds = dict[str, np.ndarray]
GROUPS = (32, 64, 128)
PRECISIONS = ("fp32", "bf16", "int8-dynamic", "int8", "int8-weight")
_MODULES = ("argparse", "asyncio", "collections", "concurrent.futures", "datetime", "decimal", "email", "functools", "http.client",
            "inspect", "itertools", "json", "logging", "multiprocessing", "pathlib", "random", "socket", "statistics", "string",
            "subprocess", "tempfile", "textwrap", "threading", "typing", "unittest", "urllib.request", "zipfile")  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """What to calibrate and to measure with.

    Attributes:
        calibration, data: inputs.
        following: for language models, what follows every position of `data`, i64 [S], for their perplexity.
    """

    calibration: Sequence[Feeds]
    data: Sequence[Feeds]
    following: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Loss:
    """One way to compute; losses are of the worst output. `group`: rows of weights with a scale of their own, 0 for all."""

    engine: str
    method: str
    group: int
    symmetric: bool
    relative_l2: float
    cosine: float
    perplexity: float | None = None


def texts_for(name: str, count: int, tokens: int) -> Texts:
    """As many texts to calibrate as to measure, for a model of `mlc.models` or an encoder with BERT's tokens.

    Raises InputError when there is no tokenizer, or not so much text.
    """
    if name.startswith("trained:"):
        seen, held_out = (trained.pieces(count, held_out=out) for out in (False, True))
        calibration, data = ([{"ids": row[None, :-1]} for row in rows] for rows in (seen, held_out))
        return Texts(calibration, data, [row[1:] for row in held_out])
    every = texts(2 * count, tokens)
    return Texts(every[::2], every[1::2])


def texts(count: int, tokens: int) -> list[Feeds]:
    """Sentences of the standard library's docstrings as BERT's token ids [1, tokens]. Raises InputError without blingfire."""
    try:
        blingfire = importlib.import_module("blingfire")
    except ImportError:
        raise InputError("no tokenizer", expected="the package blingfire", remedy="pip install blingfire") from None
    assert blingfire.__file__
    model = blingfire.load_model(str(Path(blingfire.__file__).parent / "bert_base_tok.bin"))
    words = [int(i) for text in _docstrings() for i in blingfire.text_to_ids(model, text, 4096, 100, True) if i]
    begin, end = 101, 102  # [CLS] and [SEP]
    each = tokens - 2
    if len(words) < count * each:
        raise InputError(f"{count} texts of {tokens} tokens", expected=f"{len(words)} tokens at most in all")
    stride = len(words) // count
    rows = [[begin, *words[i * stride : i * stride + each], end] for i in range(count)]
    mask = np.ones((1, tokens), np.int64)
    return [{"input_ids": np.array([row], np.int64), "attention_mask": mask} for row in rows]


def losses(path: Path, given: Texts) -> Iterator[Loss]:
    """Every precision, then every quantizer to 4 bits at every group size that it has, on one model."""
    model, calibration, data = onnx.load(path), given.calibration, given.data
    want = _run(model, data)

    def measured(engine: str, method: str, group: int, symmetric: bool, outputs: Sequence[Mapping[str, np.ndarray]]) -> Loss:
        got = [dict(o) for o in outputs]
        return Loss(engine, method, group, symmetric, *_losses(got, want), _perplexity(got, given.following))

    yield measured("onnxruntime", "float32", 0, True, want)
    for precision in PRECISIONS:
        yield measured("mlc", precision, 0, True, _ours(path, given, precision))
    for group in GROUPS:
        for symmetric in (True, False):
            for method in ("nearest", "gptq", "awq"):
                yield measured("mlc", method, group, symmetric, _ours(path, given, "int4", method=method, group=group, symmetric=symmetric))
            yield measured("onnxruntime", "default", group, symmetric, _run(_onnxruntime(model, group, symmetric), data))
            yield measured("onnxruntime", "GPTQ", group, symmetric, _run(_gptq(model, group, symmetric, calibration), data))
            if importlib.util.find_spec("auto_gptq") is not None:
                yield measured("AutoGPTQ", "GPTQ", group, symmetric, _run(_auto_gptq(model, group, symmetric, calibration), data))
        if importlib.util.find_spec("torch") is not None:  # which it computes with
            yield measured("onnxruntime", "HQQ", group, False, _run(_hqq(model, group), data))
    for name, symmetric in (("Q4_0", True), ("Q4_1", False)):
        yield measured("llama.cpp", name, 32, symmetric, _run(_gguf(model, name), data))


def table(found: Sequence[Loss]) -> str:
    """Markdown."""
    lines = ["| quantizer | group | zero points | relative L2 | 1 − cosine | perplexity |", "|---|--:|---|--:|--:|--:|"]
    for x in sorted(found, key=lambda x: (x.group, not x.symmetric, x.relative_l2)):
        zero, surprise = "" if x.symmetric else "yes", "" if x.perplexity is None else f"{x.perplexity:.4f}"
        lines.append(f"| {x.engine} {x.method} | {x.group or ''} | {zero} | {x.relative_l2:.2g} | {x.cosine:.2g} | {surprise} |")
    return "\n".join(lines)


def _perplexity(got: Sequence[Feeds], following: Sequence[np.ndarray] | None) -> float | None:
    if following is None:
        return None
    logits = [next(iter(o.values()))[0] for o in got]
    return trained.perplexity(np.concatenate(logits), np.concatenate(list(following)))


def _losses(got: Sequence[Feeds], want: Sequence[Feeds]) -> tuple[float, float]:
    """‖got − want‖ / ‖want‖, and 1 − the cosine of the angle between them, over all texts, of the worst float output."""
    l2 = cosine = 0.0
    for name, first in want[0].items():
        if first.dtype.kind == "f":
            a, b = (np.concatenate([r[name].astype(np.float64).ravel() for r in rows]) for rows in (got, want))
            norm = float(np.linalg.norm(b))
            l2 = max(l2, float(np.linalg.norm(a - b)) / norm)
            cosine = max(cosine, 1 - float(a @ b) / (norm * float(np.linalg.norm(a))))
    return l2, cosine


def _docstrings() -> Iterator[str]:
    for name in _MODULES:
        module = importlib.import_module(name)
        found = [module, *vars(module).values()]
        found += [member for kind in found if isinstance(kind, type) for member in vars(kind).values()]
        yield from (d for d in (getattr(x, "__doc__", None) for x in found) if isinstance(d, str))


def _ours(path: Path, given: Texts, precision: str, **settings: Any) -> list[Feeds]:
    from .. import Precision, compile

    samples = given.calibration if precision == "int8" or settings.get("method", "nearest") != "nearest" else None
    module = compile(path, precision=Precision(precision, calibration=samples, keep_slower=True, **settings))
    return [module.run(feeds) for feeds in given.data]


def _run(model: onnx.ModelProto, data: Sequence[Feeds]) -> list[Feeds]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in data]


def _onnxruntime(model: onnx.ModelProto, group: int, symmetric: bool) -> onnx.ModelProto:
    return _quantized(model, lambda q: {"block_size": group, "is_symmetric": symmetric})


def _hqq(model: onnx.ModelProto, group: int) -> onnx.ModelProto:
    return _quantized(model, lambda q: {"algo_config": q.HQQWeightOnlyQuantConfig(block_size=group)})


def _quantized(model: onnx.ModelProto, settings: Callable[[Any], dict[str, Any]]) -> onnx.ModelProto:
    try:
        quantizers = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    except ImportError as error:  # onnxruntime does not depend on what its quantizer imports
        raise InputError(f"no {error.name}", expected="what onnxruntime's quantizer imports", remedy="pip install onnx-ir") from None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    logging.getLogger(quantizers.__name__).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = quantizers.MatMulNBitsQuantizer(copy, bits=4, **settings(quantizers))
        quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    return made


Rounding = Callable[[np.ndarray, np.ndarray], np.ndarray]  # weights [K, N], what they were multiplied with [rows, K] → weights


def _rounded(model: onnx.ModelProto, calibration: Sequence[Feeds], rounding: Rounding) -> onnx.ModelProto:
    """The model with the weights of each product rounded, given its rows in the float32 model."""
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    read = {n.input[1]: n.input[0] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in held and held[n.input[1]].ndim == 2}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fed = {i.name for i in model.graph.input}
    copy.graph.output.extend(onnx.ValueInfoProto(name=x) for x in dict.fromkeys(read.values()) if x not in fed)
    seen = [{**feeds, **out} for feeds, out in zip(calibration, _run(copy, calibration), strict=True)]
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in read:
            w = held[tensor.name].copy()
            rows = np.concatenate([s[read[tensor.name]].reshape(-1, len(w)) for s in seen])
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounding(w, rows), np.float32), tensor.name))
    return copy


def _gptq(model: onnx.ModelProto, group: int, symmetric: bool, calibration: Sequence[Feeds]) -> onnx.ModelProto:
    """The GPTQ that onnxruntime has from Intel's Neural Compressor.

    Its function for one matrix is called directly: what wraps it rounds the result a second time, with ranges of its own.
    """
    quantizer = importlib.import_module("onnxruntime.quantization.neural_compressor.weight_only")

    def rounding(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        x = rows.astype(np.float64)
        made: np.ndarray = quantizer.gptq(w, x.T @ x, num_bits=4, group_size=group, scheme="sym" if symmetric else "asym")
        return made

    return _rounded(model, calibration, rounding)


def _auto_gptq(model: onnx.ModelProto, group: int, symmetric: bool, calibration: Sequence[Feeds]) -> onnx.ModelProto:
    """GPTQ by AutoGPTQ, whose class for one layer needs torch alone (the package itself wants much more, so it is left aside)."""
    import torch

    spec = importlib.util.find_spec("auto_gptq")
    assert spec is not None and spec.submodule_search_locations
    stub = ModuleType("mlc_auto_gptq")
    stub.__path__ = [str(Path(spec.submodule_search_locations[0]) / "quantization")]
    sys.modules[stub.__name__] = stub
    kind = importlib.import_module(f"{stub.__name__}.gptq").GPTQ

    def rounding(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        layer = torch.nn.Linear(w.shape[0], w.shape[1], bias=False)
        layer.weight.data = torch.from_numpy(w.T.copy())
        made = kind(layer)
        made.quantizer.configure(4, perchannel=True, sym=symmetric, mse=False)
        made.add_batch(torch.from_numpy(rows), None)
        made.fasterquant(percdamp=0.01, group_size=group)
        found: np.ndarray = layer.weight.data.numpy().T
        return found

    with torch.no_grad(), mock.patch.object(torch.cuda, "synchronize"):  # it waits for a GPU, whether there is one or not
        return _rounded(model, calibration, rounding)


def _gguf(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its weights as a GGUF file would hold them."""
    try:
        gguf = importlib.import_module("gguf")
    except ImportError:
        raise InputError("no gguf", expected="the package gguf", remedy="pip install 'mlc[gguf]'") from None
    kind = getattr(gguf.GGMLQuantizationType, name)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {n.input[1] for n in copy.graph.node if n.op_type == "MatMul"}
    for held in copy.graph.initializer:
        if held.name in weights and len(held.dims) == 2:
            w = np.ascontiguousarray(numpy_helper.to_array(held).T)
            back = gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)
            held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(back.T.astype(np.float32)), held.name))
    return copy
