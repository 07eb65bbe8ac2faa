"""The cases of the onnx loader, from memory or from files, and how results compare."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import ModelProto, TypeProto
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

SETS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
_LIGHT = "onnx/backend/test/data/light/"  # models whose weights are made up, that come with onnx


@dataclass(frozen=True)
class Data:
    """One data set: inputs by name, expected outputs in order."""

    feeds: dict[str, Any]
    expected: list[Any]


@functools.cache
def cases(kind: str) -> dict[str, TestCase]:
    return {c.name: c for c in load_model_tests(kind=kind)}


def model_of(kind: str, name: str) -> ModelProto:
    case = cases(kind)[name]
    return case.model if case.model is not None else onnx.load(_path(case))


def data_of(kind: str, name: str, model: ModelProto) -> Iterator[Data]:
    case = cases(kind)[name]
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    if case.data_sets is not None:
        for given, expected in case.data_sets:
            yield Data({i.name: _value(x) for i, x in zip(inputs, given, strict=False)}, [_value(x) for x in expected])
    elif case.model_dir is None:
        yield _light_data(model, _path(case), [i.name for i in inputs])
    else:
        for folder in sorted(Path(case.model_dir).glob("test_data_set*")):
            given = [_file(folder / f"input_{k}.pb", i.type) for k, i in enumerate(inputs) if (folder / f"input_{k}.pb").exists()]
            expected = [_file(folder / f"output_{k}.pb", o.type) for k, o in enumerate(model.graph.output)]
            yield Data({i.name: x for i, x in zip(inputs, given, strict=False)}, expected)


def missing(kind: str, name: str) -> str:
    """Why the data of a case are not here ("" when they are)."""
    case = cases(kind)[name]
    there = case.model is not None or _path(case).exists()
    return "" if there else f"the model has to be downloaded from {case.url}"


def _path(case: TestCase) -> Path:
    if case.model_dir is None and (case.url or "").startswith(_LIGHT):
        return Path(onnx.__file__).parent.parent / str(case.url)
    return Path(case.model_dir or "absent") / "model.onnx"


def _light_data(model: ModelProto, path: Path, names: list[str]) -> Data:
    """As the onnx runner makes it: inputs count from 0 to 1."""
    feeds = {}
    for i in model.graph.input:
        if i.name in names:
            shape = [d.dim_value or 1 for d in i.type.tensor_type.shape.dim]
            n = int(np.prod(shape))
            feeds[i.name] = (np.arange(n).reshape(shape) / n).astype(np.float32)
    expected = [_file(path.with_name(f"{path.stem}_output_{k}.pb"), o.type) for k, o in enumerate(model.graph.output)]
    return Data(feeds, expected)


_READERS: dict[str, tuple[Any, Any]] = {
    "tensor_type": (onnx.TensorProto, onnx.numpy_helper.to_array),
    "sequence_type": (onnx.SequenceProto, onnx.numpy_helper.to_list),
    "optional_type": (onnx.OptionalProto, onnx.numpy_helper.to_optional),
}


def _file(path: Path, type_: TypeProto) -> Any:
    proto, read = _READERS[type_.WhichOneof("value") or "tensor_type"]
    message = proto()
    message.ParseFromString(path.read_bytes())
    return read(message)


def _value(x: Any) -> Any:
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


# Dims that decide what the model is, not how much data there are: they stay numbers. By operator, (input, axis).
_KERNEL = tuple((1, axis) for axis in range(5))
_GATES = tuple((i, axis) for i in (1, 2) for axis in range(3))
_HEADS = tuple((i, 1) for i in (0, 1, 2, 4, 5))
STRUCTURE: dict[str, tuple[tuple[int, int], ...]] = {
    "AffineGrid": ((0, 1), (1, 0)),  # two or three spatial axes
    "Attention": _HEADS,
    "CausalConvWithState": _KERNEL,
    "Conv": _KERNEL,
    "ConvInteger": _KERNEL,
    "ConvTranspose": _KERNEL,
    "DeformConv": _KERNEL,
    "DFT": tuple((0, axis) for axis in range(1, 4)),  # the factors of the transform
    "GatherND": tuple((1, axis) for axis in range(4)),  # how many axes are indexed
    "GRU": _GATES,
    "LinearAttention": (*((i, 2) for i in range(6)), (3, 1), (3, 3)),  # heads side by side
    "LSTM": _GATES,
    "QLinearConv": tuple((3, axis) for axis in range(5)),
    "Resize": ((1, 0), (2, 0), (3, 0)),  # how many axes are resized
    "RNN": _GATES,
    "ScatterND": tuple((1, axis) for axis in range(4)),
    "TreeEnsemble": ((0, 1),),  # features
}


def _structure(model: ModelProto) -> set[tuple[str, int]]:
    """(input name, axis) of dims that stay numbers. The expanded form of an operator's case keeps those of the operator."""
    found = set()
    nodes = [(n.op_type, list(n.input)) for n in model.graph.node]
    for op in STRUCTURE:
        if f"_{op}_" in "".join(f"_{o}_" for n in model.graph.node for o in n.output):
            nodes.append((op, [i.name for i in model.graph.input]))
    for op, inputs in nodes:
        found |= {(inputs[i], axis) for i, axis in STRUCTURE.get(op, ()) if i < len(inputs)}
    return found


