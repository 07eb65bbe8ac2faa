"""Weights left in the model's bytes: the same tensors as by protobuf alone, whatever the bytes are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from mlc.compiler.importer import import_model
from mlc.compiler.importer.wire import HERE, without_weights
from mlc.errors import MlcError
from mlc.ir import Const
from onnx import TensorProto, helper, numpy_helper

DTYPES = [np.float32, np.float64, np.int8, np.float16, np.bool_]


def model(sizes=(3000, 5, 70000), dtype=np.float32):
    rng = np.random.default_rng(1)
    arrays = {f"w{i}": rng.integers(0, 100, n).astype(dtype) for i, n in enumerate(sizes)}
    nodes = [helper.make_node("Identity", [name], [f"y{name}"]) for name in arrays]
    outs = [
        helper.make_tensor_value_info(f"y{name}", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), a.shape) for name, a in arrays.items()
    ]
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", [], outs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), arrays


def values(graph):
    return [v.node.op.data for v in graph.outputs if isinstance(v.node.op, Const)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_tensors(dtype, tmp_path):
    proto, arrays = model(dtype=dtype)
    data = proto.SerializeToString()
    onnx.save(proto, tmp_path / "m.onnx")
    for source in (data, tmp_path / "m.onnx", proto):
        got = values(import_model(source))
        assert len(got) == len(arrays)
        for a, b in zip(got, arrays.values(), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_only_large_raw_data_is_left_out():
    proto, _ = model((2000, 1023))
    data = proto.SerializeToString()
    small = onnx.ModelProto.FromString(without_weights(memoryview(data)))
    first, second = small.graph.initializer
    entries = {e.key: e.value for e in first.external_data}
    assert entries["location"] == HERE and first.data_location == TensorProto.EXTERNAL and not first.HasField("raw_data")
    at, size = int(entries["offset"]), int(entries["length"])
    assert data[at : at + size] == proto.graph.initializer[0].raw_data
    assert second == proto.graph.initializer[1]
    # all else is as it was
    for t in (small, proto):
        del t.graph.initializer[:]
    assert small == proto


def test_a_graph_in_two_parts_is_merged():
    a, _ = model((3000,))
    b = onnx.ModelProto()
    b.graph.initializer.append(numpy_helper.from_array(np.arange(4000, dtype=np.float32), "more"))
    small = onnx.ModelProto.FromString(without_weights(memoryview(a.SerializeToString() + b.SerializeToString())))
    assert [t.name for t in small.graph.initializer] == ["w0", "more"]
    assert all(t.data_location == TensorProto.EXTERNAL for t in small.graph.initializer)


def test_odd_bytes_are_for_the_real_parser():
    proto, _ = model((3000,))
    data = proto.SerializeToString()
    assert without_weights(memoryview(data + b"\x0b")) is None  # a group
    assert without_weights(memoryview(data[:-1])) is None
    assert without_weights(memoryview(data + b"\x00")) is None  # field 0
    assert without_weights(memoryview(data + b"\xff" * 11)) is None  # a varint of more than 64 bits


def test_a_reference_of_the_file_itself_stays_inside_it():
    proto, _ = model((3000,))
    t = proto.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for offset, length in ((0, 12000), (-4, 12000), (10**12, 12000), (0, 10**12)):
        del t.external_data[:]
        for k, v in (("location", HERE), ("offset", offset), ("length", length)):
            t.external_data.add(key=k, value=str(v))
        with pytest.raises(MlcError, match="external data"):
            import_model(proto.SerializeToString())


def test_damaged_models_never_crash():
    rng = np.random.default_rng(0)
    proto, _ = model((1100, 20))
    data = proto.SerializeToString()
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(0, 200) * rng.integers(-1, 2)] = rng.integers(0, 256)
        small = without_weights(memoryview(bytes(bad)))
        try:
            whole = onnx.ModelProto.FromString(bytes(bad))
        except Exception:
            continue
        if small is not None:
            parsed = onnx.ModelProto.FromString(small)
            assert [t.name for t in parsed.graph.initializer] == [t.name for t in whole.graph.initializer]
