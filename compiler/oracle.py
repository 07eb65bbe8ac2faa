"""onnxruntime as the oracle: run a model there and in mlc, and say how far apart they are, by output or by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import EncodeError

from ..errors import InputError, OnnxImportError
from .coarsest import coarsest_types, settle_by_type
from .compare import BY_TABLE, Difference, Tolerance, compare, excuse, limits
from .float64 import evaluate, settle
from .held_arrays import VALUES, flatten
from .importer.order import graphs_of, ordered

Feeds = Mapping[str, np.ndarray]
Source = str | os.PathLike[str] | bytes
_PASSED_ON = 0.05  # share of an error that a layer has to add for it to enter there
_EXTENDED = {np.dtype(ml_dtypes.bfloat16): 16, np.dtype(ml_dtypes.float8_e4m3fn): 17, np.dtype(ml_dtypes.float8_e5m2): 19}


class Oracle:
    """A model in onnxruntime.

    Args:
        source: path or serialized model.
        optimize: with all its graph optimizations, or with none (nearest to the model as written).
        threads: its threads; None leaves the choice to it.
        sizes: symbolic dims to fix, by name.
    """

    def __init__(
        self, source: Source, *, optimize: bool = False, threads: int | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        for symbol, size in (sizes or {}).items():
            options.add_free_dimension_override_by_name(symbol, size)
        given = source if isinstance(source, bytes) else os.fspath(source)
        try:
            self.session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's exceptions share no base of their own
            raise OnnxImportError(f"onnxruntime cannot load the model: {_first_line(e)}") from e
        self.outputs = [o.name for o in self.session.get_outputs()]
        single = [o.name for o in self.session.get_outputs() if "map(" in o.type and "tensor(float)" in o.type]
        self._single_maps = tuple(name + way for name in single for way in "[{")  # what begins the names of their parts

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs by name, those that are no tensors in parts (`held_arrays`). Raises InputError when onnxruntime refuses."""
        try:
            if any(isinstance(a, np.ndarray) and a.dtype in _EXTENDED for a in feeds.values()):
                return self._run_extended(feeds)
            found = self.session.run(None, dict(feeds))
        except Exception as e:
            raise InputError(f"onnxruntime cannot run the model on these inputs: {_first_line(e)}") from e
        arrays = flatten(dict(zip(self.outputs, found, strict=True)))
        for name in arrays:
            if name.endswith(VALUES) and name.startswith(self._single_maps):
                arrays[name] = arrays[name].astype(np.float32)  # a map's values are Python's numbers
        return arrays

    def _run_extended(self, feeds: Feeds) -> dict[str, np.ndarray]:
        # NumPy has no such types of its own, so they pass as raw bits with the ONNX number beside them.
        values = {
            n: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(a.view(f"u{a.itemsize}"), _EXTENDED[a.dtype])
            if a.dtype in _EXTENDED
            else ort.OrtValue.ortvalue_from_numpy(a)
            for n, a in feeds.items()
        }
        found = self.session.run_with_ort_values(None, values)
        return {n: v.numpy() for n, v in zip(self.outputs, found, strict=True)}


@dataclass(frozen=True)
class Layer:
    """One intermediate tensor of the model, and the node that makes it."""

    node: str
    op: str
    difference: Difference
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        outputs: mlc against onnxruntime without optimizations.
        noise: relative L2 of onnxruntime with optimizations against without, by output: what rewriting alone changes.
        layers: all intermediate tensors in order, when asked for.
    """

    outputs: tuple[Difference, ...]
    noise: dict[str, float]
    layers: tuple[Layer, ...] = ()

    @property
    def agrees(self) -> bool:
        return all(d.agrees for d in self.outputs) and all(layer.difference.agrees for layer in self.layers)

    @property
    def first_divergence(self) -> Layer | None:
        """The first layer, in the order of the model's nodes, that differs."""
        return next((layer for layer in self.layers if not layer.difference.agrees), None)

    @property
    def entering(self) -> list[tuple[Layer, float]]:
        """Layers by how much larger their relative L2 error is than that of any of their operands, the largest first; not those that only
        pass an error on."""
        known = {x.difference.name: x.difference.relative_l2 for x in self.layers}
        found = [(x, x.difference.relative_l2 - max((known.get(i, 0.0) for i in x.inputs), default=0.0)) for x in self.layers]
        return sorted((p for p in found if p[1] > _PASSED_ON * p[0].difference.relative_l2), key=lambda pair: -pair[1])

    def as_json(self) -> dict[str, Any]:
        first = self.first_divergence
        return {
            "agrees": self.agrees,
            "outputs": [{**d.as_json(), "onnxruntime_noise": self.noise.get(d.name)} for d in self.outputs],
            "layers": [{"node": x.node, "op": x.op, **x.difference.as_json()} for x in self.layers],
            "error_enters": [{"node": x.node, "op": x.op, "relative_l2": e} for x, e in self.entering[:20]],
            "first_divergence": None if first is None else {"node": first.node, "op": first.op, "tensor": first.difference.name},
            "onnxruntime": ort.__version__,
        }


def compare_outputs(got: Feeds, want: Feeds, *, tolerance: Tolerance = BY_TABLE) -> tuple[Difference, ...]:
    """Differences of all outputs, in the oracle's order."""
    found = []
    for name, array in want.items():
        wanted, have = np.asarray(array), np.asarray(got[name])
        limit = limits(wanted.dtype, whole_model=True, tolerance=tolerance)
        found.append(compare(name, have.astype(wanted.dtype) if name.endswith(VALUES) else have, wanted, limit))
    return tuple(found)