def symbolic(model: ModelProto) -> ModelProto:
    """The same model with every input dim unknown, except those of size 1 (which axes broadcast belongs to the model) and
    those of its structure."""
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.value_info[:]
    weights, structure = {t.name for t in out.graph.initializer}, _structure(model)
    for i, value in enumerate(out.graph.input):
        if value.name in weights:
            continue
        for j, dim in enumerate(value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ()):
            if dim.dim_value != 1 and (value.name, j) not in structure:
                dim.Clear()
                dim.dim_param = f"d{i}_{j}"
    for value in out.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return out


def assert_same(have: Any, want: Any, case: TestCase, name: str) -> None:
    """The suite's own bound (rtol 1e-3) for float32; smaller floats by the bits they hold."""
    if isinstance(want, (list, tuple)):
        assert isinstance(have, (list, tuple)) and len(have) == len(want), f"{name}: {have}"
        for h, w in zip(have, want, strict=True):
            assert_same(h, w, case, name)
        return
    if want is None or isinstance(want, dict):
        assert have == want, f"{name}: {have}"
        return
    want = np.asarray(want)
    assert isinstance(have, np.ndarray) and have.shape == want.shape, f"{name}: {have!r}, expected shape {want.shape}"
    if want.dtype.kind in "OUST":
        assert have.dtype == object, f"{name}: {have.dtype}"
        np.testing.assert_array_equal(have, want)
        return
    assert have.dtype == want.dtype, f"{name}: {have.dtype}, expected {want.dtype}"
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(have, want)
        return
    rtol = case.rtol if want.dtype.itemsize >= 4 else 2e-2 if want.dtype.name == "bfloat16" else 2e-3
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    np.testing.assert_allclose(have.astype(wide), want.astype(wide), rtol=rtol, atol=max(case.atol, 1e-6))


def assert_drawn(got: list[Any], data: Data) -> None:
    """Results of Bernoulli (0 or 1, what is certain as it must be) and of Dropout (0, or scaled; a mask that says which)."""
    x, (have, *masks), want = np.asarray(next(iter(data.feeds.values()))), got, np.asarray(data.expected[0])
    assert have.dtype == want.dtype and have.shape == want.shape
    if len(data.feeds) == 1:
        assert np.isin(have, (0, 1)).all() and (have[x == 0] == 0).all() and (have[x == 1] == 1).all()
        return
    _, ratio, *_ = data.feeds.values()
    kept = have != 0
    np.testing.assert_allclose(have, np.where(kept, x / (1 - np.asarray(ratio)), 0), rtol=1e-5)
    assert 0 < kept.mean() < 1 or ratio == 0
    for mask, expected in zip(masks, data.expected[1:], strict=True):
        assert mask.dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(mask[x != 0], kept[x != 0])