def check(
    run: Callable[[Feeds], Feeds], source: Source, feeds: Feeds, *, tolerance: Tolerance = BY_TABLE, threads: int | None = None
) -> Report:
    """Compares `run` (a compiled module's) with onnxruntime on the same inputs.

    An output that differs more than the table allows is compared with float64 too, unless the tolerance says how far elements may
    be from onnxruntime: it agrees when mlc is within the limit of float64 and onnxruntime is not nearer, or when
    onnxruntime's own optimizations change it by as much. So does one that agrees with onnxruntime's single thread: several round states
    of DynamicQuantizeLSTM by the rows that each has. Where the model lets operands be rounded (`exact_products`), what onnxruntime
    computes without counts, too: mlc may be as far from that as its rounding is.
    """
    got = flatten(run(feeds))

    def against(model: Source, threads: int | None = threads) -> tuple[tuple[Difference, ...], Feeds]:
        want = Oracle(model, threads=threads).run(feeds)
        return _judged(got, want, model, feeds, tolerance), want

    outputs, want = against(source)
    if threads != 1 and not tolerance.elementwise and not all(d.agrees for d in outputs):
        alone, wanted = against(source, 1)
        if all(d.agrees for d in alone):
            outputs, want = alone, wanted
    rounding: dict[str, float] = {}
    if not tolerance.elementwise and not all(d.agrees for d in outputs):
        exact = exact_products(model := _read(source))
        if exact is not model:
            source, rounded = _serialized(exact), want
            outputs, want = against(source)
            rounding = {d.name: d.relative_l2 for d in compare_outputs(rounded, want)}
    optimized = Oracle(source, optimize=True, threads=threads).run(feeds)
    noise = {d.name: d.relative_l2 for d in compare_outputs(optimized, want)}
    if not tolerance.elementwise:
        outputs = tuple(excuse(d, max(noise[d.name], rounding.get(d.name, 0.0))) for d in outputs)
    return Report(outputs, noise)


def _judged(got: Feeds, want: Feeds, model: Source | onnx.ModelProto, feeds: Feeds, tolerance: Tolerance) -> tuple[Difference, ...]:
    """Differences; those whose size alone is wrong by the table, judged by the types that the model computes in, and by float64."""
    found = compare_outputs(got, want, tolerance=tolerance)
    if tolerance.elementwise:
        return found
    found = settle_by_type(found, lambda: coarsest_types(model))
    if tolerance.lowered and not tolerance.float64:
        return found
    return settle(found, got, want, lambda: evaluate(model, feeds), always=tolerance.float64)


def check_layers(
    compile_model: Callable[[onnx.ModelProto], Callable[[Feeds], Feeds]],
    source: Source,
    feeds: Feeds,
    *,
    tolerance: Tolerance = BY_TABLE,
    threads: int | None = None,
) -> tuple[Layer, ...]:
    """Makes every intermediate tensor of the main graph an output, in both, and compares each.

    Args:
        compile_model: makes a `run` from a model; called once, with the model so extended.
    """
    exposed = expose(source, threads=threads)
    want = Oracle(_serialized(exact_products(exposed.model)), threads=threads).run(feeds)
    got = flatten(compile_model(exposed.model)(feeds))
    differences = {d.name: d for d in _judged(got, want, exposed.model, feeds, tolerance)}
    operands = {name: tuple(n.input) for n in exposed.model.graph.node for name in n.output}
    return tuple(Layer(node, op, differences[name], operands[name]) for name, node, op in exposed.tensors if name in differences)


@dataclass(frozen=True)
class Exposed:
    """A model whose intermediate tensors are outputs; `tensors` are (tensor, node, operator) in the order of nodes."""

    model: onnx.ModelProto
    tensors: tuple[tuple[str, str, str], ...]


def expose(source: Source, *, threads: int | None = None) -> Exposed:
    """Adds the results of all nodes of the main graph to the outputs; other than tensors are left out."""
    model = ordered(_read(source))
    present = {o.name for o in model.graph.output}
    tensors = [
        (name, node.name or f"{node.op_type} #{i}", node.op_type) for i, node in enumerate(model.graph.node) for name in node.output if name
    ]
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name, _, _ in tensors if name not in present)
    # onnxruntime infers the types that the checker wants to see on outputs.
    session = Oracle(_serialized(extended), threads=threads).session
    types = {o.name: o.type for o in session.get_outputs()}
    for name, _, _ in tensors:
        number = _element_type(types.get(name, ""))
        if name not in present and number:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, number, None))
            present.add(name)
    return Exposed(model, tuple(t for t in tensors if t[0] in present))


def exact_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 products where its `accuracy_level` lets onnxruntime round their rows to 8 bits or to halves, which mlc does
    not; itself where there are none."""

    def coarse(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
        return [a for a in node.attribute if a.name == "accuracy_level" and a.i > 1]

    if not any(coarse(node) for graph in graphs_of(model) for node in graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in graphs_of(copy):
        for node in graph.node:
            for a in coarse(node):
                a.i = 1
    return copy


def _read(source: Source) -> onnx.ModelProto:
    return onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(Path(source))


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return model.SerializeToString()
    except (EncodeError, ValueError) as e:
        raise InputError("the model is 2 GiB or larger", expected="a smaller one for a comparison by layer") from e


_ORT_TYPES = {
    "float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "bool": "BOOL", "string": "STRING",
    **{f"{u}int{n}": f"{u.upper()}INT{n}" for u in ("", "u") for n in (4, 8, 16, 32, 64)},
}  # fmt: skip


def _element_type(text: str) -> int:
    """ONNX number of `tensor(float)`; 0 for what is no tensor, or of an unlisted type."""
    if not (text.startswith("tensor(") and text.endswith(")")):
        return 0
    name = _ORT_TYPES.get(text[7:-1])
    return onnx.TensorProto.DataType.Value(name) if name else 0


def _first_line(error: BaseException) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]
